"""Search spaces: those that come with the project, and what is said of a wrong one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from anon_tune import catalogue
from anon_tune.errors import NotFoundError, SpecError
from anon_tune.search_spaces import Choice, Range, Space, load_space, space_names
from anon_tune.search_spaces.loader import COORDINATES, FIXABLE

FIXED = {"step_size": 1.0, "beta3": 0.5, "delay": 2.0, "decay": 0.0}


def document(gamma: Any, **keys: Any) -> dict[str, Any]:
    return {"optimizer": "anon", "summary": "x", "parameters": {"gamma": gamma}, "fixed": FIXED, **keys}


def load(folder: Path, data: Any) -> Space:
    path = folder / "space.yaml"
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
    return load_space(str(path))


@pytest.mark.parametrize("name", space_names())
def test_the_spaces_that_come_along_load(name: str):
    space = load_space(name)
    assert space.summary
    assert {*space.parameters, *space.fixed} >= COORDINATES[space.optimizer].keys()


def test_every_arm_has_a_space():
    assert {load_space("default").optimizer, *(load_space(arm).optimizer for arm in ("adamw", "sgd"))} == set(
        catalogue.ARMS
    )
    assert COORDINATES.keys() == FIXABLE.keys() == catalogue.ARMS.keys()


@pytest.mark.parametrize("name", [n for n in space_names() if load_space(n).optimizer == "anon"])
def test_the_claims_can_fail_in_every_space_of_anon(name: str):
    """The range of gamma goes past SGD (0) and past Adam (1), and no window of zeros blows a trial up."""
    gamma = load_space(name).parameters["gamma"]
    assert isinstance(gamma, Range)
    assert gamma.low < 0 < 1 < gamma.high
    assert load_space(name).constant("floor") > 0


def test_constants_are_the_fixed_ones_else_the_optimizers_own():
    space = Space.model_validate(document({"low": 0, "high": 1}, fixed={**FIXED, "beta1": 0.8}))
    assert (space.constant("beta1"), space.constant("beta2"), space.constant("step_size")) == (
        0.8,
        0.999,
        1.0,
    )


def test_numbers_as_yaml_misreads_them_are_numbers(tmp_path: Path):
    space = load(
        tmp_path,
        "optimizer: sgd\nsummary: x\nparameters: {lr: {low: 1e-3, high: 1e0, log: true}}\n"
        "fixed: {momentum: 0.9, weight_decay: 1e-4}\n",
    )
    assert space.parameters["lr"] == Range(low=1e-3, high=1.0, log=True)
    assert space.constant("weight_decay") == 1e-4


LR = {"low": 0.1, "high": 1}
BAD = [
    (
        document({"low": 0, "hihg": 1}),
        ["parameters.gamma.high: is missing", "gamma.hihg: unknown key", "'high'?"],
    ),
    (document({"low": 0, "high": "a"}), ["parameters.gamma.high: ", "found 'a'"]),
    (document({"low": 2, "high": 1}), ["parameters.gamma: low (2) must be below high (1)"]),
    (document({"low": 1, "high": 1}), ["parameters.gamma: low (1) must be below high (1)"]),
    (document({"low": 0, "high": 1, "log": True}), ["parameters.gamma: a log range cannot reach 0"]),
    (document({"low": 0, "high": float("inf")}), ["parameters.gamma: low and high must be finite"]),
    (document({"low": float("nan"), "high": 1}), ["parameters.gamma: low and high must be finite"]),
    (document({"low": 0, "high": 9}), ["parameters.gamma: 9 is outside the allowed -5 to 5"]),
    (document(3), ["parameters.gamma: expected keys and values", "found 3"]),
    (document({"choices": [1]}), ["parameters.gamma.choices: ", "at least 2"]),
    (document({"choices": [1, 1.0]}), ["parameters.gamma.choices: the same choice is listed twice"]),
    (document({"choices": [1, 7]}), ["parameters.gamma: 7 is outside the allowed"]),
    (document({"choices": 3}), ["parameters.gamma.choices: expected a list", "found 3"]),
    (document({"choices": [0, 1], "low": 0}), ["parameters.gamma.low: unknown key", "Known: choices"]),
    (document(LR, optimizer="anom"), ["optimizer: ", "'anon', 'adamw' or 'sgd'", "found 'anom'"]),
    (document(LR, parameters={}), ["parameters: "]),
    (document(LR, parameters={"gama": LR}), ["parameters.gama: unknown coordinate", "did you mean 'gamma'?"]),
    (document(LR, parameters={"Gamma": {"low": 0, "high": "b"}}), ["parameters.Gamma.high: ", "found 'b'"]),
    (document(LR, fixed={**FIXED, "flor": 0.1}), ["fixed.flor: unknown argument", "did you mean 'floor'?"]),
    (document(LR, fixed={**FIXED, "gamma": 0.1}), ["gamma: is in both `parameters` and `fixed`"]),
    (document(LR, fixed={"beta3": 0.5}), ["step_size: is in neither", "delay: is in neither"]),
    (document(LR, fixed={**FIXED, "floor": -1}), ["fixed.floor: -1 is outside the allowed 0 to inf"]),
    (document(LR, fixed={**FIXED, "floor": float("inf")}), ["fixed.floor: inf is outside"]),
    (document(LR, fixed={**FIXED, "floor": float("nan")}), ["fixed.floor: nan is outside"]),
    (document(LR, fixed={**FIXED, "beta2": 1.0}), ["fixed.beta2: 1 is outside"]),
    (document(LR, paramters={}), ["paramters: unknown key", "did you mean 'parameters'?"]),
    ("[1, 2]", ["expected keys and values", "found list"]),
    ("a: [", ["line 1, column 5: not YAML"]),
]


@pytest.mark.parametrize(("data", "parts"), BAD, ids=[parts[0][:40] for _, parts in BAD])
def test_a_wrong_space_is_named_by_its_path(tmp_path: Path, data: Any, parts: list[str]):
    with pytest.raises(SpecError) as caught:
        load(tmp_path, data)
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert "space.yaml" in message
    for part in parts:
        assert part in message
    # Nothing is told of the other kind of domain.
    assert "choice" in parts[0] or "choice" not in message or "Known: choices" in message


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(SpecError, match="'transfomer'; did you mean 'transformer'"):
        load_space("transfomer")


def test_a_file_that_is_not_there_is_not_found(tmp_path: Path):
    with pytest.raises(NotFoundError, match=r"absent\.yaml"):
        load_space(str(tmp_path / "absent.yaml"))


NUMBERS = st.floats(-5, 5, allow_nan=False)


@st.composite
def domains(draw: st.DrawFn) -> dict[str, Any]:
    if draw(st.booleans()):
        return {"choices": draw(st.lists(NUMBERS, min_size=2, max_size=5, unique=True))}
    low, high = sorted(draw(st.lists(NUMBERS, min_size=2, max_size=2, unique=True)))
    return {"low": low, "high": high, "log": draw(st.booleans()) and low > 0}


@given(domains())
def test_a_space_survives_being_stored(domain: dict[str, Any]):
    space = Space.model_validate(document(domain))
    stored = space.model_dump(mode="json")
    assert Space.model_validate(stored) == space
    assert isinstance(space.parameters["gamma"], Choice if "choices" in domain else Range)
