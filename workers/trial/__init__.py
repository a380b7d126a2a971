"""A trial: what runs in the process that trains."""
