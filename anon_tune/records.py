"""Values that layers pass to one another: states, and frozen records of jobs, trials and reports.

A record is a copy of what the ledger held at one moment; changing the ledger never changes a record.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from anon_tune.errors import TransitionError

if TYPE_CHECKING:
    from anon_tune.answer import Answer

__all__ = [
    "ENDED",
    "FINISHED",
    "JOB_TRANSITIONS",
    "LOCAL",
    "OPTIMIZER_STEPS",
    "RAN_TOO_LONG",
    "TRIAL_TRANSITIONS",
    "WORKER_DIED",
    "Actor",
    "ArmRecord",
    "Attempt",
    "AuditAction",
    "AuditQuery",
    "AuditRecord",
    "Channel",
    "ControlSignal",
    "Deletion",
    "HeartbeatResponse",
    "JobLine",
    "JobList",
    "JobOrder",
    "JobQuery",
    "JobRecord",
    "JobState",
    "LearningCurve",
    "LeaseRecord",
    "NewTrial",
    "NewWorker",
    "Notice",
    "Overview",
    "Phase",
    "Queue",
    "Report",
    "ReportPlace",
    "Role",
    "TokenRecord",
    "Trial",
    "TrialColumn",
    "TrialQuery",
    "TrialReport",
    "TrialState",
    "WorkerKind",
    "WorkerRecord",
    "WorkerState",
    "check_transition",
    "objective_key",
    "state_diagram",
    "storable_text",
]

_log = logging.getLogger(__name__)


class JobState(StrEnum):
    """State of a job."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class TrialState(StrEnum):
    """State of a trial."""

    WAITING = "WAITING"
    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    DIVERGED = "DIVERGED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class Phase(StrEnum):
    """Phase of a job; a trial belongs to one of the last three."""

    PROBE = "probe"
    SEARCH = "search"
    CONFIRM = "confirm"
    VERDICT = "verdict"


class ControlSignal(StrEnum):
    """Request by a user to the process that works on a job."""

    PAUSE = "pause"
    CANCEL = "cancel"


class Role(StrEnum):
    """Permissions of a token; each role includes the ones before it."""

    READ = "read"
    SUBMIT = "submit"
    ADMIN = "admin"


