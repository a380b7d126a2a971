"""Start-up time of the command line, and the share of its libraries.

    python -m benchmarks.start [--rounds 15] [--quick]

Fresh processes of compiled modules, one after another in rounds: `anon-tune --help`, `anon-tune jobs`
on a ledger of 20 jobs, the same by way of a service, and for comparison a Python that does nothing, and one that only
imports the libraries that `jobs` takes on a ledger.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from anon_tune.ledger import Ledger
from anon_tune.spec import parse_spec, spaces_of
from anon_tune.submission import store_job
from benchmarks.jobs import two_cores, users_environment
from benchmarks.service import service

GOAL = 0.5
JOBS = 20
LIBRARIES = "import typer, rich.table, pydantic.main, sqlalchemy.dialects.sqlite"


def fill(ledger: Ledger) -> None:
    """Queue a few jobs."""
    for number in range(JOBS):
        spec = parse_spec(
            {
                "name": f"job {number}",
                "task": "image_classification",
                "data": "digits",
                "model": "mlp",
                "budget": {"trials": 4, "epochs": 2},
            }
        )
        store_job(ledger, spec, spaces_of(spec))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="three rounds")
    options = parser.parse_args()
    two_cores()
    python, program = sys.executable, str(Path(sys.executable).parent / "anon-tune")
    with service() as (found, ledger):
        fill(ledger)
        found.start()
        commands = {
            "python": [python, "-c", "pass"],
            "libraries": [python, "-c", LIBRARIES],
            "--help": [program, "--help"],
            "jobs": [program, "jobs"],
            "--server URL jobs": [program, "--server", found.address, "jobs"],
        }
        took: dict[str, list[float]] = {name: [] for name in commands}
        environment = {**users_environment(), "ANON_TUNE_HOME": str(found.home)}
        for command in commands.values():
            subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
        for _ in range(3 if options.quick else options.rounds):
            for name, command in commands.items():
                began = time.perf_counter()
                subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
                took[name].append(time.perf_counter() - began)
    libraries = statistics.median(took["libraries"])
    for name, values in took.items():
        middle = statistics.median(values)
        print(
            f"{name:17} at best {min(values):.3f} s, median {middle:.3f} s, {middle / libraries:.2f} of the libraries"
        )
    print(f"goal: each command below {GOAL} s")


if __name__ == "__main__":
    main()
