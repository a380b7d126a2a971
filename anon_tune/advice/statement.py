"""Advice and its basis, as all interfaces read it. Needs pydantic alone."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from anon_tune.answer import Cost, Gamma

__all__ = ["UNKNOWN", "Advice", "Basis", "Evidence", "Fingerprint", "Published", "Source", "Start"]

UNKNOWN = "unknown"
"""Family of a model with most weights in unknown layers."""


class Source(StrEnum):
    """The strongest basis of an advice."""

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
        parameters: Number of parameters.
        layers: Number of layers of each kind.
        share: Share of the parameters in each kind of layer.
        multiplications: Share of the multiplications of a forward pass in each kind of operation; empty if they were
            not counted.
    """

    family: str = Field(max_length=32)
    parameters: int = Field(default=0, ge=0)
    layers: dict[str, int] = Field(default_factory=dict, max_length=32)
    share: dict[str, float] = Field(default_factory=dict, max_length=32)
    multiplications: dict[str, float] = Field(default_factory=dict, max_length=32)


class Evidence(_Part):
    """Findings of one search about gamma.

    Attributes:
        id: Id of the job, or name of a search that comes with anon_tune.
        name: Display name.
        shipped: Whether it comes with anon_tune.
        subject: Its model and data. Several searches of one subject count once.
        architecture: Fingerprint of the model.
        scale: `Answer.scale`.
        gamma: Which gammas do well.
        step_size: Step size of the recommended configuration, in units of a typical step; None if it has none.
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
    """A search that the advice is based on.

    Attributes:
        job: Its id.
        name: Display name.
        shipped: Whether it comes with anon_tune.
        best: Gamma of its recommended configuration.
        low: Lower end of the interval that holds its best gamma.
        high: Upper end.
        weight: Its share in the mean of the best gammas. It is close to 0 if the search cannot distinguish gammas;
            only its cost curve counts then.
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
    """A configuration to start from, if the gradients of the model could be measured.

    Attributes:
        hyperparameters: Arguments of `anon_tune.optim.Anon`.
        line: The same as a line of Python.
    """

    hyperparameters: dict[str, Any]
    line: str


class Advice(_Part):
    """The gamma to expect for a model, before any trial.

    Attributes:
        family: Family of its architecture.
        gamma: The advised gamma; None if nothing is known.
        low: Lower end of the interval that holds the best gamma of the next job with a probability of `level`.
        high: Upper end.
        level: Probability of that interval.
        spread: Standard deviation of the best gamma between models of the family.
        source: The strongest basis of the advice.
        jobs: Searches that the advice is based on, finished jobs first.
        published: Guidance on the family, which counts as one weak search.
        costs: Average cost of gamma 0 and gamma 1 over the advised gamma in these searches, as a share of the loss or
            error, with a 90% interval of that average; empty with fewer than two searches.
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
