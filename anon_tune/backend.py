"""What users do with jobs, wherever these are.

`anon_tune.local.LocalBackend` has them in a ledger, `anon_tune.remote.RemoteBackend` has a service's, over HTTP.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from anon_tune.advice.statement import Advice, Fingerprint
from anon_tune.records import Role
from anon_tune.views import (
    BestView,
    ChangeView,
    JobSummary,
    JobView,
    LogsView,
    ReportView,
    TokenView,
    TrialView,
)

if TYPE_CHECKING:
    from anon_tune.spec import JobFile

__all__ = ["API", "Backend"]

API = "/api/v1"
"""Path below which a service has what it is asked."""


class Backend(Protocol):
    """Jobs, wherever they are. Every method may raise AnonTuneError; DependencyError where they are out of reach."""

    def close(self) -> None:
        """Give the connections back."""
        ...

    def submit(
        self, job: JobFile, priority: int = 0, key: str | None = None, code: Path | None = None
    ) -> JobSummary:
        """Queue a job; the same `key` with the same job again gives the job that it made.

        `code` is a folder whose modules go along to a service.

        Raises:
            SpecError: Every problem at once, each with its key's path.
            InputError: There is no such folder, or the jobs are on this machine, which has the code.
        """
        ...

    def jobs(self) -> list[JobSummary]:
        """All jobs, newest first."""
        ...

    def job(self, job_id: str) -> JobView:
        """One job with what its arms have done. Raises NotFoundError."""
        ...

    def trials(self, job_id: str) -> list[TrialView]:
        """A job's trials, in the order in which they were made. Raises NotFoundError."""
        ...

    def reports(self, job_id: str, trial: str | None = None) -> Iterator[ReportView]:
        """Yield the reports of a job, or of one trial, by creation of the trials and then by step.

        They are read in pages. What a trial reports after its last page was read is left out.

        Raises:
            NotFoundError: No such job, or it has no such trial; when the first report is asked for.
        """
        ...

    def best(self, job_id: str) -> dict[str, BestView | None]:
        """The best search trial of each arm so far. Raises NotFoundError."""
        ...

    def watch(self, job_id: str) -> Iterator[JobView]:
        """The job whenever it has changed, until it has ended or is PAUSED. Raises NotFoundError."""
        ...

    def logs(self, job_id: str, trial: str | None = None, since: int | None = None) -> LogsView:
        """Attempts that did not end well, or all at one trial, and the job's log: its end, or from a line on.

        Raises:
            NotFoundError: No such job, or it has no such trial.
        """
        ...

    def pause(self, job_id: str) -> ChangeView:
        """Pause a job: let its running trials finish. Raises as `Ledger.pause`."""
        ...

    def resume(self, job_id: str) -> ChangeView:
        """Queue a paused job again. Raises as `Ledger.resume`."""
        ...

    def cancel(self, job_id: str) -> ChangeView:
        """End a job now. Raises as `Ledger.cancel`."""
        ...

    def extend(
        self, job_id: str, trials: int | None = None, seconds: float | None = None, seeds: int | None = None
    ) -> ChangeView:
        """Raise a job's budget to `trials` per arm, to `seconds`, or to `seeds` of the verdict.

        Raises as `Ledger.extend`; SpecError; ConflictError where more seeds would compare nothing.
        """
        ...

    def export(self, job_id: str, form: str = "yaml", arm: str = "anon") -> str:
        """An arm's best configuration as text. Raises ConflictError where there is none yet, InputError."""
        ...

    def advice(self, architecture: Fingerprint, log_mean_sigma: float | None = None) -> Advice:
        """Which gamma to expect of a model, by its fingerprint; the family in it is enough.

        With the gradient scale of the model, as the probe measures it, also the optimizer to start from.

        Raises:
            InputError: The family is unknown.
        """
        ...

    def create_token(self, owner: str, role: Role, *, may_send_code: bool = False) -> tuple[TokenView, str]:
        """Make a token for `owner`, and return it with its secret, which is shown this once."""
        ...

    def tokens(self) -> list[TokenView]:
        """All tokens, the oldest first."""
        ...

    def revoke_token(self, token_id: str) -> TokenView:
        """Take a token back. Raises NotFoundError."""
        ...
