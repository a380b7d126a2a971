"""Losses after faults: `python -m benchmarks.faults [--database postgres] [--quick | --short] [--only EPISODE ...]`.

`anon-tune worker` runs whole jobs, in separate homes, and the benchmark kills processes meanwhile: the driver, a
trial's worker process, the raylet, the daemon (another daemon takes its job over). It also stops a daemon with its
driver past its lease, and lets them continue then. It kills driver and worker at named points too (`failpoints.py`).
With `--database postgres` the ledger is in a PostgreSQL server, which is also restarted and frozen, and daemons lose
their connection to it (`proxy.py`). At the end of each job the benchmark cancels another one and kills its driver.

Then it compares the ledger with its state at each kill and MLflow with the ledger, and checks the history of all that
the ledger has confirmed (`checker.py`).

`--loaded MINUTES` kills nothing, and keeps every core busy beside a job (`loaded.py`).

Seconds are from the kill to the first report of an attempt that began after it: of the killed worker's trial, or
under the lease's next token. They include Ray's start, which the driver that takes over logs. After an outage of the
database they are from its begin to the first report after its end.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from anon_tune.records import JobRecord, JobState
from anon_tune.workers.queue.holder import LEASE_SECONDS
from benchmarks.faults.checks import Losses, losses, of_history
from benchmarks.faults.loaded import watch
from benchmarks.faults.service import Service, alive, until

_JOBS = 6
_RANDOM_SECONDS = 2.0
"""A random kill comes up to so long after the job has got on."""


@dataclass(frozen=True)
class Kill:
    """One death.

    Attributes:
        target: driver, worker, raylet, daemon; "daemon, stopped" and "daemon, partitioned" from the database: until
            its job was taken over. Or an outage of the database: "restart", "freeze" or "partition".
        point: A name of `failpoints.POINTS`; None: at random.
        seconds: Duration of an outage.
    """

    target: str
    point: str | None = None
    seconds: float = 0.0

    @property
    def kind(self) -> str:
        """Its row in the table."""
        if self.is_outage:
            return f"database, {self.target} of {self.seconds:g} s"
        if "," in self.target:
            return self.target
        return f"{self.target}, {'at points' if self.point else 'at random'}"

    @property
    def is_outage(self) -> bool:
        """Whether nothing was killed, and a job may go on with its processes."""
        return self.seconds > 0


@dataclass(frozen=True)
class Episode:
    """One job, with keys of its file set to other values, and what is killed while it runs, one after another."""

    name: str
    kills: Sequence[Kill]
    settings: Sequence[str] = ()


@dataclass
class Row:
    """Results of one kind of death."""

    kills: int = 0
    seconds: list[float] = field(default_factory=list)
    besides: list[float] = field(default_factory=list)
    """Seconds without Ray's start, after the death of a driver or raylet, unless the next driver had Ray running."""
    losses: Losses = field(default_factory=Losses)


def outages() -> list[Kill]:
    """Those of a database server."""
    restarts = [Kill("restart", seconds=seconds) for seconds in (0.2, 1.0, 5.0, 30.0) for _ in range(4)]
    others = [Kill("freeze", seconds=5.0), Kill("freeze", seconds=30.0), Kill("partition", seconds=5.0)]
    return [*restarts, *others, *others, *[Kill("daemon, partitioned")] * 4]


