"""The process of a user's training function: runs it once, and reports how it ended. Needs torch alone."""

from __future__ import annotations

import functools
import inspect
import pickle
from collections.abc import Callable

from anon_tune.errors import InputError
from anon_tune.spec import JobSpec
from anon_tune.user_code import load_function, provide
from anon_tune.workers.trial.check_up import CheckUpSession
from anon_tune.workers.trial.context import Context, TrialStopped
from anon_tune.workers.trial.device import use_threads
from anon_tune.workers.trial.failure import failure_of
from anon_tune.workers.trial.messages import ProbeAssignment
from anon_tune.workers.trial.session import (
    ChannelSupervisor,
    Supervisor,
    TrialSession,
    seed_all,
    tell_failure,
)
from anon_tune.workers.trial.work import Work

__all__ = ["main", "run"]


def main() -> None:
    """Do the work of this process, as its environment names it."""
    run(Work.read(), ChannelSupervisor())


def run(work: Work, supervisor: Supervisor) -> None:
    """Run a training function, and report its results and its end."""
    kind = CheckUpSession if isinstance(work.assignment, ProbeAssignment) else TrialSession
    session: CheckUpSession | TrialSession | None = None
    try:
        session = kind(work, supervisor)
        use_threads(work.spec.resources.cpu)
        seed_all(session.context.seed)
        provide(pickle.loads(work.functions))
        try:
            function_of(work.spec)(session.context)
        except SystemExit as error:  # the end of training, unless it names an error
            if error.code not in (None, 0):
                raise
        session.end()
    except TrialStopped:
        pass
    except Exception as error:  # noqa: BLE001 - the user's function may raise anything; it is reported
        tell_failure(supervisor, work.assignment, failure_of(error, work.spec.folder))
    finally:
        if isinstance(session, CheckUpSession):
            session.close()


def function_of(spec: JobSpec) -> Callable[[Context], object]:
    """Return the training function of a job with its arguments. Raises InputError if they do not fit."""
    function = load_function(spec.task, spec.folder)
    try:
        inspect.signature(function).bind(None, **spec.arguments)
    except TypeError as error:
        raise InputError(f"{spec.task} cannot be called with a context and `arguments`: {error}.") from None
    return functools.partial(function, **spec.arguments)
