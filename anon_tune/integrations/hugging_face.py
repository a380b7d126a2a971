"""Callback for Hugging Face's Trainer that reports each evaluation, with the Trainer's checkpoints in the trial's.

::

    def train(context):
        model = make_model()
        optimizer = context.optimizer(model)
        report = ReportCallback(context)
        trainer = Trainer(
            model,
            TrainingArguments(**report.arguments, per_device_train_batch_size=64),
            train_dataset=train_data,
            eval_dataset=validation_data,
            optimizers=(optimizer, context.schedule(optimizer, steps=...)),
            callbacks=[report],
        )
        trainer.train(resume_from_checkpoint=report.checkpoint)
        if context.tests:
            trainer.evaluate(test_data, metric_key_prefix="test")
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from anon_tune.integrations.saved_folder import SavedFolder
from anon_tune.workers.trial.context import Context

__all__ = ["ReportCallback"]


class ReportCallback(TrainerCallback):
    """Reports the metrics of each evaluation; stops the trainer when the trial is over.

    `eval_loss` is reported as `loss`. The verdict uses `test_loss` from
    `trainer.evaluate(..., metric_key_prefix="test")` after the training. So the job file has
    `objective: {metric: loss}`. A report's step is the completed share of the training in units of `budget.epochs`,
    which are usually the Trainer's epochs.

    Attributes:
        checkpoint: Argument of `trainer.train(resume_from_checkpoint=...)`: a folder if the trial resumes, else None.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._written = context.folder / "trainer"
        self._files = SavedFolder(self._written, context.folder / "restored")
        self._metrics: dict[str, float] = {}
        self._model: nn.Module | None = None
        self._weights: Mapping[str, Any] | None = None
        context.resume(trainer=self)
        self.checkpoint: str | None = next(map(str, self._files.restored.glob("checkpoint-*")), None)

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of TrainingArguments inside a trial: its length and seed, no output, its own folder."""
        return {
            "output_dir": str(self._written),
            "num_train_epochs": self._context.epochs,
            "eval_strategy": "epoch",
            "save_strategy": "no",  # the callback requests saves and evaluations
            "save_total_limit": 1,
            "logging_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "seed": self._context.seed % 2**32,
            "use_cpu": self._context.device.type == "cpu",
        }

    def state_dict(self) -> Mapping[str, Any]:
        """Return the trainer's checkpoint, and the weights under the model's own names.

        transformers saves some models' weights under older names, which `resume_from_checkpoint` does not find: with
        version 5.24 a Vision Transformer resumed from fresh weights.
        """
        model = self._model
        return {"files": self._files.state_dict(), "model": model.state_dict() if model is not None else {}}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Make the trainer resume from the checkpoint."""
        self._files.load_state_dict(state_dict["files"])
        self._weights = state_dict["model"]

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **_: Any,
    ) -> None:
        """Load the weights from which the trial resumes."""
        self._model = model
        weights, self._weights = self._weights, None
        if model is not None and weights is not None:
            model.load_state_dict(weights)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Report, after the trainer has written a checkpoint if one is due; record the metrics on the test data."""
        found = metrics or {}
        tested = _named(found, "test_")
        if tested:
            self._context.test(**tested)
        self._metrics = _named(found, "eval_")
        if not self._metrics or not state.global_step:
            return
        if self._context.checkpoint_due and state.global_step < state.max_steps:
            control.should_save = True
        else:
            self._report(state, resumable=False)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Report with the checkpoint that the trainer has just written."""
        if self._metrics:
            self._report(state, resumable=True)

    def _report(self, state: TrainerState, resumable: bool) -> None:
        metrics, self._metrics = self._metrics, {}
        step = round(self._context.epochs * state.global_step / state.max_steps)
        self._context.report_state(step, metrics, resumable)


_SPEED = ("runtime", "samples_per_second", "steps_per_second")


def _named(metrics: dict[str, float], prefix: str) -> dict[str, float]:
    """Return the metrics with a prefix, without the prefix, and omit the times."""
    return {
        name.removeprefix(prefix): value
        for name, value in metrics.items()
        if name.startswith(prefix) and not name.endswith(_SPEED)
    }
