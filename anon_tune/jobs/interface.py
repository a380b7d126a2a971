"""`Jobs`, all operations of users on jobs, and `Result`, the result of one job.

`anon_tune.jobs.ledger.LedgerJobs` and `anon_tune.jobs.service.ServiceJobs` implement it. The methods that are not
abstract build on those that are, so they are written once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from anon_tune.advice.statement import Advice, Fingerprint
from anon_tune.answer import Gamma
from anon_tune.architecture import fingerprint
from anon_tune.errors import ConflictError, InputError
from anon_tune.export import form_of
from anon_tune.jobs import frames
from anon_tune.records import JobState, LearningCurve, Role
from anon_tune.views import (
    AuditView,
    BestView,
    ChangeView,
    DeletionView,
    JobSummary,
    JobView,
    LogsView,
    ReportView,
    TokenView,
    TrialView,
    WorkerView,
)

if TYPE_CHECKING:
    import optuna
    import pandas
    import plotly.graph_objects as go
    from torch import nn

    from anon_tune.search_spaces import Space
    from anon_tune.spec import JobFile  # its schema: most commands need none of it

__all__ = ["API", "Jobs", "Result"]

API = "/api/v1"
"""Path prefix of a service's routes."""


class Jobs(ABC):
    """Jobs of a ledger or of a service; `anon_tune.Client` opens them.

    A context manager: `with anon_tune.Client() as jobs: ...` closes the connections at the end.

    Every method may raise DependencyError if the ledger or the service cannot be reached. A service may also
    answer with InputError: the token is missing, or its role does not allow the request.
    """

    @abstractmethod
    def close(self) -> None:
        """Close the connections. Results of jobs need them too."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(
        self,
        job: str | Path | Mapping[str, Any] | JobFile,
        overrides: Sequence[str] = (),
        *,
        priority: int = 0,
        key: str | None = None,
        code: str | Path | None = None,
    ) -> JobSummary:
        """Queue a job for a worker and return it. The other methods take its `id`.

        Args:
            job: A job file's path, its keys and values, or one that has been read.
            overrides: Each "key.path=value", as `--set` of the command line.
            priority: From -1000 to 1000; workers claim the highest first.
            key: Any text that makes the request safe to repeat: the same key with the same job returns the job that
                was made the first time.
            code: A folder whose modules are sent along. Only a service takes it, and only where it allows code.

        Raises:
            NotFoundError: There is no such job file.
            SpecError: Lists every problem of the job, each with its key's path.
            InputError: `key` was used for another job; or `code` is no folder, or is given for jobs of this machine.
        """
        return self._submit(_job_file(job, overrides), priority, key, None if code is None else Path(code))

    @abstractmethod
    def _submit(self, job: JobFile, priority: int, key: str | None, code: Path | None) -> JobSummary:
        """Queue a job that has been read."""

    @abstractmethod
    def jobs(self) -> list[JobSummary]:
        """Return all jobs, newest first."""

    @abstractmethod
    def job(self, job_id: str) -> JobView:
        """Return a job as it is now, with the progress of its arms. Raises NotFoundError."""

    @abstractmethod
    def watch(self, job_id: str) -> Iterator[JobView]:
        """Yield the job whenever it has changed, until it has ended or is PAUSED. Raises NotFoundError.

        A service may be restarted in between.
        """

    def result(self, job_id: str) -> Result:
        """Wait until a job has ended or is PAUSED, and return its result. Raises NotFoundError."""
        for _ in self.watch(job_id):
            pass
        return Result(self.job(job_id), self)

    def best(self, job_id: str) -> dict[str, BestView | None]:
        """Return the best search trial of each arm so far; None for an arm without one. Raises NotFoundError."""
        return {arm: seen.best for arm, seen in self.job(job_id).arms.items()}

    @abstractmethod
    def list_trials(self, job_id: str) -> list[TrialView]:
        """Return a job's trials, in the order in which they were made. Raises NotFoundError."""

    def trials(self, job_id: str) -> pandas.DataFrame:
        """Return a job's trials as a table, with a column for each hyperparameter. Raises NotFoundError."""
        return frames.of_trials(self.list_trials(job_id))

    @abstractmethod
    def reports(self, job_id: str, trial: str | None = None) -> Iterator[ReportView]:
        """Yield the reports of a job, or of one trial, by creation of the trials and then by step.

        They are read in pages. Reports that a trial makes after its last page was read are left out.

        Raises:
            NotFoundError: There is no such job, or it has no such trial. Raised when the first report is requested.
        """

    def curves(self, job_id: str) -> dict[str, LearningCurve]:
        """Return the learning curve of each trial that has a report, by the trial's id. Raises NotFoundError."""
        found: dict[str, tuple[list[int], list[float | None]]] = {}
        for report in self.reports(job_id):
            steps, values = found.setdefault(report.trial, ([], []))
            steps.append(report.step)
            values.append(report.value)
        return {trial: LearningCurve(*points) for trial, points in found.items()}

    def learning_curves(self, job_id: str, trial: str | None = None) -> pandas.DataFrame:
        """Return `reports` as a table: one row per report, with a column `metrics.NAME` for each metric.

        Raises:
            NotFoundError: There is no such job, or it has no such trial.
        """
        return frames.of_reports(self.reports(job_id, trial))

    @abstractmethod
    def spaces(self, job_id: str) -> dict[str, Space]:
        """Return the search space of each arm, as it was when the job was submitted. Raises NotFoundError."""

    def study(self, job_id: str, arm: str | None = None) -> optuna.Study:
        """Return a job's search as an Optuna study in memory, for `optuna.visualization` and the like.

        Reruns are not part of it: a verdict trial's value is of other data. A trial that DIVERGED, FAILED or was
        CANCELLED is a FAIL of Optuna. Each trial's `user_attrs` hold its id (`trial`), `arm`, `repeat`, `seed`,
        `state`, `reason` and `hyperparameters`.

        Args:
            job_id: The job.
            arm: Return only the trials of this arm, with the names of its coordinates. By default the trials of all
                arms, with a parameter `arm` if there are several; the names of coordinates of arms other than anon
                then begin with the arm's, as in `adamw.lr`.

        Raises:
            NotFoundError: There is no such job.
            InputError: The job has no such arm.
        """
        from anon_tune.jobs.studies import study_of  # and Optuna

        return study_of(
            self.job(job_id), self.spaces(job_id), self.list_trials(job_id), self.reports(job_id), arm
        )

    @abstractmethod
    def logs(self, job_id: str, trial: str | None = None, since: int | None = None) -> LogsView:
        """Return attempts with the output of their processes, and the job's log.

        Args:
            job_id: The job.
            trial: Return all attempts of this trial; by default those of all trials that did not end well.
            since: Return the log from this line on; by default its last 50 lines.

        Raises:
            NotFoundError: There is no such job, or it has no such trial.
        """

    @abstractmethod
    def pause(self, job_id: str) -> ChangeView:
        """Pause a job: let its running trials finish and start no new ones.

        Raises:
            NotFoundError: There is no such job.
            ConflictError: It is PAUSED, has ended or is being cancelled.
        """

    @abstractmethod
    def resume(self, job_id: str) -> ChangeView:
        """Queue a job again that is PAUSED, or whose process has died.

        Raises:
            NotFoundError: There is no such job.
            ConflictError: It is queued, is being worked on or has ended.
        """

    @abstractmethod
    def cancel(self, job_id: str) -> ChangeView:
        """End a job now; its results so far are kept.

        Raises:
            NotFoundError: There is no such job.
            ConflictError: It has ended.
        """

    @abstractmethod
    def delete(self, job_id: str, *, only_ended: bool = False) -> DeletionView:
        """Delete a job for good: its trials, reports, log, checkpoints, exports, and code that no other job uses.

        It no longer counts as evidence for advice. Its runs in MLflow stay.

        Args:
            job_id: The job.
            only_ended: Delete it only if it has ended; by default also if it is QUEUED or PAUSED.

        Raises:
            NotFoundError: There is no such job, or it was deleted before.
            ConflictError: It is RUNNING, or has not ended and `only_ended` is set.
        """

    def extend(
        self,
        job_id: str,
        trials: int | None = None,
        seconds: float | str | None = None,
        seeds: int | None = None,
    ) -> ChangeView:
        """Raise a job's budget; one that has SUCCEEDED is queued again.

        Args:
            job_id: The job.
            trials: The new total of search trials per arm.
            seconds: The new limit of the time for work on the job, in total; also as text with a unit, such as "3h".
            seeds: The new total of verdict seeds. The added ones get a test of their own.

        Raises:
            NotFoundError: There is no such job.
            InputError: None of the three is given, or one is out of range.
            SpecError: The search spaces do not have so many configurations.
            ConflictError: The budget is already that high, the job FAILED or was CANCELLED, or more seeds would
                decide nothing.
        """
        return self._extend(job_id, trials, _length("--time", seconds), seeds)

    @abstractmethod
    def _extend(
        self, job_id: str, trials: int | None, seconds: float | None, seeds: int | None
    ) -> ChangeView:
        """Raise a job's budget; `seconds` is a valid duration."""

    @abstractmethod
    def export(self, job_id: str, form: str = "yaml", arm: str = "anon") -> str:
        """Return an arm's best configuration as text, with its evidence.

        Args:
            job_id: The job.
            form: "yaml" or "json", which `anon_tune.load_optimizer` reads; or code: "python", "torch", "lightning" or
                "hugging-face".
            arm: The arm.

        Raises:
            NotFoundError: There is no such job.
            InputError: There is no such form, or the job has no such arm.
            ConflictError: The job has not chosen a configuration of this arm.
        """

    def figure(self, job_id: str, name: str) -> go.Figure:
        """Return a plotly figure of a job, by its name in `anon_tune.dashboards.charts.CHARTS`, such as "response".

        Raises:
            NotFoundError: There is no such job.
            InputError: There is no such figure.
        """
        from anon_tune.jobs.figures import figure_of  # and plotly

        return figure_of(self, job_id, name)

    def report(self, job_id: str) -> str:
        """Return a job as one HTML file to send or keep: answer, figures, tables, settings. Raises NotFoundError."""
        from anon_tune.dashboards.pages.report import report_page
        from anon_tune.jobs.figures import pictures_of

        config = None
        with contextlib.suppress(
            ConflictError, InputError
        ):  # no configuration of anon, or no arm of this name
            config = self.export(job_id)
        return report_page(self.job(job_id), self.list_trials(job_id), pictures_of(self, job_id), config)

    def advice(self, model: str | Fingerprint | nn.Module, log_mean_sigma: float | None = None) -> Advice:
        """Return the gamma to expect for a model, before any training.

        Args:
            model: A torch model, its fingerprint, or the name of a family: cnn, mlp, recurrent, transformer.
            log_mean_sigma: Scale of its gradients, as `anon_tune.workers.trial.probe` measures it. With it the advice
                includes an optimizer to start from.

        Raises:
            InputError: There is no such family.
        """
        if isinstance(model, str):
            model = Fingerprint(family=model)
        elif not isinstance(model, Fingerprint):
            model = Fingerprint.model_validate(fingerprint(model))
        return self._advice(model, log_mean_sigma)

    @abstractmethod
    def _advice(self, architecture: Fingerprint, log_mean_sigma: float | None) -> Advice:
        """Return the advice on a model, by its fingerprint."""

    @abstractmethod
    def workers(self) -> list[WorkerView]:
        """Return the processes that work on jobs, the longest running first; lost ones for a day."""

    def create_token(
        self,
        owner: str,
        role: Role,
        *,
        may_send_code: bool = False,
        expires: float | str | None = None,
    ) -> tuple[TokenView, str]:
        """Make a token for a user of a service, and return it with its secret, which is shown this once.

        Args:
            owner: Name of the user.
            role: Their permissions.
            may_send_code: Whether jobs submitted with it may bring code.
            expires: Seconds until it stops working, or text with a unit, such as "90d"; None for never.

        Raises:
            InputError: `owner` is not 1 to 64 printable characters, or `expires` is no duration.
        """
        return self._create_token(owner, role, may_send_code, _length("--expires", expires))

    @abstractmethod
    def _create_token(
        self, owner: str, role: Role, may_send_code: bool, seconds: float | None
    ) -> tuple[TokenView, str]:
        """Make a token; `seconds` is a valid duration."""

    @abstractmethod
    def tokens(self) -> list[TokenView]:
        """Return all tokens, the oldest first, without their secrets."""

    @abstractmethod
    def revoke_token(self, token_id: str) -> TokenView:
        """Revoke a token at once and for good. Raises NotFoundError."""

    @abstractmethod
    def audit(
        self, job: str | None = None, owner: str | None = None, since: datetime.datetime | None = None
    ) -> Iterator[AuditView]:
        """Yield what users did with jobs and tokens, newest first; a service shows it to admins.

        Args:
            job: Only actions on this job, which may have been deleted.
            owner: Only actions of this user.
            since: Only actions from this time on.
        """


