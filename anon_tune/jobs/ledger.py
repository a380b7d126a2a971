"""Jobs of a ledger, for the commands on this machine, `tune` and the routes of a service."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anon_tune import export
from anon_tune.advice.statement import UNKNOWN, Advice, Fingerprint
from anon_tune.errors import InputError, NotFoundError
from anon_tune.jobs.interface import Jobs
from anon_tune.ledger import Ledger
from anon_tune.records import ENDED, JobState, LearningCurve, ReportPlace, Role, TrialQuery
from anon_tune.settings import Settings
from anon_tune.views import (
    ChangeView,
    JobSummary,
    JobView,
    LogsView,
    ReportView,
    TokenView,
    TrialMatches,
    TrialView,
    attempt_view,
    job_summary,
    job_view,
    report_view,
    token_view,
    trial_view,
)

if TYPE_CHECKING:
    from anon_tune.estimate import Measured
    from anon_tune.search_spaces import Space
    from anon_tune.spec import JobFile, JobSpec

__all__ = ["LedgerJobs", "open_ledger"]

_LOG_LINES = 50
_SECRET_LENGTH = 32
_POLL_SECONDS = 0.5
_REPORT_PAGE = 1000
_SHOWN_OUTCOMES = {"LOST", "FAILED", "DIVERGED"}


def open_ledger(settings: Settings, seconds: float | None = None) -> Ledger:
    """Open the ledger that the settings name.

    Args:
        settings: The settings.
        seconds: Longest wait for the database; see `open_database`.

    Raises:
        AnonTuneError: As `open_database`; or the home folder cannot be used.
    """
    if settings.database_url is None:
        settings.make_home()
    return Ledger.open(settings.ledger_url, seconds)


class LedgerJobs(Jobs):
    """Jobs of a ledger that this process has open.

    Args:
        ledger: The ledger.
        settings: Name the folders of the jobs' files.
        owner: User of a service who submits the jobs; None on this machine.
    """

    def __init__(self, ledger: Ledger, settings: Settings, owner: str | None = None) -> None:
        self._ledger, self._settings, self._owner = ledger, settings, owner

    def close(self) -> None:
        self._ledger.close()

    def _submit(self, job: JobFile, priority: int, key: str | None, code: Path | None) -> JobSummary:
        from anon_tune import submission

        if code is not None:
            raise InputError(
                "Code is only sent to a service. On this machine modules are imported from the job file's folder."
            )
        return job_summary(submission.submit(self._ledger, job, self._settings, self._owner, priority, key))

    def submit_remote(
        self,
        document: Mapping[str, Any],
        spaces: Mapping[str, Mapping[str, Any]],
        priority: int = 0,
        key: str | None = None,
        code: str | None = None,
    ) -> JobSummary:
        """Queue a job that came over the network.

        Args:
            document: The keys and values of its job file.
            spaces: Search spaces that were sent with it, by the file names that the job gives them.
            priority: Workers claim the highest first.
            key: The same key with the same job returns the job that was made the first time.
            code: Digest of a stored archive; the job may name functions of its modules.

        Raises:
            SpecError: Lists every problem of the job, also names that are not available over the network.
            NotFoundError: There is no such code.
            InputError: `key` was used for another job.
        """
        from anon_tune import submission

        return job_summary(
            submission.submit_remote(
                self._ledger, document, spaces, self._settings, self._owner, priority, key, code
            )
        )

    def check_remote(self, document: Mapping[str, Any], spaces: Mapping[str, Mapping[str, Any]]) -> JobSpec:
        """Return a job that came over the network, without storing it. Raises SpecError as `submit_remote`."""
        from anon_tune import submission

        return submission.checked_remote(self._ledger, document, spaces, self._settings)[0]

    def measured_like(self, spec: JobSpec) -> Measured | None:
        """Return the newest job that measured the same model on the same data, or None."""
        from anon_tune import submission

        return submission.measured_like(self._ledger, spec)

    def store_code(self, digest: str, archive: bytes) -> None:
        """Store a zip of code for jobs that are submitted next. Raises InputError unless it has this digest."""
        from anon_tune import code_archive

        if code_archive.digest(archive) != digest:
            raise InputError(
                "The archive does not match its SHA-256 digest: it was truncated or changed. Send it again."
            )
        code_archive.modules(archive)
        self._ledger.archives.store(digest, archive, self._owner)

    def jobs(self) -> list[JobSummary]:
        return self.job_page()

    def job_page(self, limit: int | None = None, after: str | None = None) -> list[JobSummary]:
        """Return at most `limit` of `jobs`: those that follow the job `after`. Raises NotFoundError."""
        return [job_summary(job) for job in self._ledger.overviews.jobs(limit, after)]

    def job(self, job_id: str) -> JobView:
        return job_view(self._ledger.overviews.job(job_id))

    def list_trials(self, job_id: str) -> list[TrialView]:
        return self.trial_page(job_id)

    def trial_page(self, job_id: str, limit: int | None = None, after: str | None = None) -> list[TrialView]:
        """Return at most `limit` of `list_trials`: those that follow the trial `after`. Raises NotFoundError."""
        return [trial_view(trial) for trial in self._ledger.overviews.trials(job_id, limit, after)]

    def find_trials(self, job_id: str, query: TrialQuery) -> TrialMatches:
        """Return a page of the trials that a query asks for. Raises NotFoundError."""
        found, total = self._ledger.overviews.find_trials(job_id, query)
        return TrialMatches(trials=[trial_view(trial) for trial in found], total=total)

    def trial(self, job_id: str, trial_id: str) -> TrialView:
        """Return a trial. Raises NotFoundError."""
        return trial_view(self._ledger.overviews.trial(job_id, trial_id))

    def reports(self, job_id: str, trial: str | None = None) -> Iterator[ReportView]:
        page = self.report_page(job_id, _REPORT_PAGE, trial)
        while page:
            yield from page
            page = self.report_page(job_id, _REPORT_PAGE, trial, page[-1].place)

    def curves(
        self, job_id: str, points: int | None = None, trial: str | None = None
    ) -> dict[str, LearningCurve]:
        return self._ledger.overviews.curves(job_id, points, trial)

    def report_page(
        self, job_id: str, limit: int, trial: str | None = None, after: ReportPlace | None = None
    ) -> list[ReportView]:
        """Return at most `limit` of what `reports` yields: those that follow `after`. Raises NotFoundError."""
        found = self._ledger.overviews.reports(job_id, trial, limit=limit, after=after)
        return [report_view(report) for report in found]

    def spaces(self, job_id: str) -> dict[str, Space]:
        from anon_tune.search_spaces import Space

        stored = self._ledger.jobs.spaces(job_id)
        return {arm: Space.model_validate(space) for arm, space in stored.items()}

    def watch(self, job_id: str) -> Iterator[JobView]:
        last = None
        while True:
            seen = self.job(job_id)
            if seen != last:
                yield seen
                last = seen
            if seen.is_at_rest:
                return
            time.sleep(_POLL_SECONDS)

    def logs(self, job_id: str, trial: str | None = None, since: int | None = None) -> LogsView:
        attempts = self._ledger.attempts.of_job(job_id, trial, _SHOWN_OUTCOMES if trial is None else None)
        path = self._settings.job_folder(job_id) / "job.log"
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else None
        # The last line may still be incomplete: the next call returns it.
        lines = None if text is None else text.split("\n")[:-1]
        return LogsView(
            attempts=[attempt_view(attempt) for attempt in attempts],
            job_log=None if lines is None else lines[-_LOG_LINES:] if since is None else lines[since:],
            lines=len(lines or ()),
        )

    def pause(self, job_id: str) -> ChangeView:
        return self._change(job_id, self._ledger.jobs.pause(job_id))

    def resume(self, job_id: str) -> ChangeView:
        return self._change(job_id, self._ledger.jobs.resume(job_id))

    def cancel(self, job_id: str) -> ChangeView:
        state = self._ledger.jobs.cancel(job_id)
        self.remove_leftovers()
        return self._change(job_id, state)

    def _extend(
        self, job_id: str, trials: int | None, seconds: float | None, seeds: int | None
    ) -> ChangeView:
        from anon_tune import submission
        from anon_tune.spec import MOST_SEEDS

        if trials is None and seconds is None and seeds is None:
            raise InputError(
                f"Give trials, time or seeds. For example: anon-tune extend {job_id} --trials 40"
            )
        if trials is not None:
            submission.check_extended(self._ledger, job_id, trials)
        if seeds is not None and (type(seeds) is not int or seeds > MOST_SEEDS):
            raise InputError(f"--seeds: expected a whole number of at most {MOST_SEEDS}, found {seeds!r}")
        if seeds is not None and trials is None and seconds is None:
            submission.check_more_seeds(self._ledger, job_id)
        return self._change(job_id, self._ledger.jobs.extend(job_id, trials, seconds, seeds))

    def _change(self, job_id: str, state: JobState) -> ChangeView:
        return ChangeView(id=job_id, state=state, requested=self._ledger.jobs.get(job_id).requested)

    def export(self, job_id: str, form: str = "yaml", arm: str = "anon") -> str:
        return export.render(export.document(self._ledger.jobs.get(job_id), arm), form)

    def _advice(self, architecture: Fingerprint, log_mean_sigma: float | None) -> Advice:
        from anon_tune import submission
        from anon_tune.advice.start import start_of
        from anon_tune.catalogue import FAMILIES
        from anon_tune.documents import unknown

        family = architecture.family
        if family not in {*FAMILIES, UNKNOWN}:
            raise InputError(unknown("family", family, FAMILIES))
        found = submission.advice(self._ledger, family)
        if log_mean_sigma is None:
            return found
        return found.model_copy(update={"start": start_of(found, log_mean_sigma)})

    def create_token(
        self, owner: str, role: Role, secret: str | None = None, *, may_send_code: bool = False
    ) -> tuple[TokenView, str]:
        """Make a token for a user of a service, and return it with its secret, which is shown this once.

        `secret` is one that was generated elsewhere; giving it again changes nothing.

        Raises:
            InputError: `owner` is not 1 to 64 printable characters, or `secret` is shorter than 32.
        """
        if not owner.strip() or len(owner) > 64 or not owner.isprintable():
            raise InputError(f"{owner!r} cannot be the name of an owner: give 1 to 64 printable characters.")
        if secret is not None and len(secret) < _SECRET_LENGTH:
            raise InputError(f"A secret needs at least {_SECRET_LENGTH} random characters.")
        record, secret = self._ledger.tokens.create(owner, role, secret, may_send_code=may_send_code)
        return token_view(record), secret

    def tokens(self) -> list[TokenView]:
        return [token_view(token) for token in self._ledger.tokens.all()]

    def revoke_token(self, token_id: str) -> TokenView:
        return token_view(self._ledger.tokens.revoke(token_id))

    def remove_leftovers(self) -> None:
        """Delete files of killed drivers: checkpoints of jobs that have ended, and Ray temp directories."""
        from anon_tune.ray_temp import remove_abandoned

        remove_abandoned(self._settings)
        for folder in (self._settings.home / "jobs").glob("*/checkpoints"):
            job_id = folder.parent.name
            with contextlib.suppress(NotFoundError):  # of another ledger
                if self._ledger.jobs.get(job_id).state in ENDED:
                    shutil.rmtree(folder, ignore_errors=True)
