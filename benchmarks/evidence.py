"""The evidence that comes with anon_tune: `python -m benchmarks.evidence`.

Small models of several kinds are each searched once by the product's own policy: 20 trials of Anon, then three
finalists on three seeds. Their answers are written to `anon_tune/advice/evidence.json`, which `anon-tune suggest`
draws on from the first day. Searches are kept, so an interrupted run goes on; remove the folder after a change of the
search.

Then each model in turn is left out, and advice for it is drawn from the others: the tables of docs/advice.md. Costs
are read off the cost curve of the model that was left out, which its own 20 trials made, so they have its errors.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one process a core

import argparse
import dataclasses
import math
import pickle
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student

from anon_tune.advice.evidence import SHIPPED, ShippedEvidence, subject_of
from anon_tune.advice.prior import advise, cost_curve
from anon_tune.advice.statement import Evidence, Fingerprint
from anon_tune.advice.summary import summarize
from anon_tune.records import NewTrial, Phase, Trial, TrialState
from anon_tune.search.policy import Plan, next_trial
from anon_tune.search_spaces import load_space
from anon_tune.spec import JobSpec, parse_spec
from anon_tune.workers.problems.tasks import Problem, load_problem
from anon_tune.workers.trial.probe import probe
from anon_tune.workers.trial.training import Training

TRIALS = 20
_TEXT = {"length": 32, "train": 1024}

ARCHITECTURES: Mapping[str, tuple[str, str, str, Mapping[str, int], Mapping[str, Any], int]] = {
    "digits-cnn-8": ("cnn", "digits", "cnn", {"width": 8}, {}, 10),
    "text-gpt-32": ("transformer", "python_source", "gpt", {"width": 32, "depth": 2}, _TEXT, 6),
    "text-lstm-64": ("recurrent", "python_source", "lstm", {"width": 64}, _TEXT, 8),
    "digits-mlp-64": ("mlp", "digits", "mlp", {"width": 64}, {}, 12),
    "digits-unet-8": ("cnn", "digits", "unet", {"width": 8}, {}, 6),
    "digits-vit-32": ("transformer", "digits", "vit_tiny", {"width": 32}, {}, 10),
    "diabetes-mlp-32": ("mlp", "diabetes", "mlp", {"width": 32}, {}, 30),
    "digits-resnet20-4": ("cnn", "digits", "resnet20", {"width": 4}, {}, 6),
    "text-lstm-32x2": ("recurrent", "python_source", "lstm", {"width": 32, "depth": 2}, _TEXT, 8),
    "text-gpt-64x1": ("transformer", "python_source", "gpt", {"width": 64, "depth": 1}, _TEXT, 6),
    "digits-mlp-256": ("mlp", "digits", "mlp", {"width": 256}, {}, 10),
    "digits-cnn-24": ("cnn", "digits", "cnn", {"width": 24}, {}, 8),
    "digits-vit-48x1": ("transformer", "digits", "vit_tiny", {"width": 48, "depth": 1}, {}, 8),
    "digits-resnet18-8": ("cnn", "digits", "resnet18", {"width": 8}, {}, 5),
}
"""Name -> space, data, model, options of model and data, epochs; in an order in which the kinds take turns."""

_TASKS = {"unet": "diffusion", "gpt": "language_model", "lstm": "language_model"}


@dataclasses.dataclass(frozen=True)
class Searched:
    """A search of Anon on one model.

    Attributes:
        plan: Plan of its job.
        measured: By the probe.
        trials: Trials of search and confirm.
    """

    plan: Plan
    measured: Mapping[str, Any]
    trials: list[Trial]


def job_of(name: str) -> JobSpec:
    """Return the job that searches an architecture."""
    space, data, model, options, data_options, epochs = ARCHITECTURES[name]
    task = "regression" if data == "diabetes" else _TASKS.get(model, "image_classification")
    return parse_spec(
        {
            "name": name,
            "task": task,
            "data": {"name": data, **data_options},
            "model": {"name": model, **options},
            "space": space,
            "budget": {"trials": TRIALS, "epochs": epochs},
            "search": {"lag": 4},
            "arms": ["anon"],
        }
    )


def search(name: str) -> Searched:
    """Search an architecture, one trial after another, up to the end of its confirm phase."""
    spec = job_of(name)
    if spec.data is None or spec.model is None:
        raise ValueError(f"{name} has no data, or no model")
    problem = load_problem(spec.task, spec.data.name, spec.model.name, spec.model.options, spec.data.options)
    space = load_space(spec.space).for_family(spec.family)
    floor = float(space.constant("floor"))
    measured = probe(problem, seed=0, batch_size=spec.training.batch_size, floor=floor, device="cpu")
    plan = Plan(spec, {"anon": space}, measured.log_mean_sigma)
    trials: list[Trial] = []
    while isinstance(new := next_trial(plan, trials), NewTrial) and new.phase is not Phase.VERDICT:
        trials.append(_trained(new, problem, spec))
    return Searched(plan, dataclasses.asdict(measured), trials)


def _trained(new: NewTrial, problem: Problem, spec: JobSpec) -> Trial:
    training = Training(
        problem,
        "anon",
        new.hyperparameters,
        seed=new.seed,
        epochs=spec.budget.length,
        batch_size=spec.training.batch_size,
    )
    value: float | None = None
    for _ in range(spec.budget.length):
        value = training.run_epoch()["val_loss"]
        if training.diverged:
            value = None
            break
    state = TrialState.DIVERGED if value is None else TrialState.COMPLETE
    plain: dict[str, Any] = {field.name: getattr(new, field.name) for field in dataclasses.fields(new)}
    return Trial(new.id_in("j"), "j", state=state, value=value, attempts=1, **plain)


def searches(folder: Path, until: float) -> Iterator[tuple[str, Searched]]:
    """Yield what was searched before; search the rest until the time is up."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ARCHITECTURES:
        file = folder / f"{name}.pickle"
        if not file.exists():
            if time.monotonic() > until:
                continue
            began = time.monotonic()
            whole = file.with_suffix(".new")
            whole.write_bytes(pickle.dumps(search(name)))
            whole.replace(file)
            print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
        found: Searched = pickle.loads(file.read_bytes())
        yield name, found


