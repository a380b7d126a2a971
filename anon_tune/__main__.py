"""The command line's entry: `anon-tune` and `python -m anon_tune`."""

import gc

from anon_tune.loading import uncollected, without_plugins

__all__ = ["main"]


def main() -> None:
    """Load the command line and run it."""
    with uncollected(for_good=True), without_plugins():
        from anon_tune import cli
    try:
        cli.main()
    finally:
        gc.freeze()  # what the command has made and loaded: Python would look for garbage among it before it ends


if __name__ == "__main__":
    main()
