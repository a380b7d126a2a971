"""Ray task of the probe. It loads torch in its worker, but never Ray Tune."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from anon_tune.user_code import provide

if TYPE_CHECKING:
    from anon_tune.spec import JobSpec
    from anon_tune.workers.trial.messages import Failed, ProbeResult

__all__ = ["run_probe"]


def run_probe(
    functions: Mapping[str, Callable[..., Any]],
    spec: JobSpec,
    seed: int,
    floor: float,
    points: Mapping[str, list[dict[str, Any]]],
) -> ProbeResult | Failed:
    """Run `attempt.run_probe`; `functions` are user functions that no module defines, by their names in the job."""
    gc.disable()  # as in `TrialTrainable.setup`
    try:
        from anon_tune.workers.trial import attempt
    finally:
        gc.enable()
    provide(functions)
    return attempt.run_probe(spec, seed, floor, points)
