"""All keys of the job file as a table: `python -m tests.job_keys` prints what docs/job-file.md shows."""

from __future__ import annotations

import inspect
import json
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from anon_tune.spec import JobSpec
from anon_tune.spec.form import descriptions


def table() -> str:
    """Return a row for each key: its name, its default, and the first sentence of its description."""
    rows = [_row(prefix, name, model) for prefix, model in _models(JobSpec) for name in model.model_fields]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *filter(None, rows)])


def _models(model: type[BaseModel], prefix: str = "") -> list[tuple[str, type[BaseModel]]]:
    """The job file and its sections, with what comes before their keys."""
    sections = [
        (name, field.annotation)
        for name, field in model.model_fields.items()
        if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel)
    ]
    return [(prefix, model), *((f"{name}.", section) for name, section in sections)]


def _row(prefix: str, name: str, model: type[BaseModel]) -> str | None:
    field = model.model_fields[name]
    if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel):
        return None
    meaning = descriptions(model).get(name)
    assert meaning, f"{model.__name__}.{name} has no description"
    meaning = meaning.replace("|", "\\|")
    return f"| `{prefix}{name}` | {_default(field.get_default(call_default_factory=True))} | {meaning} |"


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "required"
    return f"`{json.dumps(value if not isinstance(value, tuple) else list(value), default=str)}`".replace(
        '"', ""
    )


if __name__ == "__main__":
    print(table())
