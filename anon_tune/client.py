"""Jobs from a script or a notebook: `Client` submits and watches them, `Result` is what a job has found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from anon_tune.advice.statement import Advice, Fingerprint
from anon_tune.answer import Gamma
from anon_tune.architecture import fingerprint
from anon_tune.backend import Backend
from anon_tune.errors import ConflictError
from anon_tune.export import form_of
from anon_tune.local import LocalBackend, open_ledger
from anon_tune.remote import RemoteBackend
from anon_tune.settings import Settings
from anon_tune.spec import JobFile, apply_overrides, read_job_file
from anon_tune.views import ChangeView, JobSummary, JobView, ReportView

if TYPE_CHECKING:
    import pandas
    from torch import nn

__all__ = ["Client", "Result"]


class Result:
    """What a job has found.

    Attributes:
        job: The job as it was when it was asked for: `job.id`, `job.state`, `job.arms`, ...
    """

    def __init__(self, job: JobView, backend: Backend) -> None:
        self.job, self._backend = job, backend

    @property
    def best(self) -> dict[str, Any]:
        """The hyperparameters of Anon that were chosen. Raises ConflictError where there are none."""
        found = self.job.result.winners.get("anon") if self.job.result is not None else None
        if found is None:
            why = f" ({self.job.reason})" if self.job.reason else ""
            raise ConflictError(
                f"Job {self.job.id} is {self.job.state}{why}, and has chosen no configuration."
            )
        return dict(found.hyperparameters)

    @property
    def gamma(self) -> Gamma | None:
        """Which gammas do well, with the curve of the loss over gamma; None before there is an answer."""
        return self.job.result.gamma if self.job.result is not None else None

    @property
    def verdict(self) -> dict[str, str]:
        """By baseline, of the winners: whether Anon's is "better", "worse", "practically equal" or "undecided"."""
        return self._outcomes("configuration")

    @property
    def optimizer_verdict(self) -> dict[str, str]:
        """By baseline, of the optimizers as they were tuned: the same, with the luck of the search allowed for."""
        return self._outcomes("optimizer")

    def _outcomes(self, of: Literal["configuration", "optimizer"]) -> dict[str, str]:
        found = self.job.result.of(of) if self.job.result is not None else []
        return {each.baseline: each.outcome.value for each in found}

    @property
    def trials(self) -> pandas.DataFrame:
        """All trials, a row each, with a column for each hyperparameter."""
        return _frame(self._backend, self.job.id)

    @property
    def learning_curves(self) -> pandas.DataFrame:
        """All reports of all trials, a row each, with a column `metrics.NAME` for each metric."""
        return _curves(self._backend.reports(self.job.id))

    def export(self, path: str | Path, arm: str = "anon") -> Path:
        """Write an arm's best configuration to a file: .yaml, .json or .py. Raises ConflictError if there is none."""
        target = Path(path)
        target.write_text(self._backend.export(self.job.id, form_of(target), arm), encoding="utf-8")
        return target

    def __repr__(self) -> str:
        gamma = "-" if self.gamma is None or self.gamma.best is None else f"{self.gamma.best:.3g}"
        return f"<Result of job {self.job.id} ({self.job.name}): {self.job.state}, gamma {gamma}, {self.verdict}>"


