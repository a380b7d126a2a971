"""The probe of a job, which comes before its first trial."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from anon_tune.records import Phase
from anon_tune.search.coordinates import optimizer_arguments
from anon_tune.search.seeds import trial_seed
from anon_tune.search_spaces import Space
from anon_tune.spec import JobSpec
from anon_tune.workers.trial.messages import ProbeAssignment

__all__ = ["probe_of"]


def probe_of(spec: JobSpec, spaces: Mapping[str, Space], output: Path) -> ProbeAssignment:
    """Return the probe of a job.

    Args:
        spec: The job.
        spaces: The search space of each arm.
        output: File for the output of its process.
    """
    seed, other_seed = (trial_seed(spec.search.seed, Phase.PROBE, number) for number in range(2))
    points = {
        arm: [optimizer_arguments(space, point, 0.0) for point in space.middles()]
        for arm, space in spaces.items()
        if space.of_factory
    }
    return ProbeAssignment(seed, other_seed, float(spaces["anon"].constant("floor")), points, output)
