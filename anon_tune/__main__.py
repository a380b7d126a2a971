"""The command line's entry: `anon-tune` and `python -m anon_tune`."""

import contextlib
import gc
import io
import os
import signal
import sys
from typing import NoReturn

__all__ = ["main"]

_INTERRUPTED = 128 + signal.SIGINT


def main() -> None:
    """Load the command line and run it."""
    gc.disable()  # looking for garbage is a third of a short command's time; `cli` enables it for long ones
    _open_standard_streams()
    try:
        from anon_tune import cli

        cli.main()
    except KeyboardInterrupt:
        _end_interrupted()
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            _end_interrupted()
        raise
    finally:
        gc.freeze()  # or Python would look through all that is loaded before it ends


def _open_standard_streams() -> None:
    """Prepare them: closed ones lead nowhere, and characters that the terminal lacks are written as escapes.

    A file that is opened next would take the place of a closed one.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, encoding="utf-8", errors="backslashreplace")  # noqa: PTH123, SIM115
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)
    for output in (sys.stdout, sys.stderr):
        if isinstance(output, io.TextIOWrapper):
            output.reconfigure(errors="backslashreplace")


def _end_interrupted() -> NoReturn:
    """End without Python's own end, in which threads of a Ray whose start was cut short crash."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
