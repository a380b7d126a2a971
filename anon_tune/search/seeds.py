"""Seeds: which random numbers a trial gets.

The n-th trial of a phase has the same seed in every arm, so that arms are compared on the same initial weights
and data order; seeds of different phases are never equal, so that nothing is judged on what it was chosen by.
"""

from __future__ import annotations

import hashlib

from anon_tune.records import Phase

__all__ = ["sampler_seed", "trial_seed"]

_PHASE_BITS = {Phase.PROBE: 0, Phase.SEARCH: 1, Phase.CONFIRM: 2, Phase.VERDICT: 3}


def _digest(*parts: object) -> int:
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def trial_seed(job_seed: int, phase: Phase, number: int) -> int:
    """Seed of the `number`-th trial of a phase, below 2^31; the two lowest bits tell the phase."""
    return (_digest("trial", job_seed, phase.value, number) % 2**29) << 2 | _PHASE_BITS[phase]


def sampler_seed(job_seed: int, arm: str, number: int) -> int:
    """Seed of the sampler made for one suggestion, below 2^31."""
    return _digest("sampler", job_seed, arm, number) % 2**31
