"""The command line's entry: `anon-tune` and `python -m anon_tune`."""

import gc

__all__ = ["main"]


def main() -> None:
    """Load the command line and run it."""
    # What modules make while they are loaded stays: to look for garbage among it, then and when the process ends,
    # takes a third of a short command's time (benchmarks/start.py).
    gc.disable()
    from anon_tune import cli

    gc.freeze()
    gc.enable()
    try:
        cli.main()
    finally:
        gc.freeze()


if __name__ == "__main__":
    main()
