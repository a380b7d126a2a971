"""What a process of Ray's loads before a trial is given to it: all that any trial needs."""

import gc

from anon_tune.loading import uncollected

with uncollected():
    import torch._dynamo  # noqa: F401 - by the first optimizer that is made

    import anon_tune.workers.attempt
    import anon_tune.workers.trainable  # noqa: F401

gc.freeze()  # what is loaded stays; a process that ends would look for garbage among it for a second
