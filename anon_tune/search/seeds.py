"""Seeds: which random numbers a trial gets.

The n-th trial of a phase has the same seed in every arm, so that arms are compared on the same initial weights
and data order; seeds of different phases are never equal, so that nothing is judged on what it was chosen by. Where
arms are searched several times (`search.repeats`), each repeat has seeds of its own, and the first has those of a job
with one search.
"""

from __future__ import annotations

import hashlib

from anon_tune.records import Phase

__all__ = ["sampler_seed", "trial_seed", "winner_test_seed"]

_PHASE_BITS = {Phase.PROBE: 0, Phase.SEARCH: 1, Phase.CONFIRM: 2, Phase.VERDICT: 3}


def _digest(*parts: object) -> int:
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _of(repeat: int) -> tuple[int, ...]:
    return (repeat,) if repeat else ()


def _seed(digest: int, phase: Phase) -> int:
    return (digest % 2**29) << 2 | _PHASE_BITS[phase]


def trial_seed(job_seed: int, phase: Phase, number: int, repeat: int = 0) -> int:
    """Seed of the `number`-th trial of a phase, below 2^31; the two lowest bits tell the phase."""
    return _seed(_digest("trial", job_seed, phase.value, number, *_of(repeat)), phase)


def winner_test_seed(job_seed: int, repeat: int, number: int) -> int:
    """Seed of the `number`-th run in which the winner of one search is tested, below 2^31.

    It is none of the seeds on which the arms' winners are compared, in the first repeat neither.
    """
    return _seed(_digest("test", job_seed, repeat, number), Phase.VERDICT)


def sampler_seed(job_seed: int, arm: str, number: int, repeat: int = 0) -> int:
    """Seed of the sampler made for one suggestion, below 2^31."""
    return _digest("sampler", job_seed, arm, number, *_of(repeat)) % 2**31
