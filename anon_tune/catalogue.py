"""Names and options of the tasks, data sets, models and arms that exist, without importing torch.

The command line and the service answer questions from here; `tests/workers/test_catalogue.py` holds it against the
real ones in `workers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["ARMS", "DATASETS", "FAMILIES", "MODELS", "TASKS", "DatasetEntry", "ModelEntry", "TaskEntry"]


@dataclass(frozen=True)
class TaskEntry:
    """A kind of training problem.

    Attributes:
        metrics: Each objective and its better direction.
        images: Whether its data is images.
        own_data: Whether its data may be the user's.
    """

    summary: str
    metrics: Mapping[str, str]
    datasets: tuple[str, ...]
    models: tuple[str, ...]
    images: bool = False
    own_data: bool = True


@dataclass(frozen=True)
class DatasetEntry:
    """Data that the workers can read; `options` are their defaults, "" where a value has to be given."""

    summary: str
    options: Mapping[str, int | float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelEntry:
    """A model the workers can build; `options` are its sizes with their defaults.

    The family is one of FAMILIES, or "unknown", of which no advice is drawn.
    """

    summary: str
    family: str
    options: Mapping[str, int | float] = field(default_factory=dict)


TASKS: Mapping[str, TaskEntry] = {
    "image_classification": TaskEntry(
        summary="Images in, one of several classes out; cross-entropy.",
        metrics={"loss": "min", "accuracy": "max"},
        datasets=("digits", "idx", "cifar10"),
        models=("cnn", "mlp", "resnet18", "resnet20", "vit_tiny"),
        images=True,
    ),
    "diffusion": TaskEntry(
        summary="Which noise was added to an image? Squared error, at all strengths of noise.",
        metrics={"loss": "min"},
        datasets=("digits", "idx", "cifar10"),
        models=("unet",),
        images=True,
    ),
    "language_model": TaskEntry(
        summary="Text in, the character or byte that follows each one out; cross-entropy.",
        metrics={"loss": "min", "accuracy": "max", "perplexity": "min"},
        datasets=("python_source", "text"),
        models=("gpt", "lstm"),
    ),
    "regression": TaskEntry(
        summary="Rows of numbers in, one number out; squared error of the standardized target.",
        metrics={"loss": "min", "rmse": "min"},
        datasets=("diabetes", "csv"),
        models=("mlp",),
    ),
    "function": TaskEntry(
        summary="A function's lowest point is looked for by noisy gradients; its value, 1 at the start.",
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
        summary="1,797 handwritten digits of 8x8 pixels, scikit-learn's: nothing to download."
    ),
    "idx": DatasetEntry(
        summary="The four files of MNIST, Fashion-MNIST or KMNIST in a folder; train and test: 0 takes all.",
        options={"folder": "", "train": 0, "validation": 10_000, "test": 0},
    ),
    "cifar10": DatasetEntry(
        summary="CIFAR-10's binary version in a folder; train and test: 0 takes all.",
        options={"folder": "", "train": 0, "validation": 5_000, "test": 0},
    ),
    "diabetes": DatasetEntry(
        summary="442 patients with 10 measurements each, scikit-learn's: nothing to download."
    ),
    "csv": DatasetEntry(
        summary="A CSV file of numbers with a header; target is the column to predict.",
        options={"file": "", "target": ""},
    ),
    "python_source": DatasetEntry(
        summary="A megabyte of Python's own standard library, as bytes: nothing to download.",
        options={"length": 64, "train": 0},
    ),
    "text": DatasetEntry(
        summary="A text file, as char or byte, in windows of so many; train: 0 takes all windows.",
        options={"file": "", "level": "char", "length": 64, "train": 0},
    ),
    "rosenbrock": DatasetEntry(
        summary="A bent valley; noise on its gradients, normal or Student's t, and a drift an epoch if asked for.",
        options={"dimensions": 2, **_SURFACE},
    ),
    "rastrigin": DatasetEntry(
        summary="A bowl full of dents; otherwise as rosenbrock.",
        options={"dimensions": 2, **_SURFACE},
    ),
    "quadratic": DatasetEntry(
        summary="Curvatures from 1 to 1/condition, aligned with the coordinates or rotated; otherwise as rosenbrock.",
        options={"dimensions": 10, "condition": 100.0, "axes": "aligned", **_SURFACE},
    ),
}

MODELS: Mapping[str, ModelEntry] = {
    "cnn": ModelEntry(
        summary="Three 3x3 convolutions with batch norm, global average pooling, a linear head.",
        family="cnn",
        options={"width": 16},
    ),
    "gpt": ModelEntry(
        summary="A decoder-only transformer of the shape of GPT-2.",
        family="transformer",
        options={"width": 64, "depth": 2, "heads": 4},
    ),
    "lstm": ModelEntry(
        summary="An LSTM between an embedding and a linear head.",
        family="recurrent",
        options={"width": 128, "depth": 1},
    ),
    "resnet18": ModelEntry(
        summary="ResNet-18 for small images: four stages of two blocks, the first convolution 3x3.",
        family="cnn",
        options={"width": 64},
    ),
    "resnet20": ModelEntry(
        summary="ResNet-20 as He et al. had it for CIFAR-10: three stages of three blocks.",
        family="cnn",
        options={"width": 16},
    ),
    "mlp": ModelEntry(summary="One hidden layer with ReLU.", family="mlp", options={"width": 64}),
    "point": ModelEntry(summary="A point: no network, its coordinates are the parameters.", family="unknown"),
    "unet": ModelEntry(
        summary="A U-Net of residual blocks with group norm, told the time.",
        family="cnn",
        options={"width": 16, "depth": 2},
    ),
    "vit_tiny": ModelEntry(
        summary="A pre-norm transformer encoder over image patches.",
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
