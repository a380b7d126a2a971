"""Submission of jobs: check a job, and store it in the ledger with its search spaces.

Only submissions load this module: commands that read jobs do not need the job file's schema.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

from anon_tune import catalogue, code_archive
from anon_tune.advice.evidence import evidence_of, shipped, subject_of
from anon_tune.advice.prior import advise
from anon_tune.advice.start import first_points
from anon_tune.advice.statement import Advice
from anon_tune.answer import Outcome
from anon_tune.documents import size_problem, walked
from anon_tune.errors import ConflictError, SpecError
from anon_tune.estimate import Measured
from anon_tune.ledger import Lease, Ledger, SubmissionKey
from anon_tune.records import LOCAL, Actor, JobRecord, JobState
from anon_tune.search_spaces import Space, new_space, space_names
from anon_tune.settings import Settings
from anon_tune.spec import (
    JobFile,
    JobSpec,
    extended,
    parse_spec,
    remote_spec,
    space_files,
    spaces_of,
    stored_spec,
    too_many,
)
from anon_tune.texts import cut

__all__ = [
    "advice",
    "check_extended",
    "check_more_seeds",
    "checked_remote",
    "measured_like",
    "start_job",
    "store_job",
    "submit",
    "submit_remote",
]

_log = logging.getLogger(__name__)

_LARGEST_INTEGER = 2**63

_MOST_JOBS = 100
"""Finished jobs of a family that advice is drawn from, the newest: a hundred take 25 ms of a core."""

_MOST_ALIKE = 20
"""Jobs of a task and model among which one with the same data is looked for, the newest."""


def store_job(
    ledger: Ledger,
    spec: JobSpec,
    spaces: Mapping[str, Space],
    *,
    priority: int = 0,
    by: Actor = LOCAL,
    submission: SubmissionKey | None = None,
    code: str | None = None,
) -> JobRecord:
    """Queue a job with its current search spaces; the advised gamma is among Anon's first points.

    Args:
        ledger: Ledger that stores it.
        spec: The job.
        spaces: Its search spaces, by arm.
        priority: Jobs with a higher one are claimed first.
        by: The user who submitted it.
        submission: Its identity; a repeated submission returns the job of the first one.
        code: Digest of a stored archive of code.

    Raises:
        InputError: The submission's key was used for another request.
    """
    document, plain = _stored(ledger, spec, spaces)
    return ledger.jobs.create(
        spec.name, document, plain, priority, owner=by.owner, submission=submission, code=code, by=by
    )


def start_job(ledger: Ledger, spec: JobSpec, holder: str, seconds: float) -> Lease:
    """Store a job as `store_job` does and acquire its lease in the same transaction, so no worker can claim it.

    Args:
        ledger: Ledger that stores it.
        spec: The job; its search spaces are read as they are now.
        holder: Name of the process that will work on it.
        seconds: Time for which the lease lasts without a heartbeat.
    """
    document, plain = _stored(ledger, spec, spaces_of(spec))
    with ledger.transaction() as transaction:
        job = transaction.jobs.create(spec.name, document, plain)
        return transaction.leases.acquire(job.id, holder, seconds)


def _stored(
    ledger: Ledger, spec: JobSpec, spaces: Mapping[str, Space]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return a job and its search spaces as JSON values; the advised gamma is among Anon's first points."""
    document = spec.model_dump(mode="json")
    stored = {**spaces, "anon": _advised(ledger, spec, subject_of(document), spaces["anon"])}
    return document, {arm: stored[arm].model_dump(mode="json") for arm in spaces}


def advice(ledger: Ledger, family: str, without: str | None = None) -> Advice:
    """Return the advice for a family, from its finished jobs and the searches that come with anon_tune.

    Searches of the subject `without` (`evidence.subject_of`) do not count.
    """
    jobs = ledger.overviews.answered(family, _MOST_JOBS)
    finished = [found for job in jobs if (found := evidence_of(job)) is not None]
    return advise(family, [*finished, *shipped()], without)


def _advised(ledger: Ledger, spec: JobSpec, subject: str, space: Space) -> Space:
    """Return Anon's space with the advised gamma among its first points, unless the user chose these.

    Jobs of the same model and data do not count, so a job that is run again starts in the same way.
    """
    own = spec.space not in space_names() or spec.search.try_first.get("anon")
    if own or spec.family not in catalogue.FAMILIES:
        return space
    gamma = advice(ledger, spec.family, subject).gamma
    return space if gamma is None else first_points(space, gamma)


def submit(
    ledger: Ledger,
    job: JobFile,
    settings: Settings,
    by: Actor,
    priority: int,
    key: str | None,
) -> JobRecord:
    """Queue a job whose files are on this machine. Raises SpecError; InputError if `key` was used for another job."""
    spec = parse_spec(job.document, job.source, job.folder, settings.data)
    submission = _submission(by.owner, key, job.document)
    return store_job(ledger, spec, spaces_of(spec), priority=priority, by=by, submission=submission)


