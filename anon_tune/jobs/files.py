"""Trials and reports as files: CSV and Parquet, row by row, however many there are."""

from __future__ import annotations

import contextlib
import csv
import datetime
import io
import itertools
import json
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from anon_tune.errors import DependencyError, InputError

if TYPE_CHECKING:
    import pyarrow

__all__ = ["ENDINGS", "complete_or_absent", "csv_text", "write_table"]

ENDINGS = (".csv", ".parquet")
"""Endings of the files that `write_table` writes."""

_FORMULA = ("=", "+", "-", "@", "\t", "\n")
"""Beginnings of a text that spreadsheets take for a formula (OWASP, CSV injection). Numbers are no texts."""

_BATCH = 10_000
_CHUNK = 1 << 16

Row = Mapping[str, Any]


def write_table(path: Path, rows: Iterable[Row], columns: Mapping[str, type]) -> None:
    """Write rows to a .csv or .parquet file, which appears when it is complete, in place of one of this name.

    Args:
        path: The file. Its ending is the format.
        rows: Values by column. Times, lists and None are allowed; columns besides `columns` may differ by row.
        columns: The columns that come first, with the type of their values.

    Raises:
        InputError: The ending is another one, or the file cannot be written.
        DependencyError: There is no space for a temporary copy of the rows.
    """
    write = {".csv": _write_csv, ".parquet": _write_parquet}.get(path.suffix.lower())
    if write is None:
        raise InputError(f"{path}: the file's ending must be {' or '.join(ENDINGS)}.")
    with _spooled(rows, columns) as table, complete_or_absent(path) as made:
        write(made, table)


def csv_text(rows: Iterable[Row], columns: Mapping[str, type]) -> Iterator[str]:
    """Yield rows as CSV, in chunks. The first is yielded when all rows have been read.

    Raises:
        DependencyError: There is no space for a temporary copy of the rows.
    """
    with _spooled(rows, columns) as table:
        written = io.StringIO()
        for line in _csv_lines(table, written):
            if written.tell() >= _CHUNK or line is None:
                yield written.getvalue()
                written.seek(0)
                written.truncate()


class _Table:
    """Rows in a temporary file, since the columns of a table are known only when all rows have been read.

    Attributes:
        kinds: The types of the values of each column.
    """

    def __init__(self, columns: Mapping[str, type], file: IO[str]) -> None:
        self.kinds: dict[str, set[type]] = {name: {kind} for name, kind in columns.items()}
        self._file = file

    def add(self, row: Row) -> None:
        """Store a row with the columns that are known by then."""
        for name, value in row.items():
            self.kinds.setdefault(name, set())
            if value is not None:
                self.kinds[name].add(_kind(value))
        values = [_plain(row.get(name)) for name in self.kinds]
        with _space_needed():
            self._file.write(json.dumps(values, separators=(",", ":")) + "\n")

    def rows(self) -> Iterator[list[Any]]:
        """Yield the rows with all columns; times are text."""
        self._file.seek(0)
        for line in self._file:
            values = json.loads(line)
            yield values + [None] * (len(self.kinds) - len(values))


@contextlib.contextmanager
def _spooled(rows: Iterable[Row], columns: Mapping[str, type]) -> Iterator[_Table]:
    """Store the rows until the context ends."""
    with contextlib.ExitStack() as stack:
        with _space_needed():
            file = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        stack.callback(_close, file)
        table = _Table(columns, file)
        for row in rows:
            table.add(row)
        with _space_needed():
            file.flush()
        yield table


@contextlib.contextmanager
def _space_needed() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DependencyError(
            f"A table needs a temporary file, which cannot be written ({error.strerror}). Set TMPDIR to a folder "
            "with space, or print JSON, which needs none."
        ) from error


def _close(file: IO[str]) -> None:
    with contextlib.suppress(OSError):  # a full disk takes the rest of a failed table neither
        file.close()


@contextlib.contextmanager
def complete_or_absent(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file beside `path`; at the end it replaces `path`, or is deleted on an error.

    Raises:
        InputError: A file cannot be written there.
    """
    is_special = path.exists() and not path.is_file()  # a device or a pipe, which nothing may replace
    target = path.resolve()
    made = path if is_special else target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        yield made
        if not is_special:
            made.replace(target)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}). Choose another file with -o."
        ) from None
    finally:
        if not is_special:
            made.unlink(missing_ok=True)


def _write_csv(path: Path, table: _Table) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        for _ in _csv_lines(table, file):
            pass


def _csv_lines(table: _Table, file: IO[str]) -> Iterator[list[Any] | None]:
    """Write a line for the titles and for each row, and yield it; None after the last."""
    writer = csv.writer(file, lineterminator="\n")
    for line in itertools.chain([list(table.kinds)], table.rows()):
        writer.writerow([_cell(value) for value in line])
        yield line
    yield None


def _cell(value: Any) -> Any:
    """Return a value as a cell; a "'" keeps spreadsheets from computing a text that begins like a formula.

    Line ends are made alike: Python's writer does not quote a text for a carriage return, which readers take for the
    end of a row.
    """
    if isinstance(value, list | dict):
        return json.dumps(value)
    if not isinstance(value, str):
        return value
    text = value.replace("\r\n", "\n").replace("\r", "\n")
    return f"'{text}" if text.startswith(_FORMULA) else text


def _write_parquet(path: Path, table: _Table) -> None:
    import pyarrow
    import pyarrow.parquet

    types = {name: _arrow_type(kinds) for name, kinds in table.kinds.items()}
    schema = pyarrow.schema([(name, arrow) for name, (arrow, _) in types.items()])
    rows = table.rows()
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        while True:
            batch = list(itertools.islice(rows, _BATCH))
            columns = zip(*batch, strict=True) if batch else [()] * len(types)
            arrays = [
                pyarrow.array([None if value is None else read(value) for value in values], arrow)
                for values, (arrow, read) in zip(columns, types.values(), strict=True)
            ]
            writer.write_table(pyarrow.table(arrays, schema=schema))
            if len(batch) < _BATCH:
                return


def _arrow_type(kinds: set[type]) -> tuple[pyarrow.DataType, Callable[[Any], Any]]:
    """Return the type of a column and how to make its values; text for kinds that have no type in common."""
    import pyarrow

    match sorted(kind.__name__ for kind in kinds):
        case ["bool"]:
            return pyarrow.bool_(), bool
        case ["int"]:
            return pyarrow.int64(), int
        case ["float"] | ["float", "int"]:
            return pyarrow.float64(), float
        case ["datetime"]:
            return pyarrow.timestamp("us", tz="UTC"), datetime.datetime.fromisoformat
        case ["tuple"]:  # of numbers
            return pyarrow.list_(pyarrow.float64()), list
        case _:
            return pyarrow.string(), lambda value: value if isinstance(value, str) else json.dumps(value)


def _kind(value: Any) -> type:
    """Return the type of a value, as `_arrow_type` tells them apart: tuple for a list of numbers."""
    if isinstance(value, list | tuple):
        is_numeric = all(isinstance(each, int | float) and not isinstance(each, bool) for each in value)
        return tuple if is_numeric else list
    known: Sequence[type] = (bool, int, float, datetime.datetime, str)
    return next((kind for kind in known if isinstance(value, kind)), dict)


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: a time as text in UTC, such as 2026-01-31T12:00:00.000000Z.

    All times have six digits of a second: pandas reads a column as times only where all are written alike.
    """
    if not isinstance(value, datetime.datetime):
        return value
    return value.astimezone(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
