"""Search policy: the next trial and early stopping, as pure functions of the trials so far and a seed."""