def episodes(quick: bool = False, short: bool = False, postgres: bool = False) -> list[Episode]:
    """Those of the table, each with every kind in an order of chance; or one of each kind, or two kills."""
    search = [
        f"{name}, {when}" for name in ("start", "report", "end") for when in ("not committed", "committed")
    ]
    written = ["checkpoint, half written", "checkpoint, not named"]
    if quick:
        return [Episode("quick", [Kill("driver", search[2]), Kill("worker", written[1])])]
    if short:
        each = [Kill(target) for target in ("raylet", "driver", "daemon", "worker")]
        if postgres:
            each = [Kill("restart", seconds=1.0), Kill("partition", seconds=5.0), Kill("daemon, partitioned")]
        return [Episode("one of each", each)]
    # Dealt to the jobs one after another, each kind to all of them.
    kills = [Kill("driver", point) for point in search for _ in range(2)]
    kills += [Kill("worker", point) for point in written * 3]
    kills += [Kill(target) for target in ("driver", "worker", "raylet", "daemon") for _ in range(_JOBS)]
    kills += [Kill("daemon, stopped")] * 2
    kills += outages() if postgres else []
    chance = random.Random(0)
    last = [Kill("driver", f"report in {phase}, committed") for phase in ("confirm", "verdict")]
    longer = ["budget.trials=20", "budget.epochs=20"]
    return [
        Episode(f"job {n}", [*chance.sample(own := kills[n - 1 :: _JOBS], len(own)), *last], longer)
        for n in range(1, _JOBS + 1)
    ]


def play(
    episode: Episode,
    seed: int,
    postgres: bool,
    cancels: bool,
    rows: dict[str, Row],
    say: Callable[[str], None],
) -> None:
    """Run one job through its deaths, and note what they cost."""
    chance = random.Random(seed)
    targets = {kill.target for kill in episode.kills}
    with Service(seed, postgres=postgres) as service:
        daemons = [service.start_daemon() for _ in range(2 if any("daemon" in t for t in targets) else 1)]
        job = service.submit(*episode.settings)
        service.extend(job)
        seen: list[JobRecord] = []
        resumed_at = 0.0
        for kill in episode.kills:
            until(lambda: bool(service.tree(job)) or service.has_ended(job), "a driver of the job")
            token, tree = service.token(job), service.tree(job)
            when = _die(kill, service, job, daemons, resumed_at, chance, seen) if tree else None
            if when is None:
                say(f"  {kill.kind}: the job was over before")
                continue
            row = rows.setdefault(kill.kind, Row())
            if kill.is_outage:
                taken_at, resumed_at = time.time(), _after_outage(service, job, row)
            else:
                taken_at, resumed_at = _back(kill, service, job, when, token)
            if kill.target != "worker" and service.token(job) > token:
                until(partial(_have_ended, tree), partial(_what_is_left, tree))
            row.kills += 1
            row.seconds.append(resumed_at - when)
            ray = service.ray_start(job, when) if kill.target in {"driver", "raylet"} else None
            if ray is not None:
                row.besides.append(resumed_at - when - ray)
            say(
                f"  {kill.kind}, {kill.point or 'at random'}: {resumed_at - when:.1f} s, "
                f"taken after {taken_at - when:.1f}{f', Ray started in {ray:.1f}' if ray is not None else ''}"
            )
        ended = service.wait_for_end(job)
        found = losses(ended, seen, service)
        if cancels:
            _cancel(service)
        violations = service.violations()
        for violation in violations:
            say(f"  {violation.fault}: {violation.subject}: {violation.text}")
        found += of_history(violations)
        for kind in {kill.kind for kill in episode.kills}:
            rows.setdefault(kind, Row()).losses += found
        say(f"  {episode.name}: {ended.state} {ended.reason or ''} {found}")


def _after_outage(service: Service, job: str, row: Row) -> float:
    """Wait until a job gets on after an outage that is over, and return when; resume it if it is PAUSED."""
    over = time.time()
    until(lambda: service.got_on(job, over) or service.has_ended(job), "a report after the outage")
    if service.job(job).state is JobState.PAUSED:
        row.losses.paused += 1
        service.ask(job, "resume")
        until(lambda: service.got_on(job, over) or service.has_ended(job), "a report of the resumed job")
    return time.time()


def _cancel(service: Service) -> None:
    """Cancel a running job, and kill its driver before it may have seen that."""
    job = service.submit()
    driver = service.tree(job)[:1]
    service.ask(job, "cancel")
    for process in driver:
        process.kill()
    until(lambda: service.job(job).state is JobState.CANCELLED, "the end of a cancelled job")


