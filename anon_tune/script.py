"""`anon_tune.trial()`: the trial of a training script, in a job and alone. Needs torch alone."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer

from anon_tune.errors import InputError
from anon_tune.optim.factory import load_optimizer, make_optimizer, read_configuration
from anon_tune.workers.isolation.channel import WORK
from anon_tune.workers.trial.context import Context, TrialStopped

if TYPE_CHECKING:
    from anon_tune.workers.trial.check_up import CheckUpSession
    from anon_tune.workers.trial.session import ChannelSupervisor, TrialSession
    from anon_tune.workers.trial.work import Work

__all__ = ["CONFIG", "trial"]

CONFIG = "ANON_TUNE_CONFIG"
"""Variable that names an exported configuration, for a script that runs alone."""

_STAND_IN_LR = 1e-3

_trial: Context | None = None


def trial(epochs: int = 1, seed: int = 0, steps: int | None = None) -> Context:
    """Return the trial that this script trains; every call in a process returns the same one.

    In a job with a `command` the trial has the job's hyperparameters, length and seed, and its reports go to the job.
    The global random states of torch, numpy and Python are seeded with the trial's seed, so call it before the model
    is made. In a distributed training the reports of rank 0 count. Each process of it has the same hyperparameters.

    Outside a job the trial is a stand-in, so that the script still runs alone. Its `optimizer` makes torch's AdamW,
    or the optimizer of the exported file that the variable ANON_TUNE_CONFIG names. Its reports have no effect.

    Args:
        epochs: `epochs` of the stand-in.
        seed: `seed` of the stand-in.
        steps: `steps` of the stand-in, in place of `epochs`, for a job with `budget.steps`.
    """
    global _trial
    if _trial is None:
        _trial = _in_a_job() if WORK in os.environ else _stand_in(epochs, seed, steps)
    return _trial


def _in_a_job() -> Context:
    from anon_tune.workers.trial.check_up import CheckUpSession
    from anon_tune.workers.trial.messages import ProbeAssignment
    from anon_tune.workers.trial.session import TrialSession, seed_all
    from anon_tune.workers.trial.work import Work

    work = Work.read()
    supervisor = _supervisor()
    kind = CheckUpSession if isinstance(work.assignment, ProbeAssignment) else TrialSession
    session = kind(work, supervisor)
    if supervisor is not None:
        _report_the_end(session, supervisor, work)
    seed_all(session.context.seed)
    return session.context


def _supervisor() -> ChannelSupervisor | None:
    """Return the trial's supervisor in the process that reports: rank 0 of a distributed training; else None.

    Raises:
        InputError: Another process of the trial, or its training function, reports already.
    """
    from anon_tune.workers.trial.session import ChannelSupervisor

    if _rank() != 0:
        return None
    try:
        return ChannelSupervisor()
    except OSError:
        if multiprocessing.parent_process() is not None:  # a DataLoader's worker that imports the script
            return None
        raise InputError(
            "trial: another process of this trial, or its training function, reports already. Use its trial, or set "
            "RANK in the processes that do not report"
        ) from None


def _rank() -> int:
    """Return this process's rank in a distributed training; 0 in another one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank()
    return int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0)


def _report_the_end(
    session: CheckUpSession | TrialSession, supervisor: ChannelSupervisor, work: Work
) -> None:
    """Report when the script comes to its end, or misuses the trial; its exit code and output tell other failures."""
    from anon_tune.workers.trial.messages import Failed
    from anon_tune.workers.trial.session import tell_failure

    own, before, has_failed = os.getpid(), sys.excepthook, False

    def fail(error: InputError) -> None:
        """Report an error of ours in its own words."""
        tell_failure(supervisor, work.assignment, Failed(str(error), str(error)))

    def note(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        nonlocal has_failed
        has_failed = True
        if not issubclass(kind, TrialStopped):
            before(kind, error, trace)
        if isinstance(error, InputError) and os.getpid() == own:
            fail(error)

    def end() -> None:
        if has_failed or session.context.should_stop or os.getpid() != own:
            return
        try:
            session.end()
        except TrialStopped:
            pass
        except InputError as error:
            fail(error)

    sys.excepthook = note
    atexit.register(end)


def _stand_in(epochs: int, seed: int, steps: int | None) -> Context:
    config = os.environ.get(CONFIG)

    def make(target: Any) -> Optimizer:
        if config:
            return load_optimizer(config, target)
        return make_optimizer("adamw", target, {"lr": _STAND_IN_LR})

    torch.manual_seed(seed)
    return Context(
        arm="anon" if config else "adamw",
        hyperparameters=read_configuration(config)["hyperparameters"] if config else {"lr": _STAND_IN_LR},
        seed=seed,
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        length=epochs if steps is None else steps,
        unit="epoch" if steps is None else "step",
        objective=None,
        folder=Path(tempfile.mkdtemp(prefix="anon_tune_")),
        make_optimizer=make,
        tell=lambda _: None,
        tests=True,
    )
