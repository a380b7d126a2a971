"""Views of jobs and trials: the JSON of the command line and of the service.

The service sends these models, its client reads them, and the command line draws its tables from them.
"""

from __future__ import annotations

import datetime
import functools
import math
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, get_args

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from anon_tune import records
from anon_tune.advice.statement import Fingerprint
from anon_tune.answer import Answer, Comparison, Gamma
from anon_tune.records import (
    ArmRecord,
    AuditAction,
    Channel,
    ControlSignal,
    JobRecord,
    JobState,
    Overview,
    Phase,
    ReportPlace,
    Role,
    Trial,
    TrialReport,
    TrialState,
    WorkerKind,
    WorkerRecord,
    WorkerState,
)
from anon_tune.waiting import about_lack, about_waiting

if TYPE_CHECKING:
    from anon_tune.spec import Unit
    from anon_tune.spec.sections import Resources

__all__ = [
    "ArmView",
    "AttemptView",
    "AuditView",
    "BestView",
    "ChangeView",
    "DeletionView",
    "JobSummary",
    "JobView",
    "LeaseView",
    "LinkView",
    "LogsView",
    "ProbeView",
    "ReportView",
    "TokenView",
    "TrialMatches",
    "TrialView",
    "WorkerView",
    "attempt_view",
    "audit_view",
    "job_summary",
    "job_view",
    "report_view",
    "token_view",
    "trial_view",
    "worker_view",
]


_UNREADABLE = (
    "The stored answer of this job cannot be read: it was damaged, or a later version of anon_tune wrote it. The "
    "trials are intact (anon-tune trials {0}). Upgrade anon_tune, or make the answer anew: "
    "anon-tune extend {0} --trials N"
)


class View(BaseModel):
    """Base class of all views."""

    model_config = ConfigDict(frozen=True, defer_build=True)  # each command needs few of them


class LeaseView(View):
    """Process that works on a job."""

    holder: str
    alive: bool = Field(description="Whether the lease has not run out, by the database's clock.")
    heartbeat: datetime.datetime


class BestView(View):
    """An arm's best search trial."""

    trial: str
    value: float
    params: dict[str, Any] = Field(description="Search coordinates.")


class ArmView(View):
    """Progress of one arm."""

    trials: dict[TrialState, int] = Field(description="Search trials by state; the budget counts these.")
    reruns: dict[TrialState, int] = Field(description="Confirm and verdict trials by state.")
    budget: int = Field(description="Search trials that the arm may start, in all its searches.")
    planned: int = Field(
        description="Search trials of the arm: its budget or, once the next phase has begun, the number it has if "
        "a search ended early."
    )
    best: BestView | None
    epochs: int | None = Field(
        default=None, description="Epochs of all trials; null if the budget is in steps."
    )
    steps: int | None = Field(default=None, description="Steps of all trials, if the budget is in steps.")
    seconds: float = Field(description="Duration of these, without waiting, pauses and lost attempts.")

    @property
    def trained(self) -> int:
        """Number of epochs, or of steps, that all trials of the arm have reported."""
        return self.epochs or self.steps or 0


class ProbeView(View):
    """Measurements of a job's model before the first trial; null if they were not made."""

    log_mean_sigma: float | None = Field(default=None, description="Scale of the gradients, as a logarithm.")
    quantiles_log_sigma: dict[str, float] | None = Field(
        default=None, description="Quantiles of the scale over the coordinates, by percentage."
    )
    floor: float | None = Field(default=None, description="Floor of Anon's search space; part of the scale.")
    batches: int | None = Field(
        default=None, description="Number of batches that the gradients were averaged over."
    )
    seconds_per_step: float | None = Field(default=None, description="Duration of one step of the optimizer.")
    steps_per_epoch: float | None = Field(
        default=None, description="Steps of the optimizer per epoch; null if the budget is in steps."
    )
    samples_per_epoch: int | None = None
    device: str | None = None
    peak_memory_bytes: int | None = Field(default=None, description="Peak GPU memory of the tensors.")
    device_memory_bytes: int | None = Field(default=None, description="Total memory of the GPU.")
    trials_per_device: int | None = Field(default=None, description="Trials that fit on the GPU at once.")
    notes: list[str] = Field(
        default_factory=list, description="Possible mistakes in the user's code, found by the check-up."
    )
    uses_schedule: bool | None = Field(
        default=None,
        description="Whether a training function called `context.schedule`; null for other tasks.",
    )


