"""Export of the answer: an optimizer with its hyperparameters, and the evidence for them.

`anon_tune.load_optimizer` reads the yaml and json formats; `snippets` writes the others, which are code.
"""

from __future__ import annotations

import json
import math
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from anon_tune.answer import Answer, Winner
from anon_tune.errors import ConflictError, InputError
from anon_tune.next_steps import further_steps
from anon_tune.records import JobRecord
from anon_tune.sentences import (
    EXPLAINED,
    about_comparison,
    about_coordinates,
    about_cost,
    about_gamma,
    about_searches,
    about_stopping,
    about_training,
    about_verdicts,
)
from anon_tune.snippets import SNIPPETS, snippet

if TYPE_CHECKING:
    from anon_tune.spec import JobSpec

__all__ = ["FORMATS", "VERSION", "document", "form_of", "render"]

VERSION = 2
"""Version of the document's layout; the first had gammas within one standard error as `evidence.gamma_interval`."""

FORMATS = ("yaml", "json", *SNIPPETS)

_SUFFIXES = {".json": "json", ".py": "python"}

_CONFIDENCE = 0.95
_TRAINING = (  # of our loop
    "batch_size", "clip", "accumulate", "label_smoothing", "augment", "precision", "channels_last", "compile",
)  # fmt: skip
_OWN = "the script's own"
_UNKNOWN = "not recorded, because an earlier version measured the job"
_VERSIONS = ("anon_tune", "torch", "optuna", "ray", "mlflow")


def form_of(path: Path) -> str:
    """Return the format of a file by its suffix, "yaml" by default."""
    return _SUFFIXES.get(path.suffix.lower(), "yaml")


def document(job: JobRecord, arm: str = "anon") -> dict[str, Any]:
    """Return the exported document of an arm's winner, as plain values.

    Raises:
        ConflictError: The job has no result yet, or no configuration of the arm completed.
        InputError: The job has no such arm.
    """
    from anon_tune.spec import stored_spec  # takes a tenth of a second, which every command would wait for

    spec = stored_spec(job.spec)
    answer = _answer_on(arm, job, spec)
    found = answer.winners[arm]
    training = spec.training.model_dump(mode="json")
    own = {"name": spec.command or spec.task, "options": spec.arguments}
    return {
        "version": VERSION,
        "optimizer": spec.optimizer(arm),
        "hyperparameters": _plain(found.hyperparameters),
        "schedule": _schedule(job, spec),
        "training": {key: training[key] for key in _TRAINING} if spec.model else _OWN,
        "architecture": {
            "model": spec.model.model_dump(mode="json") if spec.model else own,
            **dict(job.architecture or {}),
        },
        "in_words": _in_words(job.id, spec, answer),
        "evidence": _evidence(spec, answer, found),
        "provenance": {
            "job": job.id,
            "name": job.name,
            "trial": found.trial,
            "mlflow_run": job.mlflow_run,
            "versions": _versions(),
        },
    }


def _answer_on(arm: str, job: JobRecord, spec: JobSpec) -> Answer:
    """Return the job's answer, which has a winner of the arm. Raises as `document`."""
    if arm not in spec.arms:
        raise InputError(f"Job {job.id} has no arm {arm!r}; it has {', '.join(spec.arms)}.")
    if job.answer is None:
        raise ConflictError(
            f"Job {job.id} is {job.state} in its {job.phase} phase and has no result yet. "
            f"`anon-tune best {job.id}` shows its best trial so far."
        )
    if arm not in job.answer.winners:
        raise ConflictError(
            f"No configuration of {arm} completed in job {job.id}; there is nothing to export."
        )
    return job.answer


def _schedule(job: JobRecord, spec: JobSpec) -> dict[str, Any] | str:
    """Return the job file's schedule of the learning rate if the trials followed it, else whose it was."""
    used = True if spec.model else (job.probe or {}).get("uses_schedule")
    if not used:
        return _UNKNOWN if used is None else _OWN
    return {
        "name": spec.training.schedule,
        "warmup": spec.training.warmup,
        spec.budget.key: spec.budget.length,
    }


def _evidence(spec: JobSpec, answer: Answer, found: Winner) -> dict[str, Any]:
    objective = spec.objective
    tests = [value for value in found.test.seeds.values() if value is not None]
    split = "test" if answer.tested else "validation"
    return {
        "objective": f"{split} {objective.metric} ({objective.mode})",
        "of": objective.of,
        spec.budget.key: spec.budget.length,
        "value": fmean(tests) if tests else None,
        "interval": _interval(tests),
        "seeds": len(tests),
        "seeds_tried": len(found.test.seeds),
        "scale": answer.scale,
        "gamma": answer.gamma.model_dump(mode="json", exclude={"curve"}),
        "verdict": [each.model_dump(mode="json") for each in answer.verdict],
        "at_bound": found.at_bound,
        "spent": {arm: spent.model_dump(mode="json") for arm, spent in answer.totals().items()},
    }


def render(exported: dict[str, Any], form: str) -> str:
    """Return a document as text in one of `FORMATS`. Raises InputError for any other format."""
    if form == "yaml":
        import yaml

        return yaml.safe_dump(exported, sort_keys=False, allow_unicode=True)
    if form == "json":
        return json.dumps(exported, indent=2) + "\n"
    if form in SNIPPETS:
        return snippet(exported, form)
    raise InputError(f"Unknown export format {form!r}; choose {', '.join(FORMATS)}.")


def _in_words(job_id: str, spec: JobSpec, answer: Answer) -> dict[str, Any]:
    """Return the answer in sentences, as the report has them."""
    metric = spec.objective.metric
    return {
        "compared": about_comparison(answer, spec),
        "gamma": [*about_gamma(answer), *about_coordinates(answer), *about_searches(answer, spec)],
        "verdict": list(about_verdicts(answer, spec)),
        "stopped": list(about_stopping(answer, metric)),
        "cost": list(about_cost(answer)),
        "holds_for": about_training(spec),
        "next": list(further_steps(answer, spec, job_id)),
        "words": dict(EXPLAINED),
    }


def _interval(values: list[float]) -> list[float] | None:
    """Return Student's t interval of the mean, at 95%; None for fewer than two different values."""
    if len(set(values)) < 2:
        return None
    from scipy import stats  # the import takes 0.5 s, which other commands do not need

    half = float(stats.t.ppf((1 + _CONFIDENCE) / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return [fmean(values) - half, fmean(values) + half]


def _plain(hyperparameters: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in hyperparameters.items()}


def _versions() -> dict[str, str]:
    found = {}
    for package in _VERSIONS:
        try:
            found[package] = version(package).partition("+")[0]
        except PackageNotFoundError:
            continue
    return found
