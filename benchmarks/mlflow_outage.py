"""MLflow is killed in the middle of a job, and again while it catches up: does training notice, is anything lost?

    python -m benchmarks.mlflow_outage [--seconds 60] [--quick]

A real job trains on two cores and writes to a real `mlflow server` over HTTP. The server is killed with SIGKILL once
trials have been running for a while, stays away for `--seconds`, and is started again on its store. It is killed
again as soon as it has more of the job than before. What training did is counted in epochs a second, by the
ledger's times: while the server was away, against as long before and after. At the end the runs, metrics and states
in MLflow are compared with the ledger over HTTP, each value with its step and time.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from anon_tune.records import JobRecord, JobState, TrialState
from benchmarks.jobs import RunningJob, two_cores
from benchmarks.mlflow_server import MlflowServer

SPEC = """
name: outage
task: image_classification
data: digits
model: {{name: cnn, width: 16}}
arms: [anon]
budget: {{trials: {trials}, epochs: 20}}
search: {{sampler: random, pruner: none}}
confirm: {{finalists: 1, seeds: 1, verdict_seeds: 2}}
resources: {{cpu: 1}}
"""
# Written again, not taken from the projection: it is what is judged.
_STATUS = {
    TrialState.COMPLETE: "FINISHED",
    TrialState.PRUNED: "KILLED",
    TrialState.CANCELLED: "KILLED",
    TrialState.DIVERGED: "FAILED",
    TrialState.FAILED: "FAILED",
}
_JOB_STATUS = {JobState.SUCCEEDED: "FINISHED", JobState.CANCELLED: "KILLED", JobState.FAILED: "FAILED"}
Point = tuple[str, int, int, float]
"""Key, step, milliseconds, value."""


def in_pages(metric: str) -> str:
    """Return the name of a metric of the one param group of SPEC in MLflow."""
    if metric == "group0/update_ratio":
        return "optimizer/update_ratio_without_decay"
    if metric in {"gradient_norm", "update_ratio"}:
        return f"optimizer/{metric}"
    if metric in {"epoch_seconds", "samples_per_second"}:
        return f"speed/{metric}"
    return metric.replace("group0/", "optimizer/")


def expected(job: JobRecord) -> dict[str, tuple[str, list[Point]]]:
    """Return the status and points of each trial's run, as the ledger has them; a NaN is NaN."""
    found = {}
    begun = round((job.started or job.created).timestamp() * 1000)
    for trial in job.trials:
        settings = dict(trial.params) | dict(trial.hyperparameters)
        points = [
            (name if name == "gamma" else f"settings/{name}", 0, begun, float(settings[name]))
            for name in ("gamma", "step_size", "lr", "beta3", "delay", "weight_decay")
            if name in settings
        ]
        for report in trial.reports:
            time = round(report.time.timestamp() * 1000)
            points.append(("objective/validation", report.step, time, report.value))
            points += [(in_pages(key), report.step, time, value) for key, value in report.metrics.items()]
        if trial.reports:
            best = min(trial.reports, key=lambda report: (report.value, report.step))
            points.append(("objective/best", best.step, round(best.time.timestamp() * 1000), best.value))
        if trial.value is not None and trial.finished is not None:
            end = round(trial.finished.timestamp() * 1000)
            points.append(("objective", len(trial.reports), end, trial.value))
        found[trial.id] = (_STATUS[trial.state], sorted(points))
    return found


def in_mlflow(url: str, job: JobRecord) -> tuple[str, dict[str, list[tuple[str, list[Point]]]]]:
    """Return the status of the job's run; by trial, status and points of each run that is there."""
    from mlflow import MlflowClient

    client = MlflowClient(url)
    experiment = client.get_experiment_by_name("anon_tune").experiment_id
    (parent,) = client.search_runs([experiment], f"tags.`anon_tune.job_id` = '{job.id}'")
    children, token = [], None
    while token != "":
        page = client.search_runs(
            [experiment], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'", page_token=token
        )
        children += page
        token = page.token or ""
    found: dict[str, list[tuple[str, list[Point]]]] = {}
    for run in children:
        points = [
            (key, point.step, point.timestamp, point.value)
            for key in run.data.metrics
            for point in client.get_metric_history(run.info.run_id, key)
        ]
        of_trial = found.setdefault(run.data.tags["anon_tune.trial_id"], [])
        of_trial.append((run.info.status, sorted(points)))
    return parent.info.status, found


def differences(job: JobRecord, url: str) -> list[str]:
    """Return the differences between MLflow and the ledger, in words."""
    status, runs = in_mlflow(url, job)
    wanted = expected(job)
    found = [] if status == _JOB_STATUS[job.state] else [f"the job is {status}"]
    found += [f"{trial_id} is not in the ledger" for trial_id in runs.keys() - wanted.keys()]
    for trial_id, one in wanted.items():
        there = runs.get(trial_id, [])
        if len(there) != 1:
            found.append(f"{trial_id} has {len(there)} runs")
        elif there[0] != one:
            found.append(f"{trial_id}: {there[0]} in MLflow, {one} in the ledger")
    return found


def epochs_a_second(times: Sequence[float], begin: float, end: float) -> float:
    return sum(begin <= moment < end for moment in times) / (end - begin)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the server is away")
    parser.add_argument("--trials", type=int, default=None)
    parser.add_argument("--quick", action="store_true", help="10 seconds")
    options = parser.parse_args()
    away = 10.0 if options.quick else options.seconds
    # About two trials of 20 epochs a second on two idle cores: enough to last through it all, and after.
    trials = options.trials or math.ceil(6 * away) + 60
    two_cores()
    import logging

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    print(f"load before: {', '.join(f'{value:.1f}' for value in os.getloadavg())}; {trials} trials")
    with tempfile.TemporaryDirectory(prefix="at") as made, MlflowServer(Path(made)) as server:
        running = RunningJob(Path(made), SPEC.format(trials=trials), MLFLOW_TRACKING_URI=server.url)
        running.until(lambda: bool(running.ledger.overviews.jobs()))
        running.until(lambda: any(trial.mlflow_run for trial in running.job().trials))
        time.sleep(away)
        killed = time.time()
        server.stop(signal.SIGKILL)
        time.sleep(away)
        server.start()
        back = time.time()
        known = sum(trial.mlflow_run is not None for trial in running.job().trials)
        running.until(lambda: sum(t.mlflow_run is not None for t in running.job().trials) > known)
        server.stop(signal.SIGKILL)
        server.start()
        again = time.time()
        running.wait()
        synced = running.sync()
        if synced.returncode:
            raise SystemExit(synced.stderr)
        job = running.job()
        wrong = differences(job, server.url)
        times = [report.time.timestamp() for trial in job.trials for report in trial.reports]
        first, last = min(times), max(times)
        if last < back or first > killed:
            raise SystemExit(f"the job was over too soon: give it more --trials; {len(wrong)} differences")
        before = epochs_a_second(times, max(first, killed - away), killed)
        during = epochs_a_second(times, killed, back)
        after = epochs_a_second(times, again, last) if last > again + 1 else math.nan  # it was over by then
        running.ledger.close()
    print(
        f"job {job.state}, {len(job.trials)} trials, {len(times)} reports; the server was away {back - killed:.0f} s"
    )
    print(
        f"epochs/s: {before:.1f} before, {during:.1f} while it was away ({during / before:.2f}), "
        f"{after:.1f} afterwards"
    )
    print(f"differences between MLflow and the ledger: {len(wrong)}")
    print("\n".join(wrong[:10]))
    if wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
