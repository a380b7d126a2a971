"""Callback for Lightning that reports the validation of each epoch, with Lightning's checkpoints in the trial's.

::

    def train(context):
        model = Digits(context)  # whose configure_optimizers uses context.optimizer(self)
        report = ReportCallback(context)
        trainer = lightning.Trainer(max_epochs=context.epochs, callbacks=[report], **report.trainer_options)
        trainer.fit(model, train_loader, validation_loader, ckpt_path=report.checkpoint)
        trainer.test(model, test_loader)
"""

from __future__ import annotations

import math
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, Timer
from lightning.pytorch.trainer.states import TrainerFn

from anon_tune.errors import InputError
from anon_tune.integrations.reports import Reports
from anon_tune.integrations.saved_folder import SavedFolder
from anon_tune.workers.trial.context import Context, random_states, set_random_states

__all__ = ["ReportCallback"]

_FILE = "trainer.ckpt"
_LAST = "last.ckpt"
_HYPERPARAMETERS = (
    LightningModule.CHECKPOINT_HYPER_PARAMS_KEY,
    LightningDataModule.CHECKPOINT_HYPER_PARAMS_KEY,
)


class ReportCallback(Checkpoint):
    """Reports the logged metrics after the validation of each epoch; stops the trainer when the trial is over.

    `val_loss` is reported as `loss`, as are `valid_loss` and `validation/loss`; all metrics of the training keep
    their names. The verdict uses `test_loss` from `trainer.test`. So the job file has `objective: {metric: loss}` or
    `{metric: valid_loss}`.

    `budget.epochs` are the trainer's epochs. With `max_steps`, the training ends there, and `budget.epochs` is the
    number of equal parts after which it is reported. `budget.steps` are its `max_steps`. Reports within an epoch
    write no checkpoint. An epoch without a validation has no report, unless the trainer does not validate at all.
    `trainer.validate` after the training reports its end, if nothing else has.

    To Lightning this is a checkpoint callback: it runs after all others, so that its checkpoints hold their states,
    and Lightning adds no checkpoints of its own.

    Attributes:
        checkpoint: Argument of `trainer.fit(ckpt_path=...)`: a file if the trial resumes, else None.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._written = context.folder / "written"
        files = SavedFolder(self._written, context.folder)
        done = context.resume(trainer=files)
        self._reports = Reports(context, done)
        self._random = random_states() if done else None
        self._validated = False
        self._batches = 0  # of the epoch
        self._trainer: Trainer | None = None
        self.checkpoint: Path | None = files.restored / _FILE if (files.restored / _FILE).exists() else None

    @property
    def trainer_options(self) -> dict[str, Any]:
        """Options of a Trainer inside a trial: no output, its own folder, tests in verdict trials only."""
        return {
            "default_root_dir": self._context.folder,
            "accelerator": "gpu" if self._context.device.type == "cuda" else "cpu",
            "devices": 1,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "limit_test_batches": 1.0 if self._context.tests else 0,
        }

    @property
    def best_model_path(self) -> str:
        """File for `ckpt_path="best"`: that of the first ModelCheckpoint, or else the model at the end.

        Lightning asks its first checkpoint callback, which may be this one. Without any, it would add a
        ModelCheckpoint, whose best model is by default the last one.
        """
        if self._trainer is None:
            return ""
        for each in self._trainer.checkpoint_callbacks:
            if isinstance(each, ModelCheckpoint):
                return each.best_model_path
        file = self._context.folder / _LAST
        if not file.exists():
            self._trainer.save_checkpoint(file)
        return str(file)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a trainer whose trials would not be comparable, and restore the random states of one that resumes.

        They are restored here because the user's code may have drawn numbers since this callback was made, for the
        initial weights, and will draw them for the first batch next. Raises InputError.
        """
        self._trainer = trainer
        if trainer.state.fn != TrainerFn.FITTING:
            return
        (self._context.folder / _LAST).unlink(missing_ok=True)
        if not self._context.in_job:
            return
        problem = _problem(trainer, self._context)
        if problem is not None:
            raise InputError(f"Lightning's Trainer: {problem}")
        states, self._random = self._random, None
        if states is not None:
            set_random_states(states)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count batches."""
        self._batches = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batches of the epoch."""
        self._batches = batch_idx + 1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report a validation within an epoch, or after the training; one at the end of an epoch waits for that."""
        if trainer.sanity_checking:
            return
        self._validated = True
        if trainer.state.fn != TrainerFn.FITTING or not trainer.is_last_batch:
            self._report(trainer, resumable=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the epoch if it was validated, with a checkpoint if one is due."""
        if self._validated or not trainer.enable_validation:
            # All processes of a distributed training write a checkpoint together, so rank 0 decides for all.
            is_due = trainer.strategy.broadcast(self._context.checkpoint_due)
            # Lightning would train on from the checkpoint of an early stop.
            self._report(trainer, resumable=is_due and not trainer.should_stop)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count no batches beyond the trainer's own epochs."""
        self._batches = 0

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the metrics of `trainer.test` after the training."""
        self._reports.test(trainer.callback_metrics)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Leave the context out of the hyperparameters that `self.save_hyperparameters()` adds to checkpoints."""
        for key in _HYPERPARAMETERS:
            if isinstance(checkpoint.get(key), dict):
                saved = checkpoint[key].items()
                checkpoint[key] = {name: value for name, value in saved if not isinstance(value, Context)}

    def _report(self, trainer: Trainer, resumable: bool) -> None:
        share = _share(trainer, self._batches)
        if not self._context.in_job or not self._reports.is_new(share):
            return
        self._validated = False
        metrics = self._reports.validated(trainer.callback_metrics)
        if resumable:
            if trainer.is_global_zero:
                shutil.rmtree(self._written, ignore_errors=True)
            trainer.strategy.barrier()
            trainer.save_checkpoint(self._written / _FILE)
        self._reports.report(share, metrics, resumable)


