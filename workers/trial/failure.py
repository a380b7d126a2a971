"""Failures of user code, in words. Needs torch alone."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from types import TracebackType

import torch

from anon_tune.errors import AnonTuneError
from anon_tune.records import storable_text
from anon_tune.workers.trial.messages import Failed

__all__ = ["failure_of", "message_of"]


def failure_of(error: BaseException, folder: str | None = None) -> Failed:
    """Return the outcome of an error; the traceback starts in the user's own code, which is in `folder`."""
    trace = storable_text("".join(traceback.format_exception(type(error), error, _users_part(error, folder))))
    sys.stdout.flush()
    sys.stderr.write(trace)
    sys.stderr.flush()
    if isinstance(error, torch.OutOfMemoryError):
        # Without the sizes in its message, which differ from trial to trial: three for one reason pause the job.
        text = (
            "CUDA out of memory. Lower training.batch_size or the model's sizes, or let fewer trials share a GPU: "
            "each may use its share of the memory, resources.gpu. `anon-tune logs` shows the sizes."
        )
    elif type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        why = next(iter(message_of(error).strip().splitlines()), "")
        text = f"torch.compile: {why} Leave out training.compile, or see `anon-tune logs`."
    else:
        message = message_of(error)
        text = message if isinstance(error, AnonTuneError) else f"{type(error).__name__}: {message}"
    return Failed(text, trace)


def message_of(error: BaseException) -> str:
    """Return an error's text, storable, also if the user's class cannot make it."""
    try:
        return storable_text(str(error))
    except Exception as second:  # noqa: BLE001 - `__str__` may raise anything
        return f"(no text, because its __str__ raised {type(second).__name__})"


def _users_part(error: BaseException, folder: str | None) -> TracebackType | None:
    """Return an error's traceback from the first frame of a file in `folder` on; all of it without such a frame."""
    trace = error.__traceback__
    while folder is not None and trace is not None:
        if Path(trace.tb_frame.f_code.co_filename).is_relative_to(folder):
            return trace
        trace = trace.tb_next
    return error.__traceback__
