"""Files that pages load. Their addresses hold a digest of their content, so that browsers may keep them for ever."""

from __future__ import annotations

import functools
import gzip
import hashlib
from dataclasses import dataclass
from importlib.resources import files

from plotly.offline import get_plotlyjs

__all__ = ["PREFIX", "StaticFile", "static_file", "static_path"]

PREFIX = "/static"
"""Path under which the service sends them."""

PLOTLY = "plotly.min.js"
_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_DIGITS = 12


@dataclass(frozen=True)
class StaticFile:
    """A file to send.

    Attributes:
        content: Its bytes, compressed with gzip.
        digest: The first digits of the SHA-256 of its bytes before compression.
    """

    content: bytes
    media_type: str
    digest: str


@functools.cache
def static_file(name: str) -> StaticFile | None:
    """Return a file by its name, such as "style.css"; None if there is no such file."""
    suffix = name[name.rfind(".") :]
    if suffix not in _MEDIA_TYPES or "/" in name:
        return None
    if name == PLOTLY:
        content = get_plotlyjs().encode()
    else:
        found = files(__package__).joinpath("static", name)
        if not found.is_file():
            return None
        content = found.read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:_DIGITS]
    return StaticFile(gzip.compress(content, mtime=0), _MEDIA_TYPES[suffix], digest)


def static_path(name: str) -> str:
    """Return the path of a file in an address, with its digest.

    Raises:
        KeyError: There is no such file.
    """
    found = static_file(name)
    if found is None:
        raise KeyError(name)
    return f"{PREFIX}/{found.digest}/{name}"
