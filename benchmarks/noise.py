"""Noise of the final value between seeds, for several ways to take it from a training.

    python -m benchmarks.noise [--seeds 16] [--only digits-cnn ...] [--processes 2] [--out noise.json]

Each built-in task is trained at one configuration of Anon and one of AdamW; the learning rate is the best of a short
grid on two other seeds. A figure is the standard deviation between seeds of the log of the test loss, and in
brackets the mean of that log less the mean of `last`, so that -2% is a lower loss. `best` takes the epoch with the
lowest validation loss; `best, validation` is the lowest validation loss itself against the last one. The averaged
weights are torch.optim.swa_utils' AveragedModel, with averaged buffers. `both splits` measures on validation and
test examples together. What is in `--out` already is not trained again.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from anon_tune.workers.problems.tasks import Problem, load_problem
from anon_tune.workers.trial.training import Training

_TUNING_SEEDS = (1000, 1001)
_SGD_LIKE = {"gamma": 0.0, "betas": (0.9, 0.999, 0.5), "floor": 0.03, "weight_decay": 1e-4}
_ADAM_LIKE = {"gamma": 1.0, "betas": (0.9, 0.999, 0.5), "floor": 0.03, "weight_decay": 1e-2}
_SHORT, _LONG = (0.3, 1.0, 3.0), (1e-3, 3e-3, 1e-2, 3e-2)


@dataclass(frozen=True)
class Setting:
    """One training problem: its data and model, and how it is trained; `anon` is all but the learning rate."""

    task: str
    data: str
    model: str
    epochs: int
    anon: Mapping[str, Any]
    rates: tuple[float, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    data_options: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    def problem(self) -> Problem:
        """Return the data and the model."""
        return load_problem(self.task, self.data, self.model, self.options, self.data_options)


_CNN = partial(Setting, "image_classification", "digits", "cnn", anon=_SGD_LIKE, rates=_SHORT)
_VIT = partial(Setting, "image_classification", "digits", "vit_tiny", anon=_ADAM_LIKE, rates=_LONG)

SETTINGS: dict[str, Setting] = {
    "digits-cnn": _CNN(epochs=12),
    "digits-transformer": _VIT(epochs=12),
    "digits-diffusion": Setting("diffusion", "digits", "unet", 6, _ADAM_LIKE, _LONG, {"width": 8}),
    "python-gpt": Setting(
        "language_model", "python_source", "gpt", 5, _ADAM_LIKE, _LONG, {"width": 32},
        {"length": 32, "train": 2000}, {"batch_size": 32, "warmup": 0.1, "clip": 1.0},
    ),
    "diabetes-mlp": Setting("regression", "diabetes", "mlp", 12, _ADAM_LIKE, _LONG, {}, {}, {"batch_size": 32}),
    "rosenbrock": Setting(
        "function", "rosenbrock", "point", 12, _ADAM_LIKE, _LONG, {}, {"noise": 0.03, "degrees_of_freedom": 1.5}
    ),
    "digits-cnn, label smoothing 0.1": _CNN(epochs=12, training={"label_smoothing": 0.1}),
    "digits-cnn, crop": _CNN(epochs=12, training={"augment": ("crop",)}),
    "digits-cnn, label smoothing 0.1, crop": _CNN(
        epochs=12, training={"label_smoothing": 0.1, "augment": ("crop",)}
    ),
    "digits-cnn, 24 epochs": _CNN(epochs=24),
    "digits-cnn, constant": _CNN(epochs=12, training={"schedule": "constant"}),
    "digits-transformer, constant": _VIT(epochs=12, training={"schedule": "constant"}),
    "digits-transformer, label smoothing 0.1": _VIT(epochs=12, training={"label_smoothing": 0.1}),
    "digits-transformer, 24 epochs": _VIT(epochs=24),
    "digits-transformer, label smoothing 0.1, 24 epochs": _VIT(epochs=24, training={"label_smoothing": 0.1}),
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """One training: losses after each epoch, and test losses of averaged weights at the end."""

    validation: list[float]
    test: list[float]
    both: float
    averaged: dict[str, float]


@contextmanager
def _averaging(models: Mapping[str, tuple[AveragedModel, int]], training: Training) -> Iterator[None]:
    """Update each averaged model after each step, from its first step on."""
    steps = 0

    def after_step(*_: Any) -> None:
        nonlocal steps
        steps += 1
        for averaged, first in models.values():
            if steps >= first:
                averaged.update_parameters(training.model)

    handle = register_optimizer_step_post_hook(after_step)
    try:
        yield
    finally:
        handle.remove()


def run(setting: Setting, optimizer: str, rate: float, seed: int, *, average: bool = True) -> Outcome:
    """Train once."""
    torch.set_num_threads(1)
    problem = setting.problem()
    given = {**setting.anon, "lr": rate} if optimizer == "anon" else {"lr": rate, "weight_decay": 0.01}
    training = Training(problem, optimizer, given, seed=seed, epochs=setting.epochs, **setting.training)
    per_epoch = len(problem.train) // setting.training.get("batch_size", 64)
    total = per_epoch * setting.epochs
    moving = get_ema_multi_avg_fn(1 - 1 / per_epoch)
    models = {
        "moving average": (AveragedModel(training.model, multi_avg_fn=moving, use_buffers=True), 1),
        "mean of the last quarter": (AveragedModel(training.model, use_buffers=True), total - total // 4 + 1),
    }
    validation, test = [], []
    with _averaging(models if average else {}, training):
        for _ in range(setting.epochs):
            validation.append(training.run_epoch()["val_loss"])
            test.append(training.test()["test_loss"])
    sizes = len(problem.validation), len(problem.test)
    both = (sizes[0] * validation[-1] + sizes[1] * test[-1]) / sum(sizes)
    found = {
        name: problem.measure(model.module.eval(), problem.test)["loss"]
        for name, (model, _) in models.items()
        if average
    }
    return Outcome(validation, test, both, found)


def _tuned(setting: Setting, optimizer: str, pool: ProcessPoolExecutor) -> float:
    """Return the learning rate with the lowest mean of the log validation loss."""
    rates = setting.rates if optimizer == "anon" else _LONG
    jobs = {
        rate: [pool.submit(run, setting, optimizer, rate, seed, average=False) for seed in _TUNING_SEEDS]
        for rate in rates
    }
    scores = {
        rate: statistics.fmean(_log(f.result().validation[-1]) for f in each) for rate, each in jobs.items()
    }
    return min(scores, key=lambda rate: scores[rate])


def _log(value: float) -> float:
    return math.log(value) if 0 < value < math.inf else math.inf


def ways(outcome: Outcome) -> dict[str, float]:
    """Return the log of each final value that could be taken."""
    logs = [_log(loss) for loss in outcome.test]
    lowest = min(range(len(logs)), key=lambda epoch: outcome.validation[epoch])
    return {
        "last": logs[-1],
        "last 3": statistics.fmean(logs[-3:]),
        "last 5": statistics.fmean(logs[-5:]),
        "last 3, mean of losses": _log(statistics.fmean(outcome.test[-3:])),
        "best": logs[lowest],
        **{name: _log(loss) for name, loss in outcome.averaged.items()},
        "both splits": _log(outcome.both),
        "last, validation": _log(outcome.validation[-1]),
        "best, validation": _log(min(outcome.validation)),
    }


def table(outcomes: Mapping[str, Mapping[str, list[Outcome]]]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    for setting, of in outcomes.items():
        for optimizer, runs in of.items():
            logs = [ways(each) for each in runs]
            level = statistics.fmean(each["last"] for each in logs)
            cells = []
            for way in logs[0]:
                values = [each[way] for each in logs]
                shift = statistics.fmean(values) - level
                cells.append(f"{way} {statistics.stdev(values):.2%} ({shift:+.1%})")
            yield f"{setting} | {optimizer} | {len(runs)} seeds, loss {math.exp(level):.4g} | " + " | ".join(
                cells
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--only", nargs="*", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("noise.json"))
    given = parser.parse_args()
    known: dict[str, Any] = json.loads(given.out.read_text()) if given.out.exists() else {}
    with ProcessPoolExecutor(given.processes) as pool:
        for name in given.only:
            for optimizer in ("anon", "adamw"):
                cell = known.setdefault(name, {}).setdefault(optimizer, {"runs": {}})
                rate = cell.setdefault("rate", None) or _tuned(SETTINGS[name], optimizer, pool)
                missing = [seed for seed in range(given.seeds) if str(seed) not in cell["runs"]]
                found = pool.map(partial(run, SETTINGS[name], optimizer, rate), missing)
                cell["rate"] = rate
                cell["runs"] |= {str(s): asdict(each) for s, each in zip(missing, found, strict=True)}
                given.out.write_text(json.dumps(known))
                runs = [Outcome(**each) for each in cell["runs"].values()]
                print(f"lr {rate:g}", *table({name: {optimizer: runs}}), flush=True)


if __name__ == "__main__":
    main()
