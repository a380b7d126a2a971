"""Results in notebooks: one output of a notebook has plotly.js, which all others use."""

from __future__ import annotations

import sys

__all__ = ["takes_plotly"]

_holder: tuple[int, str] | None = None


def takes_plotly() -> bool:
    """Return whether the output of the running cell needs plotly.js: the first one, also when it is run again.

    Outside of a notebook every output has it.
    """
    global _holder
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    if shell is None:
        return True
    cell = shell.execution_count, shell.user_ns["In"][-1]
    if _holder is None or (cell != _holder and cell[1] == _holder[1]):
        _holder = cell
        return True
    return False
