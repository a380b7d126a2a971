"""Units of time for axes and sentences."""

from __future__ import annotations

__all__ = ["time_in_words", "time_unit"]

_UNITS = (("days", 86_400.0), ("hours", 3_600.0), ("minutes", 60.0), ("seconds", 1.0))


def time_unit(seconds: float) -> tuple[str, float]:
    """Return a unit in which a time is a readable number, and its length in seconds."""
    return next(((name, size) for name, size in _UNITS if seconds >= 2 * size), _UNITS[-1])


def time_in_words(seconds: float) -> str:
    """Return a time in words: "3.2 hours"."""
    unit, size = time_unit(seconds)
    return f"{seconds / size:.3g} {unit}"
