"""Checkpoint files: whole or not used, few, and each attempt's its own, whatever the disk does."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from anon_tune.workers.trial.checkpoints import (
    WRITING_SHARE,
    Pace,
    checkpoint_name,
    intact,
    remove,
    save,
    step_of,
    write_durably,
)

ALL = 1_000_000


def state(step: int, size: int = 10) -> dict[str, Any]:
    return {"epoch": step, "model": {"w": torch.full((size,), float(step))}}


def write(root: Path, attempt: int, *steps: int, before: str | None = None) -> list[str]:
    """Checkpoints of a trial, each after the one before."""
    names = []
    for step in steps:
        name = checkpoint_name("t", attempt, step)
        save(root, name, state(step), before)
        names.append(before := name)
    return names


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def usable(root: Path, *names: str, before: int = ALL) -> tuple[list[str], list[str]]:
    problems: list[str] = []
    found = [(name, loaded["epoch"]) for name, loaded in intact(root, names, before, problems)]
    assert all(step_of(name) == epoch for name, epoch in found)
    return [name for name, _ in found], problems


def test_what_was_saved_is_loaded(tmp_path: Path):
    saved = {
        "w": torch.arange(5.0),
        "bytes": torch.get_rng_state(),
        "plain": [1, 0.1 + 0.2, None, "s", (1, 2)],
    }
    save(tmp_path, "t/1/7.pt", saved)
    ((name, loaded),) = intact(tmp_path, ["t/1/7.pt"], ALL, [])
    assert name == "t/1/7.pt"
    assert loaded["plain"] == saved["plain"]
    assert all(torch.equal(loaded[key], saved[key]) for key in ("w", "bytes"))


def test_two_are_kept(tmp_path: Path):
    for step in range(1, 6):
        write(tmp_path, 1, step, before=checkpoint_name("t", 1, step - 1) if step > 1 else None)
        assert files(tmp_path) == {f"t/1/{s}.pt" for s in (step - 1, step) if s}


def test_another_attempt_keeps_what_it_went_on_from_until_it_has_two_of_its_own(tmp_path: Path):
    write(tmp_path, 1, 1, 2)
    write(tmp_path, 2, 3, before="t/1/2.pt")
    assert files(tmp_path) == {"t/1/2.pt", "t/2/3.pt"}
    write(tmp_path, 4, 4, 5, before="t/2/3.pt")  # the third wrote none
    assert files(tmp_path) == {"t/4/4.pt", "t/4/5.pt"}
    assert {path.name for path in (tmp_path / "t").iterdir()} == {"4"}


def test_an_attempt_that_was_replaced_touches_nothing_of_the_one_after_it(tmp_path: Path):
    write(tmp_path, 1, 4)
    write(tmp_path, 2, 5, before="t/1/4.pt")
    of_the_second = (tmp_path / "t/2/5.pt").read_bytes()
    write(tmp_path, 1, 5, 6, before="t/1/4.pt")  # its driver is gone, and it does not know
    assert (tmp_path / "t/2/5.pt").read_bytes() == of_the_second
    assert usable(tmp_path, "t/2/5.pt")[0] == ["t/2/5.pt"]
    write(tmp_path, 2, 6, before="t/2/5.pt")
    assert files(tmp_path) == {"t/2/5.pt", "t/2/6.pt"}


def test_what_was_being_written_when_the_process_died_is_cleared_away(tmp_path: Path):
    write(tmp_path, 1, 1)
    (tmp_path / "t/1/2.tmp").write_bytes(b"half of i")
    assert usable(tmp_path, "t/1/1.pt") == (["t/1/1.pt"], [])
    write(tmp_path, 2, 2, before="t/1/1.pt")
    assert files(tmp_path) == {"t/1/1.pt", "t/2/2.pt"}


def test_the_furthest_comes_first(tmp_path: Path):
    """The second attempt could not read what the first had named, and has not come as far."""
    write(tmp_path, 2, 3)
    write(tmp_path, 1, 5, 6)
    assert usable(tmp_path, "t/2/3.pt", "t/1/6.pt")[0] == ["t/1/6.pt", "t/1/5.pt", "t/2/3.pt"]
    assert usable(tmp_path, "t/2/3.pt", "t/1/6.pt", before=6)[0] == ["t/1/5.pt", "t/2/3.pt"]


def test_what_the_ledger_does_not_name_yet_is_not_used(tmp_path: Path):
    """The report of its step was not stored: going on from it would leave the step out."""
    write(tmp_path, 1, 1, 2)
    assert usable(tmp_path, "t/1/1.pt") == (["t/1/1.pt"], [])
    assert usable(tmp_path) == ([], [])


def test_of_files_that_are_gone_nothing_is_used(tmp_path: Path):
    write(tmp_path, 1, 1)
    remove(tmp_path, "t")
    assert files(tmp_path) == set()
    assert usable(tmp_path, "t/1/1.pt") == ([], [])
    remove(tmp_path, "t")


@pytest.mark.parametrize("cut", [0, 1, 31, 32, 33, 500])
def test_a_truncated_file_gives_way_to_the_one_before(tmp_path: Path, cut: int):
    write(tmp_path, 1, 1, 2)
    newest = tmp_path / "t/1/2.pt"
    newest.write_bytes(newest.read_bytes()[:cut])
    found, (problem,) = usable(tmp_path, "t/1/2.pt")
    assert found == ["t/1/1.pt"]
    assert problem == "checkpoint t/1/2.pt cannot be used: it is damaged (its checksum is wrong)"


def test_a_single_bit_gives_it_away(tmp_path: Path):
    write(tmp_path, 1, 1, 2)
    newest = tmp_path / "t/1/2.pt"
    whole = newest.read_bytes()
    for place in range(0, len(whole), 37):
        newest.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        found, problems = usable(tmp_path, "t/1/2.pt")
        assert found == ["t/1/1.pt"]
        assert len(problems) == 1


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("harm",)


def test_a_file_that_would_run_code_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path, "t/1/1.pt", {"epoch": 1, "x": Harmful()})
    found, (problem,) = usable(tmp_path, "t/1/1.pt")
    assert found == []
    assert "weights_only" in problem.lower() or "weights only" in problem.lower()
    assert not (tmp_path / "harm").exists()


def test_a_folder_that_is_gone_is_not_made_again(tmp_path: Path):
    """The job has ended and its files are deleted, or this machine has another disk."""
    with pytest.raises(FileNotFoundError):
        save(tmp_path / "gone", "t/1/1.pt", state(1))
    assert not (tmp_path / "gone").exists()


ENDLESS = """
import sys
from pathlib import Path
import torch
from anon_tune.workers.trial.checkpoints import save

