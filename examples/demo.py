"""The demo: one real tuning job for each of two architectures, then training with each exported config.

`make demo` runs it. Arguments are passed on to `anon-tune run`, e.g. `--set budget.trials=6` for a short one.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from examples.train_with_export import train

JOBS = ("digits_cnn", "digits_transformer")
FOLDER = Path(__file__).parent


def main() -> None:
    started = time.monotonic()
    found = []
    for name in JOBS:
        before = job_ids()
        command = [sys.executable, "-m", "anon_tune", "run", str(FOLDER / f"{name}.yaml"), *sys.argv[1:]]
        print(f"\n$ anon-tune run examples/{name}.yaml {' '.join(sys.argv[1:])}".rstrip(), flush=True)
        if subprocess.run(command).returncode != 0:
            sys.exit(f"The job of {name} did not succeed; see above.")
        found += [
            (name, job) for job, of in job_ids().items() if job not in before and of == name.replace("_", "-")
        ]
    print("\nTraining with the exported configs:", flush=True)
    for name, job in found:
        path = Path("demo_output") / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        subprocess.run([sys.executable, "-m", "anon_tune", "export", job, "-o", str(path)], check=True)
        first, last = train(path)
        print(f"  {path}: training loss {first:.3f} -> {last:.3f}")
    print(f"\nTwo jobs in {time.monotonic() - started:.0f} s.")


def job_ids() -> dict[str, str]:
    """Return the name of every job, by its id."""
    listed = subprocess.run(
        [sys.executable, "-m", "anon_tune", "jobs", "--json"], check=True, capture_output=True, text=True
    )
    return {job["id"]: job["name"] for job in json.loads(listed.stdout)}


if __name__ == "__main__":
    main()