def submit_remote(
    ledger: Ledger,
    document: Mapping[str, Any],
    spaces: Mapping[str, Mapping[str, Any]],
    settings: Settings,
    by: Actor,
    priority: int,
    key: str | None,
    code: str | None,
) -> JobRecord:
    """Queue a job that came over the network with its own search spaces, by file name.

    The settings define which data and which modules it may use. It may also use the modules in the archive that was
    stored under the digest `code`.

    Raises:
        SpecError: The job is invalid, or uses something that the settings do not allow.
        NotFoundError: There is no such code.
        InputError: `key` was used for another job.
    """
    spec, given = checked_remote(ledger, document, spaces, settings, code)
    asked = {"spec": document, "spaces": spaces, "priority": priority, "code": code}
    submission = _submission(by.owner, key, asked)
    return store_job(
        ledger, spec, spaces_of(spec, given), priority=priority, by=by, submission=submission, code=code
    )


def checked_remote(
    ledger: Ledger,
    document: Mapping[str, Any],
    spaces: Mapping[str, Mapping[str, Any]],
    settings: Settings,
    code: str | None = None,
) -> tuple[JobSpec, dict[str, Space]]:
    """Return a job that came over the network, and its own search spaces by file name. Raises as `submit_remote`."""
    if problem := size_problem([document, spaces]):
        raise SpecError("job", [problem])
    error = SpecError("job", _remote_problems(document, spaces))
    if error.problems:
        raise error
    given = {name: new_space(space, "job", f"spaces.{name}") for name, space in spaces.items()}
    brought = code_archive.modules(ledger.archives.get(code)) if code is not None else ()
    modules = (*settings.modules, *brought)
    return remote_spec(document, given, modules, settings.data, with_code=code is not None), given


def measured_like(ledger: Ledger, spec: JobSpec) -> Measured | None:
    """Return the newest measured job of the same model, data, batch size and unit of the budget; None without one."""
    document = spec.model_dump(mode="json")
    model = document["model"]["name"] if document["model"] else None
    for job in ledger.overviews.measured(spec.task, model, _MOST_ALIKE):
        try:
            other = stored_spec(job.spec)
        except SpecError as error:
            _log.warning("job %s: %s", job.id, error)
            continue
        is_alike = (other.training.batch_size, other.budget.unit) == (
            spec.training.batch_size,
            spec.budget.unit,
        )
        if is_alike and subject_of(job.spec) == subject_of(document):
            arms = ledger.overviews.job(job.id).arms.values()
            return Measured(job.id, job.probe or {}, job.spent, sum(arm.steps for arm in arms))
    return None


def check_extended(ledger: Ledger, job_id: str, trials: int) -> None:
    """Raise SpecError if a job cannot have so many trials per arm; NotFoundError if there is no such job."""
    spaces = {arm: Space.model_validate(space) for arm, space in ledger.jobs.spaces(job_id).items()}
    extended(stored_spec(ledger.jobs.get(job_id).spec), spaces, trials)


def check_more_seeds(ledger: Ledger, job_id: str) -> None:
    """Raise ConflictError if more verdict seeds would decide nothing; NotFoundError if there is no such job."""
    job = ledger.jobs.get(job_id)
    spec = stored_spec(job.spec)
    if spec.seeds == "fixed":
        raise ConflictError(f"Job {job_id} states `seeds: fixed`, so more seeds would change nothing.")
    if len(spec.arms) == 1:
        raise ConflictError(
            f"Job {job_id} has no baseline to compare with, so more seeds would change nothing."
        )
    answer = job.answer
    if job.state is not JobState.SUCCEEDED or answer is None:
        return
    if all(each.outcome is not Outcome.UNDECIDED for each in answer.of("configuration")):
        raise ConflictError(
            f"Every comparison of job {job_id} is decided: more seeds would change nothing. `anon-tune extend "
            f"{job_id} --trials N` searches on."
        )


def _submission(owner: str | None, key: str | None, asked: Mapping[str, Any]) -> SubmissionKey | None:
    if key is None:
        return None
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()
    return SubmissionKey(owner or "", key, digest)


def _remote_problems(document: Mapping[str, Any], spaces: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield the problems of a job from the network before it is read."""
    yield from _unstorable(document, "spec")
    yield from _unstorable(spaces, "spaces")
    named = set(space_files(document))
    for name in spaces:
        if name not in named:
            yield f"spaces.{cut(name)}: the job does not use a file of this name"
    if problem := too_many("spaces", spaces):
        yield problem


def _unstorable(value: Any, root: str) -> Iterator[str]:
    """Yield a message, with its path, for each part of a JSON value that some databases cannot store."""
    for place, part in walked(value, root):
        if place.above is not None and isinstance(place.key, str) and not _is_text(place.key):
            yield f"{place.above}: a key contains characters that cannot be stored"
        elif isinstance(part, str) and not _is_text(part):
            yield f"{place}: contains characters that cannot be stored"
        elif isinstance(part, int | float) and not _is_plain(part):
            yield f"{place}: expected a finite number, and no integer beyond 64 bits"


def _is_plain(number: float) -> bool:
    return abs(number) < _LARGEST_INTEGER if isinstance(number, int) else math.isfinite(number)


def _is_text(text: str) -> bool:
    """Whether a text can be stored: it has no NUL, and can be encoded. JSON may hold a lone surrogate."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False
