"""Output of a process, also if it dies."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from anon_tune.workers.trial.output import LAST_LINES, last_words, newest, own, tail, trim

DIES = """
import ctypes, os, sys
from pathlib import Path
from anon_tune.workers.trial import output
import faulthandler; faulthandler.enable()
output.capture(Path(sys.argv[1]))
print("printed", flush=True)
os.system("echo from a child process")
ctypes.CDLL(None).puts(b"from C"); ctypes.CDLL(None).fflush(None)
ctypes.string_at(0)
"""


def test_what_a_process_wrote_before_it_died_is_there(tmp_path: Path):
    path = tmp_path / "deep" / "trial.log"
    done = subprocess.run([sys.executable, "-c", DIES, str(path)], capture_output=True, text=True)
    assert done.returncode < 0
    assert (done.stdout, done.stderr) == ("", "")
    text = tail(path)
    assert text is not None
    lines = text.splitlines()
    assert lines[:3] == ["printed", "from a child process", "from C"]
    assert lines[3] == "Fatal Python error: Segmentation fault"


def test_where_no_file_can_be_made_output_goes_on_as_before(tmp_path: Path):
    (tmp_path / "file").touch()
    code = (
        "import sys; from pathlib import Path; from anon_tune.workers.trial import output;"
        "output.capture(Path(sys.argv[1])); print('heard')"
    )
    path = str(tmp_path / "file" / "below")
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("heard\n", 0)


def test_processes_of_one_attempt_write_beside_one_another(tmp_path: Path):
    """Tune may start two, and drop one: it deletes its file, and not that of the other."""
    path = tmp_path / "j-anon-s001.1.log"
    assert newest(path) is None
    dropped, ours, other = own(path), own(path), own(tmp_path / "j-anon-s001.11.log")
    for number, each in enumerate((dropped, ours, other)):
        each.touch()
        os.utime(each, ns=(0, number))
    assert newest(path) == ours
    os.utime(dropped, ns=(0, 9))
    assert newest(path) == dropped
    dropped.unlink()
    assert newest(path) == ours


def test_the_tail_is_the_last_lines(tmp_path: Path):
    path = tmp_path / "log"
    assert tail(path) is None
    path.write_text("\n")
    assert tail(path) is None
    path.write_bytes(b"only \xff\0 line")
    assert tail(path) == "only \ufffd line"
    path.write_text("".join(f"{number}\n" for number in range(300_000)))
    assert tail(path) == "\n".join(str(number) for number in range(300_000 - LAST_LINES, 300_000))


def test_a_large_file_is_cut_while_it_is_written_to(tmp_path: Path):
    path = tmp_path / "log"
    with path.open("a") as writer:
        writer.write("short\n")
        writer.flush()
        trim(path)
        assert path.read_text() == "short\n"
        writer.write("".join(f"{number}\n" for number in range(300_000)))
        writer.flush()
        trim(path)
        assert len(path.read_text().splitlines()) == LAST_LINES
        writer.write("the next\n")
    assert path.read_text().splitlines()[-2:] == ["299999", "the next"]
    trim(tmp_path / "nothing")


def traceback(error: str, rank: str = "") -> str:
    return "".join(
        f"{rank}{line}\n"
        for line in ("Traceback (most recent call last):", '  File "train.py", line 1', error)
    )


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("", None),
        ("=====\n-----\n", None),
        ("loading\nno space left\n=====\n", "no space left"),
        (traceback("ValueError: a"), "ValueError: a"),
        (traceback("KeyError: 'a'") + "going on\n" + traceback("ValueError: b") + "bye\n", "ValueError: b"),
        (
            traceback("ValueError: a", "[rank1]: ")
            + traceback("RuntimeError: Connection closed by peer", "[rank0]: ")
            + traceback("torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ")
            + "=====\ntrain.py FAILED\n=====\n",
            "ValueError: a",
        ),
        (
            traceback("torch.distributed.elastic.SignalException: 15") + "=====\n",
            "torch.distributed.elastic.SignalException: 15",
        ),
    ],
)
def test_the_line_that_tells_why_a_process_failed(log: str, words: str | None):
    assert last_words(log) == words
