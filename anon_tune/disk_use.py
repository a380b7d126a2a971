"""Disk use of the home folder: which files of jobs take how much."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from anon_tune.settings import Settings

__all__ = ["DiskUse", "disk_use", "in_units"]

_MOST_SHOWN = 3


@dataclass(frozen=True)
class DiskUse:
    """Bytes of files in the home folder.

    Attributes:
        by_kind: By kind of file.
        largest: Of the jobs whose files take most, by their ids, the largest first.
    """

    by_kind: Mapping[str, int]
    largest: Mapping[str, int]


def disk_use(settings: Settings) -> DiskUse:
    """Return the disk use of the home folder; files that vanish or cannot be read count as empty."""
    kinds: Counter[str] = Counter(
        {"checkpoints": 0, "logs": 0, "other files of jobs": 0, "temporary folders": 0}
    )
    jobs: Counter[str] = Counter()
    home = settings.home.absolute()
    for path, size in _files(home / "jobs"):
        job, *inside = path.relative_to(home / "jobs").parts
        kinds[_kind(inside)] += size
        jobs[job] += size
    kinds["logs"] += sum(size for _, size in _files(home / "logs"))
    kinds["temporary folders"] += sum(size for folder in settings.ray_temps() for _, size in _files(folder))
    return DiskUse(kinds, dict(jobs.most_common(_MOST_SHOWN)))


def _kind(inside: list[str]) -> str:
    """Return the kind of a job's file, from its path below the job's folder."""
    if inside[:1] == ["checkpoints"]:
        return "checkpoints"
    return "logs" if inside[-1:] and inside[-1].endswith(".log") else "other files of jobs"


def _files(folder: Path) -> Iterator[tuple[Path, int]]:
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            try:
                yield path, path.lstat().st_size
            except OSError:
                continue


def in_units(size: int) -> str:
    """Return a number of bytes for people: "1.2 GiB"."""
    amount = float(size)
    for unit in ("bytes", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.3g} {unit}"
        amount /= 1024
    return f"{amount:,.1f} GiB"
