"""Agreement of the demo's jobs between search seeds: `python -m benchmarks.demo_seeds --home FOLDER`.

Each job of the demo is run for real with several search seeds (about five minutes each on two idle cores), and what
was found is compared over all pairs of seeds: whether the sets of gammas that one run cannot tell apart overlap, and
whether the 90% intervals of the best gamma do. Run again with the same folder, it makes what is missing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

from anon_tune.answer import Answer, Gamma

JOBS = ("digits_cnn", "digits_transformer")
EXAMPLES = Path(__file__).parents[1] / "examples"
Range = tuple[float, float]

TITLES = (
    "search seed", "gamma", "90% interval", "one run cannot tell apart", "seeds differ by", "Anon against AdamW, SGD",
)  # fmt: skip


def anon_tune(home: Path, *arguments: str) -> str:
    """Return the output of a command."""
    command = [sys.executable, "-m", "anon_tune", *arguments]
    environment = {**os.environ, "ANON_TUNE_HOME": str(home)}
    return subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True).stdout


def answer(home: Path, job: str, seed: int) -> Answer:
    """Return the result of a job with one search seed, which runs unless the folder has it."""
    name = f"{job}-{seed}"
    found = [each for each in json.loads(anon_tune(home, "jobs", "--json")) if each["name"] == name]
    if not found:
        anon_tune(
            home,
            "run",
            str(EXAMPLES / f"{job}.yaml"),
            "--set",
            f"search.seed={seed}",
            "--set",
            f"name={name}",
        )
    elif found[0]["state"] != "SUCCEEDED":
        anon_tune(home, "run", "--resume", found[0]["id"])
    (made,) = (each for each in json.loads(anon_tune(home, "jobs", "--json")) if each["name"] == name)
    return Answer.model_validate(json.loads(anon_tune(home, "show", made["id"], "--json"))["result"])


def overlap(one: list[Range], other: list[Range]) -> bool:
    """Whether two sets of ranges have a value in common."""
    return any(a[0] <= b[1] and b[0] <= a[1] for a, b in itertools.product(one, other))


def share(pairs: list[bool]) -> str:
    return f"{sum(pairs)} of {len(pairs)}"


def summary(found: list[Gamma]) -> str:
    known = [each for each in found if each.low is not None and each.high is not None]
    pairs = list(itertools.combinations(known, 2))
    sets = [overlap(one.indistinguishable, other.indistinguishable) for one, other in pairs]
    intervals = [overlap([(a.low, a.high)], [(b.low, b.high)]) for a, b in pairs]  # type: ignore[list-item]
    return f"sets overlap in {share(sets)} pairs, 90% intervals in {share(intervals)}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--home", type=Path, required=True, help="folder of the jobs")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    for job in JOBS:
        print(f"\n{job}\n\n| {' | '.join(TITLES)} |\n|{'---|' * len(TITLES)}")
        found = []
        for seed in range(options.seeds):
            one = answer(options.home, job, seed)
            gamma = one.gamma
            found.append(gamma)
            between = "-" if gamma.low is None else f"{gamma.low:.2f} .. {gamma.high:.2f}"
            sets = ", ".join(f"{low:.2f} .. {high:.2f}" for low, high in gamma.indistinguishable) or "-"
            said = ", ".join(
                f"{each.outcome.value} ({each.difference:+.1%})"
                if each.difference is not None
                else each.outcome.value
                for each in one.of("configuration")
            )
            best = "-" if gamma.best is None else f"{gamma.best:.2f}"
            deviation = "-" if gamma.deviation is None else f"{gamma.deviation:.1%}"
            print(f"| {seed} | {best} | {between} | {sets} | {deviation} | {said} |", flush=True)
        print(f"\n{summary(found)}")


if __name__ == "__main__":
    main()
