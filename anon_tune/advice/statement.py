"""Advice and its basis, as the service sends it and everybody reads it. Needs pydantic alone."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from anon_tune.answer import Cost, Gamma

__all__ = ["UNKNOWN", "Advice", "Basis", "Evidence", "Fingerprint", "Published", "Source", "Start"]

UNKNOWN = "unknown"
"""Family of a model most of whose weights are in no known layer."""


class Source(StrEnum):
    """The strongest of what advice rests on."""

    JOBS = "finished jobs"
    SHIPPED = "shipped searches"
    PUBLISHED = "published guidance"
    NOTHING = "nothing yet"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, defer_build=True)


class Fingerprint(_Part):
    """Fingerprint of a model, as `anon_tune.architecture.fingerprint` returns it.

    Attributes:
        family: "cnn", "mlp", "recurrent", "transformer" or "unknown".
        parameters: How many there are.
        layers: How many there are of each kind.
        share: Of the parameters, by kind of layer.
    """

    family: str = Field(max_length=32)
    parameters: int = Field(default=0, ge=0)
    layers: dict[str, int] = Field(default_factory=dict, max_length=32)
    share: dict[str, float] = Field(default_factory=dict, max_length=32)


class Evidence(_Part):
    """Findings of one search about gamma.

    Attributes:
        id: Of the job; the name of a search that comes with anon_tune.
        name: For people.
        shipped: Whether it comes with anon_tune.
        subject: Its model and data. Several searches of one subject count once.
        architecture: Fingerprint of the model.
        scale: As `Answer.scale`.
        gamma: Which gammas do well.
        step_size: Of the recommended configuration, in units of a typical step; None where it has none.
    """

    id: str
    name: str
    shipped: bool = False
    subject: str
    architecture: Fingerprint
    scale: Literal["log", "log_error", "linear"]
    gamma: Gamma
    step_size: float | None = None


class Basis(_Part):
    """A search that advice rests on.

    Attributes:
        job: Its id.
        name: For people.
        shipped: Whether it comes with anon_tune.
        best: Gamma of its recommended configuration.
        low: Lower end of the interval that holds its best gamma.
        high: Upper end.
        weight: Its share in the mean of the best gammas. Next to 0 where the search cannot tell gammas apart: then
            its cost curve alone counts.
    """

    job: str
    name: str
    shipped: bool = False
    best: float | None
    low: float | None
    high: float | None
    weight: float


class Published(_Part):
    """Guidance of a paper on a family; `low` and `high` are its examples, not an interval."""

    low: float
    high: float
    text: str
    source: str


class Start(_Part):
    """A configuration to start from, where the gradients of the model could be measured.

    Attributes:
        hyperparameters: Of `anon_tune.optim.Anon`.
        line: The same as a line of Python.
    """

    hyperparameters: dict[str, Any]
    line: str


class Advice(_Part):
    """Which gamma to expect of a model, before anything is spent.

    Attributes:
        family: Of its architecture.
        gamma: The advised one; None where nothing is known.
        low: Lower end of the interval that holds the best gamma of the next job with a probability of `level`.
        high: Upper end.
        level: Of that interval.
        spread: Standard deviation of the best gamma between models of the family.
        source: The strongest of what it rests on.
        jobs: Searches that it rests on, finished jobs first.
        published: Guidance on the family, which counts as one weak search.
        costs: What gamma 0 and gamma 1 cost over the advised one, on average over these searches, as a share of the
            loss or error, with a 90% interval of that average; empty with fewer than two searches.
        step_size: Typical step size of the recommended configurations, in units of a typical step.
        would_change: Sentences on what would change the advice.
        start: A configuration to start from.
    """

    family: str
    gamma: float | None = None
    low: float | None = None
    high: float | None = None
    level: float = 0.9
    spread: float | None = None
    source: Source = Source.NOTHING
    jobs: list[Basis] = Field(default_factory=list)
    published: Published | None = None
    costs: list[Cost] = Field(default_factory=list)
    step_size: float | None = None
    would_change: list[str] = Field(default_factory=list)
    start: Start | None = None
