"""Work for one process of user code. Needs neither torch nor Ray."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from pathlib import Path

from anon_tune.spec import JobSpec
from anon_tune.workers.isolation.channel import WORK
from anon_tune.workers.trial.messages import Assignment

__all__ = ["NO_REPORT", "Work"]

NO_REPORT = (
    "The training ended without a report. Call report(epoch, ...) after each epoch, or report(step, ...) after so "
    "many steps if the budget is in steps."
)


@dataclass(frozen=True)
class Work:
    """Work for one process of user code.

    Attributes:
        assignment: The trial or the probe.
        spec: The job, validated by the driver.
        files: Folder for files of this attempt.
        functions: User functions that no module defines, by their names in the job, as bytes of cloudpickle.
        run: Number of the run of the check-up, from 0.
    """

    assignment: Assignment
    spec: JobSpec
    files: Path
    functions: bytes
    run: int = 0

    def write(self, path: Path) -> None:
        """Write it to a file for `read`."""
        path.write_bytes(pickle.dumps(self))

    @staticmethod
    def read() -> Work:
        """Return the work of this process."""
        found: Work = pickle.loads(Path(os.environ[WORK]).read_bytes())
        return found