class Result:
    """Result of a job.

    Attributes:
        job: The job as it was when the result was requested: `job.id`, `job.state`, `job.arms`, ...
    """

    def __init__(self, job: JobView, jobs: Jobs) -> None:
        self.job, self._jobs = job, jobs

    @property
    def best(self) -> dict[str, Any]:
        """The chosen hyperparameters of Anon. Raises ConflictError if there are none."""
        found = self.job.result.winners.get("anon") if self.job.result is not None else None
        if found is None:
            raise self._lacks("has not chosen a configuration")
        return dict(found.hyperparameters)

    @property
    def gamma(self) -> Gamma:
        """The gammas that do well, with the curve of the loss over gamma. Raises ConflictError without an answer."""
        if self.job.result is None:
            raise self._lacks("has no answer")
        return self.job.result.gamma

    def _lacks(self, what: str) -> ConflictError:
        why = f" ({self.job.reason})" if self.job.reason else ""
        return ConflictError(f"Job {self.job.id} is {self.job.state}{why} and {what}.")

    @property
    def verdict(self) -> dict[str, str]:
        """Verdict on Anon's winner, by baseline: "better", "worse", "practically equal" or "undecided"."""
        return self._outcomes("configuration")

    @property
    def optimizer_verdict(self) -> dict[str, str]:
        """Verdict on Anon as an optimizer, by baseline: like `verdict`, with the luck of the search as noise."""
        return self._outcomes("optimizer")

    def _outcomes(self, of: Literal["configuration", "optimizer"]) -> dict[str, str]:
        found = self.job.result.of(of) if self.job.result is not None else []
        return {each.baseline: each.outcome.value for each in found}

    @property
    def trials(self) -> pandas.DataFrame:
        """All trials as a table, with a column for each hyperparameter."""
        return self._jobs.trials(self.job.id)

    @property
    def learning_curves(self) -> pandas.DataFrame:
        """All reports as a table, with a column `metrics.NAME` for each metric."""
        return self._jobs.learning_curves(self.job.id)

    @property
    def reports(self) -> pandas.DataFrame:
        """All reports as a table; the same as `learning_curves`."""
        return self.learning_curves

    @property
    def study(self) -> optuna.Study:
        """The search of all arms as an Optuna study in memory; see `Jobs.study`, which also returns one arm's."""
        return self._jobs.study(self.job.id)

    def export(self, path: str | Path, arm: str = "anon") -> Path:
        """Write an arm's best configuration to a .yaml, .json or .py file. Raises ConflictError without one."""
        if self.job.result is None:
            raise self._lacks("has nothing to export yet")
        target = Path(path)
        target.write_text(self._jobs.export(self.job.id, form_of(target), arm), encoding="utf-8")
        return target

    def plot(self, name: str = "response") -> go.Figure:
        """Return a plotly figure of the job: "response", "verdict", "curves", "best", "surface", ...

        Raises InputError, which lists the names, for another one.
        """
        return self._jobs.figure(self.job.id, name)

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the report, with the figures of the response and the verdict."""
        from anon_tune.dashboards.pages.report import notebook_part
        from anon_tune.jobs.figures import pictures_of
        from anon_tune.jobs.notebook import takes_plotly

        pictures = pictures_of(self._jobs, self.job.id, ("response", "verdict"))
        return notebook_part(self.job, pictures, with_plotly=takes_plotly())

    def __repr__(self) -> str:
        job = self.job
        state = job.state.value
        if job.state is not JobState.SUCCEEDED and job.reason:
            state += f": {job.reason}"
        if job.result is not None:
            best = job.result.gamma.best
            state += f", gamma {'-' if best is None else f'{best:.3g}'}, {self.verdict}"
        return f"<Result of job {job.id} ({job.name}): {state}>"


def _length(option: str, duration: float | str | None) -> float | None:
    """Return a duration in seconds. Raises InputError, which names the option."""
    from anon_tune.spec import seconds

    try:
        return None if duration is None else seconds(duration)
    except ValueError as error:
        raise InputError(f"{option}: {error}") from None


def _job_file(job: str | Path | Mapping[str, Any] | JobFile, overrides: Sequence[str]) -> JobFile:
    from anon_tune.spec import JobFile, apply_overrides, read_job_file

    if isinstance(job, str | Path):
        return read_job_file(Path(job), overrides)
    if isinstance(job, Mapping):
        return JobFile(apply_overrides(job, overrides), folder=Path())
    return dataclasses.replace(job, document=apply_overrides(job.document, overrides))
