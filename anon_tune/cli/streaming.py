"""Printing of long lists without holding them in memory."""

from __future__ import annotations

import contextlib
import csv
import json
import sys
import tempfile
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

from anon_tune.errors import DependencyError

__all__ = ["stream_csv", "stream_json"]


def stream_json(values: Iterable[Any]) -> None:
    """Print a JSON array, as `print_json` prints a list, one item after the other."""
    before = "["
    for value in values:
        text = textwrap.indent(json.dumps(value, indent=2, allow_nan=False), "  ")
        sys.stdout.write(f"{before}\n{text}")
        before = ","
    sys.stdout.write("[]\n" if before == "[" else "\n]\n")


def stream_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print rows as CSV: `columns`, then all other columns in the order in which they first occur.

    The header needs the columns of all rows, so the rows are kept in a temporary file until all have been read.
    Nothing is printed if one cannot be read.

    Raises:
        DependencyError: The temporary file cannot be written.
    """
    with _temporary_file() as kept:
        try:
            header = _keep(rows, columns, kept)
        except OSError as error:
            with contextlib.suppress(OSError):  # it cannot write the rest either
                kept.close()
            raise _unwritable(error) from error
        printed = csv.writer(sys.stdout, lineterminator="\n")
        printed.writerow(header)
        for row in csv.reader(kept):
            printed.writerow([*row, *[""] * (len(header) - len(row))])


def _keep(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], kept: IO[str]) -> list[str]:
    """Write the rows to `kept`, go back to its start, and return all columns; early rows lack the later columns."""
    found = dict.fromkeys(columns)
    writer = csv.writer(kept)
    for row in rows:
        found.update(dict.fromkeys(row))
        writer.writerow([row.get(column) for column in found])
    kept.seek(0)
    return list(found)


def _temporary_file() -> IO[str]:
    try:
        return tempfile.TemporaryFile("w+", encoding="utf-8", newline="")
    except OSError as error:
        raise _unwritable(error) from error


def _unwritable(error: OSError) -> DependencyError:
    return DependencyError(
        f"CSV needs a temporary file, which cannot be written ({error.strerror}). Set TMPDIR to a folder with space, "
        "or use --json, which needs none."
    )
