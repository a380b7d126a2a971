"""Anon, an optimizer whose adaptivity is a number: `from anon_tune.optim import Anon`. Needs torch alone."""

from anon_tune.optim.anon import Anon
from anon_tune.optim.delay import Delay
from anon_tune.optim.factory import load_optimizer, make_optimizer
from anon_tune.optim.monitor import monitor
from anon_tune.optim.reference import ReferenceAnon

__all__ = ["Anon", "Delay", "ReferenceAnon", "load_optimizer", "make_optimizer", "monitor"]
