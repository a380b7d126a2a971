"""Lion and Muon for the premise benchmark, as factories that `anon_tune.optim.make_optimizer` can call."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = ["Lion", "MuonWithAdamW", "lion", "muon"]


class Lion(Optimizer):
    """Lion without weight decay: algorithm 2 of Chen et al. 2023 (arXiv 2302.06675)."""

    def __init__(self, params, lr: float, betas: tuple[float, float] = (0.9, 0.99)) -> None:
        super().__init__(params, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure=None):
        """Move every coordinate by the learning rate, against the sign of the averaged gradient."""
        for group in self.param_groups:
            now, later = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                average = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                p.add_(average.lerp(p.grad, 1 - now).sign_(), alpha=-group["lr"])
                average.lerp_(p.grad, 1 - later)


class MuonWithAdamW(Optimizer):
    """torch's Muon for hidden weights, AdamW for the other parameters, at one learning rate and without weight decay.

    One rate serves both, because Muon's updates are scaled to the RMS of AdamW's (Liu et al. 2025, arXiv 2502.16982).
    Convolutions are flattened to (outputs, inputs * height * width), as by Muon's author
    (github.com/KellerJordan/Muon).
    """

    def __init__(self, hidden: list[Tensor], others: list[Tensor], lr: float) -> None:
        super().__init__([{"params": hidden}, {"params": others}], {"lr": lr})
        self._flat = [
            weight.detach().flatten(1) for weight in hidden
        ]  # views: a step on them moves the weights
        self._parts = (
            torch.optim.Muon(self._flat, lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr, weight_decay=0.0),
        )

    @torch.no_grad()
    def step(self, closure=None):
        """Let both optimizers take a step at the current learning rate."""
        for flat, weight in zip(self._flat, self.param_groups[0]["params"], strict=True):
            flat.grad = None if weight.grad is None else weight.grad.flatten(1)
        for part, group in zip(self._parts, self.param_groups, strict=True):
            part.param_groups[0]["lr"] = group["lr"]
            part.step()


def lion(model: nn.Module, lr: float) -> Lion:
    """Make Lion for all parameters of a model."""
    return Lion(model.parameters(), lr)


def muon(model: nn.Module, lr: float) -> MuonWithAdamW:
    """Make Muon for the hidden weights of a model: not the embeddings, and not the output layer `head`."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    hidden: list[Tensor] = []
    others: list[Tensor] = []
    for name, p in model.named_parameters():
        is_hidden = p.ndim >= 2 and id(p) not in embeddings and name not in ("head.weight", "position")
        (hidden if is_hidden else others).append(p)
    return MuonWithAdamW(hidden, others, lr)