def evidence_of(name: str, found: Searched) -> Evidence:
    """Return what a search has found, as it is shipped: numbers to four digits."""
    answer = summarize(found.plan, found.trials)
    evidence = Evidence(
        id=f"shipped:{name}",
        name=name,
        shipped=True,
        subject=subject_of(found.plan.spec.model_dump(mode="json")),
        architecture=Fingerprint.model_validate(found.measured["architecture"]),
        scale=answer.scale,
        gamma=answer.gamma,
        step_size=answer.winners["anon"].params["step_size"] if "anon" in answer.winners else None,
    )
    return Evidence.model_validate(_rounded(evidence.model_dump(mode="json")))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def ship(evidence: Sequence[Evidence], file: Path) -> None:
    """Write the file that comes with anon_tune."""
    versions = {name: version(name).partition("+")[0] for name in ("torch", "botorch")}
    shipped = ShippedEvidence(
        made_by="python -m benchmarks.evidence",
        versions={"python": platform.python_version(), **versions},
        trials=TRIALS,
        searches=list(evidence),
    )
    file.write_text(shipped.model_dump_json(indent=1) + "\n", encoding="utf-8")


Rule = Callable[[Evidence, Sequence[Evidence]], float]
"""From a model and the other searches to the gamma for it."""


def _of_the_family(model: Evidence, others: Sequence[Evidence]) -> float:
    found = advise(model.architecture.family, others, without=model.subject).gamma
    return found if found is not None else 0.5


def _of_all(model: Evidence, others: Sequence[Evidence]) -> float:
    return _cheapest(others, np.ones(len(others)))


def _of_similar(model: Evidence, others: Sequence[Evidence]) -> float:
    """Return the others weighed by the likeness of their fingerprints: shares of kinds of layers, and size."""
    return _cheapest(others, np.array([_likeness(model.architecture, each.architecture) for each in others]))


def _likeness(one: Fingerprint, other: Fingerprint) -> float:
    kinds = one.share.keys() | other.share.keys()
    apart = sum(abs(one.share.get(kind, 0.0) - other.share.get(kind, 0.0)) for kind in kinds)
    return math.exp(-2 * apart - abs(math.log10(one.parameters / other.parameters)))


def _cheapest(others: Sequence[Evidence], weights: np.ndarray) -> float:
    at = np.linspace(-0.5, 1.5, 41)
    curves = np.array([cost_curve(each, at) for each in others])
    return float(at[int((weights[:, None] * curves).sum(axis=0).argmin())])


RULES: Mapping[str, Rule] = {
    "advised": _of_the_family,
    "gamma 0": lambda model, others: 0.0,
    "gamma 1": lambda model, others: 1.0,
    "tuned": lambda model, others: model.gamma.best if model.gamma.best is not None else 0.5,
    "all families": _of_all,
    "similar fingerprints": _of_similar,
}


def left_out(evidence: Sequence[Evidence]) -> Iterator[Table]:
    """Yield the tables of what each rule costs on each model, and on average."""
    gammas = np.empty((len(evidence), len(RULES)))
    costs = np.empty_like(gammas)
    for row, model in enumerate(evidence):
        others = [each for each in evidence if each.subject != model.subject]
        gammas[row] = [rule(model, others) for rule in RULES.values()]
        costs[row] = cost_curve(model, gammas[row])
    each = Table(title="gamma, and what it costs in the log of the loss")
    for title in ("left out", "family", *RULES):
        each.add_column(title)
    for model, at, cost in zip(evidence, gammas, costs, strict=True):
        cells = (f"{gamma:.2f}: {value:.3f}" for gamma, value in zip(at, cost, strict=True))
        each.add_row(model.name, model.architecture.family, *cells)
    yield each
    means = Table(title=f"means over {len(evidence)} models, with 90% intervals")
    for title in ("rule", "cost", "cost of the advised less it"):
        means.add_column(title)
    for column, rule in enumerate(RULES):
        means.add_row(rule, _mean(costs[:, column]), _mean(costs[:, 0] - costs[:, column]))
    yield means


def _mean(values: np.ndarray) -> str:
    half = student.ppf(0.95, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return f"{values.mean():.3f} ({values.mean() - half:.3f} to {values.mean() + half:.3f})"


def main() -> None:
    """Search what is missing, write the file, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="start no search after so long")
    parser.add_argument("--folder", type=Path, default=Path("build/evidence"))
    parser.add_argument("--output", type=Path, default=SHIPPED)
    parser.add_argument("--shipped", action="store_true", help="only the tables, of the searches in the file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.shipped:
        evidence = ShippedEvidence.model_validate_json(arguments.output.read_bytes()).searches
    else:
        until = time.monotonic() + 60 * arguments.minutes
        evidence = [evidence_of(name, found) for name, found in searches(arguments.folder, until)]
        ship(evidence, arguments.output)
        print(f"{len(evidence)} of {len(ARCHITECTURES)} searches are in {arguments.output}")
    for table in left_out(evidence):
        Console(width=160).print(table)


if __name__ == "__main__":
    main()
