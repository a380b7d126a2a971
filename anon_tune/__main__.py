"""The command line's entry: `anon-tune` and `python -m anon_tune`."""

import gc

from anon_tune.loading import uncollected, without_plugins

__all__ = ["main"]


def main() -> None:
    """Load the command line and run it."""
    with uncollected(), without_plugins():
        from anon_tune import cli
    # Modules stay. Where a process ends, Python looks for garbage among all that they have made, those too that the
    # command has loaded, unless it is told not to: a third of a short command's time (benchmarks/start.py).
    gc.freeze()
    try:
        cli.main()
    finally:
        gc.freeze()


if __name__ == "__main__":
    main()
