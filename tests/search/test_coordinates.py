"""Search coordinates: lr and weight decay that move with gamma as they should."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anon_tune.optim import make_optimizer
from anon_tune.optim.delay import Delay
from anon_tune.optim.factory import OPTIMIZERS
from anon_tune.records import Phase
from anon_tune.search.coordinates import optimizer_arguments, typical_multiplier
from anon_tune.search.seeds import sampler_seed, trial_seed
from anon_tune.search_spaces import DELAYS, Range, Space, load_space, space_names

GAMMAS = st.floats(-2, 2)
LOG_SIGMAS = st.floats(-37, 5)  # from eps upwards
STEPS = st.floats(0.01, 10)
DECAYS = st.floats(0, 0.1)
REST = {"beta3": 0.5, "delay": 2.0}


@given(GAMMAS, LOG_SIGMAS, STEPS, DECAYS)
def test_the_shrink_per_step_does_not_depend_on_gamma(
    gamma: float, log_sigma: float, step: float, decay: float
):
    params = {"gamma": gamma, "step_size": step, "decay": decay, **REST}
    arguments = optimizer_arguments(load_space("default"), params, log_sigma)
    assert arguments["lr"] * arguments["weight_decay"] == pytest.approx(step * decay, rel=1e-12)
    assert arguments["gamma"] == gamma


@given(GAMMAS, LOG_SIGMAS, st.floats(1e-3, 1e3))
def test_scaled_gradients_scale_the_multiplier(gamma: float, log_sigma: float, c: float):
    """Gradients times c: sigma times c^2, V times c^-gamma."""
    scaled = typical_multiplier(gamma, log_sigma + 2 * math.log(c))
    assert scaled == pytest.approx(typical_multiplier(gamma, log_sigma) * c**-gamma, rel=1e-9)


@given(LOG_SIGMAS, STEPS)
def test_at_gamma_0_the_step_size_is_the_learning_rate(log_sigma: float, step: float):
    params = {"gamma": 0.0, "step_size": step, "decay": 0.01, **REST}
    arguments = optimizer_arguments(load_space("default"), params, log_sigma)
    assert arguments["lr"] == step
    assert arguments["weight_decay"] == 0.01


@given(LOG_SIGMAS)
def test_at_gamma_1_the_multiplier_is_adams(log_sigma: float):
    assert typical_multiplier(1.0, log_sigma) == pytest.approx(1 / math.sqrt(math.exp(log_sigma)), rel=1e-12)


def test_the_baselines_get_their_own_arguments():
    adamw = {"lr": 0.01, "one_minus_beta2": 0.001, "weight_decay": 0.1}
    assert optimizer_arguments(load_space("adamw"), adamw, -9.0) == {
        "lr": 0.01,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.1,
    }
    sgd = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
    assert optimizer_arguments(load_space("sgd"), sgd, -9.0) == sgd


@pytest.mark.parametrize("name", space_names())
@pytest.mark.parametrize("end", ["low", "high"])
@pytest.mark.parametrize("log_sigma", [-37.0, -9.0, 3.0])
@pytest.mark.parametrize("family", DELAYS)
def test_every_corner_of_a_space_makes_an_optimizer(name: str, end: str, log_sigma: float, family: str):
    import torch

    space = load_space(name)
    if family != "geometric" and not space.is_conditional:
        return
    # Coordinates of the other families are in it too, and are not looked at.
    params = {
        key: getattr(domain, end) if isinstance(domain, Range) else family
        for key, domain in space.parameters.items()
    }
    arguments = optimizer_arguments(space, params, log_sigma)
    assert arguments.keys() <= OPTIMIZERS[space.optimizer][1]
    optimizer = make_optimizer(space.optimizer, [torch.nn.Parameter(torch.ones(2))], arguments)
    for key, value in arguments.items():
        assert optimizer.param_groups[0][key] == pytest.approx(value)


FAMILIES = load_space("delays")
COMMON = {"gamma": 1.0, "step_size": 1.0, "beta3": 0.5, "decay": 0.0}


@pytest.mark.parametrize(
    ("params", "written", "delay"),
    [
        ({"delay_family": "geometric", "delay": 2.5}, 2.5, Delay("geometric", 2.5)),
        ({"delay_family": "polynomial", "delay_power": 2.5}, "polynomial:2.5", Delay("polynomial", 2.5)),
        ({"delay_family": "every", "delay_period": 10}, "every:10", Delay("every", 10)),
        ({"delay_family": "every", "delay_period": 10.0, "delay": 3.0}, "every:10", Delay("every", 10)),
    ],
)
def test_the_delay_is_of_the_points_family(params: dict[str, Any], written: float | str, delay: Delay):
    argument = optimizer_arguments(FAMILIES, {**COMMON, **params}, -9.0)["delay"]
    assert argument == written
    assert Delay.parse(argument) == delay


@given(st.floats(1, 3))
def test_no_digit_of_a_power_is_lost(power: float):
    params = {**COMMON, "delay_family": "polynomial", "delay_power": power}
    assert Delay.parse(optimizer_arguments(FAMILIES, params, -9.0)["delay"]).parameter == power


def test_a_coordinate_that_is_inactive_has_the_optimizers_own_value():
    document = {
        "optimizer": "anon",
        "summary": "x",
        "parameters": {
            "gamma": {"choices": [0, 1]},
            "beta3": {"low": 0.1, "high": 0.9, "when": {"gamma": 1}},
        },
        "fixed": {"step_size": 1.0, "decay": 0.0, "delay_family": "every", "delay_period": 7},
    }
    space = Space.model_validate(document)
    for gamma, beta3 in ((0.0, 0.5), (1.0, 0.8)):
        arguments = optimizer_arguments(space, {"gamma": gamma, "beta3": 0.8}, -9.0)
        assert arguments["betas"] == (0.9, 0.999, beta3)
        assert arguments["delay"] == "every:7"


# Seeds


@given(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1), st.integers(0, 10_000), st.integers(0, 10_000))
def test_seeds_of_different_phases_are_never_equal(one: int, other: int, n: int, m: int):
    seeds = {trial_seed(one, phase, n) % 4 for phase in Phase}
    assert len(seeds) == len(Phase)
    assert seeds == {trial_seed(other, phase, m) % 4 for phase in Phase}
    assert all(0 <= trial_seed(one, phase, n) < 2**31 for phase in Phase)
    assert 0 <= sampler_seed(one, "anon", n) < 2**31


def test_seeds_within_a_phase_differ():
    seeds = [trial_seed(0, Phase.SEARCH, n) for n in range(1000)]
    assert len(set(seeds)) == 1000


def test_seeds_are_the_same_on_every_machine():
    """A resumed job must draw what it drew before: these numbers never change."""
    assert trial_seed(0, Phase.SEARCH, 0) == 269450765
    assert sampler_seed(0, "anon", 0) == 1034171081


def test_a_factory_is_given_what_its_space_names_as_it_is():
    space = Space.model_validate(
        {
            "optimizer": "mine:make",
            "summary": "x",
            "parameters": {
                "lr": {"low": 0.5, "high": 2.0},
                "steps": {"low": 1, "high": 9, "integer": True},
                "rule": {"choices": ["plain", "scaled", 3]},
                "scale": {"low": 0, "high": 1, "when": {"rule": "scaled"}},
            },
            "fixed": {"nesterov": 1, "beta": 0.9},
        }
    )
    point = {"lr": 1.0, "steps": 5.0, "rule": "plain"}
    given = optimizer_arguments(space, point, -9.0)
    assert given == {"lr": 1.0, "steps": 5, "rule": "plain", "nesterov": 1, "beta": 0.9}
    assert {name: type(value) for name, value in given.items()} == {
        "lr": float, "steps": int, "rule": str, "nesterov": int, "beta": float
    }  # fmt: skip
    scaled = optimizer_arguments(space, {**point, "rule": "scaled", "scale": 1.0}, -9.0)
    assert (scaled["rule"], scaled["scale"]) == ("scaled", 1.0)
    assert type(optimizer_arguments(space, {**point, "rule": 3.0}, -9.0)["rule"]) is int
    # Each part of the space is tried before the first trial.
    assert [middle.get("scale") for middle in space.middles()] == [None, 0.5, None]
    assert [middle["rule"] for middle in space.middles()] == ["plain", "scaled", 3.0]
    assert all((middle["lr"], middle["steps"]) == (1.25, 5.0) for middle in space.middles())
