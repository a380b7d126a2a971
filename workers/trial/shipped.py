"""The user's code on a node of a cluster, where Ray has brought it. Needs neither torch nor Ray."""

from __future__ import annotations

import sys
from pathlib import Path

from anon_tune.errors import DependencyError
from anon_tune.spec import JobSpec

__all__ = ["PREFIX", "on_this_node"]

PREFIX = "anon_tune_code_"
"""Start of the name of a folder of code in Ray's working directory."""


def on_this_node(spec: JobSpec, name: str | None) -> JobSpec:
    """Return a job whose folder is the one that Ray has brought to this node.

    Args:
        spec: The job.
        name: Name of that folder in Ray's working directory, which is in `sys.path`; None if the job's folder is
            used in its place.

    Raises:
        DependencyError: It is not here.
    """
    if name is None:
        return spec
    for path in sys.path:
        folder = Path(path).absolute() / name
        if folder.is_dir():
            return spec.model_copy(update={"folder": str(folder)})
    raise DependencyError(
        f"Ray has not brought {name}, the job's code, to this node. See the raylet's logs there."
    )
