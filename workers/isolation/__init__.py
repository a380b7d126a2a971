"""Isolation: a process of its own for each trial of user code, which ends with all that it has started."""
