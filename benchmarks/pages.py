"""Pages in a browser's place: `python -m benchmarks.pages [--rounds 20]`.

How long does the service take for each page, and how large is it? A ledger (sqlite) has 500 jobs; one of them has
5,000 trials with ten reports each, and an answer. The service runs as `anon-tune serve`. One client asks for the
pages in turn; the first response of each is not counted. The size is that of the page after gzip, with all files that
it loads but plotly.js, which browsers keep for ever. The goals are 200 ms (95%) and 300 kB; figures of charts, which
a page loads when they come into view, have none for their time. At the end Chromium, with an empty cache each time,
opens the large job: until its answer can be read, and until its first chart is drawn (goal 2 s).
"""

from __future__ import annotations

import argparse
import gzip
import re
import shutil
import statistics
import time
from dataclasses import dataclass

import httpx2
import numpy as np
from playwright.sync_api import sync_playwright

from anon_tune.advice.summary import summarize
from anon_tune.ledger import Lease, Ledger
from anon_tune.records import JobState, NewTrial, Phase, TrialState
from anon_tune.search.policy import Plan
from anon_tune.spec import parse_spec, spaces_of
from benchmarks.service import service

JOBS, TRIALS, REPORTS = 500, 5000, 10
ANSWERED = 60
GOAL_MS, GOAL_KB, GOAL_SECONDS = 200.0, 300.0, 2.0
OPENED = 5
SPEC = {
    "name": "digits-mlp",
    "task": "image_classification",
    "data": "digits",
    "model": "mlp",
    "arms": ["anon", "adamw"],
    "budget": {"trials": TRIALS // 2, "epochs": REPORTS},
}


@dataclass(frozen=True)
class Page:
    """A page or a part of one, by its path; `{job}` stands for the id of the large job."""

    name: str
    path: str


PAGES = (
    Page("jobs", "/"),
    Page("job", "/jobs/{job}"),
    Page("job, other charts", "/jobs/{job}/charts"),
    Page("trials", "/jobs/{job}/trials"),
    Page("trials by value", "/jobs/{job}/trials?sort=value"),
    Page("trials by gamma", "/jobs/{job}/trials?sort=gamma&descending=true&page=40"),
    Page("trials with a text", "/jobs/{job}/trials?text=s04&sort=lr"),
    Page("a trial", "/jobs/{job}/trials/{job}-anon-s007"),
    Page("logs", "/jobs/{job}/logs"),
    Page("settings", "/jobs/{job}/settings"),
    Page("compare", "/compare?jobs={job},{other}"),
)


def fill(ledger: Ledger) -> tuple[str, str]:
    """Store the jobs, and return the ids of the large one and of another."""
    spec = parse_spec(SPEC)
    spaces = {arm: space.model_dump(mode="json") for arm, space in spaces_of(spec).items()}
    plain = spec.model_dump(mode="json")
    for _ in range(JOBS - 1):
        other = ledger.jobs.create("another", plain, spaces).id
    job = ledger.jobs.create("large", plain, spaces).id
    lease = ledger.leases.acquire(job, "benchmark", 3600.0)
    draw = np.random.default_rng(0)
    for number in range(TRIALS // 2):
        for arm in spec.arms:
            _trial(ledger, lease, arm, number, draw)
    trials = ledger.jobs.get(job, trials=True).trials[:ANSWERED]
    answer = summarize(
        Plan(spec, spaces_of(spec), 0.0), list(trials)
    )  # of some trials: all would take minutes
    ledger.jobs.update(lease, phase=Phase.VERDICT, result=answer.model_dump(mode="json"))
    ledger.leases.release(lease, JobState.SUCCEEDED)
    return job, other


def _trial(ledger: Ledger, lease: Lease, arm: str, number: int, draw: np.random.Generator) -> None:
    gamma, step_size, decay = draw.uniform(-0.5, 1.75), 10 ** draw.uniform(-2, 1), 10 ** draw.uniform(-5, 0)
    best = 0.2 + (gamma - 1.0) ** 2 + 0.1 * np.log10(step_size) ** 2
    if arm == "anon":
        params = {"gamma": gamma, "step_size": step_size, "beta3": 0.5, "delay": 2.0, "weight_decay": decay}
        given = {
            "gamma": gamma,
            "lr": 0.01 * step_size,
            "betas": [0.9, 0.999, 0.5],
            "delay": 2.0,
            "weight_decay": decay,
        }
    else:
        params = {"lr": 0.01 * step_size, "weight_decay": decay}
        given = {**params, "betas": [0.9, 0.999]}
    with ledger.transaction(durable=False) as transaction:
        trial = transaction.trials.add(lease, NewTrial(arm, Phase.SEARCH, number, number, params, given))
        transaction.attempts.start(lease, trial.id)
        for step in range(1, REPORTS + 1):
            value = best + 1.0 / step
            transaction.trials.report(lease, trial.id, 1, step, value, {"loss": value, "epoch_seconds": 0.1})
        if number % 10 == 9:
            transaction.trials.finish(
                lease, trial.id, TrialState.DIVERGED, reason="the loss was NaN", log="nan\n" * 40
            )
        else:
            transaction.trials.finish(lease, trial.id, TrialState.COMPLETE, best)


def size(http: httpx2.Client, text: str) -> float:
    """Return the size of a page with the files that it loads, in kB of gzip; without plotly.js."""
    loaded = {path for path in re.findall(r'(?:src|href)="(/static/[^"]+)"', text) if "plotly" not in path}
    return (len(gzip.compress(text.encode())) + sum(_sent(http, path) for path in loaded)) / 1000


def _sent(http: httpx2.Client, path: str) -> int:
    return len(gzip.compress(http.get(path).raise_for_status().content))


def measure(rounds: int) -> bool:
    """Print times and sizes of all pages; return whether all goals were met."""
    with service() as (found, ledger):
        job, other = fill(ledger)
        found.start()
        met = True
        with httpx2.Client(base_url=found.address, timeout=60, headers={"HX-Request": "true"}) as http:
            charts = _charts(http, job)
            for page in (*PAGES, *charts):
                path = page.path.format(job=job, other=other)
                text = http.get(path).raise_for_status().text
                milliseconds = []
                for _ in range(rounds):
                    began = time.perf_counter()
                    http.get(path).raise_for_status()
                    milliseconds.append(1000 * (time.perf_counter() - began))
                median, high = np.percentile(milliseconds, [50, 95])
                weight = size(http, text)
                met = met and weight < GOAL_KB and (high < GOAL_MS or page in charts)
                print(
                    f"{page.name:22} median {median:6.1f} ms  95% {high:6.1f} ms  {weight:6.1f} kB",
                    flush=True,
                )
        answered, drawn = opened(f"{found.address}/jobs/{job}")
        print(
            f"in a browser: answer after {answered:.2f} s, first chart after {drawn:.2f} s (medians of {OPENED})"
        )
    return met and drawn < GOAL_SECONDS


def opened(address: str) -> tuple[float, float]:
    """Return the seconds until the answer of a job's page is visible and its first chart is drawn: medians."""
    answered, drawn = list[float](), list[float]()
    with sync_playwright() as playwright:
        program = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for _ in range(OPENED):
            with browser.new_context() as context, context.new_page() as page:
                began = time.perf_counter()
                page.goto(address, wait_until="commit")
                page.locator(".answer").wait_for()
                answered.append(time.perf_counter() - began)
                page.locator(".chart .main-svg").first.wait_for()
                drawn.append(time.perf_counter() - began)
        browser.close()
    return statistics.median(answered), statistics.median(drawn)


def _charts(http: httpx2.Client, job: str) -> list[Page]:
    """Return the charts that the page of a job names."""
    text = http.get(f"/jobs/{job}").text + http.get(f"/jobs/{job}/charts").text
    names = re.findall(r'data-src="(/jobs/[^"]+/charts/([^"]+)\.json)"', text)
    return [Page(f"chart {name}", path) for path, name in names]


def main() -> None:
    """Parse the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="answers to count of each page")
    raise SystemExit(0 if measure(parser.parse_args().rounds) else 1)


if __name__ == "__main__":
    main()