def _have_ended(processes: Sequence[psutil.Process]) -> bool:
    return not alive(processes)


def _what_is_left(processes: Sequence[psutil.Process]) -> str:
    left = "; ".join(f"{p.pid} {' '.join(p.cmdline())}" for p in alive(processes))
    return f"what the old driver had started to end: {left}"


def _back(kill: Kill, service: Service, job: str, when: float, token: int) -> tuple[float, float]:
    """When the job was taken over, and when it, or the trial whose worker was killed, had got on again.

    A driver whose daemon or raylet was killed works on for a moment: what counts is what the next holder of the lease
    does.
    """
    since = when
    if kill.target != "worker":

        def taken() -> bool:
            nonlocal since
            moment = time.time()
            if service.token(job) > token:
                return True
            since = moment  # nobody has begun an attempt under the new lease before
            return False

        until(taken, "a new holder of the job's lease")
    found: list[float] = []

    def back() -> bool:
        moment = service.back_at(job, since, lost=kill.target == "worker")
        if moment is not None:
            found.append(moment)
        return moment is not None

    until(back, "a report after the kill")
    return since, found[-1]


def _die(
    kill: Kill,
    service: Service,
    job: str,
    daemons: list[subprocess.Popen[bytes]],
    resumed_at: float,
    chance: random.Random,
    seen: list[JobRecord],
) -> float | None:
    """Kill, and return when; None if the job came to its end before."""
    if kill.point is not None:
        if not service.die_at(kill.point, job):
            return None
        seen.append(service.job(job))
        return service.killed_at
    until(lambda: service.got_on(job, resumed_at) or service.has_ended(job), "the job to get on")
    time.sleep(chance.random() * _RANDOM_SECONDS)
    if service.has_ended(job):
        return None
    if kill.target == "daemon, stopped":
        return _stop_past_lease(service, job, daemons, seen)
    if kill.target == "daemon, partitioned":
        return _partition_past_lease(service, job, daemons, seen)
    if kill.is_outage:
        return _outage(kill, service, job, daemons, seen)
    find = {
        "driver": lambda: service.tree(job)[:1],
        "worker": lambda: service.workers(job),
        "raylet": lambda: service.raylets(job),
        "daemon": lambda: [psutil.Process(daemon.pid) for daemon in _daemons_of(service, job, daemons)],
    }[kill.target]
    victims: list[psutil.Process] = []

    def found() -> bool:
        victims.extend(find())
        return bool(victims)

    until(lambda: found() or service.has_ended(job), f"a {kill.target}")
    if not victims:
        return None
    seen.append(service.job(job))
    when = time.time()
    chance.choice(victims).kill()
    if kill.target == "daemon":
        dead = next(d for d in daemons if d.pid == victims[0].pid)
        dead.wait()
        daemons[daemons.index(dead)] = service.start_daemon()
    return when


def _daemons_of(
    service: Service, job: str, daemons: Sequence[subprocess.Popen[bytes]]
) -> list[subprocess.Popen[bytes]]:
    """Return the one that has started the job's driver, if there is one now."""
    parents = {driver.ppid() for driver in service.tree(job)[:1]}
    return [daemon for daemon in daemons if daemon.pid in parents]


def _stop_past_lease(
    service: Service, job: str, daemons: Sequence[subprocess.Popen[bytes]], seen: list[JobRecord]
) -> float:
    """Stop a daemon and the driver it started, until the other daemon has the job; then let them go on."""
    stopped = [psutil.Process(d.pid) for d in _daemons_of(service, job, daemons)] + service.tree(job)
    while True:
        for process in stopped:
            process.suspend()
        if service.takes_writes(job):
            break
        # In the middle of a write: nobody else could write then.
        for process in stopped:
            process.resume()
    seen.append(service.job(job))
    when, token = time.time(), service.token(job)
    until(lambda: service.token(job) > token, "the other daemon to take the job over")
    for process in stopped:
        process.resume()
    return when


