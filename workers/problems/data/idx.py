"""IDX files, as MNIST and its successors (Fashion-MNIST, KMNIST) are published.

The format: two zero bytes, a type (8: uint8), the number of dimensions, each dimension as a big-endian 32-bit number,
then the values, the last dimension fastest. http://yann.lecun.com/exdb/mnist/ described it.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from anon_tune.errors import InputError
from anon_tune.workers.problems.data.images import Images, split_images
from anon_tune.workers.problems.data.split import Split

__all__ = ["idx", "read_idx"]

_UINT8 = 8
_GZIP = b"\x1f\x8b"


def idx(folder: str, train: int, validation: int, test: int) -> Images:
    """Read `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and both `t10k-` files, with or without `.gz`.

    Raises:
        InputError: A file is missing or damaged, or does not match the others.
    """
    root = Path(folder)
    parts = []
    for part in ("train", "t10k"):
        images_path, labels_path = (
            _find(root, f"{part}-images-idx3-ubyte"),
            _find(root, f"{part}-labels-idx1-ubyte"),
        )
        images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
        if len(images) != len(labels):
            raise InputError(
                f"{images_path} has {len(images):,} images and {labels_path} {len(labels):,} labels: "
                "they belong to different data sets."
            )
        parts.append(Split(images.unsqueeze(1), labels.to(torch.int64)))
    trained, tested = parts
    if trained.inputs.shape[1:] != tested.inputs.shape[1:]:
        raise InputError(
            f"The training images in {root} are {_size(trained)} pixels and the test images {_size(tested)}."
        )
    classes = int(trained.targets.max()) + 1
    if int(tested.targets.max()) >= classes:
        raise InputError(
            f"{_find(root, 't10k-labels-idx1-ubyte')} has the label {int(tested.targets.max())}, and the training "
            f"labels end at {classes - 1}."
        )
    return split_images(str(root), trained, tested, classes, (train, validation, test))


def read_idx(path: Path, dimensions: int) -> Tensor:
    """Return the values of one file, uint8, with the given number of dimensions.

    Raises:
        InputError: The file cannot be read, or is not such a file.
    """
    try:
        content = path.read_bytes()
        if content.startswith(_GZIP):
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    magic = bytes([0, 0, _UINT8, dimensions])
    start = len(magic) + 4 * dimensions
    if content[: len(magic)] != magic or len(content) < start:
        raise InputError(
            f"{path} is not an IDX file of bytes in {dimensions} dimensions: it begins with {content[:4].hex(' ')}, "
            f"not with {magic.hex(' ')}."
        )
    shape = struct.unpack(f">{dimensions}I", content[len(magic) : start])
    if len(content) - start != math.prod(shape) or not math.prod(shape):
        raise InputError(
            f"{path} says it holds {' x '.join(map(str, shape))} bytes, and {len(content) - start:,} follow: "
            "it is empty or its download is incomplete."
        )
    return torch.frombuffer(bytearray(content[start:]), dtype=torch.uint8).view(shape)


def _find(root: Path, name: str) -> Path:
    # Some sources use a dot instead of the last hyphen.
    names = [name, f"{name}.gz", name.replace("-idx", ".idx"), f"{name.replace('-idx', '.idx')}.gz"]
    for each in names:
        if (root / each).is_file():
            return root / each
    raise InputError(
        f"There is no {name} or {name}.gz in {root}. Download the four files of the data set there."
    )


def _size(split: Split) -> str:
    return " x ".join(map(str, split.inputs.shape[2:]))
