"""Catalogue of tasks, data sets, models and arms, without importing torch.

The command line and the service read it. An entry names its function, which `resolve` imports when it is needed.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = [
    "ARMS",
    "DATASETS",
    "FAMILIES",
    "MODELS",
    "TASKS",
    "DatasetEntry",
    "Kind",
    "ModelEntry",
    "TaskEntry",
    "resolve",
]

Kind = Literal["images", "surface", "table", "text"]
"""Kinds of data; a task uses the data sets of its own kind."""


def resolve(name: str) -> Any:
    """Import the object that an entry names as "module:name"."""
    return pkgutil.resolve_name(name)


@dataclass(frozen=True)
class TaskEntry:
    """A kind of training problem.

    Attributes:
        kind: Kind of its data.
        problem: The function that makes the problem from data and a model, as "module:function".
        metrics: Each metric and its better direction.
        datasets: Names of its data sets.
        models: Names of its models.
        own_data: Whether it accepts the user's data.
        labelled: Whether targets must be classes.
    """

    summary: str
    kind: Kind
    problem: str
    metrics: Mapping[str, str]
    datasets: tuple[str, ...]
    models: tuple[str, ...]
    own_data: bool = True
    labelled: bool = True

    @property
    def images(self) -> bool:
        """Whether its data is images."""
        return self.kind == "images"


@dataclass(frozen=True)
class DatasetEntry:
    """Data that the workers can read.

    Attributes:
        summary: Description in one sentence.
        kind: Kind of data; tasks of the same kind can use it.
        read: The function that reads it, as "module:function".
        options: Arguments of that function with their defaults; "" marks a required one.
    """

    summary: str
    kind: Kind
    read: str
    options: Mapping[str, int | float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelEntry:
    """A model that the workers can build.

    Attributes:
        summary: Description in one sentence.
        build: The class or function that builds it, as "module:name".
        family: One of FAMILIES, or "unknown", for which there is no advice.
        options: Its sizes with their defaults.
    """

    summary: str
    build: str
    family: str
    options: Mapping[str, int | float] = field(default_factory=dict)


TASKS: Mapping[str, TaskEntry] = {
    "image_classification": TaskEntry(
        summary="Images in, one of several classes out; cross-entropy.",
        kind="images",
        problem="anon_tune.workers.problems.tasks.image_classification:problem",
        metrics={"loss": "min", "accuracy": "max"},
        datasets=("digits", "idx", "cifar10"),
        models=("cnn", "mlp", "resnet18", "resnet20", "vit_tiny"),
    ),
    "diffusion": TaskEntry(
        labelled=False,
        summary="Noisy image in, the added noise out; squared error, at all noise levels.",
        kind="images",
        problem="anon_tune.workers.problems.tasks.diffusion:problem",
        metrics={"loss": "min"},
        datasets=("digits", "idx", "cifar10"),
        models=("unet",),
    ),
    "language_model": TaskEntry(
        summary="Text in, the next character or byte at each position out; cross-entropy.",
        kind="text",
        problem="anon_tune.workers.problems.tasks.language_model:problem",
        metrics={"loss": "min", "accuracy": "max", "perplexity": "min"},
        datasets=("python_source", "text"),
        models=("gpt", "lstm"),
    ),
    "regression": TaskEntry(
        summary="Rows of numbers in, one number out; squared error of the standardized target.",
        kind="table",
        problem="anon_tune.workers.problems.tasks.regression:problem",
        metrics={"loss": "min", "rmse": "min"},
        datasets=("diabetes", "csv"),
        models=("mlp",),
    ),
    "function": TaskEntry(
        summary="Minimizes a function by noisy gradients; the loss is its value, 1 at the start.",
        kind="surface",
        problem="anon_tune.workers.problems.tasks.function:problem",
        metrics={"loss": "min", "value": "min", "distance": "min"},
        datasets=("rosenbrock", "rastrigin", "quadratic"),
        models=("point",),
        own_data=False,
    ),
}

_SURFACE: Mapping[str, int | float | str] = {
    "start": 1.0,
    "train": 1024,
    "noise": 0.1,
    "degrees_of_freedom": 0.0,
    "drift": 0.0,
}

DATASETS: Mapping[str, DatasetEntry] = {
    "digits": DatasetEntry(
        summary="1,797 handwritten digits of 8x8 pixels, scikit-learn's: nothing to download.",
        kind="images",
        read="anon_tune.workers.problems.data.digits:digits",
    ),
    "idx": DatasetEntry(
        summary="The four files of MNIST, Fashion-MNIST or KMNIST in a folder; train and test: 0 uses all.",
        kind="images",
        read="anon_tune.workers.problems.data.idx:idx",
        options={"folder": "", "train": 0, "validation": 10_000, "test": 0},
    ),
    "cifar10": DatasetEntry(
        summary="CIFAR-10's binary version in a folder; train and test: 0 uses all.",
        kind="images",
        read="anon_tune.workers.problems.data.cifar10:cifar10",
        options={"folder": "", "train": 0, "validation": 5_000, "test": 0},
    ),
    "diabetes": DatasetEntry(
        summary="442 patients with 10 measurements each, scikit-learn's: nothing to download.",
        kind="table",
        read="anon_tune.workers.problems.data.table:diabetes",
    ),
    "csv": DatasetEntry(
        summary="A CSV file of numbers with a header; target is the column to predict.",
        kind="table",
        read="anon_tune.workers.problems.data.table:csv",
        options={"file": "", "target": ""},
    ),
    "python_source": DatasetEntry(
        summary="One megabyte of Python's standard library, as bytes: nothing to download.",
        kind="text",
        read="anon_tune.workers.problems.data.text:python_source",
        options={"length": 64, "train": 0},
    ),
    "text": DatasetEntry(
        summary="A text file, as char or byte, in windows of the given length; train: 0 uses all windows.",
        kind="text",
        read="anon_tune.workers.problems.data.text:text",
        options={"file": "", "level": "char", "length": 64, "train": 0},
    ),
    "rosenbrock": DatasetEntry(
        summary="A curved valley; its gradients have normal or Student's t noise, with an optional drift per epoch.",
        kind="surface",
        read="anon_tune.workers.problems.data.surface:rosenbrock_surface",
        options={"dimensions": 2, **_SURFACE},
    ),
    "rastrigin": DatasetEntry(
        summary="A bowl with many local minima; options as for rosenbrock.",
        kind="surface",
        read="anon_tune.workers.problems.data.surface:rastrigin_surface",
        options={"dimensions": 2, **_SURFACE},
    ),
    "quadratic": DatasetEntry(
        summary="Curvatures from 1 to 1/condition, along the coordinates or rotated; options as for rosenbrock.",
        kind="surface",
        read="anon_tune.workers.problems.data.surface:quadratic_surface",
        options={"dimensions": 10, "condition": 100.0, "axes": "aligned", **_SURFACE},
    ),
}

MODELS: Mapping[str, ModelEntry] = {
    "cnn": ModelEntry(
        summary="Three 3x3 convolutions with batch norm, global average pooling, a linear head.",
        build="anon_tune.workers.problems.models.cnn:CNN",
        family="cnn",
        options={"width": 16},
    ),
    "gpt": ModelEntry(
        summary="A decoder-only transformer of the shape of GPT-2.",
        build="anon_tune.workers.problems.models.gpt:GPT",
        family="transformer",
        options={"width": 64, "depth": 2, "heads": 4},
    ),
    "lstm": ModelEntry(
        summary="An LSTM between an embedding and a linear head.",
        build="anon_tune.workers.problems.models.lstm:LSTM",
        family="recurrent",
        options={"width": 128, "depth": 1},
    ),
    "resnet18": ModelEntry(
        summary="ResNet-18 for small images: four stages of two blocks, the first convolution 3x3.",
        build="anon_tune.workers.problems.models.resnet:resnet18",
        family="cnn",
        options={"width": 64},
    ),
    "resnet20": ModelEntry(
        summary="ResNet-20 of He et al. for CIFAR-10: three stages of three blocks.",
        build="anon_tune.workers.problems.models.resnet:resnet20",
        family="cnn",
        options={"width": 16},
    ),
    "mlp": ModelEntry(
        summary="One hidden layer with ReLU.",
        build="anon_tune.workers.problems.models.mlp:MLP",
        family="mlp",
        options={"width": 64},
    ),
    "point": ModelEntry(
        summary="A point, not a network: its coordinates are the parameters.",
        build="anon_tune.workers.problems.models.point:Point",
        family="unknown",
    ),
    "unet": ModelEntry(
        summary="A U-Net of residual blocks with group norm and a time input.",
        build="anon_tune.workers.problems.models.unet:UNet",
        family="cnn",
        options={"width": 16, "depth": 2},
    ),
    "vit_tiny": ModelEntry(
        summary="A pre-norm transformer encoder over image patches.",
        build="anon_tune.workers.problems.models.vit:ViT",
        family="transformer",
        options={"width": 32, "depth": 2, "heads": 4, "patch_height": 1, "patch_width": 8},
    ),
}

FAMILIES: tuple[str, ...] = ("cnn", "mlp", "recurrent", "transformer")

ARMS: Mapping[str, str] = {
    "anon": "Anon with gamma, step size, beta3, delay base and decay searched",
    "adamw": "AdamW with its own learning rate, beta2 and weight decay searched",
    "sgd": "SGD with its own learning rate, momentum and weight decay searched",
}