class JobSummary(View):
    """A job in a list."""

    id: str
    name: str
    owner: str | None = Field(description="The user who submitted it to a service.")
    state: JobState
    phase: Phase
    reason: str | None
    priority: int
    requested: ControlSignal | None = Field(description="The request that the worker has not acted on yet.")
    lease: LeaseView | None
    model: str = Field(description="The model, or the training function.")
    gamma: Gamma | None = Field(description="The gammas that do well, without the curve.")
    created: datetime.datetime
    finished: datetime.datetime | None

    @property
    def is_at_rest(self) -> bool:
        """Whether the job has ended or is PAUSED: nothing more happens without a request."""
        return self.state in records.ENDED or self.state is JobState.PAUSED

    @property
    def is_abandoned(self) -> bool:
        """Whether the job is RUNNING but no process works on it."""
        return self.state is JobState.RUNNING and (self.lease is None or not self.lease.alive)


class JobView(JobSummary):
    """A job with the progress of its arms, and its answer once it has one."""

    arms: dict[str, ArmView]
    planned: int = Field(description="Trials of all phases, if every arm has finalists and none is dropped.")
    seconds: float = Field(description="Seconds of work on the job, as of the last heartbeat.")
    probe: ProbeView | None
    architecture: Fingerprint | None
    winners: dict[str, str] = Field(description="The chosen trial of each arm.")
    verdict: list[Comparison] | None
    result: Answer | None
    spec: dict[str, Any] = Field(description="The job as it was submitted, with all defaults.")
    mlflow_run_id: str | None
    projected: int = Field(description="Number of its trials that have a run in MLflow.")
    waiting: str | None = Field(
        default=None,
        description="Why a QUEUED job does not run yet, or why a RUNNING one waits for a larger machine, for people.",
    )

    @property
    def made(self) -> int:
        """Number of trials that were created."""
        return sum(sum(arm.trials.values()) + sum(arm.reruns.values()) for arm in self.arms.values())

    @property
    def done(self) -> int:
        """Number of trials that have ended."""
        counts = (states for arm in self.arms.values() for states in (arm.trials, arm.reruns))
        return sum(count for states in counts for state, count in states.items() if state in records.FINISHED)

    @property
    def trained(self) -> int:
        """Number of epochs, or of steps, that all trials together have reported."""
        return sum(arm.trained for arm in self.arms.values())

    @property
    def unit(self) -> str:
        """Unit of the budget: "epoch" or "step"."""
        return "step" if self.spec["budget"].get("steps") else "epoch"


class TrialView(View):
    """One trial."""

    id: str
    arm: str
    repeat: int = Field(default=0, description="The arm's search that it belongs to, from 0.")
    phase: Phase
    seed: int
    state: TrialState
    params: dict[str, Any] = Field(description="Search coordinates.")
    hyperparameters: dict[str, Any] = Field(description="Arguments of the optimizer.")
    value: float | None
    steps: int = Field(description="Epochs or steps done, in the unit of the budget.")
    seconds: float = Field(
        default=0.0, description="Duration of the training, without waiting, pauses and lost attempts."
    )
    started: datetime.datetime | None = Field(
        default=None, description="When its first attempt started (UTC); null while it waits."
    )
    finished: datetime.datetime | None = Field(
        default=None, description="When it ended (UTC); null before that."
    )
    attempts: int
    reason: str | None
    source: str | None = Field(description="The trial whose configuration it repeats.")
    mlflow_run_id: str | None = Field(validation_alias=AliasChoices("mlflow_run_id", "mlflow_run"))

    def row(self) -> dict[str, Any]:
        """Return the trial as a row of a table, with a column for each hyperparameter.

        A hyperparameter that has the name of another column is in `hyperparameters.NAME`.
        """
        row = _flat(self, self.columns())
        for name, value in self.hyperparameters.items():
            row[f"hyperparameters.{name}" if name in row else name] = value
        return row

    @classmethod
    def columns(cls) -> Mapping[str, type]:
        """Return the columns that every `row` has, with the types of their values."""
        return _column_types(cls, "params", "hyperparameters")


class TrialMatches(View):
    """A page of the trials that a query asks for."""

    trials: list[TrialView]
    total: int = Field(description="Number of all trials that it asks for, on all pages.")


class ReportView(View):
    """One intermediate result of a trial: a point of its learning curve."""

    trial: str
    step: int = Field(description="Epochs or steps done, in the unit of the budget, from 1.")
    value: float | None = Field(
        description="The objective on the validation data after this step; null if it was not finite."
    )
    metrics: dict[str, float | None] = Field(
        description="All measured values by name; null if a value was not finite."
    )
    time: datetime.datetime = Field(description="When it was stored (UTC).")
    attempt: int = Field(description="The attempt that made it, from 1.")

    @property
    def place(self) -> ReportPlace:
        """Place of the report in its job."""
        return ReportPlace(self.trial, self.step)

    def row(self) -> dict[str, Any]:
        """Return the report as a row of a table, with a column `metrics.NAME` for each metric."""
        metrics = {f"metrics.{name}": number for name, number in self.metrics.items()}
        return {**_flat(self, self.columns()), **metrics}

    @classmethod
    def columns(cls) -> Mapping[str, type]:
        """Return the columns that every `row` has, with the types of their values."""
        return _column_types(cls, "metrics")


