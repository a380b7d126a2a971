"""Random seeds of trials.

The n-th trial of a phase has the same seed in every arm, so arms are compared on the same initial weights and data
order. Seeds of different phases never coincide, so a configuration is never judged on the seeds it was chosen by.
With `search.repeats` each repeat has its own seeds; the first has those of a job with one search.
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
    """Return the seed of the `number`-th trial of a phase, below 2^31; the two lowest bits encode the phase."""
    return _seed(_digest("trial", job_seed, phase.value, number, *_of(repeat)), phase)


def winner_test_seed(job_seed: int, repeat: int, number: int) -> int:
    """Return the seed of the `number`-th test run of the winner of one search, below 2^31.

    No seed on which the arms' winners are compared is used again, not even in the first repeat.
    """
    return _seed(_digest("test", job_seed, repeat, number), Phase.VERDICT)


def sampler_seed(job_seed: int, arm: str, number: int, repeat: int = 0) -> int:
    """Return the seed of the sampler of one suggestion, below 2^31."""
    return _digest("sampler", job_seed, arm, number, *_of(repeat)) % 2**31
