"""Callback for Lightning that reports each epoch, with Lightning's checkpoints in the trial's.

::

    def train(context):
        model = Digits(context)  # whose configure_optimizers uses context.optimizer(self)
        report = ReportCallback(context)
        trainer = lightning.Trainer(max_epochs=context.epochs, callbacks=[report], **report.trainer_options)
        trainer.fit(model, train_loader, validation_loader, ckpt_path=report.checkpoint)
        trainer.test(model, test_loader)
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from anon_tune.integrations.saved_folder import SavedFolder
from anon_tune.workers.trial.context import Context

__all__ = ["ReportCallback"]

_FILE = "trainer.ckpt"


class ReportCallback(Callback):
    """Reports the logged metrics after each epoch; stops the trainer when the trial is over.

    `val_loss` is reported as `loss`, and the verdict uses `test_loss` from `trainer.test`; all other metrics keep
    their names. So the job file has `objective: {metric: loss}`. `budget.epochs` are the trainer's epochs.

    Attributes:
        checkpoint: Argument of `trainer.fit(ckpt_path=...)`: a file if the trial resumes, else None.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._written = context.folder / "written"
        restored = context.folder / "restored"
        context.resume(trainer=SavedFolder(self._written, restored))
        self.checkpoint: Path | None = restored / _FILE if (restored / _FILE).exists() else None

    @property
    def trainer_options(self) -> dict[str, Any]:
        """Options of a Trainer inside a trial: no output, its own folder, tests in verdict trials only."""
        return {
            "default_root_dir": self._context.folder,
            "accelerator": "gpu" if self._context.device.type == "cuda" else "cpu",
            "devices": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "limit_test_batches": 1.0 if self._context.tests else 0,
        }

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the epoch, with a checkpoint if one is due."""
        logged = trainer.callback_metrics
        validated = {name.removeprefix("val_"): logged[name] for name in logged if name.startswith("val_")}
        metrics = {**{name: logged[name] for name in logged if not name.startswith("val_")}, **validated}
        due = self._context.checkpoint_due
        if due:
            shutil.rmtree(self._written, ignore_errors=True)
            trainer.save_checkpoint(self._written / _FILE)
        self._context.report_state(trainer.current_epoch + 1, metrics, due)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the metrics of `trainer.test`."""
        tested = {name: value for name, value in trainer.callback_metrics.items() if name.startswith("test_")}
        self._context.test(**{name.removeprefix("test_"): value for name, value in tested.items()})