class AttemptView(View):
    """One execution of a trial."""

    trial: str
    number: int
    started: datetime.datetime
    finished: datetime.datetime | None
    outcome: str | None
    reason: str | None
    log: str | None = Field(description="The last lines of its process's output.")


class LogsView(View):
    """Attempts of a job's trials, and the end of the job's log."""

    attempts: list[AttemptView]
    job_log: list[str] | None = Field(description="Lines of the log; null if its file is on another machine.")
    lines: int = Field(description="Number of lines in the log; pass it as `since` to get later lines.")


class ChangeView(View):
    """State of a job after a request."""

    id: str
    state: JobState
    requested: ControlSignal | None


class DeletionView(View):
    """A job that was deleted."""

    id: str
    trials: int = Field(description="Number of its trials, deleted with their reports and attempts.")
    code: bool = Field(description="Whether its code was deleted, too: no other job uses it.")
    mlflow_run_id: str | None = Field(description="Its run in MLflow, which was not deleted.")


class TokenView(View):
    """A token of the service. Its secret is shown only when the token is created."""

    id: str
    owner: str
    role: Role
    may_send_code: bool
    created: datetime.datetime
    revoked: datetime.datetime | None
    expires: datetime.datetime | None = Field(
        default=None, description="When it stops working; null for never."
    )
    is_expired: bool = Field(default=False, description="Whether it has expired, by the database's clock.")

    @property
    def is_valid(self) -> bool:
        """Whether it works: it was not revoked and has not expired."""
        return self.revoked is None and not self.is_expired


class AuditView(View):
    """An action of a user."""

    id: int
    time: datetime.datetime
    owner: str | None = Field(description="The user; null for a user of the machine without a token.")
    token: str = Field(description='Id of their token; "local" for a user of the machine without one.')
    channel: Channel = Field(
        description="Way by which the request came: the command line or Python, the API of the service, or a page."
    )
    action: AuditAction
    job: str | None = Field(description="The job that was changed.")
    subject: str | None = Field(description="Id of the token that was created or revoked.")
    note: str | None = Field(description="Details or result, for people.")


class WorkerView(View):
    """A process that works on jobs."""

    id: str
    holder: str = Field(description="User, machine and process id; the holder of its jobs' leases.")
    kind: WorkerKind = Field(
        description="worker: takes jobs from the queue. run: works on the one job that it was started for."
    )
    state: WorkerState = Field(description="lost: it has sent no heartbeat for 20 s.")
    machine: str
    at_once: int = Field(description="Jobs that it runs at once.")
    cpus: int = Field(description="CPUs of its machine that it may use.")
    gpus: list[str] = Field(description="Names of its machine's GPUs that it may use.")
    largest_cpus: float | None = Field(
        description="CPUs of the largest node that its trials can run on; null before its first job on a cluster."
    )
    largest_gpus: float | None = Field(description="The same for GPUs.")
    versions: dict[str, str] = Field(description="Versions of python, anon_tune, ray and torch.")
    started: datetime.datetime
    heartbeat: datetime.datetime = Field(description="Time of its last heartbeat.")
    jobs: list[str] = Field(description="Ids of the jobs that it works on.")


class LinkView(View):
    """A link that signs a browser in."""

    path: str = Field(description="Path at the service. It works once, within some minutes.")


def job_summary(job: JobRecord) -> JobSummary:
    """Return a job as it is listed."""
    return JobSummary(**_summary(job))


def job_view(overview: Overview) -> JobView:
    """Return a job with the progress of its arms."""
    from anon_tune.spec import stored_spec

    job = overview.job
    answer = job.answer
    spec = stored_spec(job.spec)
    planned = spec.planned_trials()
    may_end_early = spec.search.stop != "never" or spec.budget.time is not None
    over = may_end_early and job.phase in {Phase.CONFIRM, Phase.VERDICT}
    budget = planned[Phase.SEARCH] // len(spec.arms)
    unit = spec.budget.unit
    arms = {arm: _arm_view(seen, budget, over, unit) for arm, seen in overview.arms.items()}
    planned[Phase.SEARCH] = sum(arm.planned for arm in arms.values())
    return JobView(
        **_summary(job),
        arms=arms,
        planned=sum(planned.values()),
        seconds=round(job.spent, 1),
        probe=ProbeView.model_validate(job.probe) if job.probe else None,
        architecture=Fingerprint.model_validate(job.architecture) if job.architecture else None,
        winners={} if answer is None else {arm: found.trial for arm, found in answer.winners.items()},
        verdict=None if answer is None else answer.verdict,
        result=answer,
        spec=dict(job.spec),
        mlflow_run_id=job.mlflow_run,
        projected=overview.projected,
        waiting=_waiting(overview, spec.resources),
    )


