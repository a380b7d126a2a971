"""The service under load, on loopback: `python -m benchmarks.service [--quick]`.

Three questions. How long does an answer take with many people looking: 50 clients in a process of their own, each
with a request a second in turn for the list of jobs, a job and a page of trials, on a ledger (sqlite) of 5,000 trials
with ten reports each. How much of a core do 50 people cost who watch one job of 5,000 trials that changes once a
second. And are submissions lost or doubled: 1,000 of them by 20 clients, while the service is killed (SIGKILL) and
started again twice; afterwards each client's key must have made exactly one job.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np
import psutil

from anon_tune.jobs.service import ServiceJobs
from anon_tune.ledger import Ledger
from anon_tune.records import NewTrial, Phase, TrialState
from anon_tune.spec import JobFile, parse_spec

JOBS, TRIALS, REPORTS = 10, 500, 10
SPEC = {
    "name": "digits-mlp",
    "task": "image_classification",
    "data": "digits",
    "model": "mlp",
    "budget": {"trials": TRIALS, "epochs": REPORTS},
}
GOAL_MS = 100.0
WATCHED_SECONDS = 20
GOAL_CORE = 0.2


def fill(ledger: Ledger, jobs: int) -> list[str]:
    """Jobs of one arm, each with TRIALS COMPLETE trials."""
    spec = parse_spec(SPEC).model_dump(mode="json")
    made = []
    for _ in range(jobs):
        job = ledger.jobs.create("filled", spec, {}).id
        lease = ledger.leases.acquire(job, "benchmark", 3600.0)
        for number in range(TRIALS):
            params = {"gamma": number / TRIALS, "step_size": 0.1}
            with ledger.transaction(durable=False) as transaction:
                trial = transaction.trials.add(
                    lease, NewTrial("anon", Phase.SEARCH, number, number, params, params)
                )
                transaction.attempts.start(lease, trial.id)
                for step in range(1, REPORTS + 1):
                    transaction.trials.report(lease, trial.id, 1, step, 1.0 / step, {"epoch_seconds": 0.1})
                transaction.trials.finish(lease, trial.id, TrialState.COMPLETE, abs(number - 77.0))
        made.append(job)
    return made


class Service:
    """`anon-tune serve` in a process of its own, which can be killed and started again at the same port."""

    def __init__(self, home: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self._port}"
        self.home = home
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {
            k: v for k, v in os.environ.items() if not k.startswith(("ANON_TUNE_", "MLFLOW_", "RAY_"))
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "anon_tune", "serve", "--port", str(self._port)],
            env={**environment, "ANON_TUNE_HOME": str(self.home)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while True:
            with contextlib.suppress(httpx2.HTTPError):
                if httpx2.get(f"{self.address}/healthz").is_success:
                    return
            time.sleep(0.05)

    @property
    def pid(self) -> int:
        """Id of the process."""
        if self._process is None:
            raise RuntimeError("the service was not started")
        return self._process.pid

    def kill(self) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


@contextlib.contextmanager
def service() -> Iterator[tuple[Service, Ledger]]:
    """A service on a ledger of its own."""
    with tempfile.TemporaryDirectory(prefix="at") as folder:
        found = Service(Path(folder))
        ledger = Ledger.open(f"sqlite:///{folder}/ledger.db")
        try:
            yield found, ledger
        finally:
            found.kill()
            ledger.close()


async def look(
    address: str, jobs: list[str], clients: int, rounds: int, pause: float
) -> dict[str, list[float]]:
    """Return milliseconds to each answer, by what was asked."""
    seconds: dict[str, list[float]] = {"job list": [], "job": [], "page of 100 trials": []}

    async def client(number: int, http: httpx2.AsyncClient) -> None:
        job = jobs[number % len(jobs)]
        paths = dict(zip(seconds, ("/jobs", f"/jobs/{job}", f"/jobs/{job}/trials?limit=100"), strict=True))
        await asyncio.sleep(pause * number / clients)
        for _ in range(rounds):
            for what, path in paths.items():
                began = time.perf_counter()
                (await http.get(path)).raise_for_status()
                took = time.perf_counter() - began
                seconds[what].append(1000 * took)
                await asyncio.sleep(max(0.0, pause - took))

    async with contextlib.AsyncExitStack() as stack:
        # All of them first: making one takes 30 ms, in which the others would wait, and ask at once then.
        made = [httpx2.AsyncClient(base_url=f"{address}/api/v1", timeout=60) for _ in range(clients)]
        for http in made:
            await stack.enter_async_context(http)
        await asyncio.gather(*(client(number, http) for number, http in enumerate(made)))
    return seconds


def measure_answers(clients: int, rounds: int, jobs: int) -> bool:
    """Print response times; return whether the goal was met."""
    with service() as (found, ledger):
        made = fill(ledger, jobs)
        found.start()
        met = True
        for pause in (1.0, 0.0):
            command = [
                sys.executable,
                "-m",
                "benchmarks.service",
                "--child",
                found.address,
                str(clients),
                str(rounds),
            ]
            began = time.perf_counter()
            done = subprocess.run([*command, str(pause), *made], check=True, capture_output=True, text=True)
            whole = time.perf_counter() - began
            seconds = json.loads(done.stdout)
            asked = sum(map(len, seconds.values()))
            how = (
                "a request a second each"
                if pause
                else f"as fast as it goes: {asked / whole:.0f} requests a second"
            )
            print(f"{clients} clients, {jobs * TRIALS} trials, {how}")
            for what, values in seconds.items():
                median, high, longest = np.percentile(values, [50, 95, 100])
                print(f"  {what:20} median {median:6.1f} ms  95% {high:6.1f} ms  longest {longest:6.1f} ms")
                met = met and (pause == 0.0 or high < GOAL_MS)
    return met


async def watch(address: str, job: str, watchers: int, change: Callable[[int], None], process: int) -> float:
    """Return the share of a core that a service takes while a job is watched that changes once a second."""
    events = [0] * watchers

    async def follow(number: int, http: httpx2.AsyncClient) -> None:
        async with http.stream("GET", f"{address}/api/v1/jobs/{job}/events") as answer:
            async for line in answer.aiter_lines():
                events[number] += line.startswith("event:")

    limits = httpx2.Limits(max_connections=watchers)
    async with httpx2.AsyncClient(timeout=None, limits=limits) as http, asyncio.TaskGroup() as group:
        tasks = [group.create_task(follow(number, http)) for number in range(watchers)]
        while not all(events):
            await asyncio.sleep(0.1)
        before, began = psutil.Process(process).cpu_times(), time.perf_counter()
        for number in range(WATCHED_SECONDS):
            change(number)
            await asyncio.sleep(1.0)
        after, seconds = psutil.Process(process).cpu_times(), time.perf_counter() - began
        for task in tasks:
            task.cancel()
    if min(events) < WATCHED_SECONDS / 2:
        raise RuntimeError(f"a watcher got {min(events)} events of {WATCHED_SECONDS} changes")
    return (after.user + after.system - before.user - before.system) / seconds


def measure_watchers(watchers: int, trials: int) -> bool:
    """Print the cost of people who watch one job; return whether the goal was met."""
    with service() as (found, ledger):
        spec = parse_spec({**SPEC, "budget": {"trials": trials, "epochs": WATCHED_SECONDS}})
        job = ledger.jobs.create("watched", spec.model_dump(mode="json"), {}).id
        lease = ledger.leases.acquire(job, "benchmark", 3600.0)
        with ledger.transaction(durable=False) as transaction:
            for number in range(trials):
                params = {"gamma": number / trials, "step_size": 0.1}
                new = NewTrial("anon", Phase.SEARCH, number, number, params, params)
                trial = transaction.trials.add(lease, new).id
                transaction.attempts.start(lease, trial)
                if number < trials - 1:
                    transaction.trials.finish(lease, trial, TrialState.COMPLETE, number / trials)
        found.start()

        def change(number: int) -> None:
            ledger.trials.report(lease, trial, 1, number + 1, 0.5, {})

        core = asyncio.run(watch(found.address, job, watchers, change, found.pid))
    print(f"{watchers} people watch a job of {trials} trials: {core:.3f} of a core")
    return core < GOAL_CORE


def measure_submissions(count: int) -> bool:
    """Print the fate of submissions while the service is killed twice; return whether none was lost or doubled."""
    with service() as (found, ledger):
        found.start()
        done = 0
        lock = threading.Lock()
        local = threading.local()

        def submit(number: int) -> str:
            nonlocal done
            if not hasattr(local, "jobs"):
                local.jobs = ServiceJobs(found.address, patience=60.0)
            job = JobFile({**SPEC, "name": f"job {number}"})
            made: str = local.jobs.submit(job, key=f"submission {number}").id
            with lock:
                done += 1
            return made

        with ThreadPoolExecutor(20) as pool:
            futures = [pool.submit(submit, number) for number in range(count)]
            for share in (1 / 3, 2 / 3):
                while done < share * count:
                    time.sleep(0.01)
                found.kill()
                found.start()
            answered = {f"job {number}": future.result() for number, future in enumerate(futures)}
        there = [(job.name, job.id) for job in ledger.overviews.jobs()]
        lost = len(set(answered.items()) - set(there))
        doubled = len(there) - len({name for name, _ in there})
        print(f"{count} submissions, killed twice: {lost} lost, {doubled} doubled, {len(there)} jobs")
        return lost == 0 and doubled == 0 and len(there) == count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer of all")
    parser.add_argument("--child", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        address, clients, rounds, pause, *jobs = options.child
        print(json.dumps(asyncio.run(look(address, jobs, int(clients), int(rounds), float(pause)))))
        return 0
    load = os.getloadavg()
    print(
        f"{os.cpu_count()} cores; load before (1, 5, 15 minutes): {', '.join(f'{each:.1f}' for each in load)}"
    )
    answered = measure_answers(
        10 if options.quick else 50, 2 if options.quick else 10, 2 if options.quick else JOBS
    )
    watched = measure_watchers(5 if options.quick else 50, 500 if options.quick else 5000)
    kept = measure_submissions(100 if options.quick else 1000)
    return 0 if answered and watched and kept else 1


if __name__ == "__main__":
    sys.exit(main())
