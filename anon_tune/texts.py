"""Texts of users: names in one form, and what messages repeat, cut to a length. Needs the standard library alone."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterable
from typing import Any

__all__ = ["LONGEST_VALUE", "MOST_COUNTED", "MOST_PROBLEMS", "cut", "listed", "plain_name", "quoted"]

MOST_PROBLEMS = 20
"""Most problems that a message lists."""

LONGEST_VALUE = 200
"""Most characters of a value in a message."""

_LONGEST_PROBLEM = 1000

MOST_COUNTED = 100
"""Problems that are looked for: a document of 1 MiB can have a hundred thousand."""


def listed(problems: Iterable[str]) -> list[str]:
    """Return at most MOST_PROBLEMS problems, each cut to a length, and a line for how many more there are.

    A list that another process has shortened in this way stays as it is. An iterator is not read further than needed.
    """
    found = [cut(each, _LONGEST_PROBLEM) for each in itertools.islice(problems, MOST_COUNTED + 1)]
    if len(found) <= MOST_PROBLEMS + 1:
        return found
    more = "many" if len(found) > MOST_COUNTED else len(found) - MOST_PROBLEMS
    return [*found[:MOST_PROBLEMS], f"and {more} more"]


def quoted(value: Any) -> str:
    """Return a value as a message repeats it, at most LONGEST_VALUE characters of it."""
    return cut(repr(value[: LONGEST_VALUE + 1] if isinstance(value, str | bytes) else value))


def cut(text: str, longest: int = LONGEST_VALUE) -> str:
    """Return a text, or its beginning."""
    return text if len(text) <= longest else f"{text[:longest]}..."


def plain_name(text: str, longest: int) -> str:
    """Return a name without blanks around it and in Unicode's form NFC, so that names that look alike are alike.

    Raises:
        ValueError: It is empty or too long, or has a character that nobody sees or that turns the direction of
            writing; the message names the character.
    """
    name = unicodedata.normalize("NFC", text.strip())
    if not 1 <= len(name) <= longest:
        raise ValueError(
            f"{quoted(text)} is not a valid name: expected 1 to {longest} characters, found {len(name)}"
        )
    hidden = next((each for each in name if not each.isprintable()), None)
    if hidden is not None:
        kind = unicodedata.name(hidden, "a control character")
        raise ValueError(
            f"{quoted(name)} is not a valid name: it contains U+{ord(hidden):04X} ({kind}); remove it"
        )
    return name
