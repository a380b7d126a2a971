"""Printing of long lists without holding them in memory."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from anon_tune.jobs.files import csv_text

__all__ = ["stream_csv", "stream_json"]


def stream_json(values: Iterable[Any]) -> None:
    """Print a JSON array, as `print_json` prints a list, one item after the other."""
    before = "["
    for value in values:
        text = textwrap.indent(json.dumps(value, indent=2, allow_nan=False), "  ")
        sys.stdout.write(f"{before}\n{text}")
        before = ","
    sys.stdout.write("[]\n" if before == "[" else "\n]\n")


def stream_csv(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, type]) -> None:
    """Print rows as CSV: `columns`, then all other columns in the order in which they first occur.

    Nothing is printed if a row cannot be read.

    Raises:
        DependencyError: There is no space for a temporary copy of the rows.
    """
    for chunk in csv_text(rows, columns):
        sys.stdout.write(chunk)
