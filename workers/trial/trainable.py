"""Trainable of Ray Tune. It loads torch only in the workers: the driver, which names it, does not need it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ray import tune

from anon_tune.user_code import provide
from anon_tune.workers.trial.messages import from_config, to_tune

if TYPE_CHECKING:
    from anon_tune.spec import JobSpec

__all__ = ["HELD", "TrialTrainable"]

HELD = "the training function of the previous trial did not stop"
"""Reason why a process could not begin with a trial."""


class TrialTrainable(tune.Trainable):
    """Runs the probe and trains trials on Ray Tune, one after another in the same actor.

    Its config holds an `Assignment`, and each result a `Result`. An error in the training is a result, so only a lost
    worker is an error for Ray.
    """

    def setup(
        self,
        config: dict[str, Any],
        spec: JobSpec,
        functions: Mapping[str, Callable[..., Any]] | None = None,
    ) -> None:
        """Prepare the first assignment of this actor.

        Args:
            config: Config that holds the assignment.
            spec: The job, validated by the driver.
            functions: User functions that no module defines, by the names that the job gives them.
        """
        gc.disable()  # torch makes many objects that stay: looking for garbage among them is a third of its start
        try:
            from anon_tune.workers.trial import attempt
        finally:
            gc.enable()
        provide(functions or {})
        self._begin = partial(attempt.begin, spec=spec)
        self._work = self._begin(from_config(config))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Prepare the next assignment in the same process, and free everything of the last one.

        Raises:
            RuntimeError: The last one does not end (HELD). If this returned False, Tune would drop the next one
                without notifying its scheduler.
        """
        if not self._work.close():
            raise RuntimeError(HELD)  # a fresh process takes the next trial
        self._work = self._begin(from_config(new_config))
        return True

    def step(self) -> dict[str, Any]:
        """Run the probe, or train one epoch."""
        return to_tune(self._work.step())

    def cleanup(self) -> None:
        """Delete the files of the attempt."""
        self._work.close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Do nothing: Tune requires the method, but `step` writes checkpoints and the ledger names them."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Do nothing; see `save_checkpoint`."""