before = None
for step in range(1, 1_000_000):
    name = f"t/1/{step}.pt"
    save(Path(sys.argv[1]), name, {"epoch": step, "w": torch.full((500_000,), float(step))}, before)
    before = name
    print(step, flush=True)
"""


@pytest.mark.parametrize("count", [1, 6])
def test_what_save_has_returned_from_survives_a_kill_in_the_next(tmp_path: Path, count: int):
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for _ in range(count):
            step = int(process.stdout.readline())
        process.kill()
        further = process.stdout.read().split()
    last = int(further[-1]) if further else step
    found, problems = usable(tmp_path, checkpoint_name("t", 1, last))
    assert found[0] == checkpoint_name("t", 1, last)
    assert problems == []


# Disks that take no more


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 kB where one can be mounted; elsewhere no file may grow beyond that."""
    size = 256 * 1024
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0:
        yield folder
        subprocess.run(["umount", str(folder)], check=True)
        return
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    yield folder
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_write_that_fails_in_the_middle_leaves_what_was_there(small_disk: Path):
    write(small_disk, 1, 1, 2)
    before = {name: (small_disk / name).read_bytes() for name in files(small_disk)}
    assert len(before) == 2
    with pytest.raises(OSError) as caught:
        save(small_disk, "t/1/3.pt", state(3, size=1_000_000), "t/1/2.pt")
    assert caught.value.errno in {errno.ENOSPC, errno.EFBIG}
    assert {name: (small_disk / name).read_bytes() for name in files(small_disk)} == before
    assert usable(small_disk, "t/1/2.pt")[0] == ["t/1/2.pt", "t/1/1.pt"]
    write(small_disk, 1, 4, before="t/1/2.pt")  # a smaller one, or space again
    assert files(small_disk) == {"t/1/2.pt", "t/1/4.pt"}


def test_a_name_that_is_taken_by_something_else_stays(tmp_path: Path):
    (tmp_path / "x.pt").mkdir()
    with pytest.raises(OSError):
        write_durably(tmp_path / "x.pt", b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


# When one is due


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def written(pace: Pace, clock: Clock, took: float) -> None:
    with pace.writing():
        clock.now += took


def test_the_first_is_due_after_some_seconds_and_the_next_as_long_after_it():
    clock = Clock()
    pace = Pace(10.0, clock)
    for _ in range(2):
        assert not pace.due
        clock.now += 9.9
        assert not pace.due
        clock.now += 0.2
        assert pace.due
        written(pace, clock, 0.01)


@pytest.mark.parametrize("fails", [False, True])
def test_writing_that_takes_long_is_done_less_often(fails: bool):
    clock = Clock()
    pace = Pace(10.0, clock)
    clock.now += 10.0
    try:
        with pace.writing():
            clock.now += 2.0
            if fails:
                raise OSError(errno.ENOSPC, "full")
    except OSError:
        pass
    clock.now += 2.0 / WRITING_SHARE - 1
    assert not pace.due
    clock.now += 1
    assert pace.due
    written(pace, clock, 0.01)
    clock.now += 10.1
    assert pace.due, "the last one counts"


def test_at_most_the_share_of_the_time_is_spent_on_writing():
    """Epochs of milliseconds, and a setting that asks for a checkpoint after each."""
    clock = Clock()
    pace, spent = Pace(0.0, clock), 0.0
    for _ in range(100_000):
        clock.now += 0.002
        if pace.due:
            written(pace, clock, 0.005)
            spent += 0.005
    assert spent > 0
    assert spent <= WRITING_SHARE * (clock.now - 100.0) + 0.005
