"""Modules of a user's folder, imported for one test."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType


@contextlib.contextmanager
def forgotten(folder: Path) -> Iterator[None]:
    """Undo at the end what importing from a folder leaves in this process."""
    before, modules = list(sys.path), set(sys.modules)
    try:
        yield
    finally:
        sys.path[:] = before
        for name in set(sys.modules) - modules:
            if str(folder) in str(getattr(sys.modules[name], "__file__", None)):
                del sys.modules[name]


@contextlib.contextmanager
def imported(name: str, folder: Path) -> Iterator[ModuleType]:
    """A module of the folder."""
    with forgotten(folder):
        sys.path.insert(0, str(folder))
        yield importlib.import_module(name)
