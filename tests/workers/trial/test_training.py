"""The training loop: the same arguments give the same numbers, and what goes wrong is seen."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from anon_tune.errors import HyperparameterError, InputError
from anon_tune.workers.problems.data import Split
from anon_tune.workers.problems.tasks import Problem, load_problem
from anon_tune.workers.trial.checkpoints import intact, save
from anon_tune.workers.trial.schedules import SCHEDULES, schedule_factor
from anon_tune.workers.trial.training import DIVERGENCE_FACTOR, Training

ARGUMENTS = {
    "anon": {"lr": 0.01, "gamma": 1.0, "floor": 0.03},
    "adamw": {"lr": 0.03},
    "sgd": {"lr": 0.1, "momentum": 0.9},
}


def digits(model: str = "mlp") -> Problem:
    return load_problem("image_classification", "digits", model, {"width": 8})


def train(
    problem: Problem, arm: str = "anon", *, epochs: int = 2, seed: int = 0, **keys: Any
) -> list[dict[str, float]]:
    hyperparameters = keys.pop("hyperparameters", ARGUMENTS[arm])
    training = Training(problem, arm, hyperparameters, seed=seed, epochs=epochs, **keys)
    return [training.run_epoch() for _ in range(epochs)]


@pytest.mark.parametrize("arm", ARGUMENTS)
def test_the_same_seed_gives_the_same_bits(arm: str):
    problem = digits()
    first = train(problem, arm)
    torch.rand(5)  # whatever else the process draws
    assert train(problem, arm) == first
    assert train(problem, arm, seed=1) != first


class Noisy(nn.Module):
    """Batch norm, whose statistics are no parameters, and dropout, which draws from torch's global random state."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 10)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.net(x)
        return logits


