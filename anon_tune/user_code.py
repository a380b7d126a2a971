"""The user's functions, named "module:function". Needs the standard library alone."""

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
"""Module name of functions from a notebook or from the running script."""

_provided: dict[str, Callable[..., Any]] = {}


def provide(functions: Mapping[str, Callable[..., Any]]) -> None:
    """Register this process's own functions, which are in no module, for `load_function`."""
    _provided.update(functions)


def load_function(name: str, folder: str | None) -> Callable[..., Any]:
    """Import a module and return a function of it; the folder comes first, as for a script in it.

    The folder stays first in `sys.path`, so the function's later imports search it too.

    Args:
        name: "package.module:function".
        folder: The job file's folder. None: installed packages only, and only functions that the module's own
            package defines.

    Raises:
        InputError: There is no such module or function, or the name is not a function; or the process has another
            module of that name; or the function is from a notebook and is not registered here. Errors inside the
            module pass through.
    """
    if name in _provided:
        return _provided[name]
    module_name, _, attribute = name.partition(":")
    if module_name == ENTERED:
        raise InputError(
            f"The function {attribute} is from a notebook or script, not from a module. Resume the job there: "
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
            raise  # an import inside the module
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
        # Allowing a module does not allow everything that it imports.
        raise InputError(f"{module_name} only imports {attribute}; name it {home}:{attribute}.")
    function: Callable[..., Any] = found
    return function


def _refuse_another(name: str, folder: str) -> None:
    """Raise if the folder has a module that Python would not import, because of another with the same name."""
    loaded, here = sys.modules.get(name), PathFinder.find_spec(name, [folder])
    if loaded is None or here is None or here.origin is None:
        return
    if Path(getattr(loaded, "__file__", None) or name).resolve() != Path(here.origin).resolve():
        raise InputError(
            f"This process has the module {name!r} from {_file(loaded)}, and {here.origin} has the same name: rename "
            "one of them, or use separate processes."
        )


def _file(module: Any) -> str:
    return str(Path(module.__file__)) if getattr(module, "__file__", None) else module.__name__
