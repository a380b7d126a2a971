"""Pure search policy: what to try next and what to stop, as functions of the trials so far and a seed."""
