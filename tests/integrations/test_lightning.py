"""Lightning as its users write it: names of metrics, rare and frequent validations, lengths in steps, early ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anon_tune.records import Phase
from anon_tune.spec import load_spec
from anon_tune.workers.isolation.process import Keeper
from anon_tune.workers.trial.checkpoints import checkpoint_name
from anon_tune.workers.trial.messages import Completed, Failed, ProbeResult
from tests.integrations.conftest import UserCode, stand_in
from tests.trials import TRIAL, Isolated, config, failed, final, learned, measured, results, steps

pytestmark = [
    pytest.mark.slow,  # tests/integrations/test_frameworks.py is not
    pytest.mark.filterwarnings("ignore"),  # of Lightning about itself and its loaders
]

CODE = """
import lightning
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from anon_tune.integrations.lightning import ReportCallback


class Lines(lightning.LightningModule):
    def __init__(self, context, names=("val_loss", "test_loss"), form="optimizer", width=8):
        super().__init__()
        self.save_hyperparameters()
        self.layers = nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 1))
        self.automatic_optimization = form != "by hand"

    def configure_optimizers(self):
        context, form = self.hparams.context, self.hparams.form
        if form == "by hand":
            return [context.optimizer(layer) for layer in self.layers if not isinstance(layer, nn.ReLU)]
        optimizer = context.optimizer(self)
        schedule = context.schedule(optimizer)
        by_step = context.schedule(optimizer, steps=self.trainer.estimated_stepping_batches)
        return {
            "optimizer": optimizer,
            "lists": ([optimizer], [schedule]),
            "a list": [optimizer],
            "a dict": {"optimizer": optimizer, "lr_scheduler": schedule},
            "by step": {"optimizer": optimizer, "lr_scheduler": {"scheduler": by_step, "interval": "step"}},
            "dicts": [{"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}],
            "on plateau": {
                "optimizer": optimizer,
                "lr_scheduler": {
                    "scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer), "monitor": "val_loss"
                },
            },
        }[form]

    def training_step(self, batch, index):
        loss = self._loss(batch)
        self.log("train_loss", loss)
        if not self.automatic_optimization:
            for optimizer in self.optimizers():
                optimizer.zero_grad()
            self.manual_backward(loss)
            for optimizer in self.optimizers():
                optimizer.step()
        return loss

    def validation_step(self, batch, index):
        self.log(self.hparams.names[0], self._loss(batch))

    def test_step(self, batch, index):
        self.log(self.hparams.names[1], 10 * self._loss(batch))

    def _loss(self, batch):
        x, y = batch
        return F.mse_loss(self.layers(x), y)


def loader(seed, size=64, **keys):
    x = torch.randn(size, 6, generator=torch.Generator().manual_seed(seed))
    return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=16, **keys)  # 4 batches


def train(context, model={}, stop=None, after=None, validates=True, saves=False, best=False, **options):
    report = ReportCallback(context)
    callbacks = [report]
    if saves:
        callbacks.append(ModelCheckpoint(context.folder, monitor="val_loss"))
    if stop is not None:
        callbacks.append(EarlyStopping("val_loss", min_delta=stop, patience=1))
    length = {f"max_{context.unit}s": context.length}
    length = {} if {"max_steps", "max_epochs"} & options.keys() else length
    trainer = lightning.Trainer(callbacks=callbacks, **length, **{**report.trainer_options, **options})
    module = Lines(context, **model)
    validation = loader(2) if validates else None
    trainer.fit(module, loader(1, shuffle=True), validation, ckpt_path=report.checkpoint)
    assert trainer.global_step > 0
    if after == "validate":
        trainer.validate(module, loader(2), verbose=False)
    if best:
        for parameter in module.parameters():
            parameter.data.zero_()
    trainer.test(module, loader(3), verbose=False, ckpt_path="best" if best else None)
    trainer.test(module, loader(4), verbose=False)
"""


@pytest.fixture
def user(user: UserCode) -> UserCode:
    user.write(CODE)
    return user


def test_a_module_that_saves_its_hyperparameters_has_the_context_in_them(user: UserCode):
    assert isinstance(user.probe(), ProbeResult)
    first = user.trial(phase=Phase.VERDICT)
    assert steps(first) == [1, 2, 3, 4, None]
    again = user.trial(2, checkpoint_name(TRIAL, 1, 3), phase=Phase.VERDICT)
    assert again[0].resumed == 3
    assert [learned(each) for each in again] == [learned(each) for each in first[3:]]


@pytest.mark.parametrize("metric", ["loss", "valid_loss", "val_loss"])
@pytest.mark.parametrize("logged", ["val_loss", "valid_loss", "validation_loss", "val/loss"])
def test_an_objective_on_validation_data_has_its_test(user: UserCode, logged: str, metric: str):
    found = user.trial(phase=Phase.VERDICT, metric=metric, model={"names": [logged, "test_loss"]}, max_steps=2,
                       val_check_interval=1)  # fmt: skip
    last = measured(found[-2])
    assert last.metrics.keys() >= {metric, f"test_{metric}", "train_loss"}
    assert final(found[-1]) == last.metrics[f"test_{metric}"] > 4 * last.value


def test_a_test_that_logs_as_the_validation_does_is_a_test(user: UserCode):
    found = user.trial(phase=Phase.VERDICT, model={"names": ["val_loss", "val_loss"]})
    assert final(found[-1]) > 4 * measured(found[-2]).value


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"check_val_every_n_epoch": 2}, [2, 4]),
        ({"check_val_every_n_epoch": 3}, [3]),
        ({"val_check_interval": 0.25}, [1, 2, 3, 4]),
        ({"val_check_interval": 3}, [1, 2, 3, 4]),
        ({"check_val_every_n_epoch": None, "val_check_interval": 6}, [1, 3]),
        ({"max_steps": 16}, [1, 2, 3, 4]),
        ({"max_steps": 10}, [1, 3]),
        ({"max_steps": 10, "after": "validate"}, [1, 3, 4]),
        ({"max_steps": 3, "after": "validate"}, [4]),
        ({"max_steps": 10, "val_check_interval": 1}, [1, 2, 3, 4]),
        ({"max_steps": 3, "val_check_interval": 1}, [1, 2, 4]),
        ({"after": "validate"}, [1, 2, 3, 4]),
        ({"accumulate_grad_batches": 3}, [1, 2, 3, 4]),
        ({"accumulate_grad_batches": 2, "max_steps": 4}, [2, 4]),
        ({"accumulate_grad_batches": 2, "max_steps": 4, "val_check_interval": 2}, [1, 2, 3, 4]),
    ],
    ids=str,
)
def test_a_report_is_the_share_of_the_training(user: UserCode, options: dict[str, Any], expected: list[int]):
    assert isinstance(user.probe(**options), ProbeResult)
    found = user.trial(**options)
    assert steps(found) == [*expected, None], found[-1]
    values = [measured(each).value for each in found[:-1]]
    assert len(set(values)) == len(values), "no report has the values of an older validation"
    assert final(found[-1]) == values[-1]


def test_the_best_checkpoint_is_that_of_the_users_callback_or_the_last_one(user: UserCode):
    assert isinstance(user.probe(best=True), ProbeResult)
    expected = final(user.trial(phase=Phase.VERDICT)[-1])
    assert final(user.trial(phase=Phase.VERDICT, best=True, saves=True)[-1]) == expected
    assert isinstance(user.trial(best=True)[-1].outcome, Completed), "no test outside the verdict"


def test_a_script_runs_alone_for_any_length(user: UserCode):
    code: dict[str, Any] = {}
    exec(CODE, code)
    code["train"](stand_in(epochs=1), max_epochs=2, max_time="00:01:00:00")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"val_check_interval": 1}, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        ({"val_check_interval": 3, "check_val_every_n_epoch": None}, [3, 6, 9]),
        ({}, [4, 8]),
        ({"after": "validate"}, [4, 8, 10]),
        ({"accumulate_grad_batches": 2, "val_check_interval": 2}, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    ],
    ids=str,
)
def test_a_budget_in_steps_is_the_trainers(user: UserCode, options: dict[str, Any], expected: list[int]):
    user.budget = "{trials: 1, steps: 10}"
    assert isinstance(user.probe(**options), ProbeResult)
    found = user.trial(**options)
    assert steps(found) == [*expected, None], found[-1]
    counted = [measured(each).metrics["optimizer_steps"] for each in found[:-1]]
    assert np.cumsum(counted).tolist() == expected


def test_a_trainer_without_the_steps_of_the_budget_is_refused(user: UserCode):
    user.budget = "{trials: 1, steps: 10}"
    for options, has in (({"max_epochs": 4}, -1), ({"max_steps": 9}, 9)):
        found = user.probe(**options)
        assert isinstance(found, Failed)
        assert f"max_steps is {has}, but budget.steps of the job is 10. Pass max_steps=" in found.reason


def test_a_training_without_validation_reports_its_epochs(user: UserCode):
    found = user.trial(metric="train_loss", validates=False)
    assert steps(found) == [1, 2, 3, 4, None]


def test_a_training_that_stops_early_ends_with_its_last_report(user: UserCode):
    """No epoch is better by 1000, so the patience of one ends after the second."""
    found = user.trial(stop=1000.0)
    assert steps(found) == [1, 2, None]
    tested = user.trial(stop=1000.0, phase=Phase.VERDICT)
    assert steps(tested) == [1, 2, 4, None]
    assert final(tested[-1]) == measured(tested[2]).metrics["test_loss"]
    assert measured(tested[1]).checkpoint is None, "Lightning would train on from it"
    again = user.trial(2, checkpoint_name(TRIAL, 1, 1), stop=1000.0, phase=Phase.VERDICT)
    assert [learned(each) for each in again] == [learned(each) for each in tested[1:]]


@pytest.mark.parametrize(
    "form", ["optimizer", "a list", "lists", "a dict", "by step", "dicts", "on plateau", "by hand"]
)
def test_every_form_of_configure_optimizers_trains(user: UserCode, form: str):
    assert isinstance(user.probe(model={"form": form}), ProbeResult)
    first = user.trial(model={"form": form})
    assert steps(first) == [1, 2, 3, 4, None], first[-1]
    assert measured(first[3]).value < measured(first[0]).value
    again = user.trial(2, checkpoint_name(TRIAL, 1, 2), model={"form": form})
    assert [learned(each) for each in again] == [learned(each) for each in first[2:]]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {"max_epochs": 3},
            "max_epochs is 3, but budget.epochs of the job is 4. Pass max_epochs=context.epochs",
        ),
        ({"max_epochs": -1}, "max_epochs is -1"),
        ({"fast_dev_run": True}, "fast_dev_run trains a few batches"),
        ({"max_time": "00:00:10:00"}, "max_time makes the length of a trial depend on the machine"),
        ({"check_val_every_n_epoch": 5}, "so 4 epochs (budget.epochs) have no validation"),
    ],
    ids=str,
)
def test_a_trainer_whose_trials_do_not_compare_is_refused_in_the_probe(
    user: UserCode, options: dict[str, Any], reason: str
):
    found = user.probe(**options)
    assert isinstance(found, Failed)
    assert reason in found.reason
    assert reason in failed(user.trial(**options)[-1]).reason


SCRIPT = """
import lightning
import torch
from torch.utils.data import DataLoader, TensorDataset

import anon_tune
from anon_tune.integrations.lightning import ReportCallback


class Sum(lightning.LightningModule):
    def __init__(self, trial):
        super().__init__()
        self.trial = trial
        self.layer = torch.nn.Linear(4, 1)

    def configure_optimizers(self):
        return self.trial.optimizer(self)

    def training_step(self, batch, index):
        return (self.layer(batch[0]) - batch[0].sum(1, keepdim=True)).square().mean()

    def validation_step(self, batch, index):
        self.log("val_loss", self.training_step(batch, index), sync_dist=True)


if __name__ == "__main__":
    trial = anon_tune.trial()
    data = DataLoader(TensorDataset(torch.randn(32, 4)), batch_size=4)
    report = ReportCallback(trial)
    trainer = lightning.Trainer(
        max_epochs=trial.epochs,
        callbacks=[report],
        **report.trainer_options | {"devices": 2, "strategy": "ddp"},
    )
    trainer.fit(Sum(trial), data, data, ckpt_path=report.checkpoint)
"""


def test_two_processes_of_lightnings_own_launcher_write_checkpoints_together(keeper: Keeper, tmp_path: Path):
    """Only the first knows when a checkpoint is due; if they disagreed, each would wait for the other for ever."""
    (tmp_path / "train.py").write_text(SCRIPT, encoding="utf-8")
    job = tmp_path / "job.yaml"
    job.write_text(
        "name: two\ncommand: python train.py\nspace: mlp\nbudget: {trials: 1, epochs: 4}\n"
        "training: {checkpoint_seconds: 0}\n"
    )
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    found = results(Isolated(keeper, config(load_spec(job), checkpoints)))
    assert [step for step in steps(found) if step is not None] == [1, 2, 3, 4]
    saved = [result.measurement.checkpoint for result in found if result.measurement is not None]
    names = [name for name in saved if name is not None]
    assert names
    again = results(Isolated(keeper, config(load_spec(job), checkpoints, 2, names[0])))
    assert again[0].resumed == saved.index(names[0]) + 1
    assert [step for step in steps(again) if step is not None][-1] == 4
    assert final(again[-1]) == final(found[-1])
