"""Logging of the service and the worker: one line for each event, for people or for programs."""

from __future__ import annotations

import logging
import sys

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

__all__ = ["log_to_stderr"]

_NAMES = {"asctime": "time", "levelname": "level", "name": "logger"}


def log_to_stderr() -> None:
    """Write the log to standard error: text on a terminal, else a JSON object per line with `job` and `trial`."""
    handler = logging.StreamHandler()
    if sys.stderr.isatty():
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    else:
        form = "%(asctime)s %(levelname)s %(name)s %(message)s"
        # uvicorn says everything once more in colours.
        left_out = [*RESERVED_ATTRS, "color_message"]
        handler.setFormatter(JsonFormatter(form, rename_fields=_NAMES, reserved_attrs=left_out))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # It writes whole addresses, and those of webhooks are secrets.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
