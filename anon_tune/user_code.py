"""Functions of the user, named "module:function". Needs the standard library alone."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from anon_tune.errors import InputError

__all__ = ["ENTERED", "load_function", "provide"]

ENTERED = "__main__"
"""Module of functions that were entered in a notebook, or are the script that runs."""

_provided: dict[str, Callable[..., Any]] = {}


def provide(functions: Mapping[str, Callable[..., Any]]) -> None:
    """Have `load_function` find functions of this process's own under their names, which no module has."""
    _provided.update(functions)


def load_function(name: str, folder: str | None) -> Callable[..., Any]:
    """Import a module, from the folder first, as Python does for a script that is there, and return a function of it.

    The folder stays first in `sys.path`: what the function imports later is looked for there too.

    Args:
        name: "package.module:function".
        folder: The job file's; None: installed packages only, and of a module only what its package defines.

    Raises:
        InputError: There is no such module or function, or something else of that name; or the process has another
            module of that name; or it was entered in a notebook, and nobody has provided it here. An error inside the
            module is its own, and passes through.
    """
    if name in _provided:
        return _provided[name]
    module_name, _, attribute = name.partition(":")
    if module_name == ENTERED:
        raise InputError(
            f"The function {attribute} was entered in a notebook or script, and is in no module. Go on from there: "
            f"anon_tune.tune({attribute}, resume=JOB)"
        )
    if folder is not None:
        if sys.path[:1] != [folder]:
            sys.path[:] = [folder, *(path for path in sys.path if path != folder)]
            importlib.invalidate_caches()
        _refuse_another(module_name.partition(".")[0], folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # something that the module itself imports
        where = f"in {folder} or " if folder else ""
        raise InputError(
            f"There is no module {error.name!r} {where}among the installed packages ({name})."
        ) from None
    found = getattr(module, attribute, None)
    if found is None:
        names = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
        near = difflib.get_close_matches(attribute, names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(sorted(names)) or 'none'}."
        raise InputError(f"{_file(module)}: unknown function {attribute!r}; {hint}")
    if not callable(found):
        raise InputError(f"{_file(module)}: {attribute} is a {type(found).__name__}, not a function.")
    home = str(getattr(found, "__module__", None) or module_name)
    if folder is None and home.partition(".")[0] != module_name.partition(".")[0]:
        # Whoever allows a module does not allow all that it imports.
        raise InputError(
            f"{name} is {home}:{attribute}, which {module_name} has only imported. Name it by that."
        )
    function: Callable[..., Any] = found
    return function


def _refuse_another(name: str, folder: str) -> None:
    """Raise where the folder has a module that Python would not import, having another of the same name."""
    loaded, here = sys.modules.get(name), PathFinder.find_spec(name, [folder])
    if loaded is None or here is None or here.origin is None:
        return
    if Path(getattr(loaded, "__file__", None) or name).resolve() != Path(here.origin).resolve():
        raise InputError(
            f"This process has the module {name!r} from {_file(loaded)}, and {here.origin} has the same name: rename "
            "one of them, or load them in processes of their own."
        )


def _file(module: Any) -> str:
    return str(Path(module.__file__)) if getattr(module, "__file__", None) else module.__name__
