"""The class that Ray Tune makes in its workers. It loads torch there: the driver, which names it, needs none."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ray import tune

from anon_tune.user_code import provide
from anon_tune.workers.trial.messages import TrialAssignment

if TYPE_CHECKING:
    from anon_tune.spec import JobSpec

__all__ = ["HELD", "TrialTrainable"]

HELD = "the training function of the trial before did not stop"
"""Why a process could not begin with a trial."""


class TrialTrainable(tune.Trainable):
    """Trains trials on Ray Tune, one after another in the same actor.

    Its config carries a `TrialAssignment`, and each of its results a `StepResult`; `attempt.Attempt` makes it. As an
    error in the training is a result, only a lost worker is an error to Ray.
    """

    def setup(
        self,
        config: dict[str, Any],
        spec: JobSpec,
        functions: Mapping[str, Callable[..., Any]] | None = None,
    ) -> None:
        """Prepare the first trial of this actor.

        Args:
            config: Carries the trial's assignment.
            spec: The job, validated by the driver.
            functions: The user's functions that are in no module, by the names that the job gives them.
        """
        gc.disable()  # torch makes many objects that stay: looking for garbage among them is a third of its start
        try:
            from anon_tune.workers.trial.attempt import Attempt
        finally:
            gc.enable()
        provide(functions or {})
        self._spec = spec
        self._attempt = Attempt(TrialAssignment.from_config(config), spec)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Prepare the next trial in the same process; nothing of the last one stays.

        Raises:
            RuntimeError: The last one does not end (HELD). If this returned False, Tune would drop the next one
                without a word to its scheduler.
        """
        from anon_tune.workers.trial.attempt import Attempt

        if not self._attempt.close():
            raise RuntimeError(HELD)  # a fresh process takes the next trial
        self._attempt = Attempt(TrialAssignment.from_config(new_config), self._spec)
        return True

    def step(self) -> dict[str, Any]:
        """Train one epoch."""
        return self._attempt.step().to_tune()

    def cleanup(self) -> None:
        """Leave no file behind."""
        self._attempt.close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Tune wants the method; checkpoints are written by step, and named by the ledger."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """See save_checkpoint."""