JOB_TRANSITIONS: Mapping[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.PAUSED, JobState.CANCELLED}),
    # RUNNING again: a new holder takes over from one that died. QUEUED: the worker was stopped, not the job.
    JobState.RUNNING: frozenset(JobState),
    JobState.PAUSED: frozenset({JobState.QUEUED, JobState.RUNNING, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset({JobState.QUEUED}),  # it was given more trials
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}

ENDED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
"""Job states in which there is nothing left to do."""

FINISHED = frozenset(
    {
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.DIVERGED,
        TrialState.FAILED,
        TrialState.CANCELLED,
    }
)
"""Trial states that nothing follows."""

TRIAL_TRANSITIONS: Mapping[TrialState, frozenset[TrialState]] = {
    TrialState.WAITING: frozenset({TrialState.RUNNING, TrialState.CANCELLED}),
    # Back to WAITING: the attempt was lost, and the trial gets another one.
    TrialState.RUNNING: FINISHED | {TrialState.WAITING},
    **{state: frozenset() for state in FINISHED},
}


WORKER_DIED, RAN_TOO_LONG = "the worker process died", "ran for more than"
"""First words of the reason of a trial that was ended from outside; another run of the job may not have it."""


OPTIMIZER_STEPS = "optimizer_steps"
"""Metric of a report of user code: calls of `step` of the trial's optimizers since the report before."""


def check_transition(before: JobState | TrialState, after: JobState | TrialState) -> None:
    """Raise TransitionError unless `after` may follow `before`."""
    if isinstance(before, JobState) and isinstance(after, JobState):
        allowed = after in JOB_TRANSITIONS[before]
    elif isinstance(before, TrialState) and isinstance(after, TrialState):
        allowed = after in TRIAL_TRANSITIONS[before]
    else:
        raise TypeError(f"{before!r} and {after!r} are not states of one kind")
    if not allowed:
        raise TransitionError(f"{before} cannot become {after}.")


def state_diagram(transitions: Mapping[Any, frozenset[Any]]) -> str:
    """Return a transition table as a Mermaid state diagram, from its first state to its final states."""
    first = next(iter(transitions))
    lines = ["stateDiagram-v2", f"    [*] --> {first}"]
    for before in type(first):
        lines += [f"    {before} --> {after}" for after in type(first) if after in transitions[before]]
        lines += [f"    {before} --> [*]"] if before in {*ENDED, *FINISHED} else []
    return "\n".join(lines)


@dataclass(frozen=True)
class NewTrial:
    """A trial to create; fields as in Trial."""

    arm: str
    phase: Phase
    number: int
    seed: int
    params: Mapping[str, Any]
    hyperparameters: Mapping[str, Any]
    source: str | None = None
    repeat: int = 0

    def id_in(self, job: str) -> str:
        """Return the id that the trial gets in a job."""
        mark = f"r{self.repeat}" if self.repeat else ""
        return f"{job}-{self.arm}-{self.phase.value[0]}{self.number:03d}{mark}"


@dataclass(frozen=True)
class Report:
    """One intermediate result of a trial.

    Attributes:
        step: Epochs or steps done, in the unit of the budget, from 1.
        value: The objective on the validation split after this step; NaN or infinite if it diverged.
        metrics: Everything else measured, by name.
        time: When the ledger stored it (UTC).
    """

    step: int
    value: float
    metrics: Mapping[str, float]
    time: datetime.datetime


@dataclass(frozen=True)
class TrialReport(Report):
    """A report, with the trial that made it and in which of its attempts.

    Attributes:
        trial: Id of the trial.
        attempt: Number of the attempt, from 1.
    """

    trial: str
    attempt: int


@dataclass(frozen=True)
class LearningCurve:
    """The objective of a trial over its training, without other metrics.

    Attributes:
        steps: Epochs or steps done, in the unit of the budget, in ascending order.
        values: The objective on the validation split after each; None if it was not finite.
    """

    steps: Sequence[int]
    values: Sequence[float | None]

    @property
    def last(self) -> float | None:
        """The last finite value; None without one."""
        return next((value for value in reversed(self.values) if value is not None), None)


@dataclass(frozen=True)
class ReportPlace:
    """Place of a report in its job: reports are ordered by the creation of their trials, then by step.

    Attributes:
        trial: Id of the trial.
        step: Epochs or steps done; 0 is the place before the trial's first report.
    """

    trial: str
    step: int


@dataclass(frozen=True)
class Trial:
    """One configuration of one arm with one seed.

    Attributes:
        id: `JOB-ARM-s003`: the job, the arm, the phase's first letter and the number within it; `JOB-ARM-s003r1` in
            the arm's second search.
        number: Place within (job, arm, repeat, phase), from 0.
        params: Search coordinates (what the sampler sees).
        hyperparameters: Arguments of the optimizer.
        source: The trial whose configuration this one repeats; None in the search, and for the first confirm trial
            of a configuration that the search did not try.
        value: Final objective: validation for search and confirm, test for verdict. None until COMPLETE.
        attempts: Number of executions started.
        steps: Epochs or steps done, in the unit of the budget: the largest step of its reports.
        seconds: Duration of the training up to the last report, without waiting, pauses and lost attempts.
        checkpoints: Checkpoints that another attempt can continue from: the newest of each attempt, the last
            attempt's first, as paths relative to the job's checkpoint folder.
        mlflow_run: Its run in MLflow, once projected.
        repeat: The arm's search that it belongs to, from 0 to `search.repeats` - 1.
    """

    id: str
    job: str
    arm: str
    phase: Phase
    number: int
    seed: int
    state: TrialState
    params: Mapping[str, Any]
    hyperparameters: Mapping[str, Any]
    source: str | None = None
    value: float | None = None
    reason: str | None = None
    attempts: int = 0
    reports: tuple[Report, ...] = ()
    steps: int = 0
    seconds: float = 0.0
    started: datetime.datetime | None = None
    finished: datetime.datetime | None = None
    mlflow_run: str | None = None
    checkpoints: tuple[str, ...] = ()
    repeat: int = 0

    @property
    def is_finished(self) -> bool:
        """Whether the trial has ended."""
        return self.state in FINISHED

    @property
    def origin(self) -> str:
        """Id of the first trial with this configuration."""
        return self.source or self.id


class TrialColumn(StrEnum):
    """A column that trials can be sorted by."""

    ID = "id"
    ARM = "arm"
    PHASE = "phase"
    STATE = "state"
    VALUE = "value"
    GAMMA = "gamma"
    LR = "lr"
    STEP_SIZE = "step_size"
    BETA3 = "beta3"
    DELAY = "delay"
    WEIGHT_DECAY = "weight_decay"
    STEPS = "steps"
    SECONDS = "seconds"
    REASON = "reason"


@dataclass(frozen=True)
class TrialQuery:
    """A choice of a job's trials, their order, and a page of them.

    Attributes:
        arm: The trials of this arm alone; None for all.
        phase: Those of this phase.
        state: Those in this state.
        text: Those whose id or reason contains it, in upper or lower case.
        sort: The column to sort by; None for the order of creation. Trials without a value come last.
        descending: Whether the largest comes first.
        limit: Most trials of a page.
        offset: Number of trials before the page.
    """

    arm: str | None = None
    phase: Phase | None = None
    state: TrialState | None = None
    text: str = ""
    sort: TrialColumn | None = None
    descending: bool = False
    limit: int = 50
    offset: int = 0


@dataclass(frozen=True)
class Attempt:
    """One execution of a trial.

    Attributes:
        number: From 1.
        outcome: The state its trial ended in, or LOST if the trial had to wait for another attempt; None while it
            runs.
        log: The last lines of its process's output, if it did not end well or trained user code.
    """

    trial: str
    number: int
    started: datetime.datetime
    finished: datetime.datetime | None
    outcome: str | None
    reason: str | None
    log: str | None


@dataclass(frozen=True)
class HeartbeatResponse:
    """Response of the ledger to a heartbeat of the process that holds a job.

    Attributes:
        request: The pending request; None if there is none.
        budget: The job's budget, which may have been raised.
        spent: Seconds of work on the job so far, by all processes together.
    """

    request: ControlSignal | None = None
    budget: Mapping[str, Any] = field(default_factory=dict)
    spent: float = 0.0


@dataclass(frozen=True)
class LeaseRecord:
    """Process that works on a job; times by the database's clock."""

    holder: str
    token: int
    heartbeat: datetime.datetime
    expires: datetime.datetime
    alive: bool


@dataclass(frozen=True)
class ArmRecord:
    """Progress of one arm of a job.

    Attributes:
        search: Search trials by state; the budget counts these.
        reruns: Confirm and verdict trials by state.
        best: The best COMPLETE search trial, without its reports.
        steps: Epochs or steps of all trials together, in the unit of the budget.
        seconds: Duration of these.
    """

    search: Mapping[TrialState, int]
    reruns: Mapping[TrialState, int]
    best: Trial | None
    steps: int
    seconds: float


@dataclass(frozen=True)
class TokenRecord:
    """A token of the service, without its secret, which is stored nowhere.

    Attributes:
        owner: Name of the user; jobs submitted with the token belong to them.
        may_send_code: Whether jobs submitted with it may bring code.
        revoked: Time at which it was revoked.
        expires: Time at which it stops working; None for never.
        is_expired: Whether it has expired, by the database's clock.
    """

    id: str
    owner: str
    role: Role
    may_send_code: bool
    created: datetime.datetime
    revoked: datetime.datetime | None = None
    expires: datetime.datetime | None = None
    is_expired: bool = False


class Channel(StrEnum):
    """Way by which a user's request came."""

    CLI = "cli"
    SERVICE = "service"
    PAGE = "page"


class AuditAction(StrEnum):
    """Action of a user that the ledger records."""

    SUBMIT = "submit"
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    EXTEND = "extend"
    DELETE = "delete"
    CREATE_TOKEN = "create-token"
    REVOKE_TOKEN = "revoke-token"
    SIGN_IN = "sign-in"


@dataclass(frozen=True)
class Actor:
    """User who acts.

    Attributes:
        owner: Name of the user; None for a user of the machine, without a token.
        token: Id of their token; None for a user of the machine.
        channel: Way by which the request came.
    """

    owner: str | None = None
    token: str | None = None
    channel: Channel = Channel.CLI


LOCAL: Final = Actor()
"""A user of this machine, by the command line or Python."""


@dataclass(frozen=True)
class AuditRecord:
    """An action of a user.

    Attributes:
        id: Number of the entry; later ones have larger ones.
        time: Time of the action, by the database's clock.
        by: The user.
        job: The job that was changed.
        subject: Id of the token that was created or revoked.
        note: Details or result, for people; never a secret.
    """

    id: int
    time: datetime.datetime
    by: Actor
    action: AuditAction
    job: str | None = None
    subject: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class AuditQuery:
    """Entries of the audit to list, newest first.

    Attributes:
        job: Only those about this job; None: all.
        owner: Only those by this user; None: all.
        since: Only those from this time on; None: all.
        limit: Most entries to return.
        after: Only those before the entry with this number, which is the last of the page before.
    """

    job: str | None = None
    owner: str | None = None
    since: datetime.datetime | None = None
    limit: int = 100
    after: int | None = None


@dataclass(frozen=True)
class Deletion:
    """Result of the deletion of a job.

    Attributes:
        job: Id of the job.
        trials: Number of its trials, which went with their reports and attempts.
        code: Whether its archive of code went, too, as no other job used it.
        mlflow_run: Its run in MLflow, which stays; None without one.
    """

    job: str
    trials: int
    code: bool
    mlflow_run: str | None


@dataclass(frozen=True)
class JobRecord:
    """A job as the ledger holds it; `spec`, `probe`, `architecture` and `result` are plain JSON values.

    Attributes:
        owner: The user who submitted it to a service; None if it was submitted on this machine.
        code: Digest of the code archive that came with it; its modules are imported from there.
        priority: Jobs with a higher priority are claimed first.
        requested: The request that its holder has not acted on yet.
        spent: Seconds of work on it, as of the last heartbeat.
    """

    id: str
    name: str
    state: JobState
    phase: Phase
    spec: Mapping[str, Any]
    created: datetime.datetime
    probe: Mapping[str, Any] | None = None
    architecture: Mapping[str, Any] | None = None
    result: Mapping[str, Any] | None = None
    reason: str | None = None
    started: datetime.datetime | None = None
    finished: datetime.datetime | None = None
    lease: LeaseRecord | None = None
    priority: int = 0
    requested: ControlSignal | None = None
    spent: float = 0.0
    owner: str | None = None
    code: str | None = None
    mlflow_run: str | None = None
    trials: tuple[Trial, ...] = field(default=(), repr=False)

    @cached_property
    def answer(self) -> Answer | None:
        """The `result` as a model, also if an earlier version wrote it; None before there is one that can be read."""
        from anon_tune.answer import Answer  # and pydantic, which a trial's records need not wait for

        try:
            return Answer.load(self.result)
        except ValueError as error:
            _log.warning("job %s: %s", self.id, error)
            return None

    @property
    def has_unreadable_answer(self) -> bool:
        """Whether there is a `result` that cannot be read, so that `answer` is None."""
        return self.result is not None and self.answer is None


class JobOrder(StrEnum):
    """Column that a list of jobs is sorted by."""

    CREATED = "created"
    NAME = "name"
    STATE = "state"
    OWNER = "owner"
    MODEL = "model"
    GAMMA = "gamma"


@dataclass(frozen=True)
class JobQuery:
    """Jobs to list.

    Attributes:
        states: Only jobs in these; empty: all.
        owner: Only jobs of this user; None: all.
        text: Only jobs with this in their id, name, model or owner, in upper or lower case.
        order: Column to sort by; jobs that are equal there are sorted by creation.
        descending: Whether the largest comes first.
        limit: Most jobs to return.
        offset: Jobs to leave out at the start.
    """

    states: frozenset[JobState] = frozenset()
    owner: str | None = None
    text: str = ""
    order: JobOrder = JobOrder.CREATED
    descending: bool = True
    limit: int = 50
    offset: int = 0


@dataclass(frozen=True)
class JobLine:
    """A job in a list, without its spec and its answer.

    Attributes:
        abandoned: Whether it is RUNNING, but no process works on it.
        model: The model, the command, or the task.
        done: Search trials that have ended.
        trials: Search trials to make: those of the budget or, once the search is over, those that there are.
        best: The best value of its search trials so far.
        best_arm: The arm of that trial.
        gamma: Recommended gamma; None before there is an answer.
    """

    id: str
    name: str
    owner: str | None
    state: JobState
    phase: Phase
    reason: str | None
    requested: ControlSignal | None
    abandoned: bool
    created: datetime.datetime
    model: str
    done: int
    trials: int
    best: float | None
    best_arm: str | None
    gamma: float | None


@dataclass(frozen=True)
class JobList:
    """Jobs that a query found.

    Attributes:
        lines: Those of this page.
        found: Number of all that match.
        states: Number of all jobs in each state, whether they match or not.
        owners: Names of all users who have submitted a job.
    """

    lines: tuple[JobLine, ...]
    found: int
    states: Mapping[JobState, int]
    owners: tuple[str, ...]


class WorkerKind(StrEnum):
    """Kind of a process that works on jobs."""

    WORKER = "worker"
    """Takes jobs from the queue (`anon-tune worker`)."""
    RUN = "run"
    """Works on the one job that it was started for (`anon-tune run`, `tune`)."""


class WorkerState(StrEnum):
    """State of a process that works on jobs."""

    IDLE = "idle"
    BUSY = "busy"
    LOST = "lost"
    """It has missed several heartbeats."""


@dataclass(frozen=True)
class NewWorker:
    """A process that works on jobs, as it describes itself.

    Attributes:
        id: Random, so that a process with the name of an earlier one is another worker.
        holder: Its name in leases.
        machine: Name of its machine.
        at_once: Number of jobs that it runs at once.
        cpus: CPUs of its machine that it may use.
        gpus: Names of its machine's GPUs that it may use.
        versions: Versions of Python, anon_tune, Ray and torch.
        on_cluster: Whether trials run on the nodes of a Ray cluster instead of its machine.
    """

    id: str
    holder: str
    kind: WorkerKind
    machine: str
    at_once: int
    cpus: int
    gpus: tuple[str, ...]
    versions: Mapping[str, str]
    on_cluster: bool = False


@dataclass(frozen=True)
class WorkerRecord:
    """A process that works on jobs. Times are the database's.

    Attributes:
        largest_cpus: CPUs of the largest node that a trial can run on: its own machine, or a node of the cluster.
            None while the nodes of the cluster are not known, before its first job.
        largest_gpus: The same for GPUs.
        jobs: Ids of the jobs that it holds.
    """

    id: str
    holder: str
    kind: WorkerKind
    state: WorkerState
    machine: str
    at_once: int
    cpus: int
    gpus: tuple[str, ...]
    largest_cpus: float | None
    largest_gpus: float | None
    versions: Mapping[str, str]
    started: datetime.datetime
    heartbeat: datetime.datetime
    jobs: tuple[str, ...]

    @property
    def takes_jobs(self) -> bool:
        """Whether it takes jobs from the queue."""
        return self.kind is WorkerKind.WORKER and self.state is not WorkerState.LOST


@dataclass(frozen=True)
class Queue:
    """The queue as a QUEUED or RUNNING job sees it.

    Attributes:
        ahead: Number of jobs that workers claim before it; 0 for a RUNNING job.
        workers: All workers.
    """

    ahead: int
    workers: tuple[WorkerRecord, ...]


@dataclass(frozen=True)
class Notice:
    """A change of a job that a webhook has not taken yet.

    Attributes:
        id: The same each time that the notice is sent.
        webhook: Id of the webhook.
        state: State of the job after the change.
        created: Time of the change.
        tries: Number of times that it was sent, this one included.
    """

    id: str
    webhook: str
    job: str
    state: JobState
    reason: str | None
    created: datetime.datetime
    tries: int


@dataclass(frozen=True)
class Overview:
    """Summary of a job.

    Attributes:
        job: The job, without its trials.
        arms: Progress of each arm.
        projected: Number of its trials that have a run in MLflow.
        queue: The queue, if the job is QUEUED or RUNNING.
    """

    job: JobRecord
    arms: Mapping[str, ArmRecord]
    projected: int
    queue: Queue | None = None


def objective_key(value: float, mode: str) -> float:
    """Return a sort key for which smaller is better; `mode` is "min" or "max"."""
    return value if mode == "min" else -value


def storable_text(text: str) -> str:
    """Return a text that every database and encoding takes: escapes stand for lone surrogates and NUL.

    Error messages have such characters if they quote a file name or data that are not valid UTF-8.
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")
