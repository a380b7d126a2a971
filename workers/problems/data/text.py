"""Text, as characters or bytes, cut into windows."""

from __future__ import annotations

import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from anon_tune.errors import InputError
from anon_tune.workers.problems.data.split import Examples, Split

__all__ = ["Text", "python_source", "text"]

_BYTES = 256
_HELD_OUT = 0.1
_SOURCE_BYTES = 1_000_000


@dataclass(frozen=True)
class Text:
    """Windows of tokens (n, length) with the next token at each position (n, length), as small integers.

    Attributes:
        vocabulary: Number of different tokens.
    """

    train: Examples
    validation: Examples
    test: Examples
    vocabulary: int

    @property
    def length(self) -> int:
        """Shape of a window."""
        return self.train.shape[0]


def text(file: str, level: str, length: int, train: int) -> Text:
    """Read a file; the first 80% are for training, the next 10% for validation, the last 10% for the test.

    Args:
        file: Path of the file.
        level: "char": the tokens are the file's characters, in the order of their code points. "byte": its bytes.
        length: Length of a window.
        train: Number of training windows, taken from the start; 0: all.

    Raises:
        InputError: The file cannot be read or is too short.
    """
    path = Path(file)
    tokens: NDArray[Any]
    try:
        content = path.read_bytes()
        if level == "byte":
            tokens, vocabulary = np.frombuffer(content, np.uint8), _BYTES
        elif level == "char":
            points = np.frombuffer(content.decode("utf-8").encode("utf-32-le"), np.uint32)
            known, tokens = np.unique(points, return_inverse=True)
            vocabulary = len(known)
        else:
            raise InputError(f"data.level: expected char or byte, found {level!r}")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error}); data.level: byte reads any file.") from None
    return _windows(str(path), tokens, vocabulary, length, train)


def python_source(length: int, train: int) -> Text:
    """Return the first megabyte of Python's standard library, ordered by file name, as bytes.

    The text depends on the version of Python.
    """
    library = Path(sysconfig.get_paths()["stdlib"])
    content = bytearray()
    for path in sorted(library.glob("*.py")):
        content += path.read_bytes()
        if len(content) >= _SOURCE_BYTES:
            break
    tokens = np.frombuffer(bytes(content[:_SOURCE_BYTES]), np.uint8)
    return _windows(str(library), tokens, _BYTES, length, train)


def _windows(source: str, tokens: NDArray[Any], vocabulary: int, length: int, train: int) -> Text:
    held_out = int(_HELD_OUT * len(tokens))
    if held_out < length + 1:
        raise InputError(
            f"{source} has {len(tokens):,} tokens; a tenth of them, for validation, is less than a window of "
            f"data.length {length} and the token after it. Use a longer text or shorter windows."
        )
    cut = np.split(tokens, [len(tokens) - 2 * held_out, len(tokens) - held_out])
    kind = torch.uint8 if vocabulary <= _BYTES else torch.int32

    def split(part: NDArray[Any]) -> Split:
        count = (len(part) - 1) // length
        all_of_it = torch.from_numpy(part[: count * length + 1].astype(np.int64)).to(kind)
        return Split(all_of_it[:-1].view(count, length), all_of_it[1:].view(count, length))

    first, validation, test = map(split, cut)
    if train > len(first):
        raise InputError(f"{source} has {len(first):,} windows to train on; data.train asks for {train:,}.")
    return Text(first[: train or None], validation, test, vocabulary)
