"""Behaviour that users of AdamW take for granted when they change one line."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from anon_tune.errors import HyperparameterError, InputError
from anon_tune.optim import Anon, Delay, load_optimizer, monitor
from anon_tune.optim.capturable import _refresh

from .test_anon import tensors, through_a_file, train
from .test_reference import PATHS

every_path = pytest.mark.parametrize("path", PATHS)


@pytest.fixture
def another_default_device() -> Iterator[None]:
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


@every_path
@pytest.mark.parametrize("gamma", [0.0, 1.0])
@pytest.mark.usefixtures("another_default_device")
def test_the_default_device_is_not_the_parameters(path, gamma):
    here = {"device": "cpu"}
    p, q = torch.ones(3, **here), torch.ones(3, **here)
    options = {"gamma": gamma, "floor": 0.1, "delay": "polynomial:2", **PATHS[path]}
    optimizer = Anon([p], **options)
    for step in range(5):
        p.grad = torch.arange(3.0, **here) * step
        optimizer.step()
    monitor(optimizer)
    resumed = Anon([p], **options)
    resumed.load_state_dict(optimizer.state_dict())
    resumed.step()
    torch.set_default_device(None)
    optimizer = Anon([q], **options)
    for step in (0, 1, 2, 3, 4, 4):
        q.grad = torch.arange(3.0) * step
        optimizer.step()
    assert torch.equal(p, q)


@every_path
@pytest.mark.parametrize("delay", [2.0, "polynomial:2", "every:10"])
def test_steps_beyond_the_whole_numbers_of_float32_are_counted(path, delay):
    p = torch.ones(3)
    optimizer = Anon([p], delay=delay, **PATHS[path])
    train(optimizer, [p], 3)
    optimizer.state[p]["step"].fill_(2.0**24 - 2)
    before = []
    for _ in range(6):
        train(optimizer, [p], 1, seed=len(before))
        before.append(optimizer.state[p]["multiplier"].clone())
    assert int(optimizer.state[p]["step"]) == 2**24 + 4
    # 2^24 is a refresh of the delays 2 and polynomial:2; 2^24 + 5 would be one of every:10.
    changed = [not torch.equal(a, b) for a, b in itertools.pairwise(before)]
    assert changed == ([True, False, False, False, False] if delay != "every:10" else [False] * 5)


@pytest.mark.parametrize(
    "delay", ["geometric:2", "geometric:1.5", "polynomial:2", "every:7", "steps:1,5,100000000"]
)
def test_a_captured_step_knows_refreshes_of_large_counts(delay):
    parsed = Delay.parse(delay)
    for t in (0, 1, 2, 5, 2**24 - 1, 2**24, 2**24 + 1, 4099**2, 10**8, 10**8 + 1, 2**31):
        refresh, elapsed = _refresh(parsed, torch.tensor(float(t), dtype=torch.float64))
        assert bool(refresh) == (t > 0 and parsed.is_refresh(t)), t
        if t:
            assert int(elapsed) == t - parsed.at_or_before(t - 1), t


def test_counts_in_float32_of_older_versions_are_loaded():
    params = tensors()
    optimizer = Anon(params)
    train(optimizer, params, 3)
    saved = copy.deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        state["step"] = state["step"].float()
    other = Anon([p.clone() for p in params])
    other.load_state_dict(saved)
    assert {s["step"].dtype for s in other.state.values()} == {torch.float64}
    for copies, o in ((params, optimizer), (other.param_groups[0]["params"], other)):
        train(o, copies, 3, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(params, other.param_groups[0]["params"], strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hooks_after_loading_have_the_last_word(dtype):
    params = tensors(dtype)
    optimizer = Anon(params)
    train(optimizer, params, 3)
    seen = []

    def restart(loaded):
        seen.extend(state["exp_avg"].dtype for state in loaded.state.values())
        for state in loaded.state.values():
            state["exp_avg"].zero_()
            state["step"].zero_()

    other = Anon([p.clone() for p in params])
    other.register_load_state_dict_post_hook(restart, prepend=True)
    other.load_state_dict(optimizer.state_dict())
    assert set(seen) == {torch.float32}
    assert all(not s["exp_avg"].any() and not s["step"] for s in other.state.values())
    # The hooks that Anon needs while it loads are gone.
    assert len(other._optimizer_load_state_dict_post_hooks) == 1
    assert not other._optimizer_load_state_dict_pre_hooks


def test_state_added_by_a_wrapper_is_loaded():
    """timm's Lookahead, which keeps its slow weights in the state of its base optimizer."""
    params = tensors()
    optimizer = Anon(params)
    train(optimizer, params, 3)
    for p in params:
        optimizer.state[p]["lookahead_slow_buff"] = p.clone()
        optimizer.state[p]["lookahead_step"] = 7
    other = Anon([p.clone() for p in params])
    other.load_state_dict(optimizer.state_dict())
    for p, q in zip(params, other.param_groups[0]["params"], strict=True):
        slow = other.state[q]["lookahead_slow_buff"]
        assert torch.equal(slow, optimizer.state[p]["lookahead_slow_buff"])
        slow.zero_()
        assert optimizer.state[p]["lookahead_slow_buff"].any()
        assert other.state[q]["lookahead_step"] == 7
    train(other, other.param_groups[0]["params"], 2)