def _share(trainer: Trainer, batches: int) -> Fraction:
    """Return the completed share of the training in [0, 1], after so many batches of the epoch."""
    shares = []
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        each = trainer.num_training_batches  # infinite if the data has no length
        partly = (
            Fraction(batches, int(each)) if math.isfinite(each) and each else Fraction(trainer.is_last_batch)
        )
        shares.append((trainer.current_epoch + (partly if batches else 0)) / Fraction(trainer.max_epochs))
    if trainer.max_steps > 0:
        shares.append(Fraction(trainer.global_step, trainer.max_steps))
    return min(Fraction(1), max(shares, default=Fraction(0)))


def _problem(trainer: Trainer, context: Context) -> str | None:
    """Return why a trial cannot be trained by this trainer, and what to change; None if it can."""
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return "fast_dev_run trains a few batches alone. Leave it out; a small budget is a quick job."
    if any(isinstance(each, Timer) for each in trainer.callbacks):  # type: ignore[attr-defined]
        return (
            "max_time makes the length of a trial depend on the machine. Set the length of the budget, and "
            "budget.trial_time of the job file against trials that hang."
        )
    if context.unit == "step" and trainer.max_steps != context.steps:
        return (
            f"max_steps is {trainer.max_steps}, but budget.steps of the job is {context.steps}. Pass "
            "max_steps=context.steps."
        )
    if trainer.max_steps > 0:
        return None
    epochs = context.epochs
    if trainer.max_epochs != epochs:
        return (
            f"max_epochs is {trainer.max_epochs}, but budget.epochs of the job is {epochs}. Pass "
            "max_epochs=context.epochs, or the length in steps as max_steps."
        )
    every = trainer.check_val_every_n_epoch
    if trainer.enable_validation and every is not None and every > epochs:
        return f"check_val_every_n_epoch is {every}, so {epochs} epochs (budget.epochs) have no validation. Lower it."
    return None
