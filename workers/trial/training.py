"""The training loop: one trial from fresh weights, or from a saved state, to its last epoch. Needs torch alone."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torch.optim.lr_scheduler import LambdaLR

from anon_tune.optim import Anon, make_optimizer, monitor
from anon_tune.workers.problems.data import Examples, Split
from anon_tune.workers.problems.tasks import Problem
from anon_tune.workers.trial.augment import augmented
from anon_tune.workers.trial.device import describe_device, trials_that_fit
from anon_tune.workers.trial.messages import TrainingCost
from anon_tune.workers.trial.schedules import schedule_factor

__all__ = ["DIVERGENCE_FACTOR", "Training"]

DIVERGENCE_FACTOR = 10.0
"""A validation loss this many times the loss before the first step counts as diverged, as NaN and inf do."""


_SHORTEST = 1e-12


class Training:
    """Trains one model with one optimizer; the same arguments give the same numbers on CPU.

    Args:
        problem: Data, model and loss; its data already on `device`.
        optimizer: "anon", "adamw", "sgd", or a user's factory ("module:function").
        hyperparameters: Arguments of the optimizer.
        seed: Seed of the initial weights, the order of the data and random data.
        epochs: Full length, which the schedule spans.
        batch_size: Examples per step; a last smaller batch is left out.
        schedule: One of `schedules.SCHEDULES`, over all steps.
        warmup: Share of the steps, in [0, 1), over which the learning rate rises first.
        clip: Largest norm of the gradient over all parameters; None for no clipping.
        accumulate: Number of parts of a batch whose gradients are added up.
        label_smoothing: In [0, 1), in the training loss only.
        augment: Names from `augment.AUGMENTATIONS`, applied to the training images in this order.
        precision: "fp32", or "bf16" to compute in bfloat16 by torch's autocast; parameters stay in 32 bits.
        channels_last: Whether weights of convolutions have this memory format, which is faster on GPUs.
        compile: Whether to compile the model with torch.compile, which takes up to a minute.
        device: Device to train on.
        folder: Folder to search first for the module of a factory.
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
        augment: Sequence[str] = (),
        precision: str = "fp32",
        channels_last: bool = False,
        compile: bool = False,
        device: torch.device | str = "cpu",
        folder: str | None = None,
    ) -> None:
        torch.manual_seed(seed)
        self._device = torch.device(device)
        self._problem = problem
        self._model = problem.build_model().to(self._device)
        if channels_last:
            self._model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # Another module around the same parameters, so that names in a state_dict are the model's own.
        self._forward = cast(nn.Module, torch.compile(self._model)) if compile else self._model
        self._autocast: AbstractContextManager[Any] = (
            torch.autocast(self._device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()
        )
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
        self._seed = seed
        self._order = torch.Generator().manual_seed(seed)
        self._augment = augment
        self._chance = torch.Generator(self._device).manual_seed(seed)
        self._label_smoothing = label_smoothing
        self._first_loss: float | None = None
        self._seconds = math.inf
        self.epoch = 0
        self.diverged = False

    @property
    def model(self) -> nn.Module:
        """The model, as trained so far."""
        return self._model

    def run_epoch(self) -> dict[str, float]:
        """Train one epoch; return `train_loss` and the metrics of the validation split with the prefix `val_`.

        The last step adds `gradient_norm`, before clipping, and `update_ratio`, the norm of the step over that of the
        parameters. Anon adds the measurements of its preconditioner from `optim.monitor`.
        """
        train = self._problem.train
        started = time.perf_counter()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        self._model.train()
        order = torch.randperm(len(train), generator=self._order)[: self._steps_per_epoch * self._batch_size]
        total = torch.zeros((), device=self._device)
        of_the_last: dict[str, float] = {}
        for step, batch in enumerate(train.batches(self._batch_size, order, (self._seed, self.epoch)), 1):
            if step < self._steps_per_epoch:
                total += self._step(batch)
            else:
                loss, of_the_last = self._measured_step(batch)
                total += loss
        self.epoch += 1
        result = {"train_loss": total.item() / self._steps_per_epoch, **of_the_last}
        self._seconds = time.perf_counter() - started
        result |= {f"val_{name}": value for name, value in self.evaluate(self._problem.validation).items()}
        if isinstance(self._optimizer, Anon):
            result |= monitor(self._optimizer)
        self.diverged = self._has_diverged(result)
        return result

    def speed(self) -> dict[str, float]:
        """Return `samples_per_second` of the last epoch's training, without its validation.

        On a GPU also return `peak_memory_bytes`, the peak memory of the tensors.
        """
        found = {"samples_per_second": self._steps_per_epoch * self._batch_size / self._seconds}
        if self._device.type == "cuda":
            found["peak_memory_bytes"] = torch.cuda.max_memory_allocated(self._device)
        return found

    def _step(self, batch: Split) -> Tensor:
        """Make one step; return the mean loss over the batch before the step."""
        self._optimizer.zero_grad()
        size = len(batch)
        if size <= self._part:
            total = self._backward(batch)
        else:
            parts = [self._backward(part, len(part) / size) for part in batch.batches(self._part)]
            total = torch.stack(parts).sum()
        if self._first_loss is None:
            self._first_loss = total.item()
        self._unclipped = None
        if self._clip is not None:
            self._unclipped = clip_grad_norm_(self._model.parameters(), self._clip)
        self._optimizer.step()
        self._schedule.step()
        return total

    def _backward(self, examples: Split, share: float = 1.0) -> Tensor:
        """Add the gradients of a part of a batch, and return its share of the loss."""
        if self._augment:
            inputs = augmented(examples.inputs, self._augment, self._chance)
            examples = dataclasses.replace(examples, inputs=inputs)
        with self._autocast:
            loss = self._problem.loss(self._forward, examples, self._label_smoothing)
        loss = loss * share if share < 1 else loss
        loss.backward()
        return loss.detach()

    def _measured_step(self, batch: Split) -> tuple[Tensor, dict[str, float]]:
        """Make one step; return the loss as `_step` does, and measurements of the step."""
        before = _in_a_row(self._model)
        loss = self._step(batch)
        update = _in_a_row(self._model).sub_(before)
        gradient = self._unclipped
        if gradient is None:
            gradient = get_total_norm([p.grad for p in self._model.parameters() if p.grad is not None])
        return loss, {
            "gradient_norm": gradient.item(),
            "update_ratio": update.norm().item() / max(before.norm().item(), _SHORTEST),
        }

    def dry_run(self) -> TrainingCost:
        """Run every part of an epoch once, to check that it works. Do not train with this object afterwards.

        The time of a step is that of the second one. On a GPU its memory is measured too.
        """
        if self._device.type == "cuda":  # what this process did before is no part of a trial
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
        batch = next(self._problem.train.batches(self._batch_size, torch.arange(self._batch_size)))
        self._model.train()
        self._step(batch)
        started = time.perf_counter()
        self._step(batch).item()  # waits for the device
        seconds = time.perf_counter() - started
        self._measured_step(batch)
        self._model.eval()
        with self._autocast:
            self._problem.measure(self._forward, self._problem.validation, batches=1)
        cost = TrainingCost(
            seconds_per_step=seconds,
            steps_per_epoch=self._steps_per_epoch,
            samples_per_epoch=self._steps_per_epoch * self._batch_size,
            device=describe_device(self._device),
        )
        if self._device.type != "cuda":
            return cost
        total = torch.cuda.get_device_properties(self._device).total_memory
        return dataclasses.replace(
            cost,
            peak_memory_bytes=torch.cuda.max_memory_allocated(self._device),
            device_memory_bytes=total,
            trials_per_device=trials_that_fit(torch.cuda.max_memory_reserved(self._device), total),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the state that the next epochs depend on, besides the arguments of the training.

        As in torch, the tensors are shared with the model and the optimizer: save them before the next epoch.
        """
        cuda = self._device.type == "cuda"
        return {
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state(self._device) if cuda else None,
            "order": self._order.get_state(),
            "augmentation": self._chance.get_state() if self._augment else None,
            "first_loss": self._first_loss,
            "epoch": self.epoch,
            "diverged": self.diverged,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the state of another training with the same arguments.

        On CPU the following epochs are the same, bit for bit, as those of the other training.

        Raises:
            InputError, KeyError, RuntimeError: The state is that of another model or optimizer. Part of it may be
                loaded by then: create a new training.
        """
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["random"])
        if state["cuda_random"] is not None and self._device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_random"], self._device)
        self._order.set_state(state["order"])
        if state["augmentation"] is not None:
            self._chance.set_state(state["augmentation"])
        self._first_loss = state["first_loss"]
        self.epoch = state["epoch"]
        self.diverged = state["diverged"]

    def test(self) -> dict[str, float]:
        """Return the metrics of the test split, with the prefix `test_`."""
        return {f"test_{name}": value for name, value in self.evaluate(self._problem.test).items()}

    def evaluate(self, split: Examples) -> dict[str, float]:
        """Return the problem's metrics over a split."""
        self._model.eval()
        with self._autocast:
            return self._problem.measure(self._forward, split)

    def _has_diverged(self, result: Mapping[str, float]) -> bool:
        limit = DIVERGENCE_FACTOR * (self._first_loss or math.inf)
        losses = [value for name, value in result.items() if name.endswith("loss")]
        return any(not math.isfinite(loss) or loss > limit for loss in losses)


def _in_a_row(model: nn.Module) -> Tensor:
    """Return a copy of all parameters in one vector."""
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
