"""Where Anon is an optimizer that torch has already."""

from __future__ import annotations

import pytest
import torch

from anon_tune.optim import Anon


def gradients(steps: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(50, generator=generator, dtype=torch.float64) for _ in range(steps)]


@pytest.mark.parametrize("path", [{}, {"foreach": False}, {"foreach": True}, {"fused": True}])
def test_gamma_zero_is_sgd_with_momentum_dampening_and_bias_correction(path):
    lr, beta1 = 0.1, 0.9
    p = torch.ones(50, dtype=torch.float64)
    q = p.clone()
    anon = Anon([p], lr=lr, gamma=0.0, betas=(beta1, 0.999, 0.5), **path)
    sgd = torch.optim.SGD([q], lr=lr, momentum=beta1, dampening=beta1)
    # torch's SGD takes its first gradient undampened; from a buffer of zeros the rule holds from step 1 on.
    sgd.state[q]["momentum_buffer"] = torch.zeros_like(q)
    for t, grad in enumerate(gradients(50), 1):
        p.grad, q.grad = grad, grad.clone()
        sgd.param_groups[0]["lr"] = lr / (1 - beta1**t)
        anon.step()
        sgd.step()
    torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_sgd_with_plain_momentum_needs_a_tenth_of_the_step_size():
    """After the bias correction has faded, SGD(lr=0.1, momentum=0.9) is Anon(lr=1.0, gamma=0)."""
    p = torch.ones(50, dtype=torch.float64)
    q = p.clone()
    anon = Anon([p], lr=1.0, gamma=0.0)
    sgd = torch.optim.SGD([q], lr=0.1, momentum=0.9)
    zero = torch.zeros(50, dtype=torch.float64)
    for grad in [zero] * 300 + gradients(20):
        p.grad, q.grad = grad, grad.clone()
        anon.step()
        sgd.step()
    torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("beta2", [0.9, 0.999])
def test_refreshing_every_step_with_beta3_beta2_is_adam_seeded_with_the_first_square(beta2):
    """Adam's second moment, begun at g_1^2 and without bias correction, with eps inside the root."""
    lr, beta1, eps = 1e-2, 0.9, 1e-16
    p = torch.ones(50, dtype=torch.float64)
    anon = Anon([p], lr=lr, betas=(beta1, beta2, beta2), gamma=1.0, delay="every:1", eps=eps)
    adam = p.clone()
    first, second = torch.zeros(50, dtype=torch.float64), None
    for t, grad in enumerate(gradients(60), 1):
        p.grad = grad
        anon.step()
        first = beta1 * first + (1 - beta1) * grad
        square = grad**2 + eps
        second = square if second is None else beta2 * second + (1 - beta2) * square
        adam = adam - lr / (1 - beta1**t) * first / second.sqrt()
    torch.testing.assert_close(p, adam, rtol=1e-12, atol=1e-12)


def test_scaled_gradients_scale_steps_by_c_to_one_minus_gamma():
    for gamma in (-0.5, 0.0, 0.5, 1.0, 1.5):
        moved = []
        for scale in (1.0, 1000.0):
            p = torch.zeros(50, dtype=torch.float64)
            optimizer = Anon([p], gamma=gamma, eps=0.0, floor=0.1)
            for grad in gradients(20):
                p.grad = scale * grad
                optimizer.step()
            moved.append(p)
        torch.testing.assert_close(moved[1], 1000.0 ** (1 - gamma) * moved[0], rtol=1e-9, atol=0.0)