def trial_view(trial: Trial) -> TrialView:
    """Return the view of a trial."""
    return TrialView.model_validate(trial, from_attributes=True)


def report_view(report: TrialReport) -> ReportView:
    """Return the view of a report."""
    return ReportView(
        trial=report.trial,
        step=report.step,
        value=_finite(report.value),
        metrics={name: _finite(number) for name, number in report.metrics.items()},
        time=report.time,
        attempt=report.attempt,
    )


def attempt_view(attempt: records.Attempt) -> AttemptView:
    """Return the view of an attempt."""
    return AttemptView.model_validate(attempt, from_attributes=True)


def audit_view(entry: records.AuditRecord) -> AuditView:
    """Return the view of an entry of the audit."""
    return AuditView(
        id=entry.id,
        time=entry.time,
        owner=entry.by.owner,
        token=entry.by.token or "local",
        channel=entry.by.channel,
        action=entry.action,
        job=entry.job,
        subject=entry.subject,
        note=entry.note,
    )


def token_view(token: records.TokenRecord) -> TokenView:
    """Return the view of a token, without its secret."""
    return TokenView.model_validate(token, from_attributes=True)


def _waiting(overview: Overview, needs: Resources) -> str | None:
    """Return why a job waits. Once a trial has ended, its machine is known to be large enough."""
    job, queue = overview.job, overview.queue
    if queue is None:
        return None
    if job.state is JobState.QUEUED:
        return about_waiting(needs, queue)
    if any(arm.search.keys() & records.FINISHED for arm in overview.arms.values()):
        return None
    return about_lack(needs, [worker for worker in queue.workers if job.id in worker.jobs])


def worker_view(worker: WorkerRecord) -> WorkerView:
    """Return the view of a worker."""
    return WorkerView.model_validate(worker, from_attributes=True)


def _summary(job: JobRecord) -> dict[str, Any]:
    return {
        "id": job.id,
        "name": job.name,
        "owner": job.owner,
        "state": job.state,
        "phase": job.phase,
        "reason": _UNREADABLE.format(job.id) if job.has_unreadable_answer else job.reason,
        "priority": job.priority,
        "requested": job.requested,
        "lease": LeaseView.model_validate(job.lease, from_attributes=True) if job.lease else None,
        "model": (job.spec["model"] or {"name": job.spec.get("command") or job.spec["task"]})["name"],
        "gamma": None if job.answer is None else job.answer.gamma.model_copy(update={"curve": None}),
        "created": job.created,
        "finished": job.finished,
    }


def _arm_view(arm: ArmRecord, budget: int, over: bool, unit: Unit) -> ArmView:
    """Return the progress of an arm; `over` is whether its search has ended, perhaps before its budget."""
    best = arm.best
    return ArmView(
        trials=_in_order(arm.search),
        reruns=_in_order(arm.reruns),
        budget=budget,
        planned=sum(arm.search.values()) if over else budget,
        best=None
        if best is None or best.value is None
        else BestView(trial=best.id, value=best.value, params=dict(best.params)),
        epochs=arm.steps if unit == "epoch" else None,
        steps=arm.steps if unit == "step" else None,
        seconds=round(arm.seconds, 1),
    )


def _flat(view: View, names: Iterable[str]) -> dict[str, Any]:
    """Return some fields of a view, states as text."""
    values = {name: getattr(view, name) for name in names}
    return {name: value.value if isinstance(value, Enum) else value for name, value in values.items()}


@functools.cache
def _column_types(view: type[View], *nested: str) -> Mapping[str, type]:
    """Return the types of the fields of a view, less those that are `nested`."""
    found: dict[str, type] = {}
    for name, field in view.model_fields.items():
        if name not in nested:
            kind: Any = next(iter(get_args(field.annotation)), field.annotation)  # X of X | None
            found[name] = str if issubclass(kind, Enum) else kind
    return found


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _in_order(counts: Mapping[TrialState, int]) -> dict[TrialState, int]:
    return {state: counts[state] for state in TrialState if counts.get(state)}
