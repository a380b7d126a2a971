"""Sample images of a diffusion model, in one picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from anon_tune.errors import InputError
from anon_tune.spec import JobSpec
from anon_tune.workers.problems.tasks import load_problem
from anon_tune.workers.problems.tasks.diffusion import sample

__all__ = ["write_samples"]

_SIDE = 8
_STEPS = 100
_SEED = 0
_PIXELS = 32  # smaller images are enlarged


def write_samples(weights: Mapping[str, Any], spec: JobSpec, target: Path) -> None:
    """Write a PNG of 8 x 8 images, drawn from the same noise each time.

    Args:
        weights: `state_dict` of the job's model.
        spec: A job of the task diffusion.
        target: The file to write.

    Raises:
        InputError: The job has another task, or the data cannot be read.
        RuntimeError: The weights do not fit the model.
        OSError: The file cannot be written.
    """
    data, model = spec.data, spec.model
    if spec.task != "diffusion" or data is None or model is None:
        raise InputError(f"The task {spec.task} has no sample images.")
    problem = load_problem(spec.task, data.name, model.name, model.options, data.options, spec.folder)
    trained = problem.build_model()
    trained.load_state_dict(weights)
    grid(sample(trained.eval(), (_SIDE * _SIDE, *problem.train.shape), steps=_STEPS, seed=_SEED)).save(
        target, format="PNG"
    )


def grid(images: Tensor) -> Image.Image:
    """Return one picture of images in [-1, 1], shape (n * n, channels, height, width), with 1 or 3 channels."""
    n, (channels, height, width) = round(len(images) ** 0.5), images.shape[1:]
    rows = (
        images.reshape(n, n, channels, height, width)
        .permute(0, 3, 1, 4, 2)
        .reshape(n * height, n * width, channels)
    )
    pixels = ((rows + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
    picture = Image.fromarray(pixels.squeeze(2) if channels == 1 else pixels)
    scale = max(1, _PIXELS // height)
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
