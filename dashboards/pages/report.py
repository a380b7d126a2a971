"""A job in HTML without other files: one file to send, and the part that a notebook shows of its result."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import yaml
from markupsafe import Markup

from anon_tune.dashboards.pages.job import found
from anon_tune.dashboards.pages.rendering import render
from anon_tune.dashboards.pages.static import PLOTLY, static_file
from anon_tune.records import ENDED, Phase, TrialState, objective_key
from anon_tune.sentences import EXPLAINED, short
from anon_tune.spec import stored_spec
from anon_tune.views import JobView, TrialView

__all__ = ["MOST_TRIALS", "Picture", "notebook_part", "report_page"]

MOST_TRIALS = 500
"""Trials that a report lists; of a longer job it lists the best ones."""

WORDS = {
    **EXPLAINED,
    "arm": "one optimizer that the job tuned; each arm gets the same budget",
    "trial": "one training with one configuration and one seed",
    "phase": "search tries configurations, confirm reruns the best on further seeds, verdict compares on fresh seeds",
    "interval": "range that holds the true value with the given probability",
}
"""Words of a report, a line each."""

_LARGEST_PICTURE = 1_000_000
"""Bytes of a picture's JSON; a report leaves out larger ones, so that it can be sent."""


@dataclass(frozen=True)
class Picture:
    """A figure with its title and how to read it.

    Attributes:
        json: The figure as JSON: `data` and `layout` of plotly, and the templates `light` and `dark` as `themes`.
    """

    name: str
    title: str
    caption: str
    json: str

    @property
    def in_script(self) -> Markup:
        """The JSON, which cannot end the script element that it stands in."""
        return Markup(self.json.replace("<", "\\u003c"))


def report_page(
    job: JobView, trials: Sequence[TrialView], pictures: Sequence[Picture], config: str | None = None
) -> str:
    """Return a job as one HTML file, which needs no network; its text and tables need no JavaScript either.

    Args:
        job: The job.
        trials: All its trials.
        pictures: The figures to show: "response" and "verdict" beside what they are about, others after that.
        config: The best configuration as `anon-tune export` writes it; None without one.
    """
    style = static_file("style.css")
    shown = [picture for picture in pictures if len(picture.json) <= _LARGEST_PICTURE]
    return render(
        "report.html",
        **_values(job, shown),
        left_out=[picture.title for picture in pictures if picture not in shown],
        config=config,
        trials=_listed(job, trials),
        count=len(trials),
        most=MOST_TRIALS,
        settings=yaml.safe_dump(_given(job.spec), sort_keys=False, allow_unicode=True),
        words=WORDS,
        style=Markup("" if style is None else gzip.decompress(style.content).decode()),
        plotly=_packed_plotly(),
    )


def notebook_part(job: JobView, pictures: Sequence[Picture], *, with_plotly: bool) -> str:
    """Return what a notebook shows of a job: its answer and figures.

    Args:
        job: The job.
        pictures: The figures to show.
        with_plotly: Whether to include plotly.js, which one output of a notebook must do.
    """
    return render("notebook.html", **_values(job, pictures), plotly=_packed_plotly() if with_plotly else None)


def _values(job: JobView, pictures: Iterable[Picture]) -> dict[str, object]:
    """Return the values that both templates show."""
    spec = stored_spec(job.spec)
    script = static_file("figures.js")
    return {
        "job": job,
        "is_over": job.state in ENDED,
        "metric": spec.objective.metric,
        "found": found(job),
        "pictures": {picture.name: picture for picture in pictures},
        "script": Markup("" if script is None else gzip.decompress(script.content).decode()),
    }


def _listed(job: JobView, trials: Sequence[TrialView]) -> list[tuple[TrialView, str]]:
    """Return the trials to list, each with its hyperparameters: all, or the best ones in their order."""
    mode = job.spec["objective"]["mode"]

    def key(trial: TrialView) -> tuple[bool, float]:
        is_best = trial.state is TrialState.COMPLETE and trial.value is not None
        is_rerun = trial.phase is not Phase.SEARCH  # on other data, perhaps
        return not is_best or is_rerun, objective_key(trial.value or 0.0, mode)

    kept = {trial.id for trial in sorted(trials, key=key)[:MOST_TRIALS]}
    return [
        (trial, ", ".join(f"{name} {short(value)}" for name, value in trial.hyperparameters.items()))
        for trial in trials
        if trial.id in kept
    ]


def _given(spec: Mapping[str, object]) -> dict[str, object]:
    """Return the settings of a job less those that are empty."""
    return {name: value for name, value in spec.items() if value not in (None, [], {})}


def _packed_plotly() -> str:
    """Return plotly.js, compressed and as text: two fifths of its size."""
    found = static_file(PLOTLY)
    return "" if found is None else base64.b64encode(found.content).decode()
