"""Trainable of Ray Tune. It loads torch only in the workers: the driver, which names it, does not need it."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ray import tune

from anon_tune.user_code import provide
from anon_tune.workers.isolation.process import Keeper
from anon_tune.workers.trial.messages import from_config, to_tune
from anon_tune.workers.trial.shipped import on_this_node

if TYPE_CHECKING:
    from anon_tune.spec import JobSpec
    from anon_tune.workers.trial.messages import Assignment

__all__ = ["TrialTrainable"]


class TrialTrainable(tune.Trainable):
    """Runs the probe and trials on Ray Tune, one after another in the same actor.

    Its config holds an `Assignment`, and each result a `Result`. An error in the training is a result, so only a lost
    worker is an error for Ray. Tasks of ours train in the actor. User code runs in a process of its own for each
    trial, and the actor then imports neither torch nor the user's modules.
    """

    def setup(self, config: dict[str, Any], spec: JobSpec, functions: bytes, code: str | None = None) -> None:
        """Prepare the first assignment of this actor.

        Args:
            config: Config that holds the assignment.
            spec: The job, validated by the driver.
            functions: User functions that no module defines, by the names that the job gives them, as cloudpickle's
                bytes: only a process of user code loads them.
            code: Name of the folder of the user's code that Ray has brought to this node; None if it is the job's.
        """
        spec = on_this_node(spec, code)
        self._keeper: Keeper | None = None
        self._begin: Callable[[Assignment], Any]
        if spec.has_own_training:
            from anon_tune.workers.trial import isolated

            self._keeper = isolated.keeper_for(spec)
            self._keeper.load()
            self._begin = partial(isolated.begin, code=isolated.UserCode(self._keeper, spec, functions))
        else:
            gc.disable()  # torch makes many objects that stay: a search for garbage is a third of its start
            try:
                from anon_tune.workers.trial import attempt
            finally:
                gc.enable()
            provide(pickle.loads(functions))
            self._begin = partial(attempt.begin, spec=spec)
        self._work = self._begin(from_config(config))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Prepare the next assignment in the same actor, and free everything of the last one."""
        self._work.close()
        self._work = self._begin(from_config(new_config))
        return True

    def step(self) -> dict[str, Any]:
        """Run the probe, or train one epoch."""
        return to_tune(self._work.step())

    def cleanup(self) -> None:
        """End the user's processes, and delete the files of the attempt."""
        self._work.close()
        if self._keeper is not None:
            self._keeper.close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Do nothing: Tune requires the method, but `step` writes checkpoints and the ledger names them."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Do nothing; see `save_checkpoint`."""
