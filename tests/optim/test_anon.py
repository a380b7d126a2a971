"""Anon in a training loop: torch's conventions."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys

import pytest
import torch

from anon_tune.errors import HyperparameterError, InputError
from anon_tune.optim import Anon, Delay


def train(optimizer: torch.optim.Optimizer, params: list[torch.Tensor], steps: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator).to(p.device, p.dtype)
        optimizer.step()


def tensors(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in ((3, 4), (5,), ())]


def through_a_file(state_dict: dict) -> dict:
    buffer = io.BytesIO()
    torch.save(state_dict, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def test_importing_it_needs_torch_alone():
    code = (
        "import sys; from anon_tune.optim import Anon; "
        "print([m for m in ('ray', 'mlflow', 'optuna', 'yaml', 'pandas', 'pydantic') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_one_line_is_swapped():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    optimizer = Anon(model.parameters(), lr=1e-2)
    x = torch.randn(64, 4)
    y = x.sum(1, keepdim=True)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]


def test_closure():
    p = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = Anon([p], lr=0.1)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0
    assert p.item() == pytest.approx(1.9)
    assert optimizer.step() is None


@pytest.mark.parametrize(
    "options",
    [
        {"lr": -1.0},
        {"lr": float("nan")},
        {"lr": torch.ones(2)},
        {"betas": (0.9, 0.999)},
        {"betas": (0.9, 1.0, 0.5)},
        {"betas": (0.9, 0.999, -0.1)},
        {"eps": -1e-8},
        {"gamma": float("inf")},
        {"floor": -0.1},
        {"weight_decay": -0.1},
        {"delay": 1.0},
        {"delay": "monthly:1"},
        {"betas": 0.9},
        {"betas": None},
        {"betas": "0.9"},
        {"betas": (0.9, "0.999", 0.5)},
        {"gamma": "1"},
        {"gamma": None},
        {"gamma": torch.ones(2)},
        {"lr": "1e-3"},
        {"eps": None},
        {"weight_decay": None},
        {"floor": [0.1]},
        {"fused": "yes"},
        {"decoupled_weight_decay": "False"},
        {"differentiable": True},
        {"foreach": True, "fused": True},
    ],
)
def test_options_out_of_range(options):
    with pytest.raises(HyperparameterError):
        Anon(tensors(), **options)
    with pytest.raises(HyperparameterError):
        Anon([{"params": tensors(), **options}])


def test_a_number_that_yaml_reads_as_text_is_pointed_out():
    with pytest.raises(HyperparameterError, match=r"lr must be a number, not '1e-3'; in YAML write 1.0e-3"):
        Anon(tensors(), lr="1e-3")


def test_sparse_gradients_are_refused():
    embedding = torch.nn.Embedding(10, 3, sparse=True)
    optimizer = Anon(embedding.parameters())
    embedding(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(InputError, match="sparse=False"):
        optimizer.step()


@pytest.mark.parametrize("delay", [2.0, "every:10", [1, 3, 9], Delay("polynomial", 2.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("gamma", [0.0, 1.15])
def test_training_resumes_exactly(delay, dtype, gamma):
    params = tensors(dtype)
    optimizer = Anon(params, lr=1e-2, gamma=gamma, delay=delay, floor=0.01)
    train(optimizer, params, 13)

    resumed = [p.clone() for p in params]
    other = Anon(resumed)
    other.load_state_dict(through_a_file(optimizer.state_dict()))
    train(optimizer, params, 20, seed=1)
    train(other, resumed, 20, seed=1)

    assert all(torch.equal(a, b) for a, b in zip(params, resumed, strict=True))
    wide = torch.float32 if dtype is torch.bfloat16 else dtype
    assert {s["exp_avg"].dtype for s in other.state.values()} == {wide}


def test_loading_does_not_share_memory_with_its_source():
    for dtype in (torch.float32, torch.bfloat16):
        params = tensors(dtype)
        optimizer = Anon(params)
        train(optimizer, params, 3)
        other = Anon([p.clone() for p in params])
        other.load_state_dict(optimizer.state_dict())
        before = [{name: t.clone() for name, t in state.items()} for state in other.state.values()]
        train(optimizer, params, 3)
        for state, old in zip(other.state.values(), before, strict=True):
            assert all(torch.equal(state[name], old[name]) for name in old)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda p: torch.optim.AdamW(p), "AdamW's"),
        (lambda p: torch.optim.SGD(p, momentum=0.9), "SGD's"),
        (lambda p: torch.optim.RMSprop(p), "another optimizer's"),
    ],
)
@pytest.mark.parametrize("steps", [0, 2])
def test_state_of_another_optimizer_is_refused(build, words, steps):
    params = tensors()
    other = build(params)
    train(other, params, steps)
    optimizer = Anon(params)
    with pytest.raises(InputError, match=words):
        optimizer.load_state_dict(other.state_dict())
    train(optimizer, params, 2)


def test_state_with_other_tensors_than_anons_is_refused():
    params = tensors()
    optimizer = Anon(params)
    train(optimizer, params, 2)
    saved = optimizer.state_dict()
    del saved["state"][1]["multiplier"]
    with pytest.raises(InputError, match="parameter 1 holds exp_avg, exp_avg_sq, step"):
        Anon(tensors()).load_state_dict(saved)


@pytest.mark.parametrize("gamma", [0.0, 1.0])
@pytest.mark.parametrize("shape", [(4, 3), (100_000,), (1,), ()])
def test_state_of_another_shape_is_refused_and_changes_nothing(gamma, shape):
    small, large = torch.ones(3, 4), torch.ones(shape)
    source, optimizer = Anon([small], gamma=gamma), Anon([large], gamma=gamma)
    train(source, [small], 2)
    train(optimizer, [large], 3)
    with pytest.raises(InputError, match=r"exp_avg of parameter 0 has shape \(3, 4\), not"):
        optimizer.load_state_dict(source.state_dict())
    assert int(optimizer.state[large]["step"]) == 3


def test_a_wrong_number_of_parameters_is_torchs_error():
    params = tensors()
    with pytest.raises(ValueError, match="group"):
        Anon(params).load_state_dict(Anon(params[:1]).state_dict())


def test_the_users_hooks_see_the_state_dict_first():
    params = tensors(torch.bfloat16)
    optimizer = Anon(params)
    train(optimizer, params, 2)

    def zero(_, state_dict):
        state = {i: {**s, "exp_avg": torch.zeros_like(s["exp_avg"])} for i, s in state_dict["state"].items()}
        return {**state_dict, "state": state}

    other = Anon([p.clone() for p in params])
    other.register_load_state_dict_pre_hook(zero)
    other.load_state_dict(optimizer.state_dict())
    assert all(not state["exp_avg"].any() for state in other.state.values())


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_continue_identically(copier):
    params = tensors()
    optimizer = Anon([{"params": params[:2]}, {"params": params[2:], "gamma": 0.0}], floor=0.1)
    train(optimizer, params, 5)
    twin = copier(optimizer)
    twins = [p for group in twin.param_groups for p in group["params"]]
    train(optimizer, params, 5, seed=2)
    train(twin, twins, 5, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(params, twins, strict=True))


def test_groups_added_later_have_their_own_options_and_count():
    params = tensors()
    optimizer = Anon(params[:1])
    train(optimizer, params, 4)
    optimizer.add_param_group({"params": params[1:], "gamma": -0.5, "delay": Delay("every", 3.0)})
    train(optimizer, params, 3)
    assert [int(optimizer.state[p]["step"]) for p in params] == [7, 3, 3]
    assert optimizer.param_groups[1]["delay"] == "every:3"


def test_named_parameters():
    model = torch.nn.Linear(2, 2)
    optimizer = Anon(model.named_parameters())
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]


@pytest.mark.parametrize("foreach", [False, True])
def test_learning_rate_as_a_tensor(foreach):
    left, right = tensors(), tensors()
    a = Anon(left, lr=torch.tensor(1e-2), foreach=foreach)
    b = Anon(right, lr=float(torch.tensor(1e-2)), foreach=foreach)
    train(a, left, 5)
    train(b, right, 5)
    assert all(torch.equal(x, y) for x, y in zip(left, right, strict=True))


def test_state_is_twelve_bytes_a_parameter_and_four_at_gamma_zero():
    for gamma, bytes_per_parameter in ((1.0, 12), (0.0, 4)):
        p = torch.zeros(1000)
        optimizer = Anon([p], gamma=gamma)
        train(optimizer, [p], 3)
        sizes = [t.nbytes for name, t in optimizer.state[p].items() if name != "step"]
        assert sum(sizes) == bytes_per_parameter * 1000


def test_gamma_may_move_but_not_away_from_zero():
    params = tensors()
    optimizer = Anon(params, gamma=0.5)
    train(optimizer, params, 2)
    optimizer.param_groups[0]["gamma"] = 1.0
    train(optimizer, params, 2)
    optimizer.param_groups[0]["gamma"] = 0.0
    train(optimizer, params, 2)
    assert set(optimizer.state[params[0]]) == {"step", "exp_avg"}
    optimizer.param_groups[0]["gamma"] = 0.5
    with pytest.raises(InputError, match="small gamma"):
        optimizer.step()
