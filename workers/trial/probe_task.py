"""The task that Ray runs before all trials. It loads torch in its worker, and Ray Tune nowhere."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from typing import Any

from anon_tune.user_code import provide

__all__ = ["run_probe"]


def run_probe(functions: Mapping[str, Callable[..., Any]], *asked: Any) -> dict[str, Any]:
    """Return what `attempt.run_probe(*asked)` measures; `functions` are the user's that are in no module."""
    gc.disable()  # as in `TrialTrainable.setup`
    from anon_tune.workers.trial import attempt

    gc.enable()
    provide(functions)
    return attempt.run_probe(*asked)
