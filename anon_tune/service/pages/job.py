"""The page of a job: its answer, its progress as it changes, and requests to it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Annotated

from fastapi import APIRouter, Depends, Form, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import ValidationError

from anon_tune.dashboards.charts import CHARTS
from anon_tune.dashboards.pages import job as contents
from anon_tune.dashboards.pages import render
from anon_tune.errors import ConflictError, InputError
from anon_tune.records import ENDED, JobState
from anon_tune.sentences import about_deletion
from anon_tune.service.access import JobId
from anon_tune.service.hub import Hub
from anon_tune.service.pages.mlflow import mlflow_of
from anon_tune.service.pages.session import PageOwner, PageReader, PageUser
from anon_tune.service.schemas import Extension
from anon_tune.spec import seconds
from anon_tune.texts import quoted
from anon_tune.views import JobView

__all__ = ["router"]

_LOG_LINES = 20
_FORMS = {
    "yaml": ("YAML, for anon_tune.load_optimizer", ".yaml"),
    "json": ("JSON, for anon_tune.load_optimizer", ".json"),
    "python": ("Python", ".py"),
    "torch": ("changes to a torch script", ".diff"),
    "lightning": ("Lightning", ".py"),
    "hugging-face": ("Hugging Face Trainer", ".py"),
}

router = APIRouter(prefix="/jobs/{job_id}", include_in_schema=False)

Field = Annotated[str, Form(max_length=40)]
ExportForm = Annotated[str, Query(max_length=20)]
Arm = Annotated[str, Query(max_length=64)]


@router.get("", response_class=HTMLResponse)
def page(job_id: JobId, user: PageReader) -> str:
    """Show a job."""
    return render("job.html", user=user, page="Jobs", **_values(user, user.user.jobs.job(job_id)))


@router.get("/content", response_class=HTMLResponse)
def content(job_id: JobId, user: PageReader) -> str:
    """Return the part of the page that depends on the job's state."""
    return _content(user, job_id)


def _content(
    user: PageUser, job_id: str, problem: str | None = None, typed: Mapping[str, str] | None = None
) -> str:
    job = user.user.jobs.job(job_id)
    return render("job_content.html", user=user, **_values(user, job, problem, typed))


def _values(
    user: PageUser, job: JobView, problem: str | None = None, typed: Mapping[str, str] | None = None
) -> dict[str, object]:
    failed = job.state is JobState.FAILED
    mlflow = mlflow_of(user.user.surroundings.settings)
    return {
        "job": job,
        "problem": problem,
        "typed": typed,
        "stage": _stage(job),
        "is_live": job.state not in ENDED,
        "state_lines": list(contents.about_state(job)),
        "log": (user.user.jobs.logs(job.id).job_log or [])[-_LOG_LINES:] if failed else [],
        "found": contents.found(job),
        "progress": contents.progress(job),
        "about_deletion": about_deletion(job.id, job.name, job.state, job.made),
        "actions": contents.actions(job),
        "may_change": user.may_change(job.owner),
        "mlflow": mlflow,
        "charts": CHARTS,
        "forms": {form: title for form, (title, _) in _FORMS.items()},
    }


def _stage(job: JobView) -> str:
    """Return what decides on the parts of the page; its progress is sent by itself."""
    parts = (job.state, job.requested or "", "abandoned" if job.is_abandoned else "", job.result is not None)
    return "-".join(str(part) for part in parts)


def _exists(job_id: JobId, user: PageReader) -> PageUser:
    user.user.surroundings.ledger.jobs.get(job_id)  # no status can be sent once events have begun
    return user


async def _streaming(
    user: Annotated[PageUser, Depends(_exists)], request: Request
) -> AsyncIterator[PageUser]:
    with request.app.state.streams.taken(user.user.token_id):
        yield user


