"""Reading of jobs from a file, the network or the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from anon_tune.documents import load_yaml, parse, read_yaml, size_problem
from anon_tune.errors import SpecError
from anon_tune.search_spaces import Space
from anon_tune.spec.job import JobSpec
from anon_tune.spec.places import Origin
from anon_tune.texts import quoted

__all__ = [
    "JobFile",
    "apply_overrides",
    "extended",
    "load_spec",
    "parse_spec",
    "read_job_file",
    "remote_spec",
    "stored_spec",
]


@dataclass(frozen=True)
class JobFile:
    """A job document before validation.

    Attributes:
        document: Its keys and values.
        source: Its name in messages.
        folder: Folder of its files.
    """

    document: Mapping[str, Any]
    source: str = "job"
    folder: Path | None = None


def read_job_file(path: Path, overrides: Sequence[str] = ()) -> JobFile:
    """Read a job file, with `key.path=value` overrides applied.

    Raises:
        NotFoundError: There is no such file.
        SpecError: It is not YAML, or an override is invalid.
    """
    return JobFile(apply_overrides(read_yaml(path), overrides), str(path), path.absolute().parent)


def load_spec(path: Path, overrides: Sequence[str] = (), data_folder: Path | None = None) -> JobSpec:
    """Return the validated job of a file, with `key.path=value` overrides applied.

    Data is looked for beside the job file and in `data_folder`.

    Raises:
        NotFoundError: There is no such file.
        SpecError: The file or an override is invalid.
    """
    written = read_job_file(path, overrides)
    return parse_spec(written.document, written.source, written.folder, data_folder)


def apply_overrides(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a copy of `data` with each "key.path=value" set; values are read as YAML."""
    result = dict(data)
    for override in overrides:
        path, separator, value = override.partition("=")
        if not separator or not path:
            raise SpecError("--set", [f"{quoted(override)}: expected key.path=value, e.g. budget.trials=8"])
        node = result
        *parents, last = path.split(".")
        for key in parents:
            child = node.get(key)
            if key in {"data", "model"} and isinstance(child, str):
                child = {"name": child}
            node[key] = dict(child) if isinstance(child, Mapping) else {}
            node = node[key]
        try:
            node[last] = load_yaml(value)
        except (yaml.YAMLError, ValueError):
            raise SpecError("--set", [f"{quoted(override)}: the value is not valid YAML"]) from None
    return result


def parse_spec(
    data: Mapping[str, Any], source: str = "job", folder: Path | None = None, data_folder: Path | None = None
) -> JobSpec:
    """Return a validated job.

    Args:
        data: Keys and values of the job file.
        source: Its name in messages.
        folder: Paths of search spaces and data are relative to it.
        data_folder: Data may be in it, too.

    Raises:
        SpecError: The job is invalid; lists every problem with its key's path.
    """
    if problem := size_problem(data):
        raise SpecError(source, [problem])
    if folder is not None:
        data = {"folder": str(folder.absolute()), **data}
    return parse(JobSpec, data, source, Origin(folder or Path(), data_folder))


def remote_spec(
    data: Mapping[str, Any],
    spaces: Mapping[str, Space],
    modules: Sequence[str] = (),
    data_folder: Path | None = None,
    *,
    with_code: bool = False,
) -> JobSpec:
    """Return a validated job from the network, which may name only what the service offers.

    Args:
        data: The job.
        spaces: Search spaces sent with it, by the file name in the job.
        modules: Modules, including their submodules, whose functions the job may name.
        data_folder: The only folder whose data the job may name; None: it may name no data.
        with_code: Whether code was sent with the job; its command runs in it.

    Raises:
        SpecError: The job is invalid; lists every problem with its key's path. Data outside the data folder and
            functions of other modules are problems too.
    """
    spec = parse(JobSpec, data, "job", Origin(data_folder=data_folder, remote=True, spaces=spaces))
    problems = [
        f"{key}: {name} is of a module that this service may not import; have it installed for the workers, and its "
        "name added to ANON_TUNE_ALLOWED_MODULES"
        for key, name in spec.functions().items()
        if not any(f"{name.partition(':')[0]}.".startswith(f"{module}.") for module in modules)
    ]
    if spec.command is not None and not with_code:
        problems.append(
            "command: needs its code; send it with `anon-tune submit JOB.yaml --with-code FOLDER`"
        )
    if problems:
        raise SpecError("job", problems)
    return spec


def stored_spec(data: Mapping[str, Any]) -> JobSpec:
    """Return a job from the ledger, without reading its search space."""
    return parse(JobSpec, data, "ledger", Origin(stored=True))


def extended(spec: JobSpec, spaces: Mapping[str, Space], trials: int) -> JobSpec:
    """Return a job with another `budget.trials`.

    Raises:
        SpecError: The spaces have fewer configurations, or the number is out of range.
    """
    budget = {**spec.budget.model_dump(), "trials": trials}
    larger = parse(JobSpec, {**spec.model_dump(), "budget": budget}, "--trials", Origin(stored=True))
    error = SpecError("--trials", larger.space_problems(spaces))
    if error.problems:
        raise error
    return larger
