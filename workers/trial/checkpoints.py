"""Checkpoints of trials: writing and reading intact files, and their schedule. Needs torch alone.

Only writing and reading load torch: the driver, which deletes checkpoints, does not need it.

A job's folder of checkpoints holds `TRIAL/ATTEMPT/STEP.pt`. Each attempt writes below its own number, so that one
whose driver is gone cannot overwrite files of the next attempt. The ledger decides which checkpoints are valid: it
names one together with the report of its step, so that continuing from it leaves no step out.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = [
    "WRITING_SHARE",
    "Pace",
    "ask",
    "checkpoint_name",
    "intact",
    "is_asked",
    "remove",
    "save",
    "step_of",
    "write_durably",
]

WRITING_SHARE = 0.01
"""Approximate upper bound of the share of a trial's time for writing checkpoints."""

_ASKED = "asked"
_DIGEST = hashlib.sha256().digest_size


def checkpoint_name(trial: str, attempt: int, step: int) -> str:
    """Return the path of a checkpoint, relative to the job's folder of checkpoints."""
    return f"{trial}/{attempt}/{step}.pt"


def step_of(name: str) -> int:
    """Return the epochs or steps done when a checkpoint was written."""
    return int(Path(name).stem)


def save(root: Path, name: str, state: Mapping[str, Any], before: str | None = None) -> None:
    """Write a checkpoint that is durable on return, and delete the trial's others except one.

    Args:
        root: The job's folder of checkpoints. It must exist: if it does not, the job has ended, or this machine does
            not share the folder.
        name: See `checkpoint_name`.
        state: A state that torch can save and load with `weights_only`.
        before: The previous good one, which stays in case this one is damaged. Others of this attempt and of earlier
            ones are deleted.

    Raises:
        OSError: It cannot be written; earlier checkpoints are unchanged.
    """
    import torch

    path = root / name
    folder, trial = path.parent, path.parent.parent
    trial.mkdir(exist_ok=True)
    folder.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    buffer.write(hashlib.sha256(buffer.getbuffer()).digest())
    write_durably(path, buffer.getbuffer())
    for made in (trial, root):
        _sync(made)
    kept = {path} if before is None else {path, root / before}
    for attempt in trial.iterdir():
        if int(attempt.name) <= int(folder.name):
            for other in set(attempt.iterdir()) - kept:
                other.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # it is not empty
                attempt.rmdir()


def write_durably(path: Path, data: bytes | memoryview) -> None:
    """Write a file atomically, so that it also survives a power cut."""
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def intact(
    root: Path, names: Iterable[str], before: int, problems: list[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield names and states of the checkpoints that a trial can continue from, the furthest first.

    Args:
        root: The job's folder of checkpoints.
        names: Checkpoints that the ledger names. Earlier ones of the same attempts count too, later ones do not:
            their reports were not stored.
        before: Step that the checkpoints must be below.
        problems: List that gets a line for each checkpoint that exists and cannot be used.
    """
    paths = {
        path
        for name in names
        for path in (root / name).parent.glob("*.pt")
        if step_of(path.name) <= step_of(name) and step_of(path.name) < before
    }
    for path in sorted(paths, key=lambda path: (step_of(path.name), int(path.parent.name)), reverse=True):
        name = str(path.relative_to(root))
        try:
            state = _read(path)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, there may be another
            problems.append(f"checkpoint {name} cannot be used: {error}")
        else:
            yield name, state


def ask(root: Path, wanted: bool = True) -> None:
    """Ask all trials to write a checkpoint after their next report, or withdraw that."""
    with contextlib.suppress(OSError):  # without space for this file there is none for a checkpoint
        if wanted:
            (root / _ASKED).touch()
        else:
            (root / _ASKED).unlink(missing_ok=True)


def is_asked(root: Path) -> bool:
    """Return whether a checkpoint was asked for after this report."""
    return (root / _ASKED).exists()


def remove(root: Path, trial: str) -> None:
    """Delete a trial's checkpoints."""
    shutil.rmtree(root / trial, ignore_errors=True)


class Pace:
    """Schedule of a trial's checkpoints.

    The next one is due `seconds` after the last one (or after the start), or later if writing would else cost more
    than WRITING_SHARE of the time, by the duration of the last one.

    Args:
        seconds: Shortest time between two checkpoints.
        clock: Returns seconds since an arbitrary moment.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._last = clock()
        self._cost = 0.0

    @property
    def due(self) -> bool:
        """Whether to write a checkpoint now."""
        return self._clock() - self._last >= max(self._seconds, self._cost / WRITING_SHARE)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Measure the writing of a checkpoint, which is the block; a failure counts as well."""
        started = self._clock()
        try:
            yield
        finally:
            self._last = self._clock()
            self._cost = self._last - started


def _read(path: Path) -> dict[str, Any]:
    import torch

    data = path.read_bytes()
    content, digest = data[:-_DIGEST], data[-_DIGEST:]
    if hashlib.sha256(content).digest() != digest:
        raise ValueError("it is damaged (its checksum is wrong)")
    state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return state


def _sync(folder: Path) -> None:
    """Make the file names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
