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
from fractions import Fraction
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from anon_tune.errors import InputError
from anon_tune.integrations.reports import Reports
from anon_tune.integrations.saved_folder import SavedFolder
from anon_tune.workers.trial.context import Context

__all__ = ["ReportCallback"]


class ReportCallback(TrainerCallback):
    """Reports the metrics of each evaluation; stops the trainer when the trial is over.

    `eval_loss` is reported as `loss`. The verdict uses `test_loss` from
    `trainer.evaluate(..., metric_key_prefix="test")` or `trainer.predict` after the training. So the job file has
    `objective: {metric: loss}` or `{metric: eval_loss}`.

    A report's step is the Trainer's if the budget is in steps. Otherwise it is the completed share of the training in
    units of `budget.epochs`, which are the Trainer's epochs, or equal parts of its `max_steps`; the first evaluation
    of each unit is reported. An evaluation after the training is reported if the last one was before its end, and
    otherwise does nothing.

    Attributes:
        checkpoint: Argument of `trainer.train(resume_from_checkpoint=...)`: a folder if the trial resumes, else None.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._written = context.folder / "trainer"
        self._files = SavedFolder(self._written, context.folder)
        self._metrics: dict[str, float] = {}
        self._model: nn.Module | None = None
        self._weights: Mapping[str, Any] | None = None
        self._training = False
        self._evaluated = 0  # the trainer's step at the last evaluation that had the objective
        self._reports = Reports(context, context.resume(trainer=self))
        saved = max(self._files.restored.glob("checkpoint-*"), key=_number, default=None)
        self.checkpoint: str | None = None if saved is None else str(saved)

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of TrainingArguments inside a trial: its length and seed, no output, its own folder.

        With a budget in steps, add `eval_steps`.
        """
        in_steps = self._context.unit == "step"
        return {
            "output_dir": str(self._written),
            "max_steps" if in_steps else "num_train_epochs": self._context.length,
            "eval_strategy": "steps" if in_steps else "epoch",
            "save_strategy": "no",  # the callback requests saves and evaluations
            "save_total_limit": 1,
            "restore_callback_states_from_checkpoint": True,  # the patience of EarlyStoppingCallback
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
        """Load the weights from which the trial resumes. Raises InputError if the length is not the job's."""
        problem = _problem(args, state, self._context) if self._context.in_job else None
        if problem is not None:
            raise InputError(f"Hugging Face's Trainer: {problem}")
        self._training = True
        self._model = model
        weights, self._weights = self._weights, None
        if model is not None and weights is not None:
            model.load_state_dict(weights)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Check the evaluations after the last step."""
        self._check(state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Check the evaluations after the last step; from now on tests count."""
        self._check(state)
        self._training = False

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Report, after the trainer has written a checkpoint if one is due; record the metrics on the test data."""
        if not self._context.in_job:
            return
        found = {name: value for name, value in (metrics or {}).items() if not name.endswith(_TIMES)}
        found.pop("epoch", None)
        tested = {name: value for name, value in found.items() if name.startswith("test")}
        if tested and not self._training:
            self._reports.test(tested)
        # Each of several evaluation data sets has a call of its own.
        new = {name: value for name, value in found.items() if name not in tested}
        self._metrics |= self._reports.validated(new)
        if not new or not state.max_steps or self._context.metric not in self._metrics:
            return
        self._evaluated = state.global_step
        unfinished = self._training and state.global_step < state.max_steps
        if unfinished and self._context.checkpoint_due and self._reports.is_new(_share(state)):
            control.should_save = True
        else:
            self._report(state, resumable=False)

    def on_predict(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **_: Any,
    ) -> None:
        """Record the metrics of `trainer.predict` on the test data."""
        self.on_evaluate(args, state, control, metrics)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Report with the checkpoint that the trainer has just written; from that of an early stop it would go on."""
        if self._context.metric in self._metrics:
            self._report(state, resumable=not control.should_training_stop)

    def _report(self, state: TrainerState, resumable: bool) -> None:
        metrics, self._metrics = self._metrics, {}
        self._reports.report(_share(state), metrics, resumable)

    def _check(self, state: TrainerState) -> None:
        """Raise InputError if the evaluations after a step lack the objective."""
        metrics, self._metrics = self._metrics, {}
        if metrics and self._evaluated != state.global_step:
            raise InputError(
                f"The evaluation has no objective.metric {self._context.metric!r}; it has {', '.join(metrics)}. Name "
                "one of these in the job file, or return it from compute_metrics."
            )


def _problem(args: TrainingArguments, state: TrainerState, context: Context) -> str | None:
    """Return why the trainer's length is not the job's, and what to change; None if it is."""
    if context.unit == "step" and state.max_steps != context.steps:
        return (
            f"it trains for {state.max_steps} steps, but budget.steps of the job is {context.steps}. Pass "
            "max_steps=context.steps."
        )
    if context.unit == "epoch" and args.max_steps <= 0 and args.num_train_epochs != context.epochs:
        return (
            f"num_train_epochs is {args.num_train_epochs:g}, but budget.epochs of the job is {context.epochs}. Pass "
            "num_train_epochs=context.epochs, or the length in steps as max_steps."
        )
    return None


def _share(state: TrainerState) -> Fraction:
    """Return the completed share of the training in [0, 1]."""
    return Fraction(min(state.global_step, state.max_steps), state.max_steps)


def _number(folder: Path) -> int:
    """Return the step of a trainer's checkpoint `checkpoint-STEP`; -1 if it is another folder."""
    number = folder.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else -1


_TIMES = ("runtime", "samples_per_second", "steps_per_second", "preparation_time")
