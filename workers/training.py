"""The training loop: one trial from fresh weights, or from a saved state, to its last epoch. Needs torch alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from anon_tune.optim import Anon, make_optimizer, monitor
from anon_tune.workers.data import Split
from anon_tune.workers.tasks import Problem

__all__ = ["DIVERGENCE_FACTOR", "Training", "schedule_factor"]

DIVERGENCE_FACTOR = 10.0
"""A validation loss this many times the loss before the first step counts as diverged, as NaN and inf do."""


class Training:
    """Trains one model with one optimizer; the same arguments give the same numbers on CPU.

    Args:
        problem: Data, model and loss; its data already on `device`.
        optimizer: "anon", "adamw" or "sgd".
        hyperparameters: Arguments of the optimizer.
        seed: Of the initial weights and of the order of the data.
        epochs: Full length, which the schedule spans.
        batch_size: Examples per step; a last smaller batch is left out.
        schedule: "constant" or "cosine" (from lr to 0 over all steps).
        label_smoothing: In [0, 1), in the training loss only.
        device: Where to train.
    """

    def __init__(
        self,
        problem: Problem,
        optimizer: str,
        hyperparameters: Mapping[str, Any],
        *,
        seed: int,
        epochs: int,
        batch_size: int = 64,
        schedule: str = "cosine",
        label_smoothing: float = 0.0,
        device: torch.device | str = "cpu",
    ) -> None:
        torch.manual_seed(seed)
        self._device = torch.device(device)
        self._problem = problem
        self._model = problem.build_model().to(self._device)
        self._optimizer = make_optimizer(optimizer, self._model.parameters(), hyperparameters)
        self._batch_size = min(batch_size, len(problem.train))
        self._steps_per_epoch = len(problem.train) // self._batch_size
        total = epochs * self._steps_per_epoch
        self._schedule = LambdaLR(self._optimizer, lambda step: schedule_factor(schedule, step, total))
        self._order = torch.Generator().manual_seed(seed)
        self._label_smoothing = label_smoothing
        self._first_loss: float | None = None
        self.epoch = 0
        self.diverged = False

    @property
    def model(self) -> nn.Module:
        """The model as trained so far."""
        return self._model

    def run_epoch(self) -> dict[str, float]:
        """Train one epoch and return `train_loss` and the metrics of the validation split, `val_` before each.

        For Anon also what `optim.monitor` measures of its preconditioner.
        """
        train = self._problem.train
        self._model.train()
        order = torch.randperm(len(train), generator=self._order).to(train.inputs.device)
        total = torch.zeros((), device=train.inputs.device)
        for batch in order.split(self._batch_size)[: self._steps_per_epoch]:
            loss = self._problem.loss(self._model, train[batch], self._label_smoothing)
            if self._first_loss is None:
                self._first_loss = loss.item()
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
            self._schedule.step()
            total += loss.detach()
        self.epoch += 1
        result = {"train_loss": total.item() / self._steps_per_epoch}
        result |= {f"val_{name}": value for name, value in self.evaluate(self._problem.validation).items()}
        if isinstance(self._optimizer, Anon):
            result |= monitor(self._optimizer)
        self.diverged = self._has_diverged(result)
        return result

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next epochs depend on, besides the arguments of the training.

        As in torch, its tensors are those of the model and the optimizer: save it before the next epoch.
        """
        cuda = self._device.type == "cuda"
        return {
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state(self._device) if cuda else None,
            "order": self._order.get_state(),
            "first_loss": self._first_loss,
            "epoch": self.epoch,
            "diverged": self.diverged,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where another training, made with the same arguments, gave this state.

        On CPU the epochs that follow are the same, bit for bit, as those of the other one.

        Raises:
            InputError, KeyError, RuntimeError: It is the state of another model or optimizer. What was loaded
                before that was noticed stays: make the training anew.
        """
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["random"])
        if state["cuda_random"] is not None and self._device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_random"], self._device)
        self._order.set_state(state["order"])
        self._first_loss = state["first_loss"]
        self.epoch = state["epoch"]
        self.diverged = state["diverged"]

    def test(self) -> dict[str, float]:
        """Return the metrics of the test split, `test_` before each."""
        return {f"test_{name}": value for name, value in self.evaluate(self._problem.test).items()}

    def evaluate(self, split: Split) -> dict[str, float]:
        """Return the problem's metrics over a split."""
        self._model.eval()
        return self._problem.measure(self._model, split)

    def _has_diverged(self, result: Mapping[str, float]) -> bool:
        limit = DIVERGENCE_FACTOR * (self._first_loss or math.inf)
        losses = [value for name, value in result.items() if name.endswith("loss")]
        return any(not math.isfinite(loss) or loss > limit for loss in losses)


def schedule_factor(schedule: str, step: int, total: int) -> float:
    """What the learning rate is multiplied by at a step, from 0 to `total`."""
    if schedule == "constant":
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * min(step, total) / total))