@pytest.mark.parametrize(
    ("arm", "hyperparameters"),
    [
        ("anon", {"lr": 0.01, "gamma": 1.0, "floor": 0.03}),
        ("anon", {"lr": 0.01, "gamma": 0.0}),
        ("anon", {"lr": 0.02, "gamma": -0.5, "delay": "every:7", "weight_decay": 0.01}),
        ("adamw", {"lr": 0.03, "weight_decay": 0.01}),
        ("sgd", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    ],
)
@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_a_training_that_is_resumed_after_any_epoch_gives_the_same_bits(
    tmp_path: Path, arm: str, hyperparameters: dict[str, Any], schedule: str
):
    problem = dataclasses.replace(digits(), build_model=Noisy)

    def fresh() -> Training:
        return Training(problem, arm, hyperparameters, seed=5, epochs=4, schedule=schedule)

    whole = fresh()
    uninterrupted = []
    for epoch in range(1, 5):
        uninterrupted.append(whole.run_epoch())
        save(tmp_path, f"t{epoch}/1/{epoch}.pt", whole.state_dict())
    test = whole.test()
    for epoch in range(1, 5):
        torch.rand(7)  # another process has another random state
        ((_, state),) = intact(tmp_path, [f"t{epoch}/1/{epoch}.pt"], 5, [])
        resumed = fresh()
        resumed.load_state_dict(state)
        assert resumed.epoch == epoch
        assert [resumed.run_epoch() for _ in range(epoch, 4)] == uninterrupted[epoch:]
        assert resumed.test() == test


def test_divergence_after_a_resume_is_measured_by_the_first_loss(tmp_path: Path):
    first = Training(digits(), "sgd", ARGUMENTS["sgd"], seed=0, epochs=2)
    first.run_epoch()
    state = first.state_dict()
    resumed = Training(digits(), "sgd", ARGUMENTS["sgd"], seed=0, epochs=2)
    resumed.load_state_dict({**state, "first_loss": state["first_loss"] / 1000})
    resumed.run_epoch()
    assert resumed.diverged


@pytest.mark.parametrize(("arm", "model"), [("adamw", "mlp"), ("anon", "cnn")])
def test_the_state_of_something_else_is_refused(arm: str, model: str):
    other = Training(digits(model), arm, ARGUMENTS[arm], seed=0, epochs=1)
    other.run_epoch()
    training = Training(digits("mlp"), "anon", ARGUMENTS["anon"], seed=0, epochs=1)
    with pytest.raises((InputError, RuntimeError)):
        training.load_state_dict(other.state_dict())


def test_two_trials_side_by_side_do_not_mix():
    problem = digits("cnn")
    alone = train(problem, seed=0)
    one, other = (Training(problem, "anon", ARGUMENTS["anon"], seed=seed, epochs=2) for seed in (0, 1))
    mixed = []
    for _ in range(2):
        mixed.append(one.run_epoch())
        other.run_epoch()
    assert mixed == alone


@pytest.mark.parametrize("arm", ARGUMENTS)
def test_training_learns_the_digits(arm: str):
    (*_, last) = train(digits(), arm, epochs=4)
    assert last["val_accuracy"] > 0.75
    assert last["val_loss"] < 1.0


def test_metrics_of_an_epoch():
    training = Training(digits(), "sgd", ARGUMENTS["sgd"], seed=0, epochs=1)
    of_the_last_step = {"gradient_norm", "update_ratio"}
    assert training.run_epoch().keys() == {"train_loss", "val_loss", "val_accuracy", *of_the_last_step}
    assert training.epoch == 1
    assert training.test().keys() == {"test_loss", "test_accuracy"}


def test_the_test_split_is_looked_at_only_when_asked():
    problem = digits()
    spoilt = Split(torch.full_like(problem.test.inputs, math.nan), problem.test.targets)
    training = Training(dataclasses.replace(problem, test=spoilt), "sgd", ARGUMENTS["sgd"], seed=0, epochs=1)
    assert [training.run_epoch()] == train(problem, "sgd", epochs=1)
    assert not training.diverged
    assert math.isnan(training.test()["test_loss"])


def test_measuring_changes_nothing():
    problem = digits("cnn")  # whose batch norm would, in training mode
    training = Training(problem, "sgd", ARGUMENTS["sgd"], seed=0, epochs=2)
    training.run_epoch()
    first = training.evaluate(problem.validation)
    training.test()
    assert training.evaluate(problem.validation) == first
    assert training.run_epoch() == train(problem, "sgd")[1]


@pytest.mark.parametrize("arm", ARGUMENTS)
def test_an_absurd_learning_rate_is_divergence(arm: str):
    training = Training(digits(), arm, {**ARGUMENTS[arm], "lr": 1e6}, seed=0, epochs=1)
    result = training.run_epoch()
    assert training.diverged
    assert not result["val_loss"] <= 10 * DIVERGENCE_FACTOR


def test_nan_is_divergence():
    problem = digits()
    poisoned = problem.train.inputs.clone()
    poisoned[0, 0, 0, 0] = math.nan
    problem = dataclasses.replace(problem, train=Split(poisoned, problem.train.targets))
    training = Training(problem, "sgd", ARGUMENTS["sgd"], seed=0, epochs=1)
    training.run_epoch()
    assert training.diverged


def test_an_ordinary_training_has_not_diverged():
    training = Training(digits(), "anon", ARGUMENTS["anon"], seed=0, epochs=2)
    for _ in range(2):
        training.run_epoch()
        assert not training.diverged


def test_the_schedule_of_the_learning_rate():
    assert [schedule_factor("cosine", step, 4) for step in range(5)] == pytest.approx(
        [1.0, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125), 0.0]
    )
    assert schedule_factor("cosine", 9, 4) == 0.0
    assert {schedule_factor("constant", step, 4) for step in range(5)} == {1.0}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_begins_at_1_and_never_rises(schedule: str):
    factors = [schedule_factor(schedule, step, 100) for step in range(101)]
    assert factors[0] == 1.0
    assert factors == sorted(factors, reverse=True)
    assert min(factors) >= 0.0


