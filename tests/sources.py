"""The source files of anon_tune, by the dotted names of their modules; and the files that git tracks."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

needs_git = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git checkout")

_ROOTS = ("anon_tune", "anon_tune.dashboards", "anon_tune.search_spaces", "anon_tune.workers")


def source_files() -> dict[str, Path]:
    """Return each module's file, with or without the links in `anon_tune/`; that of a package ends in `.__init__`."""
    found: dict[str, Path] = {}
    for root in _ROOTS:
        spec = importlib.util.find_spec(root)
        assert spec is not None
        assert spec.origin is not None
        folder = Path(spec.origin).parent.resolve()
        for path in sorted(folder.rglob("*.py")):  # which does not follow links
            found[".".join((root, *path.relative_to(folder).with_suffix("").parts))] = path
    return found


def tracked(*folders: str) -> set[str]:
    """Return the paths that git tracks, from the root of the checkout; all of them, or those in some folders."""
    command = ["git", "ls-files", "-z", *folders]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return set(listed.split("\0")) - {""}
