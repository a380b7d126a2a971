"""Nodes of a cluster: what is said of those that cannot run a job, and the code that travels to them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from anon_tune.errors import DependencyError
from anon_tune.spec import JobSpec, parse_spec
from anon_tune.spec.sections import Resources
from anon_tune.workers.driver import job
from anon_tune.workers.driver.nodes import (
    Node,
    Seen,
    code_problem,
    storage_problem,
    version_problem,
    versions_here,
)
from anon_tune.workers.driver.shipping import shipment
from anon_tune.workers.trial.shipped import on_this_node

HERE = {"python": "3.11.7", "torch": "2.13.0"}
SMALL, LARGE = Node("a", "10.0.0.1", {"CPU": 2.0}), Node("b", "10.0.0.2", {"CPU": 8.0, "GPU": 4.0})
GOOD = Seen(SMALL, None, HERE, reads=True, writes=True)


def user_spec(task: str, folder: Path) -> JobSpec:
    return parse_spec(
        {"name": "a job", "task": task, "budget": {"trials": 4, "epochs": 9}}, "job.yaml", folder
    )


def test_versions_are_compared_with_the_drivers():
    assert version_problem([GOOD, Seen(LARGE, "it did not answer")], HERE) is None
    older = Seen(LARGE, None, {"python": "3.11.7"})
    found = version_problem([GOOD, older], HERE)
    assert found is not None
    assert "10.0.0.2 has torch not at all, and this machine has python 3.11.7, torch 2.13.0" in found
    assert "requirements.lock" in found
    assert all("+" not in version for version in versions_here().values()), "builds of torch may differ"


@pytest.mark.parametrize(("reads", "writes"), [(True, False), (False, True), (False, False)])
def test_a_folder_is_shared_if_each_side_reads_what_the_other_wrote(reads: bool, writes: bool):
    assert storage_problem([GOOD], Path("/home")) is None
    found = storage_problem([GOOD, Seen(LARGE, None, HERE, reads, writes)], Path("/home"))
    assert found is not None
    assert found.startswith("/home is not shared with 10.0.0.2,")
    assert "Set ANON_TUNE_HOME to a folder that all nodes share" in found


def test_a_node_without_the_code_is_named():
    assert code_problem([GOOD], Path("/code")) is None
    found = code_problem([GOOD, Seen(LARGE, None, HERE, has_code=False)], Path("/code"))
    assert found is not None
    assert "10.0.0.2 lacks it" in found


def test_a_trial_that_no_node_has_room_for_is_refused():
    needs = Resources(cpu=4, gpu=8)
    assert (
        "4 CPUs and 8 GPUs on one node, and the largest of 2 nodes has 8 CPUs and 4 GPUs"
        in job._too_small(needs, [SMALL, LARGE])
    )
    assert "has no node with CPUs. Start one" in job._too_small(needs, [])


def test_code_travels_in_a_folder_that_hides_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    code = tmp_path / "code"
    (code / "nets").mkdir(parents=True)
    (code / "ray.py").write_text("raise RuntimeError('a module of the user with the name of a package')")
    (code / "nets" / "cnn.py").write_text("")
    (code / "run.sh").write_text("")
    (code / "run.sh").chmod(0o755)
    (code / ".git").mkdir()
    (code / ".git" / "HEAD").write_text("")
    spec = user_spec("nets.cnn:train", code)
    shipped = shipment(spec, tmp_path / "job", "abc")
    assert shipped is not None
    assert [path.name for path in shipped.root.iterdir()] == [shipped.name]
    copied = shipped.root / shipped.name
    assert {path.relative_to(copied).as_posix() for path in copied.rglob("*") if path.is_file()} == {
        "ray.py",
        "nets/cnn.py",
        "run.sh",
    }
    assert (copied / "run.sh").stat().st_mode & 0o111
    with pytest.raises(DependencyError, match="has not brought anon_tune_code_abc"):
        on_this_node(spec, shipped.name)
    monkeypatch.setattr(sys, "path", [*sys.path, str(shipped.root)])
    assert on_this_node(spec, shipped.name).folder == str(copied)
    assert on_this_node(spec, None).folder == str(code)


def test_a_folder_with_more_than_code_is_used_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("anon_tune.code_archive._LARGEST_UNPACKED", 10)
    (tmp_path / "train.py").write_text("x" * 11)
    assert shipment(user_spec("train:train", tmp_path), tmp_path / "job", "abc") is None
    assert not (tmp_path / "job" / "shipped").exists()
