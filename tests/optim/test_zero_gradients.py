"""Gradients of exactly 0: a coordinate without one waits, and then trains as if the run had begun there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

from anon_tune.optim import Anon, Delay, ReferenceAnon, monitor

from .driving import Rule, odd_gradients, odd_tensors
from .test_reference import PATHS

GAMMAS = (-0.5, 0.5, 1.0, 1.5)
DELAYS = (2.0, 5.0, 8.0, "every:10")
LR = 0.01
STEPS = 50

every_path = pytest.mark.parametrize("path", PATHS)
every_delay = pytest.mark.parametrize("delay", DELAYS)
every_rule = pytest.mark.parametrize(
    ("gamma", "delay"),
    [
        # The longest windows at both ends of gamma run in `make test` too.
        pytest.param(
            gamma, delay, marks=() if (gamma, delay) in ((-0.5, 8.0), (1.5, 8.0)) else pytest.mark.slow
        )
        for gamma in GAMMAS
        for delay in DELAYS
    ],
)


def regression(model: nn.Module, width: int = 16) -> Callable[[], Tensor]:
    """The loss of a fixed batch, whose target no model here starts near."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(256, width, generator=generator)
    y = x @ torch.randn(width, width, generator=generator)
    return lambda: (model(x) - y).square().mean()


class LowRank(nn.Module):
    """LoRA's product: b begins at zero, so that a has no gradient in the first step."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(16, 4, bias=False), nn.Linear(4, 16, bias=False)
        nn.init.zeros_(self.b.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


class Residual(nn.Module):
    """A branch that ends in a norm whose weight begins at zero, as in timm's ResNets."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.branch, self.last = nn.Linear(16, 32), nn.Linear(32, 32), nn.Linear(32, 16)
        self.norm = nn.BatchNorm1d(32)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        return self.last(h + self.norm(self.branch(h)))