def test_a_wrapper_may_write_state_before_the_first_step():
    p = torch.ones(3)
    source, optimizer = Anon([p]), Anon([p])
    source.state[p]["lookahead_slow_buff"] = p.clone()
    optimizer.load_state_dict(source.state_dict())
    assert torch.equal(optimizer.state[p]["lookahead_slow_buff"], p)
    train(optimizer, [p], 2)
    assert int(optimizer.state[p]["step"]) == 2


def test_a_step_count_may_be_a_plain_number():
    params = tensors()
    optimizer = Anon(params)
    train(optimizer, params, 3)
    saved = copy.deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        state["step"] = state["step"].item()
    other = Anon(params)
    other.load_state_dict(saved)
    train(other, params, 1)
    assert [int(s["step"]) for s in other.state.values()] == [4, 4, 4]


@every_path
@pytest.mark.parametrize("gamma", [0.0, 1.15])
def test_a_model_may_be_cast_in_the_middle_of_training(path, gamma):
    torch.manual_seed(0)
    net = nn.Linear(3, 2)
    optimizer = Anon(net.parameters(), lr=0.1, gamma=gamma, **PATHS[path])
    for dtype in (torch.float32, torch.float64, torch.float32, torch.bfloat16, torch.float64):
        net.to(dtype)
        for _ in range(3):
            optimizer.zero_grad()
            net(torch.ones(4, 3, dtype=dtype)).square().sum().backward()
            old = net.weight.detach().clone()
            optimizer.step()
            assert net.weight.dtype is dtype
            assert not torch.equal(net.weight, old)
        wide = torch.float64 if dtype is torch.float64 else torch.float32
        states = [t for s in optimizer.state.values() for name, t in s.items() if name != "step"]
        assert {t.dtype for t in states} == {wide}
    # Float64 parameters have float64's digits.
    assert not torch.equal(net.weight, net.weight.float().double())


@every_path
@pytest.mark.parametrize("floor", [0.0, 0.1])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("when", [0, 1, 2, 5])
def test_non_finite_gradients_stay_in_their_coordinate(path, floor, bad, when):
    ends = []
    for spoilt in (False, True):
        p = torch.ones(40)
        optimizer = Anon([p], lr=0.1, floor=floor, weight_decay=0.1, delay="every:4", **PATHS[path])
        generator = torch.Generator().manual_seed(0)
        for step in range(12):
            p.grad = torch.randn(40, generator=generator)
            # So that the floor, which is a mean, is the same with and without the coordinate.
            p.grad[7] = bad if spoilt and step == when else 0.0
            optimizer.step()
        ends.append(p)
    whole, spoilt = ends
    others = torch.arange(40) != 7
    torch.testing.assert_close(spoilt[others], whole[others], rtol=1e-6, atol=1e-6)
    assert not torch.isfinite(spoilt[7])


def after_an_infinite_gradient(path: str, decoupled: bool, gamma: float, steps: int) -> Tensor:
    p = torch.ones(20)
    optimizer = Anon(
        [p],
        lr=0.1,
        gamma=gamma,
        weight_decay=0.1,
        decoupled_weight_decay=decoupled,
        delay="every:4",
        **PATHS[path],
    )
    for step in range(steps):
        p.grad = torch.linspace(-1, 1, 20)
        p.grad[3] = torch.inf if step == 1 else 1.0
        p.grad[15] = -torch.inf if step == 1 else 1.0
        optimizer.step()
    return p


