"""Anon among the other parts of a training loop: scalers, schedulers, compiled models, pruned gradients."""

from __future__ import annotations

import pytest
import torch

from anon_tune.optim import Anon

from .test_reference import PATHS

LOOPS = ["single", "foreach", "fused"]


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))


def batches(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.randn(16, 4, generator=generator) for _ in range(count)]
    return [(x, x.sum(1, keepdim=True)) for x in inputs]


def parameters_after(net: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in net.parameters()]


@pytest.mark.parametrize("path", LOOPS)
def test_grad_scaler_changes_nothing_but_skips_overflow(path):
    results = []
    for enabled in (False, True):
        net = model()
        optimizer = Anon(net.parameters(), lr=1e-2, **PATHS[path])
        scaler = torch.amp.GradScaler("cpu", enabled=enabled, init_scale=1024.0)
        for i, (x, y) in enumerate(batches(12)):
            optimizer.zero_grad()
            scaler.scale(torch.nn.functional.mse_loss(net(x), y)).backward()
            if i == 5 and not enabled:
                continue
            if i == 5:
                net[0].weight.grad[0, 0] = torch.inf
            scaler.step(optimizer)
            scaler.update()
        results.append((parameters_after(net), scaler.get_scale() if enabled else 512.0))
    (plain, _), (scaled, scale) = results
    assert scale == 512.0
    for a, b in zip(plain, scaled, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_autocast_in_bfloat16_trains():
    net = model()
    optimizer = Anon(net.parameters(), lr=1e-2, fused=True)
    losses = []
    for x, y in batches(100):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = torch.nn.functional.mse_loss(net(x), y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=10),
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=20),
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + t)),
        lambda o: torch.optim.lr_scheduler.SequentialLR(
            o,
            [torch.optim.lr_scheduler.LinearLR(o), torch.optim.lr_scheduler.ExponentialLR(o, 0.9)],
            milestones=[3],
        ),
    ],
)
def test_schedulers_move_the_learning_rate_and_survive_a_resume(schedule):
    def run(net, optimizer, scheduler, data):
        for x, y in data:
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(net(x), y).backward()
            optimizer.step()
            scheduler.step()

    data = batches(16)
    net = model()
    optimizer = Anon(net.parameters(), lr=1e-2)
    scheduler = schedule(optimizer)
    run(net, optimizer, scheduler, data[:8])
    assert len(optimizer.param_groups[0]["betas"]) == 3

    other = model()
    other.load_state_dict(net.state_dict())
    resumed = Anon(other.parameters(), lr=1e-2)
    schedule_again = schedule(resumed)
    resumed.load_state_dict(optimizer.state_dict())
    schedule_again.load_state_dict(scheduler.state_dict())
    run(net, optimizer, scheduler, data[8:])
    run(other, resumed, schedule_again, data[8:])
    assert resumed.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("path", LOOPS)
def test_a_compiled_model_and_a_compiled_step_give_the_same(path):
    results = []
    for compiled in (False, True):
        torch._dynamo.reset()
        net = model()
        optimizer = Anon(net.parameters(), lr=1e-2, **PATHS[path])

        def update(x, y, net=net, optimizer=optimizer):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(net(x), y).backward()
            optimizer.step()

        step = torch.compile(update, backend="eager") if compiled else update
        for x, y in batches(20):
            step(x, y)
        results.append(parameters_after(net))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("path", LOOPS)
def test_gradients_may_be_narrower_than_parameters(path):
    left, right = torch.ones(8), torch.ones(8)
    grad = torch.linspace(-1, 1, 8).bfloat16()
    narrow, wide = Anon([left], **PATHS[path]), Anon([right], **PATHS[path])
    left.grad_dtype = None
    left.grad, right.grad = grad, grad.float()
    for _ in range(5):
        narrow.step()
        wide.step()
    torch.testing.assert_close(left, right)


def test_parameters_without_gradients_are_left_alone():
    net = model()
    net[0].weight.requires_grad_(False)
    before = net[0].weight.clone()
    optimizer = Anon(net.parameters(), weight_decay=0.5)
    x, y = batches(1)[0]
    torch.nn.functional.mse_loss(net(x), y).backward()
    optimizer.step()
    assert torch.equal(net[0].weight, before)
    assert net[0].weight not in optimizer.state


def test_hooks_and_step_counters_of_torch_work():
    net = model()
    optimizer = Anon(net.parameters())
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    x, y = batches(1)[0]
    torch.nn.functional.mse_loss(net(x), y).backward()
    optimizer.step()
    assert calls == ["before", "after"]


@pytest.mark.parametrize("capturable", [False, True])
def test_a_step_recorded_in_a_cuda_graph_replays(capturable):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    p = torch.ones(64, device="cuda")
    q = p.clone()
    p.grad = torch.full_like(p, 0.5)
    q.grad = p.grad.clone()
    recorded, eager = Anon([p], capturable=capturable), Anon([q])
    for optimizer in (recorded, eager):
        optimizer.step()
    graph = torch.cuda.CUDAGraph()
    if not capturable:
        with pytest.raises(ValueError, match="capturable=True"), torch.cuda.graph(graph):
            recorded.step()
        return
    with torch.cuda.graph(graph):
        recorded.step()
    for _ in range(20):
        graph.replay()
        eager.step()
    torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