@router.get("/live", response_class=EventSourceResponse)
async def live(
    job_id: JobId,
    user: Annotated[PageUser, Depends(_streaming)],
    request: Request,
    stage: Annotated[str, Query(max_length=80)] = "",
) -> AsyncIterator[ServerSentEvent]:
    """Send the progress of a job whenever it changes, and `changed` once its page is out of date.

    It is out of date, too, once the session has ended: the page then leads to the form that signs in.
    """
    hub: Hub = request.app.state.hub
    async with contextlib.aclosing(hub.watch(job_id, user.is_known)) as looks:
        async for look in looks:
            if _stage(look.job) != stage:
                yield ServerSentEvent(event="changed", raw_data=_stage(look.job))
                return
            yield ServerSentEvent(event="job", raw_data=look.text("progress", _progress))
    if not await run_in_threadpool(user.is_known):
        yield ServerSentEvent(event="changed", raw_data="")


def _progress(job: JobView) -> str:
    return render("job_progress.html", job=job, progress=contents.progress(job))


@router.post("/pause", response_class=HTMLResponse)
def pause(job_id: JobId, user: PageOwner) -> str:
    """Pause a job."""
    return _changed(user, job_id, lambda: user.user.jobs.pause(job_id))


@router.post("/resume", response_class=HTMLResponse)
def resume(job_id: JobId, user: PageOwner) -> str:
    """Queue a job again."""
    return _changed(user, job_id, lambda: user.user.jobs.resume(job_id))


@router.post("/cancel", response_class=HTMLResponse)
def cancel(job_id: JobId, user: PageOwner) -> str:
    """End a job now."""
    return _changed(user, job_id, lambda: user.user.jobs.cancel(job_id))


@router.post("/delete", response_class=HTMLResponse)
def delete(job_id: JobId, user: PageOwner) -> Response:
    """Delete a job, and lead to the list of jobs."""
    try:
        user.user.jobs.delete(job_id)
    except ConflictError as error:
        return HTMLResponse(_content(user, job_id, str(error)))
    return Response(headers={"HX-Redirect": "/"})


@router.post("/extend", response_class=HTMLResponse)
def extend(job_id: JobId, user: PageOwner, trials: Field = "", time: Field = "", seeds: Field = "") -> str:
    """Raise a job's budget; an empty field leaves it."""

    def request() -> object:
        new = _extension(trials, time, seeds)
        return user.user.jobs.extend(job_id, new.trials, new.time, new.seeds)

    typed = {"trials": trials, "time": time, "seeds": seeds}
    return _changed(user, job_id, request, typed)


def _extension(trials: str, time: str, seeds: str) -> Extension:
    """Return the new totals that a form asks for. Raises InputError."""
    given: dict[str, object] = {
        key: text for key, text in (("trials", trials), ("seeds", seeds)) if text.strip()
    }
    if not given and not time.strip():
        raise InputError("Enter a new total of trials, time or seeds.")
    try:
        if time.strip():
            given["time"] = seconds(time)
        return Extension.model_validate(given, strict=False)  # a form sends text
    except ValidationError as error:
        wrong = error.errors()[0]
        raise InputError(f"{wrong['loc'][0]}: {wrong['msg']}, found {quoted(wrong['input'])}") from None
    except ValueError as error:
        raise InputError(f"time: {error}") from None


def _changed(
    user: PageUser, job_id: str, request: Callable[[], object], typed: Mapping[str, str] | None = None
) -> str:
    """Make a request, and return the part of the page with what came of it.

    Args:
        user: The user.
        job_id: The job.
        request: Makes the request.
        typed: Fields of the form that extends a job, which stay if it is refused.
    """
    try:
        request()
    except (ConflictError, InputError) as error:
        return _content(user, job_id, str(error), typed)
    return _content(user, job_id)


@router.get("/export", response_class=HTMLResponse)
def export(job_id: JobId, user: PageReader, form: ExportForm = "python", arm: Arm = "anon") -> str:
    """Show the best configuration of an arm as text to copy."""
    text = user.user.jobs.export(job_id, form, arm)
    return render("job_export.html", job_id=job_id, form=form, arm=arm, text=text, file=_file_name(form))


@router.get("/export/file")
def export_file(job_id: JobId, user: PageReader, form: ExportForm = "yaml", arm: Arm = "anon") -> Response:
    """Send the best configuration of an arm as a file."""
    text = user.user.jobs.export(job_id, form, arm)
    headers = {"Content-Disposition": f'attachment; filename="{_file_name(form)}"'}
    return Response(text, media_type="text/plain; charset=utf-8", headers=headers)


def _file_name(form: str) -> str:
    return f"best{_FORMS[form][1]}"