@every_path
@pytest.mark.parametrize("decoupled", [True, False])
@pytest.mark.parametrize("gamma", [-0.5, 0.0, 1.0])
@pytest.mark.parametrize("steps", [2, 3, 9])
def test_an_infinite_gradient_gives_the_same_on_every_path(path, decoupled, gamma, steps):
    """Whether the coordinate itself becomes infinite or NaN is left open: torch's kernels differ there."""
    p = after_an_infinite_gradient(path, decoupled, gamma, steps)
    expected = after_an_infinite_gradient("single", decoupled, gamma, steps)
    assert p.isfinite().logical_not().nonzero().flatten().tolist() == [3, 15]
    kept = expected.isfinite()
    torch.testing.assert_close(p[kept], expected[kept], rtol=1e-5, atol=1e-6)


@every_path
def test_betas_that_a_scheduler_made_a_pair_are_refused_with_what_to_do(path):
    p = torch.ones(3)
    optimizer = Anon([p], **PATHS[path])
    train(optimizer, [p], 2)
    old = p.clone()
    optimizer.param_groups[0]["betas"] = (0.95, 0.999)
    with pytest.raises(HyperparameterError, match="beta1, beta2 and beta3"):
        train(optimizer, [p], 1)
    assert torch.equal(p, old)
    assert int(optimizer.state[p]["step"]) == 2


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        (np.int64(3), 3),
        (np.float64(1.5), 1.5),
        (np.float32(1.5), 1.5),
        ([np.int64(1), np.int64(3)], [1, 3]),
        (np.array([1, 3, 9]), [1, 3, 9]),
        (np.array(3.0), 3.0),
        (torch.tensor([1, 3, 9]), [1, 3, 9]),
    ],
)
def test_numbers_of_numpy_are_numbers(given, plain):
    assert Delay.parse(given) == Delay.parse(plain)
    params = tensors()
    optimizer = Anon(
        params, lr=np.float64(0.1), gamma=np.float32(0.5), betas=np.array([0.9, 0.99, 0.5]), delay=given
    )
    train(optimizer, params, 3)
    group = through_a_file(optimizer.state_dict())["param_groups"][0]
    assert group["delay"] == plain
    assert (group["lr"], group["gamma"], list(group["betas"])) == (0.1, 0.5, [0.9, 0.99, 0.5])


@pytest.mark.parametrize("delay", [[[1, 2], [3, 4]], [1.5, 3.0], [2, 3], ["a"]])
def test_arrays_that_are_not_a_delay_are_refused(delay):
    with pytest.raises(HyperparameterError, match="delay"):
        Anon(tensors(), delay=np.array(delay))


@every_path
def test_a_pickled_optimizer_of_an_older_version_goes_on(path):
    p = torch.ones(3)
    optimizer = Anon([p], **PATHS[path])
    train(optimizer, [p], 3)
    optimizer.state[p]["step"] = optimizer.state[p]["step"].float()
    older = copy.deepcopy(optimizer)
    (q,) = older.param_groups[0]["params"]
    assert older.state[q]["step"].dtype is torch.float64
    optimizer.state[p]["step"] = 3
    assert copy.deepcopy(optimizer).state_dict()["state"][0]["step"] == 3
    train(older, [q], 1)


@every_path
@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_a_step_without_any_gradient_does_nothing(path, gamma):
    optimizer = Anon(tensors(), gamma=gamma, **PATHS[path])
    optimizer.step()
    assert not any(optimizer.state.values())


def test_a_delay_that_cannot_be_read_is_refused_before_anything_moves():
    p, q = torch.ones(3), torch.ones(3)
    optimizer = Anon([{"params": [p]}, {"params": [q]}])
    optimizer.param_groups[1]["delay"] = "monthly:1"
    p.grad = q.grad = torch.ones(3)
    with pytest.raises(HyperparameterError, match="delay"):
        optimizer.step()
    assert torch.equal(p, torch.ones(3))


def test_a_refused_step_changes_nothing():
    """The sparse gradient comes last, in another group than the dense one."""
    dense, embedding = torch.ones(3), nn.Embedding(10, 3, sparse=True)
    optimizer = Anon([{"params": [dense]}, {"params": embedding.parameters()}])
    dense.grad = torch.ones(3)
    embedding(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(InputError, match="sparse=False"):
        optimizer.step()
    assert torch.equal(dense, torch.ones(3))
    assert not any(state["step"] for state in optimizer.state.values())
    assert monitor(optimizer) == {}


def test_groups_without_params_and_learning_rates_of_several_numbers_are_refused_as_torch_refuses_them():
    config = {"version": 1, "optimizer": "anon", "hyperparameters": {"lr": 0.1}}
    with pytest.raises(InputError, match="params"):
        load_optimizer(config, [{"weight": torch.ones(3)}])
    with pytest.raises(ValueError, match="Tensor lr must be 1-element"):
        Anon(tensors(), lr=torch.ones(2))
