"""`keep: best`: the weights that are left when a job has ended."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest
import torch
from PIL import Image

from anon_tune.records import Phase, Trial, TrialState
from anon_tune.spec import JobSpec
from anon_tune.workers.driver.best_weights import best_weights_trial, write_best
from anon_tune.workers.driver.samples import grid
from anon_tune.workers.problems.tasks import load_problem
from anon_tune.workers.trial.checkpoints import checkpoint_name, save
from anon_tune.workers.trial.training import Training
from tests import builders

EPOCHS = 2


def spec(mode: str = "min", keep: str = "best") -> JobSpec:
    metric = "loss" if mode == "min" else "accuracy"
    return builders.spec(
        keep=keep,
        budget={"trials": 1, "epochs": EPOCHS},
        objective={"metric": metric, "mode": mode},
        search={"grace": 1},
    )


CHOSEN = [
    builders.trial(0),
    builders.trial(1),
    builders.trial(0, value=0.5, phase=Phase.CONFIRM, source="j-anon-s001"),
]
"""A search of two, the second of which won."""


def verdict(
    number: int,
    value: float,
    *steps: int,
    state: TrialState = TrialState.COMPLETE,
    arm: str = "anon",
    source: str = "j-anon-s001",
) -> Trial:
    made = builders.trial(
        number, state, -value, arm=arm, phase=Phase.VERDICT, curve=[0.1, value], source=source
    )
    return dataclasses.replace(made, checkpoints=tuple(checkpoint_name(made.id, 1, step) for step in steps))


@pytest.mark.parametrize(("mode", "number"), [("min", 1), ("max", 2)])
def test_best_weights_are_those_with_the_best_validation_value(mode: str, number: int):
    trials = [
        verdict(0, 0.2, 1),
        verdict(1, 0.3, 2),
        verdict(2, 0.5, 1, 2),
        verdict(3, 0.1),
        verdict(4, 0.1, 2, state=TrialState.RUNNING),
        verdict(5, 0.05, 2, arm="sgd"),
        dataclasses.replace(verdict(6, 0.05, 2), phase=Phase.CONFIRM),
        verdict(
            7, 0.05 if mode == "min" else 0.9, 2, source="j-anon-s000"
        ),  # it had won before there were more
    ]
    assert best_weights_trial([*CHOSEN, *trials], spec(mode)) == trials[number]
    assert best_weights_trial([*CHOSEN, *trials[3:]], spec(mode)) is None
    assert best_weights_trial(trials[:6], spec(mode)) is None
    assert best_weights_trial([*CHOSEN, *trials], spec(mode, keep="none")) is None


def test_best_weights_are_the_trained_model(tmp_path: Path):
    problem = load_problem("image_classification", "digits", "mlp", {})
    training = Training(problem, "anon", {"lr": 0.01, "floor": 0.03}, seed=0, epochs=EPOCHS)
    trial = verdict(0, 0.2, EPOCHS)
    for step in (1, 2):
        training.run_epoch()
        save(tmp_path, checkpoint_name(trial.id, 1, step), training.state_dict())
    write_best([*CHOSEN, trial], spec(), tmp_path, tmp_path / "best.pt")
    model = problem.build_model()
    model.load_state_dict(torch.load(tmp_path / "best.pt"))
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), training.model.parameters(), strict=True)
    )


def test_a_diffusion_model_draws_images(tmp_path: Path):
    made = builders.spec(
        keep="best",
        task="diffusion",
        model={"name": "unet", "width": 4},
        budget={"trials": 1, "epochs": EPOCHS},
        search={"grace": 1},
    )
    problem = load_problem("diffusion", "digits", "unet", {"width": 4})
    trial = verdict(0, 0.2, EPOCHS)
    save(tmp_path, checkpoint_name(trial.id, 1, EPOCHS), {"model": problem.build_model().state_dict()})
    write_best([*CHOSEN, trial], made, tmp_path, tmp_path / "best.pt")
    with Image.open(tmp_path / "samples.png") as picture:
        assert (picture.size, picture.mode) == ((256, 256), "L")
        low, high = picture.getextrema()
        assert low < 60 < 190 < high


def test_images_are_in_rows_and_their_channels_in_colours():
    images = torch.full((4, 3, 32, 32), -1.0)
    images[1, 0] = 1.0  # red, on the right of the first row
    picture = grid(images)
    assert picture.size == (64, 64)
    assert [picture.getpixel(place) for place in ((0, 0), (40, 5), (5, 40))] == [
        (0, 0, 0),
        (255, 0, 0),
        (0, 0, 0),
    ]


def test_best_weights_from_before_an_extension_stay(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The same configuration won again: its verdict trials are not repeated, and their files are gone."""
    (tmp_path / "best.pt").write_bytes(b"weights")
    write_best([*CHOSEN, verdict(0, 0.2, EPOCHS)], spec(), tmp_path, tmp_path / "best.pt")
    assert (tmp_path / "best.pt").read_bytes() == b"weights"
    assert caplog.text == ""


@pytest.mark.parametrize("damaged", [False, True])
def test_missing_best_weights_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture, damaged: bool):
    trial = verdict(0, 0.2, *([1, 2] if damaged else [1]))
    save(tmp_path, checkpoint_name(trial.id, 1, 1), {"model": {}})
    if damaged:
        (tmp_path / checkpoint_name(trial.id, 1, 2)).write_bytes(b"?")
    with caplog.at_level(logging.WARNING):
        write_best([*CHOSEN, trial], spec(), tmp_path, tmp_path / "best.pt")
    assert "no best weights were written: " in caplog.text
    assert ("it is damaged" if damaged else "no verdict trial of anon has a checkpoint") in caplog.text
    assert not (tmp_path / "best.pt").exists()
