"""Every path equals the reference over 100 steps."""

from __future__ import annotations

import copy

import pytest
import torch

from anon_tune.optim import Anon, Delay, ReferenceAnon

from .driving import (
    DECAYS,
    DELAYS,
    GAMMAS,
    TOLERANCE,
    Rule,
    anon_run,
    assert_follows_reference,
    relative_error,
)

PATHS = {
    "single": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
    "default": {},
    "capturable": {"capturable": True},
}


def follow(rule, *paths, dtypes=(torch.float32, torch.float64)):
    for path in paths:
        for dtype in dtypes:
            optimizer = anon_run(rule, GAMMAS, dtype, **PATHS[path])
            assert_follows_reference(optimizer, rule, TOLERANCE[dtype])


@pytest.mark.parametrize("delay", DELAYS)
def test_paths_follow_the_reference(delay):
    # Each decay with and without climbing; the slow test below has all combinations.
    number = DELAYS.index(delay)
    rule = Rule(delay=delay, decay=DECAYS[number % len(DECAYS)], maximize=number >= len(DECAYS))
    follow(rule, "single", "foreach", "fused")


@pytest.mark.parametrize("delay", DELAYS[::2])
def test_the_capturable_path_follows_the_reference(delay):
    decay = DECAYS[DELAYS.index(delay) % 3]
    # Float32 is in the test of betas below, and in the slow one.
    follow(Rule(delay=delay, decay=decay, floor=0.1), "capturable", dtypes=[torch.float64])


@pytest.mark.slow
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("delay", DELAYS)
def test_all_paths_follow_the_reference_in_all_combinations(delay, decay, maximize):
    follow(Rule(delay=delay, decay=decay, maximize=maximize), *PATHS)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("betas", [(0.0, 0.0, 0.0), (0.5, 0.9, 0.99), (0.95, 0.99, 0.1)])
def test_betas_and_floor_follow_the_reference(path, betas):
    follow(Rule(betas=betas, floor=0.1), path)


@pytest.mark.parametrize("path", PATHS)
def test_two_hundred_tensors(path):
    generator = torch.Generator().manual_seed(3)
    start = [torch.randn(1 + i % 7, 1 + i % 5, generator=generator) for i in range(200)]
    references = [ReferenceAnon(p.double(), gamma=1.15) for p in start]
    params = [p.clone() for p in start]
    optimizer = Anon(params, gamma=1.15, **PATHS[path])
    for _ in range(20):
        for p, reference in zip(params, references, strict=True):
            p.grad = torch.randn(p.shape, generator=generator)
            reference.step(p.grad.double())
        optimizer.step()
    assert max(relative_error(p, r.theta) for p, r in zip(params, references, strict=True)) <= 1e-5


@pytest.mark.parametrize("path", PATHS)
def test_parameters_that_miss_gradients_keep_their_own_count(path):
    generator = torch.Generator().manual_seed(4)
    start = [torch.randn(4, generator=generator, dtype=torch.float64) for _ in range(3)]
    references = [ReferenceAnon(p, delay=Delay("every", 3)) for p in start]
    params = [p.clone() for p in start]
    optimizer = Anon(params, delay="every:3", **PATHS[path])
    for step in range(30):
        for i, (p, reference) in enumerate(zip(params, references, strict=True)):
            p.grad = None
            if step % (i + 1) == 0:
                p.grad = torch.randn(4, generator=generator, dtype=torch.float64)
                reference.step(p.grad)
        optimizer.step()
    assert [int(optimizer.state[p]["step"]) for p in params] == [30, 15, 10]
    assert max(relative_error(p, r.theta) for p, r in zip(params, references, strict=True)) <= 1e-12


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("gamma", [0.0, 1.15])
def test_complex_parameters_move_as_pairs_of_reals(path, gamma):
    generator = torch.Generator().manual_seed(5)
    z = torch.randn(6, generator=generator, dtype=torch.complex128)
    pairs = torch.view_as_real(z).clone()
    left = Anon([z], gamma=gamma, floor=0.01, **PATHS[path])
    right = Anon([pairs], gamma=gamma, floor=0.01, **PATHS[path])
    for _ in range(10):
        z.grad = torch.randn(6, generator=generator, dtype=torch.complex128)
        pairs.grad = torch.view_as_real(z.grad).clone()
        left.step()
        right.step()
    assert torch.equal(torch.view_as_real(z), pairs)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_parameters_keep_wide_state(path, dtype):
    generator = torch.Generator().manual_seed(6)
    p = torch.randn(64, generator=generator).to(dtype)
    optimizer = Anon([p], lr=1e-2, **PATHS[path])
    reference = ReferenceAnon(p.double(), alpha=1e-2)
    for _ in range(20):
        p.grad = torch.randn(64, generator=generator).to(dtype)
        reference.theta = p.double()
        optimizer.step()
        reference.step(p.grad.double())
    state = optimizer.state[p]
    assert {state[name].dtype for name in ("exp_avg", "exp_avg_sq", "multiplier")} == {torch.float32}
    assert relative_error(state["multiplier"], reference.v) <= 1e-5
    # One rounding a step: the nearest half-precision number to the wide result.
    assert torch.equal(p, reference.theta.float().to(dtype))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("maximize", [False, True])
