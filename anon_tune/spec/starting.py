"""Texts of job files to start from: for a task of the catalogue, and for a job that there is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from anon_tune import catalogue
from anon_tune.search_spaces import Space, space_names
from anon_tune.spec.editing import flow
from anon_tune.spec.form import space_for
from anon_tune.spec.job import JobSpec

__all__ = ["STARTING_POINTS", "StartingPoint", "job_text", "spaces_text", "starting_text"]

_COLUMN = 34
"""Column of comments."""


@dataclass(frozen=True)
class StartingPoint:
    """A job to start from."""

    title: str
    task: str
    data: str
    model: str


STARTING_POINTS = (
    StartingPoint("CNN on digits", "image_classification", "digits", "cnn"),
    StartingPoint("Vision transformer on digits", "image_classification", "digits", "vit_tiny"),
    StartingPoint("Small GPT on Python code", "language_model", "python_source", "gpt"),
    StartingPoint("LSTM on Python code", "language_model", "python_source", "lstm"),
    StartingPoint("Diffusion U-Net on digits", "diffusion", "digits", "unet"),
    StartingPoint("MLP on a table", "regression", "diabetes", "mlp"),
    StartingPoint("Rosenbrock's valley", "function", "rosenbrock", "point"),
)
"""Jobs that need nothing to be downloaded."""

_OPTIONS: Mapping[str, dict[str, Any]] = {"python_source": {"train": 2000}}
"""Options with which a job takes minutes."""

_EPOCHS: Mapping[str, int] = {"text": 5}
"""Epochs by kind of data; 12 for others."""


def starting_text(
    task: str = "image_classification",
    data: str | None = None,
    model: str | None = None,
    space: str | None = None,
) -> str:
    """Return a commented job file for a task, with data and a model that it can use.

    Args:
        task: A task of the catalogue.
        data: One of its data sets; by default the first.
        model: One of its models; by default the first.
        space: Search space of Anon; by default that of the model's family.
    """
    entry = catalogue.TASKS[task]
    data = data or entry.datasets[0]
    model = model or entry.models[0]
    options = {
        **_OPTIONS.get(data, {}),
        **{key: key.upper() for key, value in catalogue.DATASETS[data].options.items() if value == ""},
    }
    metric, mode = next(iter(entry.metrics.items()))
    epochs = _EPOCHS.get(entry.kind, 12)
    lines = [
        ("name", f"{data}-{model}".replace("_", "-"), ""),
        ("task", task, ""),
        ("data", {"name": data, **options} if options else data, ""),
        ("model", model, ""),
        ("space", space or space_for(task, model), "ranges of Anon's coordinates"),
        ("objective", {"metric": metric, "mode": mode}, ""),
        ("budget", {"trials": 20, "epochs": epochs}, "for each arm"),
        ("search", {"seed": 0}, "the same seed, the same answer"),
        ("confirm", {"finalists": 3, "seeds": 3, "verdict_seeds": 10}, ""),
        ("training", {"batch_size": 64, "schedule": "cosine"}, ""),
        ("arms", list(catalogue.ARMS), "the optimizers"),
    ]
    return "".join(_commented(f"{key}: {flow(value)}", comment) for key, value, comment in lines)


def _commented(line: str, comment: str) -> str:
    return f"{line:{_COLUMN}} # {comment}\n" if comment else f"{line}\n"


def job_text(spec: JobSpec, data_folder: Path | None = None) -> str:
    """Return the job file of a job, without keys at their defaults and without `folder`.

    Its own search spaces are named as in `spaces_text`, and its data by the path in `data_folder`.
    """
    given = spec.model_dump(mode="json", exclude_defaults=True, exclude={"folder", "spaces"})
    given.get("budget", {}).pop("more_seeds", None)
    for key in ("data", "model"):
        if key in given:
            given[key] = _short(given[key], data_folder)
    if "space" in given:
        given["space"] = _space_name(spec.space)
    given["arms"] = [f"{arm}.yaml" if arm in spec.spaces else arm for arm in spec.arms]
    return "".join(f"{key}: {flow(value)}\n" for key, value in given.items() if value != {})


def spaces_text(spec: JobSpec, spaces: Mapping[str, Space]) -> str:
    """Return the search spaces of a job that do not come with anon_tune, by file name, as YAML."""
    own = {f"{arm}.yaml": spaces[arm] for arm in spec.spaces if arm in spaces}
    if spec.space not in space_names() and "anon" in spaces:
        own[_space_name(spec.space)] = spaces["anon"]
    dumped = {name: space.model_dump(mode="json", exclude_defaults=True) for name, space in own.items()}
    return yaml.safe_dump(dumped, sort_keys=False, default_flow_style=None) if dumped else ""


def _space_name(space: str) -> str:
    """Return the name of Anon's space, or of its file."""
    return space if space in space_names() else Path(space).name


def _short(choice: Mapping[str, Any], data_folder: Path | None) -> Any:
    """Return a choice of data or model as a person would write it."""
    options = {key: _path_in(data_folder, value) for key, value in choice.get("options", {}).items()}
    if not options:
        return choice["name"]
    return {"name": choice["name"], **({"options": options} if "name" in options else options)}


def _path_in(folder: Path | None, value: Any) -> Any:
    """Return a path in the folder of all data relative to it; other values as they are."""
    if folder is None or not isinstance(value, str) or not Path(value).is_absolute():
        return value
    path = Path(value)
    return str(path.relative_to(folder.resolve())) if path.is_relative_to(folder.resolve()) else value
