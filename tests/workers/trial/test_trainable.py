"""A trial in a worker's hands, without Ray around it: what it goes on from, what it writes, and what it says."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from anon_tune.errors import InputError
from anon_tune.records import Phase
from anon_tune.spec import parse_spec
from anon_tune.workers.trial.checkpoints import ask, checkpoint_name
from anon_tune.workers.trial.failure import failure_of
from anon_tune.workers.trial.messages import Completed, StepResult
from tests import trials
from tests.trials import TRIAL, Local, failed, learned, measured, steps

EPOCHS = 5
SPEC: dict[str, Any] = {
    "name": "x",
    "task": "image_classification",
    "data": "digits",
    "model": {"name": "cnn", "width": 4},
    "budget": {"trials": 1, "epochs": EPOCHS},
    "training": {"checkpoint_seconds": 0},
}


def config(folder: Path, attempt: int = 1, *names: str, **keys: Any) -> dict[str, Any]:
    spec = parse_spec({**SPEC, **keys.pop("spec", {})})
    return trials.config(spec, folder, attempt, *names, **keys)


def name(attempt: int, step: int) -> str:
    return checkpoint_name(TRIAL, attempt, step)


def checkpoints(found: Sequence[StepResult]) -> list[str | None]:
    return [measured(result).checkpoint for result in found]


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def output_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own process goes on writing where it wrote."""
    monkeypatch.setattr("anon_tune.workers.trial.output.capture", lambda path: None)