def test_gradients_are_not_changed(path, decay, maximize):
    params = [
        torch.ones(4),
        torch.ones(2, 3).t(),
        torch.ones((), dtype=torch.float64),
        torch.ones(3).bfloat16(),
    ]
    options = {**Rule(decay=decay, maximize=maximize).options(), **PATHS[path]}
    optimizer = Anon([{"params": params[::2], "gamma": 0.0}, {"params": params[1::2]}], **options)
    for p in params:
        p.grad = torch.full_like(p, 0.5)
    for _ in range(3):
        optimizer.step()
    assert all(torch.equal(p.grad, torch.full_like(p, 0.5)) for p in params)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_lazy_negatives_and_conjugates_count_as_their_values(path, gamma):
    z = torch.arange(1.0, 7.0).to(torch.complex64) * (1 + 2j)
    lazy = [z.conj().imag, z.conj()]
    assert lazy[0].is_neg()
    assert lazy[1].is_conj()
    moved = []
    for grads in (lazy, [lazy[0].resolve_neg().clone(), lazy[1].resolve_conj().clone()]):
        params = [torch.ones(6), torch.ones(6, dtype=torch.complex64)]
        for p, g in zip(params, grads, strict=True):
            p.grad = g
        optimizer = Anon(params, gamma=gamma, weight_decay=0.1, delay=[1], **PATHS[path])
        for _ in range(3):
            optimizer.step()
        moved.append(params)
        assert all(p.grad is g for p, g in zip(params, grads, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(*moved, strict=True))
    assert lazy[0].is_neg()
    assert torch.equal(lazy[1], z.conj())


@pytest.mark.parametrize("delay", ["geometric:2", "every:1"])
@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_the_capturable_path_survives_a_mean_that_overflows(floor, delay):
    moved = []
    for path in ("single", "capturable"):
        p = torch.ones(3)
        optimizer = Anon([p], lr=0.1, floor=floor, delay=delay, **PATHS[path])
        for grad in ([1.0, 2.0, 3.0], [1e20, 1.0, 1.0], [1e19, 1e19, 1e19], [1.0, 1.0, 1.0]):
            p.grad = torch.tensor(grad)
            optimizer.step()
        moved.append(p)
    assert moved[0].isfinite().all()
    torch.testing.assert_close(*moved, rtol=1e-5, atol=1e-6)


def test_a_deepcopy_continues_identically():
    optimizer = anon_run(Rule(), (1.0,), torch.float64, steps=5)
    twin = copy.deepcopy(optimizer)
    for o in (optimizer, twin):
        for p in o.param_groups[0]["params"]:
            p.grad = torch.ones_like(p)
        o.step()
    pairs = zip(optimizer.param_groups[0]["params"], twin.param_groups[0]["params"], strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
