"""Requests to the service, and responses that are not views."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from anon_tune.advice.statement import Fingerprint
from anon_tune.records import Role
from anon_tune.spec import LONGEST_SECONDS, SHORTEST_SECONDS
from anon_tune.views import AuditView, JobSummary, ReportView, TokenView, TrialView

__all__ = [
    "AuditPage",
    "Extension",
    "Health",
    "JobPage",
    "Link",
    "Model",
    "NewToken",
    "Readiness",
    "ReportPage",
    "SecretToken",
    "Submission",
    "TrialPage",
]

_EXAMPLE: JsonDict = {
    "spec": {
        "name": "digits-cnn",
        "task": "image_classification",
        "data": "digits",
        "model": {"name": "cnn", "width": 16},
        "space": "cnn",
        "budget": {"trials": 20, "epochs": 12},
    }
}


class _Body(BaseModel):
    """Base class of requests: what is no number is not taken for one, nor 0 for false."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Submission(_Body):
    """A job for the queue."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    spec: dict[str, Any] = Field(description="The job, with the keys of a job file.")
    spaces: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="Your own search spaces, by the file name that the job uses ('muon.yaml').",
    )
    code: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="Digest of an archive that was sent before with PUT /code/{digest}.",
    )
    priority: Annotated[int, Field(ge=-1000, le=1000, description="Workers claim the highest first.")] = 0


class Extension(_Body):
    """New totals of a job's budget."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"trials": 40}], "minProperties": 1})

    trials: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        None, description="Total search trials per arm."
    )
    time: Annotated[float, Field(ge=SHORTEST_SECONDS, le=LONGEST_SECONDS, allow_inf_nan=False)] | None = (
        Field(None, description="Total seconds of work on the job.")
    )
    seeds: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Total verdict seeds. The added ones get a test of their own."
    )


class Model(_Body):
    """A model to get advice for."""

    architecture: Fingerprint
    log_mean_sigma: Annotated[float, Field(ge=-200, le=200)] | None = Field(
        None, description="Scale of the model's gradients, as the probe of a job measures it."
    )


class NewToken(_Body):
    """A token to create."""

    owner: str = Field(
        min_length=1,
        max_length=64,
        description="The user's name; jobs submitted with the token belong to them.",
    )
    role: Role = Field(Role.SUBMIT, strict=False)  # JSON has no enums
    may_send_code: bool = Field(False, description="Whether jobs submitted with it may bring code.")
    expires_in: Annotated[float, Field(ge=1, le=LONGEST_SECONDS, allow_inf_nan=False)] | None = Field(
        None, description="Seconds until it stops working; null for never."
    )


class Link(_Body):
    """A link that signs a browser in."""

    next: str = Field(
        "/", max_length=500, pattern=r"^/([^/\\].*)?$", description="Path of the page that it leads to."
    )


class SecretToken(TokenView):
    """A new token. Its secret is shown only once."""

    secret: str


class JobPage(BaseModel):
    """Jobs, newest first."""

    items: list[JobSummary]
    next: str | None = Field(description="`after` of the next page; null on the last one.")


class TrialPage(BaseModel):
    """Trials, in order of creation."""

    items: list[TrialView]
    next: str | None = Field(description="`after` of the next page; null on the last one.")


class ReportPage(BaseModel):
    """Reports, by creation of their trials and then by step."""

    items: list[ReportView]
    next: str | None = Field(description="`after` of the next page; null on the last one.")


class AuditPage(BaseModel):
    """Actions of users, newest first."""

    items: list[AuditView]
    next: str | None = Field(description="`after` of the next page; null on the last one.")


class Health(BaseModel):
    """Liveness of the process."""

    status: str
    version: str


class Readiness(BaseModel):
    """Dependencies of the service; only the database is essential."""

    ready: bool
    database: str
    workers: int | None = Field(description="Workers that take jobs; null if the database is unreachable.")
    mlflow: str
    ray: str
