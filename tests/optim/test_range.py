"""Float32 at its ends."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anon_tune.optim import Anon

from .test_reference import PATHS

exponents = st.lists(st.floats(-20.0, 10.0), min_size=6, max_size=6)
signs = st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=6, max_size=6)
gradients = st.builds(
    lambda e, s: torch.tensor([a * 10.0**b for a, b in zip(s, e, strict=True)], dtype=torch.float32),
    exponents,
    signs,
)


@pytest.mark.parametrize("path", ["single", "foreach", "fused", "capturable"])
@settings(max_examples=60)
@given(
    grads=st.lists(gradients, min_size=1, max_size=8),
    gamma=st.floats(-3.0, 3.0),
    beta3=st.sampled_from([0.0, 0.5, 0.999]),
    floor=st.sampled_from([0.0, 0.01]),
    eps=st.sampled_from([0.0, 1e-16, 1e-8]),
    delay=st.sampled_from([2.0, "every:1", "every:3"]),
)
def test_multiplier_is_positive_and_finite_and_so_are_parameters(
    path, grads, gamma, beta3, floor, eps, delay
):
    p = torch.zeros(6)
    optimizer = Anon(
        [p], betas=(0.9, 0.999, beta3), gamma=gamma, floor=floor, eps=eps, delay=delay, **PATHS[path]
    )
    for grad in grads:
        p.grad = grad
        optimizer.step()
        if gamma != 0.0:
            v = optimizer.state[p]["multiplier"]
            m = optimizer.state[p]["exp_avg"]
            # Not positive is a coordinate without a gradient, or with one that came after the last refresh.
            assert bool((v >= -1).all())
            assert bool((v[grads[0].square() * 1e-3 > 0] > 0).all())
            assert bool(torch.isfinite(v).all())
            update = 1e-3 * m.double() * v.double().clamp(min=1.0) / (1 - 0.9 ** len(grads))
            if update.abs().max() > 1e37:
                return
        assert bool(torch.isfinite(p).all())


@given(gamma=st.floats(-3.0, 3.0), sizes=st.lists(st.floats(-20.0, 10.0), min_size=2, max_size=6))
@settings(max_examples=100)
def test_blended_multiplier_equals_float64_where_the_square_leaves_float32(gamma, sizes):
    """w = v^-2 of 1e-16^3 or (1e20)^3 is no float32; v is, to its last digits but a few."""
    single, double = torch.zeros(1), torch.zeros(1, dtype=torch.float64)
    optimizers = [Anon([p], lr=0.0, gamma=gamma, delay="every:1") for p in (single, double)]
    for size in sizes:
        single.grad = torch.tensor([10.0**size])
        double.grad = single.grad.double()
        for optimizer in optimizers:
            optimizer.step()
    if gamma != 0.0:
        value, exact = (
            o.state[p]["multiplier"].item() for o, p in zip(optimizers, (single, double), strict=True)
        )
        assert value == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("floor", [0.0, 0.01])
@pytest.mark.parametrize(
    "gamma", [pytest.param(0.5, marks=pytest.mark.slow), 1.0, pytest.param(1.15, marks=pytest.mark.slow), 1.5]
)
def test_a_feature_that_is_silent_at_first_trains_when_it_wakes_up(gamma, floor, path):
    """One of eight features is 0 until step 40. Its multiplier was eps^(-gamma/2), and the loss ended above 1,000."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.zeros(8, requires_grad=True)
    truth = torch.linspace(-1, 1, 8)
    optimizer = Anon([weight], lr=0.03, gamma=gamma, floor=floor, **PATHS[path])
    losses = []
    for step in range(200):
        x = torch.randn(32, 8, generator=generator)
        if step < 40:
            x[:, 3] = 0.0
        loss = (x @ weight - x @ truth).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert max(losses[40:]) < 2.0
    assert losses[-1] < 0.5
