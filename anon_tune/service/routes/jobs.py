"""Jobs: submit, list, watch, stop, export."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import PlainTextResponse, StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.convertors import StringConvertor, register_url_convertor

from anon_tune.jobs.files import csv_text
from anon_tune.records import ReportPlace
from anon_tune.search_spaces import Space
from anon_tune.service.access import JobId, Owner, Reader, Submitter, User, Watcher
from anon_tune.service.hub import Hub
from anon_tune.service.problems import responses
from anon_tune.service.schemas import Extension, JobPage, ReportPage, Submission, TrialPage
from anon_tune.views import (
    BestView,
    ChangeView,
    DeletionView,
    JobSummary,
    JobView,
    LogsView,
    ReportView,
    TrialView,
)

__all__ = ["router"]

_MEDIA_TYPES = {
    "yaml": "application/yaml",
    "json": "application/json",
    "python": "text/x-python",
    "torch": "text/x-diff",
    "lightning": "text/x-python",
    "hugging-face": "text/x-python",
}


class CsvResponse(StreamingResponse):
    """CSV, sent in chunks."""

    media_type = "text/csv"


class JobConvertor(StringConvertor):
    """Id of a job in a path, which ends before the verb of `/jobs/{id}:pause`: that path takes POST alone."""

    regex = "[^/:]+"


register_url_convertor("job", JobConvertor())

router = APIRouter(prefix="/jobs", tags=["jobs"])

Limit = Annotated[int, Query(ge=1, le=1000, description="Items per page.")]
After = Annotated[str | None, Query(max_length=96, description="`next` of the previous page.")]
AfterReport = Annotated[
    str | None,
    Query(max_length=106, pattern="^.+:[0-9]{1,9}$", description="`next` of the previous page: TRIAL:STEP."),
]
AfterStep = Annotated[
    int, Query(ge=0, lt=2**31, description="`next` of the previous page, or the step to start after.")
]
TrialId = Annotated[str, Path(max_length=96, examples=["93gk79-anon-s003"])]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="Repeating the request with the same key returns the same job.",
    ),
]


@router.post("", status_code=201, responses=responses(400, 404))
def submit(
    body: Submission, user: Submitter, request: Request, response: Response, key: Key = None
) -> JobSummary:
    """Queue a job for a worker."""
    if body.code is not None:
        user.check_may_send_code()
    job = user.jobs.submit_remote(body.spec, body.spaces, body.priority, key, body.code)
    response.headers["Location"] = str(request.url_for("job", job_id=job.id).path)
    return job


@router.get("", responses=responses(404))
def jobs(user: Reader, limit: Limit = 50, after: After = None) -> JobPage:
    """List jobs, newest first."""
    found = user.jobs.job_page(limit + 1, after)
    return JobPage(items=found[:limit], next=found[limit - 1].id if len(found) > limit else None)


@router.get("/{job_id:job}", responses=responses(404))
def job(job_id: JobId, user: Reader) -> JobView:
    """Show a job: the progress of its arms, and its answer once it has one."""
    return user.jobs.job(job_id)


@router.get("/{job_id}/trials", responses=responses(404))
def trials(job_id: JobId, user: Reader, limit: Limit = 100, after: After = None) -> TrialPage:
    """List a job's trials, in order of creation."""
    found = user.jobs.trial_page(job_id, limit + 1, after)
    return TrialPage(items=found[:limit], next=found[limit - 1].id if len(found) > limit else None)


@router.get("/{job_id}/trials/{trial_id}/reports", responses=responses(404))
def trial_reports(
    job_id: JobId, trial_id: TrialId, user: Reader, limit: Limit = 100, after: AfterStep = 0
) -> ReportPage:
    """List a trial's reports, its learning curve, by step."""
    found = user.jobs.report_page(job_id, limit + 1, trial_id, ReportPlace(trial_id, after))
    return ReportPage(items=found[:limit], next=str(found[limit - 1].step) if len(found) > limit else None)


@router.get("/{job_id}/reports", responses=responses(404))
def reports(job_id: JobId, user: Reader, limit: Limit = 100, after: AfterReport = None) -> ReportPage:
    """List the reports of all trials of a job, in the order of `trials` and then by step."""
    place = None
    if after is not None:
        trial, _, step = after.rpartition(":")
        place = ReportPlace(trial, int(step))
    found = user.jobs.report_page(job_id, limit + 1, after=place)
    last = found[limit - 1] if len(found) > limit else None
    return ReportPage(items=found[:limit], next=f"{last.trial}:{last.step}" if last else None)


@router.get("/{job_id}/trials.csv", response_class=CsvResponse, responses=responses(404))
def trials_csv(job_id: JobId, user: Reader) -> CsvResponse:
    """Download all trials as CSV, with a column for each hyperparameter."""
    trials = user.jobs.list_trials(job_id)
    return _table(f"{job_id}-trials.csv", (trial.row() for trial in trials), TrialView.columns())


