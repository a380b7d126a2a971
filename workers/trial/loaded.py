"""Modules that a process of Ray's loads before a trial is given to it: all that any trial needs."""

from anon_tune.loading import uncollected

with uncollected(for_good=True):  # a process that ends would look for garbage among it for a second
    import torch._dynamo  # noqa: F401 - by the first optimizer that is made

    import anon_tune.workers.trial.attempt
    import anon_tune.workers.trial.trainable  # noqa: F401
