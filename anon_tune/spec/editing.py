"""Changes of single keys in the text of a job file, which keep its comments and its layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from anon_tune.documents import compose_yaml, load_yaml

__all__ = ["flow", "with_value"]

_LINE_BREAKS = frozenset("\x85\u2028\u2029")
"""Line breaks of YAML outside ASCII."""


def with_value(text: str, path: Sequence[str], value: Any) -> str:
    """Return a YAML text with a key set; None removes the key, and mappings that it leaves empty.

    Everything else keeps its place, comments too. A layout that cannot be edited in place, such as a key over several
    lines, is written anew, without comments.

    Args:
        text: A mapping in YAML, without aliases.
        path: Names of the key and those above it. One above it that holds a single value, as in `model: cnn`, becomes
            a mapping with that value as `name`.
        value: A number, text, boolean or list.

    Raises:
        yaml.YAMLError: The text is not valid YAML.
        ValueError: It has an invalid date or number.
    """
    wanted = _changed(load_yaml(text, remote=True) or {}, path, value)
    edited = _edited(text, path, value)
    try:
        if (load_yaml(edited, remote=True) or {}) == wanted:
            return edited
    except (yaml.YAMLError, ValueError):
        pass
    return _dumped(wanted) if wanted else ""


def flow(value: Any) -> str:
    """Return a value as YAML in one line."""
    written = _dumped(value, default_flow_style=True, width=float("inf"))
    return written.removesuffix("\n").removesuffix("\n...")


def _dumped(value: Any, **options: Any) -> str:
    """Return a value as YAML, which reads back as this value."""
    written = str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, **options))
    if not _LINE_BREAKS.isdisjoint(
        written
    ):  # PyYAML would write them as they are, and read them as line ends
        written = str(yaml.safe_dump(value, sort_keys=False, allow_unicode=False, **options))
    return written


def _changed(document: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    key, *rest = path
    result = dict(document)
    if rest:
        child = result.get(key)
        value = _changed(child if isinstance(child, Mapping) else _named(child), rest, value) or None
    if value is None:
        result.pop(key, None)
    else:
        result[key] = value
    return result


def _named(value: Any) -> dict[str, Any]:
    """Return the mapping that a single value is short for."""
    return {} if value is None else {"name": value}


def _edited(text: str, path: Sequence[str], value: Any) -> str:
    """Return the edited text; it may be wrong where the layout is unusual."""
    root = compose_yaml(text)
    if not isinstance(root, yaml.MappingNode):
        return text if value is None else f"{_ended(text)}{_line(path, value)}\n"
    node: yaml.MappingNode = root
    above: list[tuple[yaml.MappingNode, int]] = []
    for depth, key in enumerate(path):
        index = next((i for i, (name, _) in enumerate(node.value) if name.value == key), None)
        if index is None:
            return text if value is None else _inserted(text, node, path[depth:], value)
        above.append((node, index))
        child = node.value[index][1]
        rest = path[depth + 1 :]
        if rest and not isinstance(child, yaml.MappingNode):
            if value is None:
                return text
            single = load_yaml(text[child.start_mark.index : _end(text, child)], remote=True)
            return _replaced(text, child, _changed(_named(single), rest, value))
        if not rest and value is not None:
            return _replaced(text, child, value)
        node = child
    return _removed(text, above)


def _line(path: Sequence[str], value: Any) -> str:
    """Return a key with its value as one line: "budget: {trials: 20}"."""
    for key in reversed(path[1:]):
        value = {key: value}
    return f"{path[0]}: {flow(value)}"


def _ended(text: str) -> str:
    return text if not text or text.endswith("\n") else f"{text}\n"


def _end(text: str, node: yaml.Node) -> int:
    """Return where a node ends. The mark of a block's end is behind the comments that follow it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(text, last[1] if isinstance(last, tuple) else last)
    end = node.end_mark.index
    while end > node.start_mark.index and text[end - 1].isspace():
        end -= 1
    return end


def _line_end(text: str, at: int) -> int:
    found = text.find("\n", at)
    return len(text) if found < 0 else found + 1


def _replaced(text: str, node: yaml.Node, value: Any) -> str:
    start, end = node.start_mark.index, _end(text, node)
    space = " " if start == end and text[start - 1] == ":" else ""
    return f"{text[:start]}{space}{flow(value)}{text[end:]}"


def _inserted(text: str, node: yaml.MappingNode, path: Sequence[str], value: Any) -> str:
    """Return the text with a key at the end of a mapping."""
    line = _line(path, value)
    if node.flow_style:
        end = node.end_mark.index - 1
        before = text[:end].rstrip()
        separator = "" if before.endswith("{") else " " if before.endswith(",") else ", "
        return f"{before}{separator}{line}{text[end:]}"
    at = _line_end(text, _end(text, node))
    indent = " " * node.value[0][0].start_mark.column
    return f"{_ended(text[:at])}{indent}{line}\n{text[at:]}"


def _removed(text: str, above: Sequence[tuple[yaml.MappingNode, int]]) -> str:
    """Return the text without a key, and without the keys above it that hold nothing else."""
    node, index = next(((node, index) for node, index in reversed(above) if len(node.value) > 1), above[0])
    key, value = node.value[index]
    if not node.flow_style:
        start = text.rfind("\n", 0, key.start_mark.index) + 1
        return text[:start] + text[_line_end(text, _end(text, value)) :]
    if index > 0:
        return text[: _end(text, node.value[index - 1][1])] + text[_end(text, value) :]
    until = node.value[1][0].start_mark.index if len(node.value) > 1 else _end(text, value)
    return text[: key.start_mark.index] + text[until:]
