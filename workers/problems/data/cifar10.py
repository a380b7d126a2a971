"""CIFAR-10's binary version (https://www.cs.toronto.edu/~kriz/cifar.html)."""

from __future__ import annotations

from pathlib import Path

import torch

from anon_tune.errors import InputError
from anon_tune.workers.problems.data.images import Images, split_images
from anon_tune.workers.problems.data.split import Split

__all__ = ["cifar10"]

_SHAPE = (3, 32, 32)
_CLASSES = 10
_ROW = 1 + 3 * 32 * 32


def cifar10(folder: str, train: int, validation: int, test: int) -> Images:
    """Read `data_batch_1.bin` .. `data_batch_5.bin` and `test_batch.bin`.

    Raises:
        InputError: A file is missing or damaged.
    """
    root = Path(folder)
    batches = [_read(root / f"data_batch_{number}.bin") for number in range(1, 6)]
    trained = Split(
        torch.cat([batch.inputs for batch in batches]), torch.cat([batch.targets for batch in batches])
    )
    tested = _read(root / "test_batch.bin")
    return split_images(str(root), trained, tested, _CLASSES, (train, validation, test))


def _read(path: Path) -> Split:
    """Return images and labels. A row is a label, then the red, green and blue planes of 32 x 32 bytes."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}). Unpack cifar-10-binary.tar.gz there."
        ) from None
    if not content or len(content) % _ROW:
        raise InputError(f"{path} has {len(content):,} bytes, not a multiple of {_ROW:,}: it is damaged.")
    rows = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(-1, _ROW)
    labels = rows[:, 0].to(torch.int64)
    if int(labels.max()) >= _CLASSES:
        raise InputError(f"{path} has the label {int(labels.max())}; CIFAR-10's are 0 to {_CLASSES - 1}.")
    return Split(rows[:, 1:].reshape(-1, *_SHAPE).contiguous(), labels)
