"""The log of processes that run on their own: a line for each event, for people or for programs."""

from __future__ import annotations

import logging
import sys

from pythonjsonlogger.json import JsonFormatter

__all__ = ["log_to_stderr"]

_NAMES = {"asctime": "time", "levelname": "level", "name": "logger"}


def log_to_stderr() -> None:
    """Write the log to standard error: in words to a terminal, else a JSON object a line, with `job` and `trial`."""
    handler = logging.StreamHandler()
    if sys.stderr.isatty():
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    else:
        form = "%(asctime)s %(levelname)s %(name)s %(message)s"
        handler.setFormatter(JsonFormatter(form, rename_fields=_NAMES))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
