"""The training loop: one trial from fresh weights, or from a saved state, to its last epoch. Needs torch alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torch.optim.lr_scheduler import LambdaLR

from anon_tune.optim import Anon, make_optimizer, monitor
from anon_tune.workers.data import Split
from anon_tune.workers.schedules import schedule_factor
from anon_tune.workers.tasks import Problem

__all__ = ["DIVERGENCE_FACTOR", "Training"]

DIVERGENCE_FACTOR = 10.0
"""A validation loss this many times the loss before the first step counts as diverged, as NaN and inf do."""


_SHORTEST = 1e-12


class Training:
    """Trains one model with one optimizer; the same arguments give the same numbers on CPU.

    Args:
        problem: Data, model and loss; its data already on `device`.
        optimizer: "anon", "adamw", "sgd", or a factory of the user ("module:function").
        hyperparameters: Arguments of the optimizer.
        seed: Of the initial weights and of the order of the data.
        epochs: Full length, which the schedule spans.
        batch_size: Examples per step; a last smaller batch is left out.
        schedule: One of `schedules.SCHEDULES`, over all steps.
        warmup: Over this share of the steps, in [0, 1), the learning rate rises first.
        clip: Gradients longer than this, over all parameters together, are shortened to it; None: none is.
        accumulate: A batch is done in so many parts, whose gradients are added up.
        label_smoothing: In [0, 1), in the training loss only.
        device: Where to train.
        folder: Where the module of a factory is looked for first.
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
        warmup: float = 0.0,
        clip: float | None = None,
        accumulate: int = 1,
        label_smoothing: float = 0.0,
        device: torch.device | str = "cpu",
        folder: str | None = None,
    ) -> None:
        torch.manual_seed(seed)
        self._device = torch.device(device)
        self._problem = problem
        self._model = problem.build_model().to(self._device)
        self._optimizer = make_optimizer(optimizer, self._model, hyperparameters, folder)
        self._batch_size = min(batch_size, len(problem.train))
        self._steps_per_epoch = len(problem.train) // self._batch_size
        total = epochs * self._steps_per_epoch
        self._schedule = LambdaLR(
            self._optimizer, lambda step: schedule_factor(schedule, step, total, warmup)
        )
        self._clip = clip
        self._unclipped: Tensor | None = None
        self._part = -(-self._batch_size // accumulate)
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

        Besides, of the last step: `gradient_norm`, before it is clipped, and `update_ratio`, the length of the step
        over that of the parameters. For Anon also what `optim.monitor` measures of its preconditioner.
        """
        train = self._problem.train
        self._model.train()
        order = torch.randperm(len(train), generator=self._order).to(train.inputs.device)
        total = torch.zeros((), device=train.inputs.device)
        batches = order.split(self._batch_size)[: self._steps_per_epoch]
        for batch in batches[:-1]:
            total += self._step(batch)
        before = [parameter.detach().clone() for parameter in self._model.parameters()]
        total += self._step(batches[-1])
        self.epoch += 1
        result = {"train_loss": total.item() / self._steps_per_epoch, **self._last_step(before)}
        result |= {f"val_{name}": value for name, value in self.evaluate(self._problem.validation).items()}
        if isinstance(self._optimizer, Anon):
            result |= monitor(self._optimizer)
        self.diverged = self._has_diverged(result)
        return result

    def _step(self, batch: Tensor) -> Tensor:
        """Make one step, and return the mean loss over the batch before it."""
        self._optimizer.zero_grad()
        total = torch.zeros((), device=batch.device)
        for part in batch.split(self._part):
            loss = self._problem.loss(self._model, self._problem.train[part], self._label_smoothing)
            loss = loss * (len(part) / len(batch)) if len(part) < len(batch) else loss
            loss.backward()
            total += loss.detach()
        if self._first_loss is None:
            self._first_loss = total.item()
        self._unclipped = None
        if self._clip is not None:
            self._unclipped = clip_grad_norm_(self._model.parameters(), self._clip)
        self._optimizer.step()
        self._schedule.step()
        return total

    def _last_step(self, before: list[Tensor]) -> dict[str, float]:
        """What is measured of a step from the parameters before it and the gradients that are there still."""
        after = [parameter.detach() for parameter in self._model.parameters()]
        norm = self._unclipped
        if norm is None:
            norm = get_total_norm([p.grad for p in self._model.parameters() if p.grad is not None])
        update = get_total_norm([new - old for new, old in zip(after, before, strict=True)])
        return {
            "gradient_norm": norm.item(),
            "update_ratio": update.item() / max(get_total_norm(before).item(), _SHORTEST),
        }

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
