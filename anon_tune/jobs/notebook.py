"""Outputs of notebooks: one of them holds plotly.js, which the others use."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["takes_plotly"]

_holder: tuple[int, str] | None = None


def takes_plotly() -> bool:
    """Return whether the output of the running cell needs plotly.js: the first one, also when it is run again.

    Outside of a notebook every output needs it.
    """
    global _holder
    module = sys.modules.get("IPython")
    shell = None if module is None else module.get_ipython()
    if shell is None:
        return True
    run, cell = shell.execution_count, _cell(shell)
    if _holder is None or (cell == _holder[1] and run != _holder[0]):
        _holder = run, cell
        return True
    return False


def _cell(shell: Any) -> str:
    """Return the running cell's id, or its text if the notebook sends no ids."""
    parent = shell.get_parent() if hasattr(shell, "get_parent") else {}
    return str(parent.get("metadata", {}).get("cellId") or shell.user_ns["In"][-1])
