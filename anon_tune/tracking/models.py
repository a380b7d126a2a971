"""The best weights of a job as a model that MLflow lists under Models, without loading torch."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anon_tune.records import JobRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

__all__ = ["log_best_weights"]

_DIGEST_TAG = "anon_tune.digest"
_README = """# {name}: best weights of job {job}

`state_dict.pth` is the `state_dict` of the model, trained with Anon's chosen settings. It is read with

    import mlflow
    model.load_state_dict(mlflow.pytorch.load_state_dict("models:/{model}"))

MLflow cannot build the model itself, so there is no `mlflow.pyfunc` flavour: the job names the model's code.
`MLmodel` has the types and shapes of its inputs and outputs.
"""


def log_best_weights(client: MlflowClient, experiment: str, run: str, job: JobRecord, weights: Path) -> None:
    """Log the weights as a model of the job's run, unless these are logged already.

    Args:
        client: MLflow's client.
        experiment: Id of the experiment.
        run: The job's run.
        job: The job.
        weights: A `state_dict`.
    """
    from mlflow.entities import LoggedModelOutput

    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    this = f"tags.`anon_tune.job_id` = '{job.id}' AND tags.`{_DIGEST_TAG}` = '{digest}'"
    if any(model.status == "READY" for model in client.search_logged_models([experiment], this)):
        return
    tags = {"anon_tune.job_id": job.id, _DIGEST_TAG: digest}
    answer = job.answer
    chosen = answer.winners["anon"].hyperparameters if answer and "anon" in answer.winners else {}
    made = client.create_logged_model(
        experiment,
        name=f"{job.id}-best-weights",
        source_run_id=run,
        tags=tags,
        params={name: str(value) for name, value in chosen.items()},
        model_type="state_dict",
    )
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), made.model_id, run, job, weights)
        client.log_model_artifacts(made.model_id, folder)
    client.finalize_logged_model(made.model_id, "READY")
    client.log_outputs(run, [LoggedModelOutput(made.model_id, step=0)])


def _write(folder: Path, model: str, run: str, job: JobRecord, weights: Path) -> None:
    from mlflow.models import Model

    shutil.copyfile(weights, folder / "state_dict.pth")
    readme = _README.format(name=job.name, job=job.id, model=model)
    (folder / "README.md").write_text(readme, encoding="utf-8")
    described = Model(
        artifact_path=f"{job.id}-best-weights",
        run_id=run,
        model_id=model,
        signature=_signature(job),
        flavors={},
    )
    described.save(str(folder / "MLmodel"))


def _signature(job: JobRecord) -> ModelSignature | None:
    """Return the inputs and outputs that the probe has seen; None if it has not."""
    import numpy
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    seen = (job.probe or {}).get("signature")
    if seen is None:
        return None

    def schema(tensors: list[dict[str, Any]]) -> Schema:
        names = [None] if len(tensors) == 1 else [f"{number}" for number in range(len(tensors))]
        return Schema(
            [
                TensorSpec(numpy.dtype(tensor["type"]), tuple(tensor["shape"]), name)
                for tensor, name in zip(tensors, names, strict=True)
            ]
        )

    return ModelSignature(schema(seen["inputs"]), schema(seen["outputs"]))
