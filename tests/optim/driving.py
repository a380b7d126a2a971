"""Drives an optimizer and the reference with the same gradients, which do not depend on the parameters."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anon_tune.optim import Anon, Delay, ReferenceAnon

STEPS = 100
GAMMAS = (-1.0, -0.1, 0.0, 0.5, 1.0, 1.15, 2.5)
DELAYS = ("geometric:2", "geometric:1.3", "polynomial:2", "every:10", "every:1", "steps:1,3,9,40")
DECAYS = ("none", "decoupled", "coupled")
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


@dataclass(frozen=True)
class Rule:
    """The options of a run that are the same in every group."""

    delay: str = "geometric:2"
    decay: str = "none"
    maximize: bool = False
    floor: float = 0.0
    betas: tuple[float, float, float] = (0.9, 0.999, 0.5)
    lr: float = 1e-2
    eps: float = 1e-16

    def options(self) -> dict[str, Any]:
        return {
            "lr": self.lr,
            "betas": self.betas,
            "eps": self.eps,
            "delay": self.delay,
            "floor": self.floor,
            "maximize": self.maximize,
            "weight_decay": 0.0 if self.decay == "none" else 0.1,
            "decoupled_weight_decay": self.decay != "coupled",
        }


def odd_tensors(dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    """A matrix, a scalar, empty ones, and two that are not contiguous; drawn in float32."""
    generator = torch.Generator().manual_seed(seed)
    shapes: list[tuple[int, ...]] = [(5, 7), (), (0,), (3, 0), (6, 4), (8, 6)]
    dense = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    return [*dense[:4], dense[4].t(), dense[5][::2, 1::2]]


@functools.cache
def odd_gradients(dtype: torch.dtype, step: int) -> list[Tensor]:
    """Gradients for `odd_tensors`, from 0.05 to 15 in size, contiguous where the tensors are not."""
    generator = torch.Generator().manual_seed(1000 + step)
    grads = []
    for p in odd_tensors(torch.float32):
        scale = 10.0 ** torch.linspace(-1, 1, max(p.numel(), 1))[: p.numel()].reshape(p.shape)
        size = scale * (0.5 + torch.rand(p.shape, generator=generator))
        sign = torch.rand(p.shape, generator=generator).sub(0.5).sign()
        grads.append((sign * size).to(dtype))
    return grads


@dataclass
class Followed:
    """A reference, and the largest size that each of its values had on the way."""

    reference: ReferenceAnon
    peaks: dict[str, float]

    def step(self, gradient: Tensor) -> None:
        self.reference.step(gradient)
        for name in self.peaks:
            value = getattr(self.reference, name)
            if value.numel():
                self.peaks[name] = max(self.peaks[name], value.abs().max().item())

    def error(self, name: str, value: Tensor) -> float:
        """Deviation of a value; a scalar may pass through zero, so that its scale is its peak."""
        expected = getattr(self.reference, name)
        if expected.numel() == 1:
            return (value.to(torch.float64) - expected).abs().item() / self.peaks[name]
        return relative_error(value, expected)


@functools.lru_cache(maxsize=256)
def reference_run(rule: Rule, gamma: float, steps: int = STEPS) -> list[Followed]:
    """The reference in float64 after `steps` steps, from values that float32 holds exactly."""
    options = rule.options()
    references = [
        Followed(
            ReferenceAnon(
                p,
                options["lr"],
                *rule.betas,
                gamma=gamma,
                delay=Delay.parse(rule.delay),
                epsilon=options["eps"],
                floor=options["floor"],
                weight_decay=options["weight_decay"],
                decoupled=options["decoupled_weight_decay"],
                maximize=options["maximize"],
            ),
            {"theta": 0.0, "m": 0.0, "v": 0.0},
        )
        for p in odd_tensors(torch.float64)
    ]
    for step in range(steps):
        for reference, grad in zip(references, odd_gradients(torch.float64, step), strict=True):
            reference.step(grad)
    return references


def anon_run(
    rule: Rule, gammas: tuple[float, ...], dtype: torch.dtype, steps: int = STEPS, **path: Any
) -> Anon:
    """Anon with one group per gamma over fresh `odd_tensors`, after `steps` steps."""
    groups = [{"params": odd_tensors(dtype), "gamma": gamma} for gamma in gammas]
    optimizer = Anon(groups, **rule.options(), **path)
    for step in range(steps):
        for group in optimizer.param_groups:
            for p, g in zip(group["params"], odd_gradients(dtype, step), strict=True):
                p.grad = g
        optimizer.step()
    return optimizer


def relative_error(value: Tensor, expected: Tensor) -> float:
    """The largest deviation, in units of the expected tensor's largest entry."""
    if expected.numel() == 0:
        return 0.0
    scale = expected.abs().max().item() or 1.0
    return (value.to(torch.float64) - expected).abs().max().item() / scale


def assert_follows_reference(optimizer: Anon, rule: Rule, tolerance: float, steps: int = STEPS) -> None:
    """Every parameter, first moment and multiplier equals the reference's."""
    for group in optimizer.param_groups:
        references = reference_run(rule, group["gamma"], steps)
        for index, (p, reference) in enumerate(zip(group["params"], references, strict=True)):
            state = optimizer.state[p]
            values = {"theta": p, "m": state["exp_avg"]}
            if group["gamma"] != 0:
                values["v"] = state["multiplier"]
            for name, value in values.items():
                error = reference.error(name, value)
                assert error <= tolerance, (
                    f"{name} of tensor {index}: {error}, gamma {group['gamma']}, {rule}"
                )