def _partition_past_lease(
    service: Service, job: str, daemons: Sequence[subprocess.Popen[bytes]], seen: list[JobRecord]
) -> float:
    """Part a daemon and its driver from the database, until the other daemon has the job."""
    (daemon,) = _daemons_of(service, job, daemons)
    seen.append(service.job(job))
    when, token = time.time(), service.token(job)
    service.proxy(daemon.pid).partition()
    until(lambda: service.token(job) > token, "the other daemon to take the job over")
    service.proxy(daemon.pid).heal()
    return when


def _outage(
    kill: Kill,
    service: Service,
    job: str,
    daemons: Sequence[subprocess.Popen[bytes]],
    seen: list[JobRecord],
) -> float:
    """Take the database away for some seconds: from all, or from the daemon that has the job."""
    database = service.database
    if database is None:
        raise SystemExit(f"a {kill.target} needs --database postgres")
    seen.append(service.job(job))
    when = time.time()
    if kill.target == "restart":
        database.bounce(kill.seconds)
    elif kill.target == "freeze":
        database.freeze(kill.seconds)
    else:
        for daemon in _daemons_of(service, job, daemons):
            service.proxy(daemon.pid).partition()
            time.sleep(kill.seconds)
            service.proxy(daemon.pid).heal()
    return when


def table(rows: dict[str, Row]) -> Table:
    """One row for each kind of death."""
    result = Table()
    titles = ("seconds: median", "95%", "longest", "besides Ray's start: median", "95%")
    for title in ("killed", "kills", *Losses.titles(), *titles):
        result.add_column(title)
    for kind, row in rows.items():
        times = row.seconds or [float("nan")]
        besides = [statistics.median(row.besides), np.quantile(row.besides, 0.95)] if row.besides else []
        of = f" (of {len(row.besides)})" if len(row.besides) < row.kills else ""
        result.add_row(
            kind,
            str(row.kills),
            *row.losses.cells(),
            f"{statistics.median(times):.1f}",
            f"{np.quantile(times, 0.95):.1f}",
            f"{max(times):.1f}",
            *(f"{seconds:.1f}{of}" for seconds in besides),
        )
    return result


def _versions() -> str:
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, Ray {version('ray')}, Python {platform.python_version()}"


def main() -> int:
    """Run all episodes and print the table; 1 if anything was lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--database", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--quick", action="store_true", help="two kills instead of more than fifty")
    parser.add_argument("--short", action="store_true", help="one of each kind")
    parser.add_argument("--only", nargs="+", help="some episodes, as `job 1`")
    parser.add_argument("--loaded", type=float, metavar="MINUTES", help="count false takeovers instead")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # leave no process behind
    console = Console(width=170, highlight=False)
    if options.loaded is not None:
        watched = watch(options.loaded, options.seed, console.print)
        console.print(
            f"{watched.minutes:.1f} minutes at a load of {watched.load:.1f}, {_versions()}; "
            f"{watched.reports} reports; false takeovers {watched.takeovers}, "
            f"attempts lost {watched.attempts_lost}; of the lease of {LEASE_SECONDS:.0f} s "
            f"at least {watched.closest:.1f} s were left"
        )
        return 1 if watched.takeovers or watched.attempts_lost else 0
    postgres = options.database == "postgres"
    made = episodes(options.quick, options.short, postgres)
    chosen = [episode for episode in made if not options.only or episode.name in options.only]
    rows: dict[str, Row] = {}
    for number, episode in enumerate(chosen):
        console.print(episode.name)
        play(episode, options.seed + number, postgres, not options.quick, rows, console.print)
    console.print(table(rows))
    kills = sum(row.kills for row in rows.values())
    console.print(f"{kills} kills; {_versions()}; lease {LEASE_SECONDS:.0f} s")
    return 1 if any(row.losses for row in rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
