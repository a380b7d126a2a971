"""Reading of YAML documents into pydantic models, with errors that a person can act on."""

from __future__ import annotations

import difflib
import io
import itertools
import math
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    JsonValue,
    Tag,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
)

from anon_tune.errors import NotFoundError, SpecError
from anon_tune.texts import MOST_COUNTED, cut, quoted

__all__ = [
    "LARGEST_FILE",
    "MOST_LEVELS",
    "MOST_VALUES",
    "Number",
    "Place",
    "ProblemsError",
    "Strict",
    "compose_yaml",
    "is_function",
    "load_yaml",
    "parse",
    "plain",
    "read_text",
    "read_yaml",
    "size_problem",
    "unknown",
    "walked",
    "yaml_mapping",
]

M = TypeVar("M", bound=BaseModel)

MOST_LEVELS = 64
"""Most levels of a document."""

LARGEST_FILE = 2**20
"""Most bytes of a YAML file, as of a request."""

MOST_VALUES = 50_000
"""Most keys and values of a document, counting an alias of YAML as what it stands for."""

_LONGEST_NUMBER = 100
"""Most characters of a number in YAML."""

_MOST_KNOWN, _MOST_COMPARED = 40, 200
"""Most known names that a message lists, and that an unknown one is compared with."""


class ProblemsError(ValueError):
    """Several problems of one part of a document, each with its key's path from there.

    Of an iterator no more is read than a message counts.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(itertools.islice(problems, MOST_COUNTED + 1))
        super().__init__("; ".join(self.problems))


def _finite_number(value: Any, number: ValidatorFunctionWrapHandler) -> Any:
    """Reject bools, which pydantic accepts as 0 and 1, and non-finite numbers."""
    if isinstance(value, bool):
        raise ValueError(f"expected a number, found {str(value).lower()}")
    result = number(value)
    if isinstance(result, float) and not math.isfinite(result):
        raise ValueError(f"expected a finite number, found {quoted(value)}")
    return result


Number = Annotated[int | float, WrapValidator(_finite_number)]
"""A number inside a list or a mapping; a plain field of a `Strict` does not need it."""


class Strict(BaseModel):
    """A frozen part of a document that rejects unknown keys, bools as numbers, and non-finite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    @field_validator("*", mode="wrap")
    @classmethod
    def _numbers(cls, value: Any, plain: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        kind = cls.model_fields[str(info.field_name)].annotation
        kinds = set(typing.get_args(kind)) or {kind}
        is_number = value is not None and kinds <= {int, float, types.NoneType}
        return _finite_number(value, plain) if is_number else plain(value)


class _Loader(yaml.SafeLoader):
    """Loader that rejects duplicate keys, of which PyYAML would drop the first, and documents of any size.

    A text of a few lines with aliases of aliases may stand for any amount of data.
    """

    _depth = _count = 0

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._extents: dict[yaml.Node, tuple[int, int]] = {}  # values in a node, and its levels

    def compose_node(self, parent: yaml.Node | None, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        self._depth += 1
        self._count += 1
        if self._depth > MOST_LEVELS:
            raise _refusal(f"more than {MOST_LEVELS} levels", event)
        if self._count > MOST_VALUES:
            raise _refusal(f"more than {MOST_VALUES:,} values", event)
        node: Any = super().compose_node(parent, index)
        self._depth -= 1
        if not isinstance(event, yaml.AliasEvent):
            self._extents[node] = self._extent(node)
        elif node not in self._extents:
            raise _refusal(f"*{event.anchor} is a part of itself", event)
        values, levels = self._extents[node]
        if values > MOST_VALUES:
            raise _refusal(f"more than {MOST_VALUES:,} values", event)
        if levels > MOST_LEVELS:
            raise _refusal(f"more than {MOST_LEVELS} levels", event)
        return node

    def construct_scalar(self, node: Any) -> Any:
        """Return a scalar's text; a long number, which may take the square of its length to read, is an error."""
        is_number = node.tag in {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}
        if is_number and len(node.value) > _LONGEST_NUMBER:
            raise ValueError(f"a number of {len(node.value):,} characters")
        return super().construct_scalar(node)

    def _extent(self, node: yaml.Node) -> tuple[int, int]:
        if not isinstance(node, yaml.CollectionNode):
            return 1, 1
        parts = itertools.chain(*node.value) if isinstance(node, yaml.MappingNode) else node.value
        extents = [self._extents[part] for part in parts]
        return 1 + sum(values for values, _ in extents), 1 + max((levels for _, levels in extents), default=0)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            name = (key.tag, key.value)  # 1 and "1" differ
            if name in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"{quoted(key.value)} appears twice", problem_mark=key.start_mark
                )
            seen.add(name)
        return node


class _RemoteLoader(_Loader):
    """Loader of text that is edited in place on a page: without aliases."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise _refusal(
                f"*{event.anchor} is an alias, which is not accepted here; write the value out", event
            )
        return super().compose_node(parent, index)


def _refusal(problem: str, event: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


# YAML 1.1 reads 1e-3 as text, since it has no point.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def plain(value: Any) -> Any:
    """Return a value of Python code as JSON has it: tuples become lists, and numbers of NumPy and torch Python's."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


def load_yaml(text: str, *, remote: bool = False) -> Any:
    """Return a YAML document's value; `remote`: of text from the network, without aliases.

    Raises:
        yaml.YAMLError: It is not valid YAML, a mapping has a key twice, or it is too deep or too large.
        ValueError: It has an invalid date or number.
    """
    return yaml.load(text, _RemoteLoader if remote else _Loader)


def compose_yaml(text: str) -> yaml.Node | None:
    """Return the nodes of a YAML text from the network, with their places in it. Raises yaml.YAMLError."""
    return yaml.compose(text, _RemoteLoader)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        NotFoundError: There is no such file.
        SpecError: It is not text, not YAML, or not a mapping.
    """
    return yaml_mapping(read_text(path), str(path))


def read_text(path: Path) -> str:
    """Return the text of a file.

    Raises:
        NotFoundError: There is no such file.
        SpecError: It is not UTF-8 text, or has more than LARGEST_FILE bytes.
    """
    try:
        with path.open("rb") as file:
            found = file.read(LARGEST_FILE + 1)
        if len(found) > LARGEST_FILE:
            raise SpecError(str(path), [f"is larger than {LARGEST_FILE:,} bytes; check the path"])
        return io.TextIOWrapper(io.BytesIO(found), encoding="utf-8").read()
    except FileNotFoundError:
        raise NotFoundError(f"There is no file {path}. Check the path; examples/ has job files.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(str(path), [f"cannot be read as UTF-8 text ({error})"]) from None


def yaml_mapping(text: str, source: str, *, remote: bool = False) -> dict[str, Any]:
    """Return the mapping in a YAML text, which messages call `source`; `remote` as in `load_yaml`.

    Raises:
        SpecError: It is not YAML, or holds something other than a mapping.
    """
    try:
        data = load_yaml(text, remote=remote)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f"line {where.line + 1}, column {where.column + 1}: " if where else ""
        problem = getattr(error, "problem", None) or error
        raise SpecError(source, [f"{line}invalid YAML ({problem})"]) from None
    except ValueError as error:  # an invalid date or number
        raise SpecError(source, [f"holds a value that cannot be read ({error})"]) from None
    if not isinstance(data, dict):
        found = "nothing" if data is None else type(data).__name__
        raise SpecError(source, [f"expected keys and values (name: ..., task: ...), found {found}"])
    return data


def parse(model: type[M], data: Mapping[str, Any], source: str, context: object = None, path: str = "") -> M:
    """Return `data` as `model`, whose validators may use `context`; `path` is where it is in its document.

    Raises:
        SpecError: The data is invalid; lists every problem with its key's path and, for unknown keys, the nearest
        one.
    """
    try:
        return model.model_validate(dict(data), context=context)
    except ValidationError as error:
        within = f"{path}." if path else ""
        items = error.errors(include_url=False)
        raise SpecError(source, (f"{within}{said}" for said in _distinct(model, items))) from None


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a part in a document: its key, the place above it, and their number."""

    key: Any
    above: Place | None = None
    levels: int = 1

    def __str__(self) -> str:
        keys, place = [], self
        while True:
            keys.append(cut(str(place.key)))
            if place.above is None:
                return ".".join(reversed(keys))
            place = place.above


def walked(document: Any, root: str) -> Iterator[tuple[Place, Any]]:
    """Yield each part of a document with its place; each part comes before those in it."""
    ahead: list[Iterator[tuple[Place, Any]]] = [iter([(Place(root), document)])]
    while ahead:
        for place, part in ahead[-1]:
            yield place, part
            ahead.append(_parts(place, part))
            break
        else:
            ahead.pop()


def _parts(place: Place, part: Any) -> Iterator[tuple[Place, Any]]:
    if isinstance(part, Mapping | list | tuple):
        items = part.items() if isinstance(part, Mapping) else enumerate(part)
        yield from ((Place(key, place, place.levels + 1), item) for key, item in items)


def size_problem(document: Any) -> str | None:
    """Return the problem of a document that is too deep or too large to be read; None for others."""
    for number, (place, _) in enumerate(walked(document, "")):
        if place.levels > MOST_LEVELS:
            return f"has more than {MOST_LEVELS} levels"
        if number > MOST_VALUES:
            return f"has more than {MOST_VALUES:,} values"
    return None


def is_function(name: str) -> bool:
    """Whether a name has the form "package.module:function" of a user's function."""
    module, colon, function = name.partition(":")
    return bool(colon) and function.isidentifier() and all(part.isidentifier() for part in module.split("."))


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return "unknown KIND 'NAME'; did you mean 'X'? Known: ..."."""
    names = sorted(map(cut, known))
    near = difflib.get_close_matches(cut(name), names[:_MOST_COMPARED], n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    more = f" and {len(names) - _MOST_KNOWN} more" if len(names) > _MOST_KNOWN else ""
    return f"unknown {kind} {quoted(name)}{hint} Known: {', '.join(names[:_MOST_KNOWN]) or 'none'}{more}"


def _distinct(model: type[BaseModel], errors: Iterable[Any]) -> Iterator[str]:
    """Yield the messages of errors, one for each path: each branch of a union reports the same value."""
    seen = set()
    for error in errors:
        for path, said in _problems(model, error):
            if path not in seen:
                yield said
            seen.add(path)


def _problems(model: type[BaseModel], error: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield a key and the message of each problem in an error."""
    raised = error.get("ctx", {}).get("error")
    if not isinstance(raised, ProblemsError):
        yield _problem(model, error)
        return
    path = ".".join(_walk(model, error["loc"])[0])
    for each in raised.problems:
        said = f"{path}.{each}" if path else each
        yield said, said


def _problem(model: type[BaseModel], error: dict[str, Any]) -> tuple[str, str]:
    """Return a problem's path and its message."""
    keys, _ = _walk(model, error["loc"])
    path, kind = ".".join(keys), error["type"]
    if kind == "extra_forbidden":
        _, parent = _walk(model, error["loc"][:-1])
        message = unknown("key", keys[-1], parent.model_fields if _is_model(parent) else ())
    elif kind == "missing":
        message = "is missing"
    elif kind == "value_error":
        message = error["msg"].removeprefix("Value error, ")
    elif kind in {"model_type", "dict_type"}:
        message = f"expected keys and values, found {quoted(error['input'])}"
    elif kind in {"tuple_type", "list_type"}:
        message = f"expected a list, found {quoted(error['input'])}"
    elif kind == "invalid-json-value":
        message = (
            "expected a number, text, true, false, null, a list, or keys and values, found "
            f"{quoted(error['input'])}"
        )
    else:
        message = f"{error['msg'][0].lower()}{error['msg'][1:]}, found {quoted(error['input'])}"
    return path, f"{path}: {message}" if path else message


def _walk(annotation: Any, loc: Sequence[int | str]) -> tuple[list[str], Any]:
    """Return the document's keys on the way to `loc`, and the annotation at that place.

    Pydantic's `loc` has more parts: the branch of a union ("float"), and "[key]" for an invalid key.
    """
    keys: list[str] = []
    for part in loc:
        branches = _branches(annotation)
        if annotation is JsonValue:
            annotation = dict[
                str, JsonValue
            ]  # `part` is the branch "dict" or "list"; a key or an index follows
        elif len(branches) > 1:
            annotation = branches.get(str(part))
        elif part != "[key]":
            keys.append(cut(str(part)))
            annotation = _inside(next(iter(branches.values()), None), part)
    return keys, annotation


def _branches(annotation: Any) -> dict[str, Any]:
    """Return the types that a value may have, except None, under pydantic's names."""
    if typing.get_origin(annotation) in {typing.Union, types.UnionType}:
        return {name: a for arg in typing.get_args(annotation) for name, a in _branches(arg).items()}
    if typing.get_origin(annotation) is typing.Annotated:
        tags = [str(extra.tag) for extra in annotation.__metadata__ if isinstance(extra, Tag)]
        inner = annotation.__origin__
        return {tags[0]: inner} if tags else _branches(inner)
    if annotation is None or annotation is type(None):
        return {}
    return {str(getattr(annotation, "__name__", annotation)): annotation}


def _inside(annotation: Any, key: int | str) -> Any:
    """Return the annotation of a key of a model, or of an item of a mapping or a sequence."""
    if _is_model(annotation):
        field = annotation.model_fields.get(key)
        return field.annotation if field else None
    arguments = typing.get_args(annotation)
    return arguments[1 if typing.get_origin(annotation) is dict else 0] if arguments else None


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
