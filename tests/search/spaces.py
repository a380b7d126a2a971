"""Small spaces to search in tests."""

from __future__ import annotations

from typing import Any

from anon_tune.search_spaces import Space

FIXED = {"step_size": 1.0, "beta3": 0.5, "delay": 2.0, "decay": 0.0}


def anon_space(parameters: dict[str, Any]) -> Space:
    """A space of Anon with these parameters; the others are fixed."""
    fixed = {name: value for name, value in FIXED.items() if name not in parameters}
    return Space.model_validate(
        {"optimizer": "anon", "summary": "x", "parameters": parameters, "fixed": fixed}
    )


LINE = anon_space({"gamma": {"low": 0.0, "high": 1.0}})
"""Nothing but gamma, from 0 to 1."""

MIXED = anon_space(
    {
        "gamma": {"low": -0.5, "high": 1.5},
        "step_size": {"low": 0.01, "high": 10, "log": True},
        "delay": {"choices": [2, 4, 8]},
    }
)
"""A range, a log range and a choice."""