@pytest.fixture
def always_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing costs nothing: how often it is done is tested with `Pace`."""
    monkeypatch.setattr("anon_tune.workers.trial.checkpoints.WRITING_SHARE", float("inf"))


def results(trainable: Local, count: int = EPOCHS) -> list[StepResult]:
    return [trainable.advance() for _ in range(count)]


def test_another_attempt_goes_on_after_the_checkpoint_with_the_same_results(tmp_path: Path, always_due: None):
    first = results(Local(config(tmp_path)))
    assert checkpoints(first) == [*(name(1, s) for s in range(1, EPOCHS)), None]
    assert isinstance(first[-1].outcome, Completed)
    assert files(tmp_path) == {name(1, 3), name(1, 4)}
    for done in (4, 3):
        second = results(Local(config(tmp_path, 2, name(1, done))), EPOCHS - done)
        assert steps(second) == list(range(done + 1, EPOCHS + 1))
        assert [learned(result) for result in second] == [learned(result) for result in first[done:]]
        assert [result.resumed for result in second] == [done, *[None] * (EPOCHS - done - 1)]
        assert not any(result.warnings for result in second)


def test_a_trial_uses_as_many_threads_as_it_has_cpus_however_many_there_were(tmp_path: Path):
    torch.set_num_threads(2)
    with threadpool_limits(2, "blas"):
        Local(config(tmp_path))
        assert torch.get_num_threads() == 1
        pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
        assert pools
        assert all(pool["num_threads"] == 1 for pool in pools)


def test_an_actor_that_is_used_again_resumes_too(tmp_path: Path, always_due: None):
    first = results(Local(config(tmp_path)))
    actor = Local(config(tmp_path, trial="j-anon-s001", seed=9))
    results(actor, 2)
    assert actor.reset_config(config(tmp_path, 2, name(1, 4)))
    (last,) = results(actor, 1)
    assert learned(last) == learned(first[-1])
    actor.reset_config(config(tmp_path, 3))
    assert [learned(result) for result in results(actor)] == [learned(result) for result in first]


def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_then_to_fresh_weights(
    tmp_path: Path, always_due: None
):
    first = results(Local(config(tmp_path)))
    newest, before = tmp_path / name(1, 4), tmp_path / name(1, 3)
    newest.write_bytes(newest.read_bytes()[:-1])
    attempt = Local(config(tmp_path, 2, name(1, 4)))
    result = attempt.advance()
    assert (result.resumed, measured(result).step) == (3, 4)
    assert learned(result) == learned(first[3])
    (warning,) = result.warnings
    assert warning.startswith(f"checkpoint {name(1, 4)} cannot be used: it is damaged")
    # It keeps the good one beside its own, not the damaged one.
    assert files(tmp_path) == {name(1, 3), name(2, 4)}

    before.write_bytes(b"")
    (tmp_path / name(2, 4)).write_bytes(b"")
    again = results(Local(config(tmp_path, 3, name(2, 4), name(1, 4))))
    assert [learned(result) for result in again] == [learned(result) for result in first]
    assert again[0].resumed is None
    assert again[0].warnings[-1] == "no checkpoint can be used; starting from scratch"
    assert len(again[0].warnings) == 3


def test_a_checkpoint_of_another_model_is_not_used(tmp_path: Path, always_due: None):
    results(Local(config(tmp_path, spec={"model": {"name": "cnn", "width": 8}})), 1)
    expected = results(Local(config(tmp_path, trial="j-anon-s001")))
    again = results(Local(config(tmp_path, 2, name(1, 1))))
    assert "does not fit" in again[0].warnings[0]
    assert [learned(result) for result in again] == [learned(result) for result in expected]


def test_short_trials_write_nothing(tmp_path: Path):
    done = results(Local(config(tmp_path, spec={"training": {}})))
    assert isinstance(done[-1].outcome, Completed)
    assert files(tmp_path) == set()
    assert not any(checkpoints(done))


def test_a_checkpoint_is_written_when_it_is_asked_for(tmp_path: Path):
    rarely = {"training": {"checkpoint_seconds": 1e6}}
    trial = Local(config(tmp_path, spec=rarely))
    first = results(trial, 1)
    ask(tmp_path)
    second = results(trial, 1)
    ask(tmp_path, wanted=False)
    assert checkpoints(first + second + results(trial, 1)) == [None, name(1, 2), None]


def test_where_no_checkpoint_can_be_written_the_trial_goes_on_without(tmp_path: Path, always_due: None):
    expected = results(Local(config(tmp_path, trial="j-anon-s001")))
    done = results(Local(config(tmp_path / "not there")))
    assert [learned(result) for result in done] == [learned(result) for result in expected]
    assert not any(checkpoints(done))
    for result in done[:-1]:
        (warning,) = result.warnings
        assert warning.startswith(f"no checkpoint after epoch {measured(result).step}, training continues: ")
        assert "No such file or directory" in warning


def test_a_disk_that_is_full_for_a_while_costs_checkpoints_only(tmp_path: Path, always_due: None):
    trainable = Local(config(tmp_path))
    (first,) = results(trainable, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    try:
        (second,) = results(trainable, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert measured(second).checkpoint is None
    assert "File too large" in second.warnings[0]
    assert files(tmp_path) == {measured(first).checkpoint}
    (third,) = results(trainable, 1)
    assert files(tmp_path) == set(checkpoints([first, third])) == {name(1, 1), name(1, 3)}


@pytest.mark.parametrize(
    ("keep", "phase", "arm", "kept"),
    [
        ("best", Phase.VERDICT, "anon", True),
        ("best", Phase.VERDICT, "adamw", False),
        ("best", Phase.CONFIRM, "anon", False),
        ("none", Phase.VERDICT, "anon", False),
    ],
)
def test_the_last_epoch_is_written_where_its_weights_may_be_kept(
    tmp_path: Path, keep: str, phase: Phase, arm: str, kept: bool
):
    spec = {"keep": keep, "training": {}}
    hyperparameters = {"lr": 0.01}
    done = results(Local(config(tmp_path, spec=spec, phase=phase, arm=arm, hyperparameters=hyperparameters)))
    assert measured(done[-1]).checkpoint == (name(1, EPOCHS) if kept else None)
    assert files(tmp_path) == ({name(1, EPOCHS)} if kept else set())
    if (
        kept
    ):  # killed before its end was stored: the last epoch, whose result ends the trial, is trained again
        again = results(
            Local(
                config(
                    tmp_path,
                    2,
                    name(1, EPOCHS),
                    spec=spec,
                    phase=phase,
                    hyperparameters=hyperparameters,
                )
            )
        )
        assert learned(again[-1]) == learned(done[-1])


def test_a_failure_is_told_with_what_came_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trainable = Local(config(tmp_path, 2, name(1, 1)))

    def fails() -> dict[str, float]:
        raise ValueError("the data is not there")

    monkeypatch.setattr(trainable._work._training, "run_epoch", fails)
    result = trainable.advance()
    assert failed(result).reason == "ValueError: the data is not there"
    assert result.warnings == ("no checkpoint can be used; starting from scratch",)


def test_out_of_memory_has_one_reason_that_says_what_to_do(capsys: pytest.CaptureFixture[str]):
    errors = [torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {n} MiB") for n in range(2)]
    first, second = map(failure_of, errors)
    assert first.reason == second.reason, "three for one reason pause the job"
    assert "training.batch_size" in first.reason
    assert "Tried to allocate 1 MiB" in second.traceback
    assert second.traceback in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "reason"), [(ValueError("no"), "ValueError: no"), (InputError("Do this."), "Do this.")]
)
def test_other_errors_are_their_own_reason(error: Exception, reason: str):
    assert failure_of(error).reason == reason


@pytest.mark.parametrize(
    ("of", "epochs"), [("last", [EPOCHS]), ("best", [1, 2, 3, 4, 5]), ("last 3", [1, 2, 3, 4, 5])]
)
def test_the_verdict_tests_each_epoch_that_may_count(tmp_path: Path, of: str, epochs: list[int]):
    def tested(phase: Phase) -> list[int]:
        found = results(Local(config(tmp_path, spec={"objective": {"of": of}}, phase=phase)))
        return [measured(r).step for r in found if "test_loss" in measured(r).metrics]

    assert tested(Phase.VERDICT) == epochs
    assert tested(Phase.SEARCH) == []
