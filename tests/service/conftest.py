"""A service of each test's own, asked over HTTP, and a job to ask for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from anon_tune.advice.summary import summarize
from anon_tune.jobs.client import Client
from anon_tune.jobs.interface import Jobs
from anon_tune.ledger import Ledger
from anon_tune.records import JobState, NewTrial, Phase, TrialState
from anon_tune.search.policy import Plan
from anon_tune.search.rounds import rounds_of
from anon_tune.service.app import create_app
from anon_tune.service.limits import Limits
from anon_tune.settings import Settings
from anon_tune.spec import parse_spec, spaces_of
from tests.serving import serving

Serve = Callable[..., str]

SPEC = {
    "name": "digits-mlp",
    "task": "image_classification",
    "data": "digits",
    "model": {"name": "mlp", "width": 16},
    "budget": {"trials": 4, "epochs": 2},
}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unset: None) -> Settings:
    """A home of this test's own, with a folder of data."""
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("ANON_TUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ANON_TUNE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("ANON_TUNE_ALLOWED_MODULES", "acme.training, installed")
    return Settings.from_environment()


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    opened = Ledger.open(settings.ledger_url)
    yield opened
    opened.close()


@pytest.fixture
def serve(ledger: Ledger, settings: Settings) -> Iterator[Serve]:
    """Starts a service on the ledger and returns its address; all of them stop after the test."""
    with contextlib.ExitStack() as stack:

        def start(
            *,
            on_loopback: bool = True,
            settings: Settings = settings,
            certificate: Path | None = None,
            limits: Limits | None = None,
        ) -> str:
            app = create_app(ledger, settings, on_loopback=on_loopback, limits=limits)
            return stack.enter_context(serving(app, certificate, limits))

        yield start


@pytest.fixture
def http(serve: Serve) -> Iterator[httpx2.Client]:
    """A client of a service that is open to this machine."""
    with httpx2.Client(base_url=f"{serve()}/api/v1", timeout=60) as client:  # machines may be busy
        yield client


@pytest.fixture(params=["ledger", "service"])
def jobs(request: pytest.FixtureRequest, serve: Serve) -> Iterator[Jobs]:
    """The jobs of the ledger, by each implementation of the interface."""
    with Client(serve() if request.param == "service" else None) as opened:
        yield opened


@pytest.fixture
def done(ledger: Ledger) -> str:
    """A job that has SUCCEEDED, with gammas around 0.4 the best; one of its trials FAILED."""
    spec = parse_spec({**SPEC, "confirm": {"finalists": 1, "seeds": 1, "verdict_seeds": 2}})
    spaces = {arm: space.model_dump(mode="json") for arm, space in spaces_of(spec).items()}
    job = ledger.jobs.create("done", spec.model_dump(mode="json"), spaces).id
    lease = ledger.leases.acquire(job, "me", 60.0)

    def trial(
        arm: str,
        phase: Phase,
        number: int,
        seed: int,
        gamma: float,
        value: float | None,
        source: str | None = None,
    ) -> str:
        given = {"lr": 0.1, "weight_decay": 0.0}
        if arm == "anon":
            given |= {"gamma": gamma, "betas": [0.9, 0.999, 0.5], "delay": 2.0, "floor": 0.03}
        params = {"gamma": gamma} if arm == "anon" else {"lr": 0.01 + gamma / 10}
        new = NewTrial(arm, phase, number, seed, params, given, source)
        made = ledger.trials.add(lease, new).id
        ledger.attempts.start(lease, made)
        if value is None:
            ledger.trials.finish(lease, made, TrialState.FAILED, reason="no data", log="Traceback: no data")
            return made
        ledger.trials.report(
            lease, made, 1, 1, value, {"loss": value, "test_loss": value, "epoch_seconds": 1.0}
        )
        ledger.trials.finish(lease, made, TrialState.COMPLETE, value)
        return made

    for arm in spec.arms:
        tried = [trial(arm, Phase.SEARCH, n, n, n / 5, abs(n / 5 - 0.4)) for n in range(4)]
        trial(arm, Phase.CONFIRM, 0, 100, 0.4, 0.01, tried[2])
        for number, seed in enumerate(rounds_of(spec)[0].seeds):
            trial(arm, Phase.VERDICT, number, seed, 0.4, 0.02 + number / 100, tried[2])
    trial("anon", Phase.SEARCH, 9, 9, 0.9, None)
    result = summarize(Plan(spec, spaces_of(spec), 0.0), list(ledger.jobs.get(job, trials=True).trials))
    ledger.jobs.update(
        lease,
        phase=Phase.VERDICT,
        result=result.model_dump(mode="json"),
        architecture={"family": "mlp", "parameters": 9},
    )
    ledger.leases.release(lease, JobState.SUCCEEDED)
    return job