class Experts(nn.Module):
    """Two experts in one sum; the second is idle, with gradients of zero, until it is switched on."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.busy, self.idle = nn.Linear(16, 16), nn.Linear(16, 16)
        self.share = 0.0

    def forward(self, x: Tensor) -> Tensor:
        return self.busy(x) + self.share * self.idle(x)


def comparable_lr(model: nn.Module, loss: Callable[[], Tensor], gamma: float) -> float:
    """The learning rate of steps that are typically LR long: steps are lr times the gradient to the 1 - gamma."""
    loss().backward()
    seen = torch.cat([p.grad[p.grad != 0].flatten() for p in model.parameters()])
    return LR * seen.square().mean().sqrt().item() ** (gamma - 1.0)


def ready(optimizer: Anon, model: nn.Module, step: int) -> None:
    """Nothing to do before a step."""


def warm_up(optimizer: Anon, model: nn.Module, step: int) -> None:
    """The first learning rate is 0."""
    optimizer.param_groups[0]["lr"] = LR * min(1.0, step / 10)


def checkpoint_before_the_first_step(optimizer: Anon, model: nn.Module, step: int) -> None:
    """torch takes a step with gradients of zero, to have a state that it can save or fill."""
    if step == 0:
        get_optimizer_state_dict(model, optimizer)


def idle_for_twelve_steps(optimizer: Anon, model: nn.Module, step: int) -> None:
    assert isinstance(model, Experts)
    model.share = float(step >= 12)


SITUATIONS: dict[str, tuple[type[nn.Module], Callable[[Anon, nn.Module, int], None]]] = {
    "a factor that begins at zero": (LowRank, ready),
    "a warm-up from 0": (LowRank, warm_up),
    "a checkpoint before the first step": (LowRank, checkpoint_before_the_first_step),
    "a residual branch that begins at zero": (Residual, ready),
    "an idle expert": (Experts, idle_for_twelve_steps),
}


def largest_moves(situation: str, steps: int, wait: bool, **options: Any) -> dict[str, float]:
    """The largest move of each tensor in its first steps from its first gradient on.

    Args:
        situation: One of SITUATIONS.
        steps: How many steps each tensor is followed for.
        wait: Whether gradients of zero are taken away before the optimizer can see them, so that each tensor's run
            begins at its first gradient.
        options: Of Anon.
    """
    build, before = SITUATIONS[situation]
    model = build()
    loss = regression(model)
    lr = comparable_lr(model, loss, options["gamma"])
    optimizer = Anon(model.parameters(), lr=lr, **options)
    begun: dict[str, int] = {}
    largest = {name: 0.0 for name, _ in model.named_parameters()}
    for step in range(steps + 15):
        if not (wait and before is checkpoint_before_the_first_step):
            before(optimizer, model, step)
        if before is warm_up:
            optimizer.param_groups[0]["lr"] = lr * min(1.0, step / 10)
        optimizer.zero_grad(set_to_none=False)
        loss().backward()
        old = {name: p.detach().clone() for name, p in model.named_parameters()}
        for name, p in model.named_parameters():
            if p.grad.any():
                begun.setdefault(name, step)
            elif wait and name not in begun:
                p.grad = None
        optimizer.step()
        for name, p in model.named_parameters():
            if step < begun.get(name, step) + steps:
                largest[name] = max(largest[name], (p.detach() - old[name]).abs().max().item())
    return largest


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=() if path in ("foreach", "fused") else pytest.mark.slow) for path in PATHS],
)
@every_rule
@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("floor", [0.03, pytest.param(0.0, marks=pytest.mark.slow)])
def test_a_tensor_trains_as_if_the_run_had_begun_at_its_first_gradient(situation, path, gamma, delay, floor):
    options = {"gamma": gamma, "delay": delay, "floor": floor, **PATHS[path]}
    moves, expected = (largest_moves(situation, STEPS, wait, **options) for wait in (False, True))
    # No coordinate is thrown away, and none freezes: a tensor waits, and then takes the same steps.
    assert moves == pytest.approx(expected, rel=1e-4, nan_ok=True)
    # Without a floor, a large delay keeps the multiplier of a first gradient that is small by chance for so long that
    # a run may blow up, one that begins at that gradient too.
    if floor and gamma <= 1.0:
        assert max(moves.values()) < 100 * LR


def low_rank_loss(optimizer_of: Callable[[nn.Module], torch.optim.Optimizer]) -> float:
    model = LowRank()
    loss = regression(model)
    optimizer = optimizer_of(model)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    return loss().item()


@every_path
@every_delay
def test_a_low_rank_adapter_trains_as_well_as_with_adamw(path, delay):
    adamw = low_rank_loss(lambda model: torch.optim.AdamW(model.parameters(), lr=LR))
    anon = low_rank_loss(lambda model: Anon(model.parameters(), lr=LR, delay=delay, **PATHS[path]))
    assert anon < 1.1 * adamw


def row_gradients(rows: int, steps: int) -> list[Tensor]:
    """Gradients of an embedding: random signs, sizes within a factor of 3, a scale of its own in every row."""
    generator = torch.Generator().manual_seed(2)
    scale = 10.0 ** torch.linspace(-3, 3, rows)[torch.randperm(rows, generator=generator)]
    return [
        scale[:, None]
        * (0.5 + torch.rand(rows, 8, generator=generator))
        * torch.rand(rows, 8, generator=generator).sub(0.5).sign()
        for _ in range(steps)
    ]


def row_moves(gradients: list[Tensor], **options: Any) -> Iterator[Tensor]:
    p = torch.zeros_like(gradients[0])
    optimizer = Anon([p], lr=LR, **options)
    for g in gradients:
        old, p.grad = p.clone(), g
        optimizer.step()
        yield (p - old).abs()


@every_path
@every_rule
@pytest.mark.parametrize("start", [2, 9, 30])
def test_an_embedding_row_trains_as_if_the_run_had_begun_at_its_first_gradient(path, gamma, delay, start):
    rows = 9
    gradients = row_gradients(rows, start + STEPS)
    for g in gradients[:start]:
        g[1::2] = 0.0
    options = {"gamma": gamma, "delay": delay, **PATHS[path]}
    largest = torch.stack(list(row_moves(gradients, **options))[start:]).amax((0, 2))
    expected = torch.stack(list(row_moves(gradients[start:], **options))).amax((0, 2))
    late = slice(1, None, 2)
    assert (largest[late] > expected[late] / 10).all()
    assert (largest[late] < expected[late] * 10).all()


@every_path
@every_rule
def test_a_row_that_is_not_seen_for_whole_windows_is_not_thrown_away(path, gamma, delay):
    """Steps 5 to 129 hold a whole window of each of the delays."""
    gradients = row_gradients(9, 130 + STEPS)
    for g in gradients[5:130]:
        g[1::2] = 0.0
    options = {"gamma": gamma, "delay": delay, **PATHS[path]}
    largest = torch.stack(list(row_moves(gradients, **options))[130:]).amax((0, 2))
    expected = torch.stack(list(row_moves(gradients[130:], **options))).amax((0, 2))
    late = slice(1, None, 2)
    assert (largest[late] > expected[late] / 10).all()
    assert (largest[late] < expected[late] * 10).all()


def sparse_gradients(steps: int, seed: int) -> list[Tensor]:
    """Many zeros: whole steps at the start, whole rows, and single coordinates."""
    generator = torch.Generator().manual_seed(seed)
    grads = [torch.randn(5, 6, generator=generator, dtype=torch.float64) for _ in range(steps)]
    for step, g in enumerate(grads):
        g[torch.rand(5, 6, generator=generator) < 0.5] = 0.0
        g[0] *= step >= 12
        g[1] *= step % 7 == 5
        g[2] *= step < 4
        g[3] = 0.0
        if step < 3:
            g.zero_()
    return grads


@every_path
@pytest.mark.parametrize(
    "delay", ["geometric:2", "geometric:5", "every:10", "every:1", "polynomial:2", "steps:1,3"]
)
@pytest.mark.parametrize(
    ("decay", "floor"),
    [
        ("none", 0.0),
        ("coupled", 0.1),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("none", 0.1), ("coupled", 0.0), ("decoupled", 0.1))
        ),
    ],
)
def test_every_path_follows_the_reference_through_zeros(path, delay, decay, floor):
    options = Rule(delay=delay, decay=decay, floor=floor, maximize=decay == "coupled").options()
    for gamma in (-0.5, 0.0, 1.0, 1.5):
        start = torch.linspace(-1, 1, 30, dtype=torch.float64).reshape(5, 6)
        reference = ReferenceAnon(
            start,
            options["lr"],
            gamma=gamma,
            delay=Delay.parse(delay),
            floor=floor,
            weight_decay=options["weight_decay"],
            decoupled=options["decoupled_weight_decay"],
            maximize=options["maximize"],
        )
        p = start.clone()
        optimizer = Anon([p], gamma=gamma, **options, **PATHS[path])
        for g in sparse_gradients(60, seed=0):
            p.grad = g
            optimizer.step()
            reference.step(g)
        torch.testing.assert_close(p, reference.theta, rtol=1e-11, atol=1e-11)
        assert int(optimizer.state[p]["step"]) == reference.t == (57 if gamma else 60)


@every_path
@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_a_large_tensor_is_moved_as_its_coordinates_are(path, floor):
    """Large tensors go block by block: some hold no coordinate that waits, some hold one, some hold nothing else."""
    size, generator = 100_000, torch.Generator().manual_seed(0)
    first = torch.zeros(size, dtype=torch.int64)  # the step before each coordinate's first gradient
    first[35_000], first[40_000], first[64_000:] = 3, 20, 5
    start = torch.ones(size, dtype=torch.float64)
    reference = ReferenceAnon(start, LR, gamma=1.5, delay=Delay.parse(2.0), floor=floor)
    p = start.clone()
    optimizer = Anon([p], lr=LR, gamma=1.5, floor=floor, **PATHS[path])
    for t in range(12):
        p.grad = torch.randn(size, dtype=torch.float64, generator=generator) * (first <= t)
        optimizer.step()
        reference.step(p.grad)
    torch.testing.assert_close(p, reference.theta, rtol=1e-11, atol=1e-11)
    assert p[40_000] == 1.0


@every_path
@pytest.mark.parametrize("delay", ["geometric:8", "every:10"])
def test_training_resumes_exactly_while_coordinates_wait(path, delay):
    p, q = torch.zeros(2, 5, 6, dtype=torch.float64).unbind()
    options = {"gamma": 1.5, "delay": delay, "floor": 0.01, **PATHS[path]}
    whole, resumed = Anon([p], **options), Anon([q], **options)
    for g in sparse_gradients(40, seed=3):
        p.grad = q.grad = g
        whole.step()
        resumed.step()
        saved = resumed.state_dict()
        resumed = Anon([q])
        resumed.load_state_dict(saved)
    assert torch.equal(p, q)


@every_path
@pytest.mark.parametrize("betas", [(0.9, 0.0, 0.5), (0.0, 0.5, 0.0)])
def test_a_second_moment_that_is_forgotten_waits_again(path, betas):
    """With beta2 = 0 a step without a gradient leaves s at 0; sigma must not become eps."""
    reference = ReferenceAnon(
        torch.zeros(4, dtype=torch.float64), 0.01, *betas, delay=Delay("geometric", 8.0)
    )
    p = torch.zeros(4, dtype=torch.float64)
    optimizer = Anon([p], lr=0.01, betas=betas, delay=8.0, **PATHS[path])
    for step in range(20):
        p.grad = torch.tensor([1.0, step == 2, step % 3 == 1, step > 10], dtype=torch.float64)
        optimizer.step()
        reference.step(p.grad)
    torch.testing.assert_close(p, reference.theta, rtol=1e-11, atol=1e-11)
    assert p.abs().max() < 1.0


@every_path
def test_coordinates_that_are_added_to_the_state_begin_with_their_first_gradient(path):
    """As in Gaussian splatting, where parameters and state grow by zeros and the count stays."""
    p = torch.ones(2)
    optimizer = Anon([p], lr=LR, delay=8.0, **PATHS[path])
    for _ in range(3):
        p.grad = torch.ones(2)
        optimizer.step()
    state, grown = optimizer.state.pop(p), torch.cat([p, torch.ones(2)])
    optimizer.param_groups[0]["params"] = [grown]
    optimizer.state[grown] = {
        k: v if k == "step" else torch.cat([v, torch.zeros(2)]) for k, v in state.items()
    }
    for _ in range(50):
        old, grown.grad = grown.clone(), torch.ones(4)
        optimizer.step()
        assert (old - grown).abs().max() < 2 * LR
    assert (old - grown).abs().min() > LR / 2


@every_path
def test_decay_needs_no_gradient_but_a_step_does(path):
    idle, coupled, seen = torch.ones(3), torch.ones(3), torch.ones(3)
    optimizer = Anon(
        [
            {"params": [idle, seen]},
            {"params": [coupled], "decoupled_weight_decay": False},
        ],
        lr=0.1,
        weight_decay=0.5,
        **PATHS[path],
    )
    for _ in range(4):
        idle.grad, coupled.grad, seen.grad = torch.zeros(3), torch.zeros(3), torch.tensor([1.0, 0.0, 1.0])
        optimizer.step()
    # AdamW shrinks parameters whose gradient is 0 alike.
    shrunk = torch.tensor(0.95**4)
    torch.testing.assert_close(idle, shrunk.expand(3))
    torch.testing.assert_close(seen[1], shrunk)
    assert torch.equal(coupled, torch.ones(3))
    assert int(optimizer.state[idle]["step"]) == int(optimizer.state[coupled]["step"]) == 0


@every_path
def test_coupled_decay_alone_does_not_count_as_a_gradient(path):
    """Sigma would be the square of the decay, and the first real gradient 10,000 times too long a step."""
    p = torch.full((2,), 0.1)
    optimizer = Anon([p], lr=LR, weight_decay=1e-4, decoupled_weight_decay=False, **PATHS[path])
    for step in range(60):
        p.grad = torch.tensor([0.1, 0.1 * (step >= 20)])
        optimizer.step()
        if step == 19:
            assert p[1] == pytest.approx(0.1)
    assert p[1] == pytest.approx(0.1 - 40 * LR, rel=0.3)


@every_path
@pytest.mark.parametrize("gamma", [-0.5, 1.0])
def test_the_monitor_knows_of_coordinates_that_wait(path, gamma):
    p = torch.zeros(4)
    optimizer = Anon([p], lr=LR, gamma=gamma, delay=8.0, betas=(0.0, 0.999, 0.5), **PATHS[path])
    p.grad = torch.zeros(4)
    optimizer.step()
    assert monitor(optimizer) == {}
    for grad in ([2.0, 2.0, 0.0, 0.0], [2.0, 2.0, 2.0, 0.0]):
        old, p.grad = p.clone(), torch.tensor(grad)
        optimizer.step()
    report = monitor(optimizer)
    assert report["group0/update_rms"] == pytest.approx((p - old).square().mean().sqrt().item(), rel=1e-5)
    assert report["group0/multiplier_min"] == pytest.approx(2.0**-gamma)
    assert report["group0/multiplier_max"] == pytest.approx(2.0**-gamma)
    assert report["group0/waiting_share"] == 0.25
    assert report["group0/floor_share"] == 0.0


def test_the_published_rule_is_untouched_where_every_coordinate_has_a_gradient():
    """golden.json is from the reference of commit 24c0adc, which knew no zeros: sums of theta, and of log v."""
    for delay, floor, gamma, theta, log_v in json.loads(Path(__file__).with_name("golden.json").read_text()):
        options = Rule(decay="coupled" if floor else "decoupled").options()
        reference = ReferenceAnon(
            odd_tensors(torch.float64)[0],
            options["lr"],
            gamma=gamma,
            delay=Delay.parse(delay),
            floor=floor,
            weight_decay=options["weight_decay"],
            decoupled=options["decoupled_weight_decay"],
        )
        for step in range(100):
            reference.step(odd_gradients(torch.float64, step)[0])
        assert reference.theta.sum().item() == pytest.approx(theta, rel=1e-12)
        assert reference.v.log().sum().item() == pytest.approx(log_v, rel=1e-12, abs=1e-11)
