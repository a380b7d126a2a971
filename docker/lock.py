"""Split a lock that `uv pip compile --generate-hashes` prints into those of the image: the runtime, and CUDA's torch.

Usage: python docker/lock.py < LOCK. The torch for CPU is another build of the same version, which PyPI does not have:
docker/torch-cpu.lock is written by hand.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

_FOLDER = Path(__file__).parent
_OF_TORCH = re.compile(r"(torch|triton|nvidia-[\w-]+|cuda-[\w-]+)==")
_HEADER = (
    "# Exact versions with hashes for the image, on Python 3.11 and Linux on x86-64. Made by 'make lock'.\n"
)


def main() -> None:
    """Write runtime.lock and torch-cuda.lock beside this file."""
    requirements = re.findall(r"^\S.*(?:\n .*)*\n", sys.stdin.read(), re.MULTILINE)
    for name, of_torch in (("runtime.lock", False), ("torch-cuda.lock", True)):
        chosen = [each for each in requirements if bool(_OF_TORCH.match(each)) is of_torch]
        (_FOLDER / name).write_text(_HEADER + "".join(chosen), encoding="utf-8")


if __name__ == "__main__":
    main()