def test_milestones_and_the_stable_part():
    assert [schedule_factor("step", step, 100) for step in (0, 49, 50, 74, 75, 100)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )
    assert [schedule_factor("wsd", step, 100) for step in (0, 80, 90, 100)] == pytest.approx([1, 1, 0.5, 0])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_warm_up_rises_evenly_and_the_rest_is_the_schedule(schedule: str):
    factors = [schedule_factor(schedule, step, 10, warmup=0.45) for step in range(11)]
    assert factors[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert factors[4:] == [schedule_factor(schedule, step, 6) for step in range(7)]


def line(count: int, slope: float = 2.0) -> Problem:
    """Regression on y = slope * x with one weight, which starts at 0: small enough to do by hand."""

    class Line(nn.Linear):
        def __init__(self) -> None:
            super().__init__(1, 1, bias=False)
            nn.init.zeros_(self.weight)

    x = torch.ones(count, 1)
    split = Split(x, slope * x)
    return Problem(
        split,
        split,
        split,
        Line,
        lambda model, examples, smoothing: F.mse_loss(model(examples.inputs), examples.targets),
        lambda model, examples: {"loss": F.mse_loss(model(examples.inputs), examples.targets)},
    )


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_steps_are_gradient_descent_under_the_schedule(schedule: str):
    """Loss (w - 2)^2, gradient 2 (w - 2); 7 examples in batches of 3 are 2 steps an epoch."""
    training = Training(line(7), "sgd", {"lr": 0.1}, seed=0, epochs=2, batch_size=3, schedule=schedule)
    w, step = 0.0, 0
    for _ in range(2):
        losses = []
        for _ in range(2):
            losses.append((w - 2) ** 2)
            w -= 0.1 * schedule_factor(schedule, step, 4) * 2 * (w - 2)
            step += 1
        result = training.run_epoch()
        assert result["train_loss"] == pytest.approx(sum(losses) / 2, rel=1e-5)
        assert result["val_loss"] == pytest.approx((w - 2) ** 2, rel=1e-5)


def test_a_batch_larger_than_the_data_is_the_data():
    problem = line(5)
    large, whole = (
        Training(problem, "sgd", {"lr": 0.1}, seed=0, epochs=2, batch_size=size, schedule="constant")
        for size in (64, 5)
    )
    for _ in range(2):
        assert large.run_epoch() == whole.run_epoch()
    (weight,) = large.model.parameters()
    assert weight.item() == pytest.approx(0.4 + 0.2 * 1.6)  # two steps were made


def test_a_batch_in_parts_is_the_same_step():
    problem = digits()
    whole, parts = (
        Training(problem, "sgd", ARGUMENTS["sgd"], seed=0, epochs=1, batch_size=50, accumulate=n)
        for n in (1, 3)
    )
    assert parts.run_epoch() == pytest.approx(whole.run_epoch(), rel=1e-3)


def test_gradients_are_shortened_to_the_clip_and_measured_before():
    """The slope at w = 0 is -4: clipped to 1, one step of 0.1 is 0.1 long."""
    training = Training(line(3), "sgd", {"lr": 0.1}, seed=0, epochs=9, schedule="constant", clip=1.0)
    result = training.run_epoch()
    (weight,) = training.model.parameters()
    assert weight.item() == pytest.approx(0.1)
    assert result["gradient_norm"] == pytest.approx(4.0)
    # The next: from 0.1, where the slope is -3.8, by 0.1 again.
    result = training.run_epoch()
    assert (result["gradient_norm"], result["update_ratio"]) == pytest.approx((3.8, 1.0))


def test_large_images_are_measured_a_few_at_a_time():
    seen = []

    def metrics(model: nn.Module, examples: Split) -> dict[str, torch.Tensor]:
        seen.append(len(examples))
        return {"loss": torch.zeros(())}

    problem = dataclasses.replace(line(1), metrics=metrics)
    images = torch.zeros(1).expand(5, 1, 4096, 2048)  # takes no memory
    problem.measure(problem.build_model(), Split(images, torch.zeros(5)))
    assert seen == [2, 2, 1]


def test_label_smoothing_changes_the_training_and_not_the_measure():
    problem = digits()
    plain, smooth = (
        Training(problem, "sgd", ARGUMENTS["sgd"], seed=0, epochs=1, label_smoothing=s) for s in (0, 0.2)
    )
    assert plain.evaluate(problem.validation) == smooth.evaluate(problem.validation)
    assert plain.run_epoch()["train_loss"] < smooth.run_epoch()["train_loss"]


def test_a_hyperparameter_that_is_none_is_named():
    with pytest.raises(HyperparameterError, match="gama"):
        Training(digits(), "anon", {"gama": 1.0}, seed=0, epochs=1)


# The data


def test_the_digits_are_split_by_class_without_overlap():
    from sklearn.datasets import load_digits

    problem = digits()
    splits = (problem.train, problem.validation, problem.test)
    assert [len(split) for split in splits] == [1077, 360, 360]
    images = [tuple(image.flatten().round(decimals=3).tolist()) for split in splits for image in split.inputs]
    original = load_digits(return_X_y=True)[0]
    assert len(set(images)) == len({tuple(image) for image in original}) == len(images)
    for split in splits:
        share = torch.bincount(split.targets, minlength=10) / len(split)
        assert share.min() > 0.09
        assert share.max() < 0.11
    assert problem.train.inputs.mean().item() == pytest.approx(0, abs=1e-5)
    assert problem.train.inputs.std().item() == pytest.approx(1, abs=1e-3)


def test_the_splits_do_not_depend_on_a_seed():
    torch.manual_seed(1)
    first = digits().test.targets.clone()
    torch.manual_seed(2)
    assert torch.equal(digits("cnn").test.targets, first)


# As people train


@pytest.mark.parametrize(
    "keys",
    [{"augment": ("crop", "flip")}, {"precision": "bf16"}, {"channels_last": True}],
    ids=["augment", "bf16", "channels_last"],
)
def test_an_option_changes_the_training_which_learns_and_is_resumed_with_the_same_bits(keys: dict[str, Any]):
    problem = digits("cnn")

    def fresh() -> Training:
        return Training(problem, "anon", ARGUMENTS["anon"], seed=0, epochs=3, **keys)

    whole = fresh()
    expected = [whole.run_epoch() for _ in range(3)]
    assert expected[-1]["val_loss"] < expected[0]["val_loss"]
    if (
        "channels_last" not in keys
    ):  # which changes where numbers lie, and on some machines in which order they are added
        assert expected != train(problem, epochs=3)
    first, second = fresh(), fresh()
    first.run_epoch()
    second.load_state_dict(first.state_dict())
    assert [second.run_epoch() for _ in range(2)] == expected[1:]
    assert all(parameter.dtype == torch.float32 for parameter in whole.model.parameters())


def test_only_training_images_are_changed():
    problem = digits()
    plain, changed = (
        Training(problem, "sgd", {"lr": 0.1}, seed=0, epochs=1, augment=a) for a in ((), ("crop",))
    )
    assert plain.evaluate(problem.validation) == changed.evaluate(problem.validation)
    assert plain.run_epoch()["train_loss"] != changed.run_epoch()["train_loss"]


def test_convolutions_have_their_channels_last():
    training = Training(digits("cnn"), "sgd", {"lr": 0.1}, seed=0, epochs=1, channels_last=True)
    weights = [weight for weight in training.model.parameters() if weight.dim() == 4]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's compiler uses what torch has deprecated
def test_a_compiled_model_learns_the_same_under_its_own_names():
    problem = digits()
    compiled = Training(problem, "sgd", {"lr": 0.1}, seed=0, epochs=1, compile=True)
    plain = Training(problem, "sgd", {"lr": 0.1}, seed=0, epochs=1)
    assert compiled.run_epoch()["val_loss"] == pytest.approx(plain.run_epoch()["val_loss"], rel=1e-4)
    assert compiled.state_dict()["model"].keys() == plain.state_dict()["model"].keys()


def test_a_dry_run_makes_steps_and_measures():
    found = Training(digits(), "anon", {"lr": 1e-8}, seed=0, epochs=1, precision="bf16").dry_run()
    assert found.seconds_per_step > 0
    for broken in ({"metrics": lambda model, examples: {}[0]}, {"derive": lambda means: {}[0]}):
        problem = dataclasses.replace(digits(), **broken)
        training = Training(problem, "anon", {"lr": 1e-8}, seed=0, epochs=1)
        with pytest.raises(KeyError):
            training.dry_run()


def test_a_dry_run_measures_as_many_examples_at_once_as_an_epoch():
    """A batch that fits into memory in the one fits in the other."""
    seen: list[tuple[bool, int]] = []

    class Watched(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append((self.training, len(x)))
            return super().forward(x)

    problem = line(1500)
    problem = dataclasses.replace(problem, build_model=lambda: Watched(1, 1))
    training = Training(problem, "sgd", {"lr": 0.1}, seed=0, epochs=1, batch_size=4, device="cpu")
    training.dry_run()
    dry, seen[:] = set(seen), []
    training.run_epoch()
    assert dry == {(True, 4), (False, 1024)}
    assert dry <= set(seen)


def test_the_speed_is_of_the_training():
    training = Training(digits(), "sgd", {"lr": 0.1}, seed=0, epochs=1)
    training.run_epoch()
    assert training.speed()["samples_per_second"] > 0
