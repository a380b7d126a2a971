"""Search spaces as Optuna's distributions."""

from __future__ import annotations

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from anon_tune.search_spaces import Choice, Range, Space

__all__ = ["distributions"]


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Return the space's searched coordinates as Optuna distributions."""
    return {name: _distribution(domain) for name, domain in space.parameters.items()}


def _distribution(domain: Range | Choice) -> BaseDistribution:
    if isinstance(domain, Choice):
        return CategoricalDistribution(domain.choices)
    if domain.integer:
        return IntDistribution(int(domain.low), int(domain.high), log=domain.log)
    return FloatDistribution(domain.low, domain.high, log=domain.log)
