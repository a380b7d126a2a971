"""Advice put to use: the optimizer to start from, and a job's first points."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import anon_tune.search_spaces
from anon_tune.advice.evidence import shipped
from anon_tune.advice.prior import advise
from anon_tune.advice.start import first_points, start_of
from anon_tune.advice.statement import Advice
from anon_tune.answer import Curve, Gamma
from anon_tune.ledger import Ledger
from anon_tune.optim import Anon
from anon_tune.records import JobState
from anon_tune.search.coordinates import typical_multiplier
from anon_tune.search_spaces import Space, load_space, space_names
from anon_tune.spec import parse_spec, spaces_of
from anon_tune.submission import store_job
from tests.answers import GAMMA, stored

SPEC = {
    "name": "a",
    "task": "image_classification",
    "data": "digits",
    "model": "cnn",
    "space": "cnn",
    "budget": {"trials": 8, "epochs": 2},
}
FOLDER = Path(anon_tune.search_spaces.__file__).parent
ANON_SPACES = [name for name in space_names() if load_space(name).optimizer == "anon"]


@pytest.mark.parametrize("name", ANON_SPACES)
def test_the_points_between_sgd_and_adam_take_the_advised_gamma(name: str) -> None:
    space = load_space(name).for_family(name)
    found = first_points(space, 0.8)
    assert len(found.start_points) == len(space.start_points) == 4
    assert [point["gamma"] for point in found.start_points] == [0.0, 1.0, 0.8, 0.8]
    assert [{**p, "gamma": 0} for p in found.start_points] == [{**p, "gamma": 0} for p in space.start_points]
    assert Space.model_validate(found.model_dump()) == found


def test_an_advised_gamma_outside_of_the_space_is_its_end() -> None:
    found = first_points(load_space("cnn").for_family("cnn"), 1.7)
    assert found.start_points[2]["gamma"] == 1.5


def test_the_line_makes_an_optimizer_with_a_step_as_long_as_is_usual() -> None:
    advice = Advice(family="cnn", gamma=0.6, low=0.0, high=1.0, step_size=2.0)
    found = start_of(advice, -8.0)
    assert found is not None
    assert found.hyperparameters["lr"] == pytest.approx(2.0 / typical_multiplier(0.6, -8.0), rel=0.01)
    assert found.hyperparameters["gamma"] == 0.6
    model = torch.nn.Linear(2, 1)
    optimizer = eval(found.line, {"Anon": Anon, "model": model})
    assert isinstance(optimizer, Anon)
    assert isinstance(ast.parse(found.line).body[0], ast.Expr)
    assert start_of(Advice(family="mlp"), 0.0) is None


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield opened
    opened.close()


def first_gammas(ledger: Ledger, **keys: Any) -> list[float]:
    """The gammas of the points that a new job tries first."""
    spec = parse_spec({**SPEC, **keys})
    job = store_job(ledger, spec, spaces_of(spec))
    return [point["gamma"] for point in ledger.jobs.spaces(job.id)["anon"]["start"]["default"]]


def finish(ledger: Ledger, gamma: Gamma, **keys: Any) -> None:
    """Make a job of a CNN that has found this."""
    spec = parse_spec({**SPEC, **keys})
    job = store_job(ledger, spec, spaces_of(spec))
    lease = ledger.leases.acquire(job.id, "me", 60.0)
    architecture = {"family": "cnn", "parameters": 10, "layers": {}, "share": {}}
    ledger.jobs.update(lease, architecture=architecture, result=stored(gamma=gamma))
    ledger.leases.release(lease, JobState.SUCCEEDED, None)


def steep(best: float) -> Gamma:
    """A job's gamma whose cost curve outweighs all that is shipped."""
    at = [-0.5 + 0.1 * index for index in range(21)]
    values = [100.0 * 2.718 ** (20 * (gamma - best) ** 2) for gamma in at]
    same = dict.fromkeys(("median", "low", "high", "low50", "high50"), values)
    return GAMMA.model_copy(update={"curve": Curve(gamma=at, flat=[0.0] * 21, **same)})


def test_a_new_job_has_the_advice_among_its_first_points(ledger: Ledger) -> None:
    advised = advise("cnn", shipped()).gamma
    assert first_gammas(ledger) == [0.0, 1.0, advised, advised]
    finish(ledger, steep(-0.3), model="resnet20")
    assert first_gammas(ledger)[2:] == [pytest.approx(-0.3, abs=0.15)] * 2


def test_a_job_that_is_made_again_starts_as_it_did(ledger: Ledger) -> None:
    before = first_gammas(ledger)
    finish(ledger, steep(-0.3))
    assert first_gammas(ledger) == before
    assert first_gammas(ledger, model={"name": "cnn", "width": 8}) != before


def test_points_of_the_user_and_other_families_are_left_alone(ledger: Ledger, tmp_path: Path) -> None:
    own = [0.0, 1.0, 0.5, 0.5]
    assert first_gammas(ledger, search={"try_first": [{"gamma": 0.3}]}) == own
    file = tmp_path / "mine.yaml"
    file.write_text((FOLDER / "cnn.yaml").read_text())
    assert first_gammas(ledger, space=str(file)) == own
    surface = {"task": "function", "data": "rosenbrock", "model": "point", "space": "default"}
    assert first_gammas(ledger, **surface) == own
