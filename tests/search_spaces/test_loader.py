"""Search spaces: those that come with the project, and what is said of a wrong one."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from anon_tune import catalogue
from anon_tune.errors import NotFoundError, SpecError
from anon_tune.search_spaces import (
    COORDINATES,
    DELAYS,
    FIXABLE,
    Choice,
    Range,
    Space,
    load_space,
    space_names,
)
from anon_tune.search_spaces.loader import DEFAULTS

ANON_SPACES = [name for name in space_names() if load_space(name).optimizer == "anon"]
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
    assert space.is_conditional == (name == "delays")
    assert space.configurations == math.inf


def test_every_family_has_a_space():
    assert {*catalogue.FAMILIES, "recurrent", "diffusion", "default"} <= set(ANON_SPACES)


def test_every_arm_has_a_space():
    assert {load_space("default").optimizer, *(load_space(arm).optimizer for arm in ("adamw", "sgd"))} == set(
        catalogue.ARMS
    )
    assert COORDINATES.keys() == FIXABLE.keys() == DEFAULTS.keys() == catalogue.ARMS.keys()
    for arm, defaults in DEFAULTS.items():
        assert FIXABLE[arm].keys() <= defaults.keys() <= COORDINATES[arm].keys() | FIXABLE[arm].keys()


@pytest.mark.parametrize("name", ANON_SPACES)
def test_every_space_of_anon_could_refute_the_claims(name: str):
    """The range of gamma goes past SGD (0) and past Adam (1), and no window of zeros blows a trial up."""
    gamma = load_space(name).parameters["gamma"]
    assert isinstance(gamma, Range)
    assert gamma.low < 0 < 1 < gamma.high
    assert load_space(name).constant("floor") > 0
    assert {"gamma", "step_size", "beta3", "delay", "decay"} <= load_space(name).parameters.keys()


@pytest.mark.parametrize("name", ANON_SPACES)
def test_all_families_share_the_other_ranges(name: str):
    space, default = load_space(name), load_space("default")
    assert space.fixed == default.fixed
    for coordinate in ("beta3", "delay", "decay"):
        ours, theirs = space.parameters[coordinate], default.parameters[coordinate]
        assert ours.model_copy(update={"when": None}) == theirs


@pytest.mark.parametrize("name", ANON_SPACES)
def test_the_baselines_reach_as_far_as_anon_does(name: str):
    """At gamma = 0 Anon is SGD with lr = step_size * (1 - momentum), and the decays are one number."""
    anon, sgd, adamw = (
        load_space(name).parameters,
        load_space("sgd").parameters,
        load_space("adamw").parameters,
    )
    step, lr, momentum, decay = anon["step_size"], sgd["lr"], sgd["momentum"], sgd["weight_decay"]
    assert isinstance(step, Range)
    assert isinstance(lr, Range)
    assert isinstance(momentum, Range)
    assert momentum.low <= 0.9 <= momentum.high
    assert lr.low <= step.low * 0.1 * 1.001
    assert lr.high >= step.high * 0.1 * 0.999
    assert anon["decay"] == decay
    assert isinstance(adamw["lr"], Range)
    assert adamw["lr"].high / adamw["lr"].low > 0.999 * step.high / step.low


@pytest.mark.parametrize("name", space_names())
def test_every_space_starts_from_customary_settings_of_every_family(name: str):
    space = load_space(name)
    for family in (*catalogue.FAMILIES, "diffusion", "default", "mine.yaml"):
        points = space.for_family(family).start_points
        assert points
        assert all(space.problems_of(point) == [] for point in points)
        assert all(space.complete([0.5] * len(space.parameters), point) == point for point in points)
        assert space.for_family(family).for_family("cnn").start_points == points  # no other is left


@pytest.mark.parametrize("name", ANON_SPACES)
def test_anon_starts_as_sgd_and_as_adam(name: str):
    sgd, adam, long, short = load_space(name).start_points
    assert (sgd["gamma"], adam["gamma"], long["gamma"], short["gamma"]) == (0.0, 1.0, 0.5, 0.5)
    assert (sgd["step_size"], adam["step_size"]) == (1.0, 1.0)
    assert long["step_size"] * short["step_size"] == 1.0
    for point in (sgd, adam, long, short):
        assert (point["beta3"], point["decay"]) == (0.5, 1e-4)
        assert point.get("delay", 2.0) == 2.0


def test_a_baselines_start_is_that_of_the_family_and_else_the_default():
    adamw = load_space("adamw")
    assert adamw.for_family("transformer").start_points == adamw.start["transformer"]
    assert adamw.for_family("mlp").start_points == adamw.start["default"]


def test_a_place_in_the_unit_cube_leads_back_to_its_point():
    space = Space.model_validate(
        document(
            {"low": 0, "high": 1},
            parameters={
                "gamma": {"low": 0, "high": 1},
                "step_size": {"low": 0.1, "high": 10, "log": True},
                "delay": {"choices": [2, 3, 5]},
            },
            fixed={"beta3": 0.5, "decay": 0},
        )
    )
    for point in ({"gamma": 0.25, "step_size": 1.0, "delay": 3.0}, {"gamma": 1, "step_size": 10, "delay": 5}):
        assert space.at_unit(space.unit(point)) == pytest.approx(point)
    assert space.at_unit([0.5, 0.5, 0.2, 0.1, 0.7])["delay"] == 5.0


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
    (
        document({"low": 0, "high": float("inf")}),
        ["parameters.gamma.high: expected a finite number, found inf"],
    ),
    (
        document({"low": float("nan"), "high": 1}),
        ["parameters.gamma.low: expected a finite number, found nan"],
    ),
    (document({"low": 0, "high": True}), ["parameters.gamma.high: expected a number, found true"]),
    (document({"low": 0, "high": 9}), ["parameters.gamma: 9 is outside the allowed -5 to 5"]),
    (document(3), ["parameters.gamma: expected keys and values", "found 3"]),
    (document({"low": 0, "high": 1}, start=[{"gamma": 2}]), ["start.default.0.gamma: 2 is outside 0 to 1"]),
    (
        document({"low": 0, "high": 1}, start={"cnn": [{}, {"gama": 1}]}),
        ["start.cnn.1.gama: unknown", "'gamma'?"],
    ),
    (document({"low": 0, "high": 1}, start=[{"delay": 2}]), ["start.default.0.delay: is fixed at 2"]),
    (document({"choices": [1]}), ["parameters.gamma.choices: ", "at least 2"]),
    (document({"choices": [1, 1.0]}), ["parameters.gamma.choices: the same choice is listed twice"]),
    (document({"choices": [1, 7]}), ["parameters.gamma: 7 is outside the allowed"]),
    (document({"choices": 3}), ["parameters.gamma.choices: expected a list", "found 3"]),
    (document({"choices": [0, 1], "low": 0}), ["parameters.gamma.low: unknown key", "Known: choices"]),
    (
        document(LR, optimizer="anom"),
        ["optimizer: unknown optimizer 'anom'", "Known: adamw, anon, sgd", "module:function"],
    ),
    (
        document(LR, optimizer="mine:make", parameters={"l-r": LR}),
        ["'l-r': is not a valid keyword argument"],
    ),
    (
        document(LR, optimizer="mine:make", parameters={"lr": {"low": 0.1, "high": 1, "when": {"x": 1}}}),
        ["parameters.lr.when.x: unknown parameter"],
    ),
    (document(LR, optimizer="mine:make", fixed={"lr": float("inf")}), ["fixed.lr: ", "not finite"]),
    (document(LR, optimizer="mine:make", fixed={"nesterov": True}), ["found True; write 1 instead"]),
    (document(LR, parameters={}), ["parameters: "]),
    (document(LR, parameters={"gama": LR}), ["parameters.gama: unknown coordinate", "did you mean 'gamma'?"]),
    (document(LR, parameters={"Gamma": {"low": 0, "high": "b"}}), ["parameters.Gamma.high: ", "found 'b'"]),
    (
        document({"low": 0, "high": 1.5, "integer": True}),
        ["parameters.gamma: low (0) and high (1.5) of an integer"],
    ),
    (
        document({"choices": [0, [1]]}),
        ["parameters.gamma.choices.1: expected a number or a name", "found [1]"],
    ),
    (
        document({"choices": [0, True]}),
        ["parameters.gamma.choices.1: expected a number or a name, found True"],
    ),
    (document({"choices": [0, "adam"]}), ["parameters.gamma: expected a number, found 'adam'"]),
    (document(LR, fixed={**FIXED, "delay": 1}), ["fixed.delay: 1 is outside the allowed 1.01 to 1000000"]),
    (
        document(LR, fixed={**FIXED, "floor": "no floor"}),
        ["fixed.floor: expected a number, found 'no floor'"],
    ),
    (document(LR, fixed={**FIXED, "floor": [1]}), ["fixed.floor: expected a number or a name, found [1]"]),
    (document(LR, fixed={**FIXED, "flor": 0.1}), ["fixed.flor: unknown argument", "did you mean 'floor'?"]),
    (document(LR, fixed={**FIXED, "gamma": 0.1}), ["gamma: is in both `parameters` and `fixed`"]),
    (document(LR, fixed={"beta3": 0.5}), ["step_size: is in neither", "delay: is in neither"]),
    (document(LR, fixed={**FIXED, "floor": -1}), ["fixed.floor: -1 is outside the allowed 0 to inf"]),
    (document(LR, fixed={**FIXED, "floor": float("inf")}), ["fixed.floor: inf is outside"]),
    (document(LR, fixed={**FIXED, "floor": float("nan")}), ["fixed.floor: nan is outside"]),
    (document(LR, fixed={**FIXED, "beta2": 1.0}), ["fixed.beta2: 1 is outside"]),
    (document(LR, paramters={}), ["paramters: unknown key", "did you mean 'parameters'?"]),
    ("[1, 2]", ["expected keys and values", "found list"]),
    ("a: [", ["line 1, column 5: invalid YAML"]),
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
    assert "choice" in parts[0] or "choices" not in message or "Known: choices" in message


# Conditions and families of delays


BASE = {"low": 1.5, "high": 3}
TWO_FAMILIES = {
    "gamma": {"choices": [0, 1]},
    "delay_family": {"choices": ["geometric", "every"]},
    "delay": {**BASE, "when": {"delay_family": "geometric"}},
    "delay_period": {"low": 1, "high": 10, "integer": True, "when": {"delay_family": ["every"]}},
}
REST = {"step_size": 1.0, "beta3": 0.5, "decay": 0.0}


def families(changes: dict[str, Any] | None = None, **fixed: Any) -> dict[str, Any]:
    """Two families of delays, with parameters changed, or left out where None."""
    parameters = {**TWO_FAMILIES, **(changes or {})}
    kept = {name: domain for name, domain in parameters.items() if domain is not None}
    return {"optimizer": "anon", "summary": "x", "parameters": kept, "fixed": {**REST, **fixed}}


NO_FAMILIES = {"delay_family": None, "delay_period": None}
BAD_CONDITIONS = [
    (
        families({"delay_period": {"low": 1, "high": 10, "when": {"delay_family": "every"}}}),
        ["parameters.delay_period: is counted in steps; add integer: true"],
    ),
    (
        families({"delay_period": {"choices": [1, 2.5], "when": {"delay_family": "every"}}}),
        ["parameters.delay_period: 2.5 is not a whole number"],
    ),
    (
        families({"delay": BASE}),
        ["parameters.delay.when: delay_family is searched", "when: {delay_family: geometric}"],
    ),
    (
        families({"delay": {**BASE, "when": {"delay_family": ["geometric", "every"]}}}),
        ["parameters.delay.when: delay_family is searched", "when: {delay_family: geometric}"],
    ),
    (families({"delay": None}), ["delay: is in neither", "delay_family can be geometric"]),
    (
        families({"delay_power": {"low": 1, "high": 2, "when": {"delay_family": "every"}}}),
        ["delay_power: belongs to delay_family polynomial, which is not in this space"],
    ),
    (families(NO_FAMILIES | {"delay": None}, delay_family="every"), ["delay_period: is in neither"]),
    (
        families(NO_FAMILIES | {"delay": None}, delay_family="evry"),
        ["fixed.delay_family: unknown family 'evry'; did you mean 'every'?", "geometric, polynomial"],
    ),
    (families(NO_FAMILIES | {"delay": None}, delay_family=2), ["fixed.delay_family: unknown family '2'"]),
    (
        families({"delay_family": {"low": 0, "high": 1}}),
        ["parameters.delay_family: expected `choices` among geometric, polynomial, every; found a range"],
    ),
    (
        families({"delay_family": {"choices": ["geometric", "steps"]}}),
        ["parameters.delay_family: unknown family 'steps'"],
    ),
    (
        families({"delay": {**BASE, "when": {"delay_famly": "geometric"}}}),
        ["parameters.delay.when.delay_famly: unknown parameter", "did you mean 'delay_family'?"],
    ),
    (
        families({"delay": {**BASE, "when": {"delay_family": "geometri"}}}),
        ["parameters.delay.when.delay_family: unknown choice 'geometri'; did you mean 'geometric'?"],
    ),
    (
        families(NO_FAMILIES | {"delay": {**BASE, "when": {"gamma": 0.5}}}),
        ["parameters.delay.when.gamma: 0.5 is not one of 0, 1"],
    ),
    (
        families(NO_FAMILIES | {"delay": {**BASE, "when": {"beta3": 0.5}}}),
        ["parameters.delay.when.beta3: is fixed; a condition needs a parameter with choices"],
    ),
    (
        families(NO_FAMILIES | {"delay": {**BASE, "when": {"gamma": 0}}, "gamma": LR}),
        ["parameters.delay.when.gamma: is a range (0.1 to 1); a condition needs"],
    ),
    (
        families(NO_FAMILIES | {"delay": {"choices": [2, 4], "when": {"delay": 2}}}),
        ["parameters.delay.when.delay: a parameter cannot depend on itself"],
    ),
    (
        families(NO_FAMILIES | {"delay": {**BASE, "when": {"beta3": 0}},
                                "beta3": {"choices": [0, 0.5], "when": {"gamma": 1}}}, beta3=None),
        ["parameters.delay.when.beta3: has a condition itself; conditions go one level deep"],
    ),
    (
        families({"gamma": {**LR, "when": {"delay_family": "every"}}}),
        ["parameters.gamma.when: every configuration needs gamma; remove the condition"],
    ),
    (families({"delay": {**BASE, "when": {}}}), ["parameters.delay.when: ", "at least 1"]),
    (families({"delay": {**BASE, "when": {"delay_family": []}}}), ["parameters.delay.when.delay_family: "]),
    (families({"delay": {**BASE, "when": "every"}}), ["parameters.delay.when: expected keys and values"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "parts"), BAD_CONDITIONS, ids=[parts[0][:60] for _, parts in BAD_CONDITIONS]
)
def test_a_wrong_condition_is_named_by_its_path(tmp_path: Path, data: dict[str, Any], parts: list[str]):
    data["fixed"] = {name: value for name, value in data["fixed"].items() if value is not None}
    with pytest.raises(SpecError) as caught:
        load(tmp_path, data)
    for part in ["space.yaml", *parts]:
        assert part in str(caught.value)


@pytest.mark.parametrize("family", DELAYS)
def test_a_family_may_be_fixed(family: str):
    changes = {**NO_FAMILIES, "delay": None, DELAYS[family]: {"low": 2, "high": 3, "integer": True}}
    space = Space.model_validate(families(changes, delay_family=family))
    assert not space.is_conditional
    assert space.configurations == 4


def test_a_number_of_a_searched_family_may_be_fixed():
    space = Space.model_validate(families({"delay": None}, delay=2))
    assert space.configurations == 2 * (1 + 10)


def test_beta3_and_delay_may_be_conditional_on_gamma():
    changes = {"beta3": {"choices": [0, 0.5], "when": {"gamma": 1}}, "delay": {**BASE, "when": {"gamma": 1}}}
    document = families(NO_FAMILIES | changes)
    del document["fixed"]["beta3"]
    space = Space.model_validate(document)
    assert space.active("beta3", {"gamma": 1})
    assert not space.active("beta3", {"gamma": 0.0})
    assert not space.active("beta3", {})
    assert space.active("gamma", {})
    assert not space.active("step_size", {"gamma": 1})  # fixed: in no point
    assert space.is_conditional
    assert (space.constant("beta3"), space.constant("delay")) == (0.5, 2.0)


@st.composite
def finite_spaces(draw: st.DrawFn) -> Space:
    chosen = draw(st.lists(st.sampled_from(list(DELAYS)), min_size=2, max_size=3, unique=True))
    parameters: dict[str, Any] = {"delay_family": {"choices": chosen}}
    gammas = draw(st.lists(st.integers(-5, 5), min_size=2, max_size=3, unique=True))
    parameters["gamma"] = {"choices": gammas}
    for family in chosen:
        when: dict[str, Any] = {"delay_family": family}
        if draw(st.booleans()):
            when["gamma"] = draw(st.lists(st.sampled_from(gammas), min_size=1, unique=True))
        low = draw(st.integers(2, 5))
        whole = {"low": low, "high": low + draw(st.integers(1, 3)), "integer": True}
        parameters[DELAYS[family]] = {**draw(st.sampled_from([whole, {"choices": [2, 4]}])), "when": when}
    return Space.model_validate(
        {"optimizer": "anon", "summary": "x", "parameters": parameters, "fixed": REST}
    )


def all_points(space: Space) -> set[tuple[tuple[str, Any], ...]]:
    """Every configuration, by brute force."""
    values = {
        name: domain.choices if isinstance(domain, Choice) else range(int(domain.low), int(domain.high) + 1)
        for name, domain in space.parameters.items()
    }
    everything = (dict(zip(values, point, strict=True)) for point in itertools.product(*values.values()))
    return {tuple((k, v) for k, v in point.items() if space.active(k, point)) for point in everything}


@given(finite_spaces())
def test_configurations_are_counted_and_none_has_a_problem(space: Space):
    points = all_points(space)
    assert space.configurations == len(points)
    for point in points:
        assert space.problems_of(dict(point)) == []


@pytest.mark.parametrize(
    ("point", "problems"),
    [
        ({}, []),
        ({"gamma": 0, "delay_family": "every", "delay_period": 3}, []),
        ({"gama": 0}, ["gama: unknown coordinate 'gama'; did you mean 'gamma'? Known: delay, "]),
        ({"delay_power": 2}, ["delay_power: unknown coordinate"]),
        ({"beta3": 0.1}, ["beta3: is fixed at 0.5 in this space; omit it"]),
        ({"floor": 0.1}, ["floor: is fixed at 0 in this space; omit it"]),
        ({"gamma": 2}, ["gamma: 2 is not one of 0, 1"]),
        ({"gamma": "a"}, ["gamma: unknown choice 'a'. Known: 0, 1"]),
        ({"gamma": True}, ["gamma: True is not one of 0, 1"]),
        ({"gamma": None}, ["gamma: None is not one of 0, 1"]),
        ({"delay_family": "evry"}, ["delay_family: unknown choice 'evry'; did you mean 'every'?"]),
        ({"delay": 2}, ["delay: exists only where delay_family is geometric; here delay_family is missing"]),
        (
            {"delay_family": "every", "delay": 2},
            ["delay: exists only where delay_family is geometric; here delay_family is every"],
        ),
        ({"delay_family": "geometric", "delay": 3.5}, ["delay: 3.5 is outside 1.5 to 3"]),
        ({"delay_family": "geometric", "delay": float("nan")}, ["delay: nan is outside 1.5 to 3"]),
        ({"delay_family": "geometric", "delay": "two"}, ["delay: expected a number (1.5 to 3), found 'two'"]),
        (
            {"delay_family": "every", "delay_period": 2.5},
            ["delay_period: 2.5 is not a whole number; allowed: 1 to 10, whole"],
        ),
        ({"gamma": 2, "delay_family": "every", "delay_period": 0}, ["gamma: ", "delay_period: 0 is outside"]),
    ],
)  # fmt: skip
def test_problems_of_a_point(point: dict[str, Any], problems: list[str]):
    found = Space.model_validate(families()).problems_of(point)
    assert len(found) == len(problems)
    assert all(line.startswith(part) for line, part in zip(found, problems, strict=True))


def test_the_space_in_the_docs_is_valid(tmp_path: Path):
    docs = (Path(__file__).parents[2] / "docs" / "search.md").read_text()
    (written,) = re.findall(r"```yaml\n(optimizer: .*?)```", docs, re.DOTALL)
    assert load(tmp_path, written).is_conditional


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


@given(finite_spaces())
def test_a_conditional_space_survives_being_stored(space: Space):
    assert Space.model_validate_json(space.model_dump_json()) == space


@given(domains())
def test_a_space_survives_being_stored(domain: dict[str, Any]):
    space = Space.model_validate(document(domain))
    stored = space.model_dump(mode="json")
    assert Space.model_validate(stored) == space
    assert isinstance(space.parameters["gamma"], Choice if "choices" in domain else Range)


# Points of a space


@given(finite_spaces())
def test_points_are_all_configurations_each_once(space: Space):
    points = [tuple(sorted(point.items())) for point in space.points()]
    assert len(points) == len(set(points)) == space.configurations
    assert set(points) == {tuple(sorted(point)) for point in all_points(space)}


@pytest.mark.parametrize("name", space_names())
def test_an_infinite_space_has_no_list_of_points(name: str):
    assert list(load_space(name).points()) == []


@pytest.mark.parametrize("name", space_names())
@given(levels=st.integers(2, 4))
def test_a_grid_is_a_finite_part_of_its_space(name: str, levels: int):
    space = load_space(name)
    grid = space.on_grid(levels)
    assert math.isfinite(grid.configurations)
    for point in itertools.islice(grid.points(), 200):
        assert space.problems_of(point) == []
        assert point.keys() == {n for n in space.parameters if space.active(n, point)}
    for coordinate, domain in space.parameters.items():
        coarse = grid.parameters[coordinate]
        assert isinstance(coarse, Choice)
        assert coarse.when == domain.when
        if isinstance(domain, Range):
            assert len(coarse.choices) == levels
            ends = coarse.choices[0], coarse.choices[-1]
            assert ends == pytest.approx((domain.low, domain.high), rel=1e-12)
        else:
            assert coarse == domain


@pytest.mark.parametrize("name", ["default", "delays"])
@given(data=st.data())
def test_a_completed_point_keeps_what_was_given_and_has_what_exists(name: str, data: st.DataObject):
    space = load_space(name)
    count = len(space.parameters)
    unit = data.draw(st.lists(st.floats(0, 1), min_size=count, max_size=count))
    whole = space.complete(unit, {})
    assert space.problems_of(whole) == []
    assert whole.keys() == {n for n in space.parameters if space.active(n, whole)}
    given_names = data.draw(st.sets(st.sampled_from(sorted(whole))))
    if given_names & set(DELAYS.values()):
        given_names.add("delay_family")
    part = {n: whole[n] for n in given_names if n in whole}
    other = data.draw(st.lists(st.floats(0, 1), min_size=count, max_size=count))
    completed = space.complete(other, part)
    assert space.problems_of(completed) == []
    assert completed.items() >= part.items()
    assert space.complete(unit, part) == whole

    places = iter(space.unit(whole))
    for (n, domain), u in zip(space.parameters.items(), unit, strict=True):
        if isinstance(domain, Choice):
            assert [next(places) for _ in domain.choices] == [whole[n] == c for c in domain.choices]
        elif n not in whole:
            assert next(places) == 0.5
        else:
            place = next(places)
            assert 0 <= place <= 1 + 1e-12
            assert domain.at(place) == pytest.approx(whole[n], rel=1e-9, abs=1e-12)
            assert domain.integer or place == pytest.approx(u, abs=1e-9)
    assert next(places, None) is None
