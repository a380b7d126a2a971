"""Reading YAML documents into pydantic models, with errors a person can act on."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from anon_tune.errors import NotFoundError, SpecError

__all__ = ["parse", "read_yaml", "unknown"]

M = TypeVar("M", bound=BaseModel)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        NotFoundError: There is no such file.
        SpecError: It is no text, no YAML, or holds something other than a mapping.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFoundError(f"There is no file {path}. Check the path; examples/ has job files.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(str(path), [f"cannot be read as UTF-8 text ({error})"]) from None
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f"line {where.line + 1}, column {where.column + 1}: " if where else ""
        raise SpecError(str(path), [f"{line}not YAML ({getattr(error, 'problem', None) or error})"]) from None
    if not isinstance(data, dict):
        found = "nothing" if data is None else type(data).__name__
        raise SpecError(str(path), [f"expected keys and values (name: ..., task: ...), found {found}"])
    return data


def parse(model: type[M], data: Mapping[str, Any], source: str) -> M:
    """Return `data` as `model`.

    Raises:
        SpecError: Every problem at once, each with its key's path and, for unknown keys, the nearest one.
    """
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        problems = [_line(model, dict(item)) for item in error.errors(include_url=False)]
        raise SpecError(source, list(dict.fromkeys(problems))) from None


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return "unknown KIND 'NAME'; did you mean 'X'? Known: ..."."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"unknown {kind} {name!r}{hint} Known: {', '.join(names)}"


def _line(model: type[BaseModel], error: dict[str, Any]) -> str:
    loc = [part for part in error["loc"] if not _is_union_tag(part)]
    path = ".".join(str(part) for part in loc)
    if error["type"] == "extra_forbidden":
        known = _fields_at(model, loc[:-1])
        return f"{path}: {unknown('key', str(loc[-1]), known)}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        message = "is missing"
    elif error["type"] != "value_error":
        message = f"{message[0].lower()}{message[1:]}, found {error['input']!r}"
    return f"{path}: {message}" if path else message


def _is_union_tag(part: int | str) -> bool:
    """Pydantic puts the name of a union's branch ("float", "Range") among the keys."""
    return isinstance(part, str) and (part in {"str", "int", "float", "bool"} or part[:1].isupper() or "[" in part)


def _fields_at(model: type[BaseModel], loc: list[int | str]) -> list[str]:
    current: Any = model
    for part in loc:
        if not (isinstance(current, type) and issubclass(current, BaseModel)) or part not in current.model_fields:
            return []
        current = _model_in(current.model_fields[str(part)].annotation)
    return list(current.model_fields) if isinstance(current, type) else []


def _model_in(annotation: Any) -> Any:
    """The model inside `Model | None` and the like."""
    if typing.get_origin(annotation) in {typing.Union, types.UnionType}:
        models = [a for a in typing.get_args(annotation) if isinstance(a, type) and issubclass(a, BaseModel)]
        return models[0] if models else None
    return annotation
