"""The page of advice: a gamma for each family of models, and for one family or model all that it rests on."""

from __future__ import annotations

import datetime
import functools
import json
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Form, Query
from fastapi.responses import HTMLResponse, Response
from pydantic import ValidationError

from anon_tune import submission
from anon_tune.advice.statement import Advice, Fingerprint
from anon_tune.catalogue import FAMILIES
from anon_tune.dashboards.charts import advice_chart, figure_json
from anon_tune.dashboards.pages import render
from anon_tune.ledger import Ledger
from anon_tune.service.pages.session import PageChanger, PageReader, PageUser
from anon_tune.service.schemas import Model

__all__ = ["router"]

_LARGEST_TEXT = 65_536
"""Most characters of a fingerprint; that of a large model has a few hundred, and a whole job a few thousand."""

_RECENT_JOBS = 50

router = APIRouter(prefix="/advice", include_in_schema=False)


@dataclass(frozen=True)
class Question:
    """The model that advice is asked for.

    Attributes:
        model: The model, or its family alone.
        name: Name of the model, if there is one.
        text: The pasted fingerprint.
        problem: Why the model is not known.
    """

    model: Model
    name: str | None = None
    text: str = ""
    problem: str | None = None


Family = Annotated[str, Query(max_length=32)]


@router.get("", response_class=HTMLResponse)
def advice(
    user: PageReader,
    family: Family = FAMILIES[0],
    job: Annotated[str | None, Query(max_length=32)] = None,
) -> str:
    """Show the advice for a family, or for the model of a job."""
    asked = _of_family(family) if not job else _of_job(user, job)
    return _page(user, asked)


@router.post("")
def advice_on_model(user: PageChanger, fingerprint: Annotated[str, Form()] = "") -> Response:
    """Show the advice for a pasted fingerprint. Stores nothing."""
    asked = _of_text(fingerprint)
    return HTMLResponse(_page(user, asked), 200 if asked.problem is None else 422)


@router.get("/chart.json")
def chart(user: PageReader, family: Family) -> Response:
    """Return the figure of the advice for a family."""
    found = _found(user, Model(architecture=Fingerprint(family=family), log_mean_sigma=None))
    return Response(figure_json(advice_chart(found)), media_type="application/json")


def _page(user: PageUser, asked: Question) -> str:
    recent = [job for job in user.user.jobs.job_page(_RECENT_JOBS) if job.gamma is not None]
    return render(
        "advice.html",
        user=user,
        page="Advice",
        by_family=_by_family(user),
        found=_found(user, asked.model),
        asked=asked,
        jobs=recent,
    )


def _by_family(user: PageUser) -> dict[str, Advice]:
    ledger = user.user.surroundings.ledger
    return _drawn(ledger, ledger.overviews.answers())


@functools.lru_cache(maxsize=2)
def _drawn(ledger: Ledger, answers: tuple[int, datetime.datetime | None]) -> dict[str, Advice]:
    """Return the advice for each family, drawn anew only when a job has succeeded: 400 jobs take 0.2 s."""
    return {family: submission.advice(ledger, family) for family in FAMILIES}


def _found(user: PageUser, model: Model) -> Advice:
    """Return the advice on a model. Raises InputError if there is no such family."""
    known = _by_family(user).get(model.architecture.family)
    if known is None or model.log_mean_sigma is not None:
        return user.user.jobs.advice(model.architecture, model.log_mean_sigma)
    return known


def _of_family(family: str, problem: str | None = None, text: str = "") -> Question:
    return Question(Model(architecture=Fingerprint(family=family), log_mean_sigma=None), None, text, problem)


def _of_job(user: PageUser, job_id: str) -> Question:
    """Return the question on a job's model. Raises NotFoundError."""
    job = user.user.jobs.job(job_id)
    if job.architecture is None:
        return _of_family(
            FAMILIES[0],
            f"Job {job_id} has not measured its model yet. Wait for its first trial, or choose another job.",
        )
    scale = job.probe.log_mean_sigma if job.probe is not None else None
    return Question(
        Model(architecture=job.architecture, log_mean_sigma=scale), f"{job.model} of job {job_id}"
    )


def _of_text(text: str) -> Question:
    """Return the question on a pasted fingerprint, alone or as a part of a document."""
    if len(text) > _LARGEST_TEXT:
        problem = f"The text has {len(text):,} characters; at most {_LARGEST_TEXT:,} are accepted."
        return _of_family(FAMILIES[0], problem)
    try:
        return Question(_model(json.loads(text)), "the pasted model", text)
    except (ValueError, RecursionError) as error:
        problem = (
            f"This is no fingerprint ({_said(error)}). Paste the output of `anon-tune suggest JOB.yaml --json` or of "
            '`anon-tune show JOB --json`, or write {"family": "cnn"}.'
        )
        return _of_family(FAMILIES[0], problem, text)


def _model(document: Any) -> Model:
    """Return the model of a document: a fingerprint, or what holds one as `architecture`. Raises ValueError."""
    if not isinstance(document, dict):
        raise ValueError("expected keys and values")
    architecture = document.get("architecture", document)
    probe = document.get("probe")
    scale = document.get("log_mean_sigma", probe.get("log_mean_sigma") if isinstance(probe, dict) else None)
    model = Model.model_validate({"architecture": architecture, "log_mean_sigma": scale})
    known = (*FAMILIES, "unknown")
    if model.architecture.family not in known:
        raise ValueError(f"family: expected one of {', '.join(known)}, found {model.architecture.family!r}")
    return model


def _said(error: ValueError | RecursionError) -> str:
    """Return an error in a line."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)