@router.get("/{job_id}/reports.csv", response_class=CsvResponse, responses=responses(404))
def reports_csv(job_id: JobId, user: Reader) -> CsvResponse:
    """Download the reports of all trials as CSV, with a column for each metric."""
    reports = user.jobs.reports(job_id)
    return _table(f"{job_id}-reports.csv", (report.row() for report in reports), ReportView.columns())


def _table(name: str, rows: Iterable[Mapping[str, Any]], columns: Mapping[str, type]) -> CsvResponse:
    """Send rows as a file. All rows are read before the first byte is sent, so that errors have their status."""
    chunks = csv_text(rows, columns)
    first = next(chunks)
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return CsvResponse(itertools.chain([first], chunks), headers=headers)


@router.get("/{job_id}/spaces", responses=responses(404))
def spaces(job_id: JobId, user: Reader) -> dict[str, Space]:
    """Show the search space of each arm, as it was when the job was submitted."""
    return user.jobs.spaces(job_id)


@router.get("/{job_id}/best", responses=responses(404))
def best(job_id: JobId, user: Reader) -> dict[str, BestView | None]:
    """Show the best search trial of each arm so far."""
    return user.jobs.best(job_id)


@router.get("/{job_id}/logs", responses=responses(404))
def logs(
    job_id: JobId,
    user: Reader,
    trial: Annotated[str | None, Query(max_length=96)] = None,
    since: Annotated[
        int | None, Query(ge=0, le=2**31, description="`lines` of the previous response.")
    ] = None,
) -> LogsView:
    """Show attempts that did not end well (of `trial`: all), and the job's log: its end, or its new lines."""
    return user.jobs.logs(job_id, trial, since)


@router.get(
    "/{job_id}/export",
    response_class=PlainTextResponse,
    responses={
        200: {"content": {media: {"schema": {"type": "string"}} for media in _MEDIA_TYPES.values()}},
        **responses(404, 409),
    },
)
def export(
    job_id: JobId,
    user: Reader,
    form: Annotated[
        Literal["yaml", "json", "python", "torch", "lightning", "hugging-face"], Query(alias="format")
    ] = "yaml",
    arm: Annotated[str, Query(max_length=32)] = "anon",
) -> Response:
    """Export an arm's best configuration, with its evidence."""
    return Response(user.jobs.export(job_id, form, arm), media_type=_MEDIA_TYPES[form])


async def _streaming(user: Watcher, request: Request) -> AsyncIterator[User]:
    with request.app.state.streams.taken(user.token_id):
        yield user


@router.get("/{job_id}/events", response_class=EventSourceResponse, responses=responses(404, 429))
async def events(
    job_id: JobId, user: Annotated[User, Depends(_streaming)], request: Request
) -> AsyncIterator[ServerSentEvent]:
    """Watch a job: send it as an event `job` whenever it changes, until it has ended or is PAUSED.

    Each event holds the whole job, so a client that reconnects misses nothing.
    """
    hub: Hub = request.app.state.hub
    async with contextlib.aclosing(hub.watch(job_id, user.is_known)) as looks:
        async for look in looks:
            yield ServerSentEvent(event="job", raw_data=look.text("json", JobView.model_dump_json))
            if look.job.is_at_rest:
                return


@router.post("/{job_id}:pause", responses=responses(404, 409))
def pause(job_id: JobId, user: Owner) -> ChangeView:
    """Pause a job: let its running trials finish and start no new ones."""
    return user.jobs.pause(job_id)


@router.post("/{job_id}:resume", responses=responses(404, 409))
def resume(job_id: JobId, user: Owner) -> ChangeView:
    """Queue a paused job again."""
    return user.jobs.resume(job_id)


@router.post("/{job_id}:cancel", responses=responses(404, 409))
def cancel(job_id: JobId, user: Owner) -> ChangeView:
    """End a job now; its results so far are kept."""
    return user.jobs.cancel(job_id)


@router.delete("/{job_id:job}", responses=responses(404, 409))
def delete(
    job_id: JobId,
    user: Owner,
    only_ended: Annotated[bool, Query(description="Delete it only if it has ended.")] = False,
) -> DeletionView:
    """Delete a job that is not RUNNING, for good: trials, reports, files, and code that no other job uses."""
    return user.jobs.delete(job_id, only_ended=only_ended)


@router.post("/{job_id}:extend", responses=responses(400, 404, 409))
def extend(job_id: JobId, body: Extension, user: Owner) -> ChangeView:
    """Give a job more trials, time or verdict seeds; one that has SUCCEEDED is queued again."""
    return user.jobs.extend(job_id, body.trials, body.time, body.seeds)
