"""A trial: the code in the process that trains it."""