class Client:
    """Jobs of a service; without an address and without ANON_TUNE_SERVER, those of the ledger on this machine.

    Args:
        server: Address of the service, such as "http://127.0.0.1:8000".
        token: The token to ask with. Default: ANON_TUNE_TOKEN.
        patience: Seconds for which a service is waited for that has not answered yet; one that has, a minute or more.

    Raises:
        InputError: `server` is no address.
    """

    def __init__(self, server: str | None = None, token: str | None = None, patience: float = 30.0) -> None:
        settings = Settings.from_environment()
        server = server or settings.server
        if token is None and settings.token is not None:
            token = settings.token.get_secret_value()
        self._backend: Backend = (
            LocalBackend(open_ledger(settings), settings)
            if server is None
            else RemoteBackend(server, token, patience)
        )

    def close(self) -> None:
        """Give the connections back; results of jobs that were asked for need them too."""
        self._backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(
        self,
        job: str | Path | Mapping[str, Any],
        overrides: Sequence[str] = (),
        *,
        priority: int = 0,
        key: str | None = None,
        code: str | Path | None = None,
    ) -> JobSummary:
        """Queue a job for a worker, and return it; its id is what the other methods take.

        Args:
            job: A job file's path, or its keys and values.
            overrides: Each "key.path=value", as `--set` of the command line.
            priority: Workers take the highest first.
            key: The same key with the same job again gives the same job: for who may be interrupted in between.
            code: A folder whose modules go along, to a service that allows it.

        Raises:
            SpecError: Every problem at once, each with its key's path.
        """
        if isinstance(job, str | Path):
            job_file = read_job_file(Path(job), overrides)
        else:
            job_file = JobFile(apply_overrides(job, overrides), folder=Path())
        return self._backend.submit(job_file, priority, key, None if code is None else Path(code))

    def jobs(self) -> list[JobSummary]:
        """All jobs, newest first."""
        return self._backend.jobs()

    def job(self, job_id: str) -> JobView:
        """A job as it is now. Raises NotFoundError."""
        return self._backend.job(job_id)

    def watch(self, job_id: str) -> Iterator[JobView]:
        """Yield the job whenever it has changed, until it has ended or is PAUSED. Raises NotFoundError."""
        return self._backend.watch(job_id)

    def result(self, job_id: str) -> Result:
        """Wait until a job has ended or is PAUSED, and return what it has found. Raises NotFoundError."""
        for _ in self._backend.watch(job_id):
            pass
        return Result(self._backend.job(job_id), self._backend)

    def trials(self, job_id: str) -> pandas.DataFrame:
        """A job's trials, a row each, with a column for each hyperparameter. Raises NotFoundError."""
        return _frame(self._backend, job_id)

    def reports(self, job_id: str, trial: str | None = None) -> Iterator[ReportView]:
        """Yield the reports of a job, or of one trial, by creation of the trials and then by step.

        Raises:
            NotFoundError: No such job, or it has no such trial; when the first report is asked for.
        """
        return self._backend.reports(job_id, trial)

    def learning_curves(self, job_id: str, trial: str | None = None) -> pandas.DataFrame:
        """The same as `reports`, a row each, with a column `metrics.NAME` for each metric. Raises NotFoundError."""
        return _curves(self._backend.reports(job_id, trial))

    def pause(self, job_id: str) -> ChangeView:
        """Pause a job: let its running trials finish and start no new ones."""
        return self._backend.pause(job_id)

    def resume(self, job_id: str) -> ChangeView:
        """Queue a paused job again."""
        return self._backend.resume(job_id)

    def cancel(self, job_id: str) -> ChangeView:
        """End a job now; what it has done is kept."""
        return self._backend.cancel(job_id)

    def extend(
        self, job_id: str, trials: int | None = None, seconds: float | None = None, seeds: int | None = None
    ) -> ChangeView:
        """Raise a job's budget to `trials` per arm, to `seconds`, or to `seeds` of the verdict."""
        return self._backend.extend(job_id, trials, seconds, seeds)

    def advice(self, model: str | Fingerprint | nn.Module, log_mean_sigma: float | None = None) -> Advice:
        """Return which gamma to expect of a model before anything is spent on it.

        Args:
            model: A model of torch, its fingerprint, or the name of a family: cnn, mlp, recurrent, transformer.
            log_mean_sigma: Scale of its gradients, as `anon_tune.workers.trial.probe` measures it; then the
                advice has an optimizer to start from.

        Raises:
            InputError: There is no such family.
        """
        if isinstance(model, str):
            model = Fingerprint(family=model)
        elif not isinstance(model, Fingerprint):
            model = Fingerprint.model_validate(fingerprint(model))
        return self._backend.advice(model, log_mean_sigma)


def _frame(backend: Backend, job_id: str) -> pandas.DataFrame:
    import pandas

    rows = []
    for trial in backend.trials(job_id):
        row = trial.model_dump(mode="json", exclude={"params", "hyperparameters"})
        rows.append({**row, **trial.hyperparameters})
    return pandas.DataFrame(rows)


def _curves(reports: Iterable[ReportView]) -> pandas.DataFrame:
    import pandas

    rows = [report.row() for report in reports]
    frame = pandas.DataFrame(rows, columns=None if rows else ReportView.columns())
    numbers = [name for name in frame if name == "value" or name.startswith("metrics.")]
    frame = frame.astype(dict.fromkeys(numbers, float))  # null is NaN there, also in a column of nothing else
    frame["time"] = pandas.to_datetime(frame["time"], format="ISO8601", utc=True)
    return frame
