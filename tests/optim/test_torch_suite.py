"""torch's own optimizer checks, asked of Anon: each test has the name of torch's and is written anew.

Inputs, schedulers and helpers come from `torch.testing._internal.common_optimizers`, the private module behind
torch's test/test_optim.py, in the version of requirements.lock.
"""

from __future__ import annotations

import copy
import importlib
import io
import itertools
import pickle
import unittest
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import hypothesis
import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from anon_tune.optim import Anon

pytestmark = pytest.mark.slow

NOT_APPLICABLE: dict[str, str] = {
    "TestDifferentiableOptimizer": "Anon refuses differentiable=True",
    "test_correctness": "compares steps that inductor traced; Anon's is called, not traced (test_training.py)",
    "test_foreach_large_tensor": "needs 72 GB of GPU memory",
    "test_forloop_goes_right_direction_multigpu": "needs two GPUs",
    "test_fused_cpu_matches_device": "needs a GPU; test_fused.py compares its kernels with the plain path",
    "test_fused_does_not_step_if_foundinf": "for kernels that unscale gradients; GradScaler does it for Anon",
    "test_fused_error_on_params_on_meta": "Anon warns and runs its foreach path: test_params_on_meta",
    "test_fused_large_tensor": "needs 64 GB of memory",
    "test_fused_mixed_precision_hook_skips_existing_state": "for Adam's CUDA kernel with bfloat16 state",
    "test_fused_mixed_precision_numerics": "for Adam's CUDA kernel with bfloat16 state",
    "test_fused_mixed_precision_state_init": "for Adam's CUDA kernel with bfloat16 state",
    "test_peak_memory_foreach": "reads CUDA's memory statistics",
    "test_rosenbrock_sparse": "Anon refuses sparse gradients (test_anon.py)",
    "test_second_order_optims_return_consistent_types": "for LBFGS",
    "test_state_dict_with_cuda_params": "needs a GPU; test_load_across_dtypes converts on CPU",
    "test_step_iteration": "for LBFGS",
}
"""torch's checks that are not asked of Anon, and why."""

RULES: dict[str, dict[str, Any]] = {
    "default": {},
    "maximize": {"weight_decay": 0.1, "maximize": True},
    "coupled": {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": False},
    "sgd": {"gamma": 0.0},
    "sgd_decay": {"gamma": 0.0, "weight_decay": 0.1},
    "sgd_coupled": {"gamma": 0.0, "weight_decay": 0.1, "decoupled_weight_decay": False, "maximize": True},
    "negative": {"gamma": -0.5, "delay": "every:3"},
    "floor": {"gamma": 1.5, "floor": 0.03, "delay": "polynomial:2"},
    "tuned": {"gamma": 0.943, "floor": 0.03, "delay": 4.97, "betas": (0.9, 0.999, 0.95), "weight_decay": 0.1},
    "steps": {"gamma": 0.3, "delay": [1, 3, 9]},
    "no_momentum": {"betas": (0.0, 0.0, 0.0)},
    "tensor_lr": {"lr": torch.tensor(0.001)},
}
CAPTURABLE: dict[str, dict[str, Any]] = {
    "capturable": {"capturable": True},
    "capturable_tensor_lr": {
        "lr": torch.tensor(0.001),
        "weight_decay": 0.1,
        "maximize": True,
        "capturable": True,
    },
}
OPTIONS = {**RULES, **CAPTURABLE}

PATHS: dict[str, dict[str, bool]] = {
    "default": {},
    "forloop": {"foreach": False, "fused": False},
    "foreach": {"foreach": True, "fused": False},
    "fused": {"foreach": False, "fused": True},
}
NEWER_FLAGS = (
    "foreach",
    "fused",
    "maximize",
    "capturable",
    "differentiable",
    "floor",
    "decoupled_weight_decay",
)
"""Options that a state dict from before them would lack."""

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
NAMED = [(False, False), (False, True), (True, False), (True, True)]


def cases(
    options: dict[str, dict[str, Any]], *paths: str, without: str | None = None
) -> pytest.MarkDecorator:
    """Run a test with `kwargs` of every combination that Anon accepts, less those that set one option."""
    combinations = [
        pytest.param({**chosen, **PATHS[path]}, id=f"{name}-{path}")
        for (name, chosen), path in itertools.product(options.items(), paths)
        if not (path == "fused" and "capturable" in chosen) and without not in chosen
    ]
    return pytest.mark.parametrize("kwargs", combinations, indirect=True)


each_case = cases(OPTIONS, *PATHS)
each_option = cases(OPTIONS, "default")
each_rule = cases(RULES, "default")
some_options = cases(
    {name: OPTIONS[name] for name in ("default", "sgd", "tensor_lr", "capturable")}, "default"
)
each_flag = pytest.mark.parametrize("flag", ["foreach", "fused", "capturable"])


@pytest.fixture
def kwargs(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Arguments of Anon, of one's own: schedulers write into a tensor lr."""
    return copy.deepcopy(request.param)


@pytest.fixture(scope="module")
def common() -> ModuleType:
    """torch's private module of optimizer checks, imported when the first test needs it.

    The import takes seconds. It also freezes the flags of torch.backends and loads a hypothesis profile of
    10 examples, both for the whole process, which runs other tests too.
    """
    profile = hypothesis.settings.get_current_profile_name()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.backends, "disable_global_flags", lambda: None)
        module = importlib.import_module("torch.testing._internal.common_optimizers")
    hypothesis.settings.load_profile(profile)
    return module


@pytest.fixture(scope="module")
def case(common: ModuleType) -> unittest.TestCase:
    """torch's test case, whose assertEqual has torch's tolerances for each dtype."""
    return importlib.import_module("torch.testing._internal.common_utils").TestCase()


@pytest.fixture(scope="module")
def assert_equal(case: unittest.TestCase) -> Callable[..., None]:
    return case.assertEqual


@pytest.fixture(scope="module")
def schedulers(common: ModuleType) -> list[Any]:
    """The groups of schedulers that torch runs together, as functions of an optimizer."""
    return next(info.scheduler_inputs for info in common.optim_db if info.optim_cls is torch.optim.AdamW)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """The same random numbers for a test, whichever ran before it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@dataclass
class Regression:
    """A weight, a bias and an input with the loss |weight @ x + bias|^2."""

    weight: Parameter
    bias: Parameter
    x: Tensor

    @classmethod
    def random(cls, outputs: int = 10, inputs: int = 5, *, contiguous: bool = True) -> Regression:
        weight, bias = torch.randn(outputs, inputs, 2), torch.randn(outputs, 2)
        # Every other entry of memory, or entries side by side.
        parts = [weight[..., 0], bias[..., 0]]
        return cls(*(Parameter(p.contiguous() if contiguous else p) for p in parts), torch.randn(inputs))

    def twin(self) -> Regression:
        """The same numbers in parameters of their own."""
        return Regression(*(Parameter(p.detach().clone()) for p in self.params), self.x)

    @property
    def params(self) -> list[Parameter]:
        return [self.weight, self.bias]

    def loss(self, optimizer: Optimizer) -> Tensor:
        """The loss, with fresh gradients."""
        optimizer.zero_grad()
        loss = (self.weight.mv(self.x) + self.bias).square().sum()
        loss.backward()
        return loss

    def train(self, optimizer: Optimizer, steps: int) -> None:
        for _ in range(steps):
            self.loss(optimizer)
            optimizer.step()


def assert_right_direction(
    problem: Regression, optimizer: Anon, schedulers: tuple[LRScheduler, ...] = (), *, maximize: bool = False
) -> None:
    """After 20 steps the loss is lower, or higher where it is maximized."""
    first = problem.loss(optimizer).item()
    for _ in range(20):
        loss = problem.loss(optimizer)
        optimizer.step()
        for scheduler in schedulers:
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(loss.detach())
            else:
                scheduler.step()
    last = problem.loss(optimizer).item()
    assert last > first if maximize else last < first


def twin_of(optimizer: Anon) -> Anon:
    """A deep copy with equal gradients, which torch's deep copies of parameters leave out."""
    twin = copy.deepcopy(optimizer)
    for p, q in zip(optimizer.param_groups[0]["params"], twin.param_groups[0]["params"], strict=True):
        q.grad = p.grad.clone()
    return twin


def with_names(params: list[Parameter], named: bool) -> Any:
    return [(f"name{i}", p) for i, p in enumerate(params)] if named else params


def without_names(state_dict: dict[str, Any]) -> dict[str, Any]:
    groups = [
        {name: value for name, value in group.items() if name != "param_names"}
        for group in state_dict["param_groups"]
    ]
    return {**state_dict, "param_groups": groups}


def rosenbrock(point: Tensor) -> Tensor:
    x, y = point
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def images() -> tuple[torch.nn.Module, Tensor]:
    """A small convolution with batch normalization, and an image for it."""
    model = torch.nn.Sequential(torch.nn.Conv2d(4, 2, 1, stride=2), torch.nn.BatchNorm2d(2))
    return model, torch.rand(1, 4, 16, 16)


def train_on(model: torch.nn.Module, x: Tensor, optimizer: Anon, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()


def stepped(kwargs: dict[str, Any], steps: int = 3) -> Anon:
    """Anon over two matrices with constant gradients, after a few steps."""
    params = [Parameter(torch.randn(2, 3)) for _ in range(2)]
    for p in params:
        p.grad = torch.rand_like(p)
    optimizer = Anon(params, **kwargs)
    for _ in range(steps):
        optimizer.step()
    return optimizer


@pytest.fixture
def info(common: ModuleType) -> Any:
    """Describe Anon as torch's suite describes its own optimizers."""
    return common.OptimizerInfo(
        Anon,
        optim_inputs_func=lambda device, dtype=None: [
            common.OptimizerInput(None, copy.deepcopy(kwargs), name) for name, kwargs in OPTIONS.items()
        ],
        supported_impls=("foreach", "fused"),
        supports_fused_on=("cuda",),
        has_capturable_arg=True,
    )


def test_optim_infos_do_not_specify_global_cliquey_kwargs(info):
    for given in info.optim_inputs_func("cpu"):
        assert not {"foreach", "fused", "differentiable"} & given.kwargs.keys(), given.desc


def test_cases_are_those_that_torch_would_run(common, info):
    # torch leaves foreach out on CPU, where it gains nothing.
    expected = common._get_optim_inputs_including_global_cliquey_kwargs("cuda", None, info)
    here = [str(param.values[0]) for param in each_case.args[1]]
    missing = {given.desc for given in expected if str(given.kwargs) not in here}
    # Anon(fused=True, capturable=True) is an error.
    assert missing == {f"{name} & fused" for name in CAPTURABLE}


def test_torchs_checks_are_here_or_do_not_apply(common):
    decorators = itertools.chain.from_iterable(info.decorators for info in common.optim_db)
    # torch's test folder is not installed, but this module names the checks that some optimizer needs help with.
    torchs = {name for decorator in decorators if (name := getattr(decorator, "test_name", None))}
    here = {name for name in globals() if name.startswith("test_")}
    assert torchs - here <= NOT_APPLICABLE.keys()
    assert len(torchs & here) >= 10
    assert not here & NOT_APPLICABLE.keys()


def test_the_import_of_torchs_module_changes_no_other_test(common):
    assert hypothesis.settings.get_current_profile_name() not in ("dev", "pytorch_ci")
    assert not torch.backends.flags_frozen()


def test_errors(common, subtests):
    for error in common.get_error_inputs_for_all_optims("cpu", torch.float32):
        given = error.optimizer_error_input
        params = [Parameter(torch.randn(1, 1))] if given.params is None else given.params
        caught = pytest.warns if issubclass(error.error_type, Warning) else pytest.raises
        with subtests.test(given.desc), caught(error.error_type, match=error.error_regex):
            Anon(params, **given.kwargs)


@pytest.mark.parametrize("contiguous", [False, True])
@each_case
def test_forloop_goes_right_direction(kwargs, contiguous, schedulers):
    for makers in ([], *schedulers):
        problem = Regression.random(contiguous=contiguous)
        optimizer = Anon(problem.params, **copy.deepcopy(kwargs))
        made = tuple(make(optimizer) for make in makers)
        assert_right_direction(problem, optimizer, made, maximize=kwargs.get("maximize", False))


@cases({"default": {}}, *PATHS)
def test_param_group_with_lrscheduler_goes_right_direction(kwargs, schedulers):
    for makers in schedulers:
        problem = Regression.random()
        optimizer = Anon([{"params": [problem.weight]}, {"params": [problem.bias], "lr": 0.01}], **kwargs)
        assert_right_direction(problem, optimizer, tuple(make(optimizer) for make in makers))


@each_case
def test_tensor_lr(kwargs, assert_equal):
    for shape in ((), (1,), (1, 1)):
        number = Regression.random()
        tensor = number.twin()
        lr = torch.full(shape, 1e-3)
        optimizers = (
            Anon(number.params, **{**kwargs, "lr": 1e-3}),
            Anon(tensor.params, **{**kwargs, "lr": lr}),
        )
        for _ in range(5):
            for problem, optimizer in zip((number, tensor), optimizers, strict=True):
                problem.train(optimizer, 1)
            assert_equal(tensor.params, number.params)


@each_case
def test_complex(kwargs, assert_equal):
    wholes = [
        torch.randn(10, 5, dtype=torch.complex64),
        torch.randn(10, dtype=torch.complex64),
        torch.randn(10, 5),
    ]
    pairs = [torch.view_as_real(p).clone() if p.is_complex() else p.clone() for p in wholes]
    optimizers = Anon(wholes, **kwargs), Anon(pairs, **kwargs)
    for _ in range(5):
        for whole, pair in zip(wholes, pairs, strict=True):
            pair.grad = torch.randn_like(pair)
            whole.grad = torch.view_as_complex(pair.grad) if whole.is_complex() else pair.grad
        for optimizer in optimizers:
            optimizer.step()
        assert_equal([torch.view_as_real(p) if p.is_complex() else p for p in wholes], pairs)


# A floor is a share of the tensor's mean, which real and imaginary parts in tensors of their own do not have.
@cases(OPTIONS, *PATHS, without="floor")
def test_complex_2d(kwargs, common, case, assert_equal):
    whole = torch.randn(2, dtype=torch.complex64, requires_grad=True)
    parts = [part.detach().clone().requires_grad_() for part in (whole.real, whole.imag)]
    one, two = Anon([whole], **kwargs), Anon(parts, **kwargs)
    tracker = common.TensorTracker()
    for _ in range(4):
        tracker.add(whole.real)
        tracker.add(whole.imag)
        one.zero_grad()
        loss = rosenbrock(whole).abs()
        loss.backward()
        for tensor in (loss, whole.grad.real, whole.grad.imag):
            tracker.add(tensor)

        # Each pop compares, and then copies, so that rounding does not add up.
        for part in parts:
            tracker.pop_check_set(part, case)
        two.zero_grad()
        loss = rosenbrock(torch.complex(*parts)).abs()
        loss.backward()
        for tensor in (loss, *(part.grad for part in parts)):
            tracker.pop_check_set(tensor, case)
        assert tracker.all_popped()

        one.step()
        two.step()
        assert_equal([whole.real, whole.imag], parts)


def assert_matches_forloop(
    common: ModuleType,
    case: unittest.TestCase,
    kwargs: dict[str, Any],
    path: dict[str, bool],
    dtype: torch.dtype,
    **tolerance: float,
) -> None:
    """On the path, parameters and state of a small model equal those of the plain loop at every step.

    One step has no gradients, and one layer rests for two steps; a scalar and an empty tensor come along.
    """
    x = torch.linspace(0.1, 0.6, 6, dtype=dtype).reshape(3, 2)
    first = torch.nn.Sequential(
        torch.nn.Linear(2, 3), torch.nn.Sigmoid(), torch.nn.Linear(3, 1), torch.nn.Sigmoid()
    ).to(dtype)
    models = first, copy.deepcopy(first)
    extras = [[Parameter(torch.ones(shape, dtype=dtype)) for shape in ((), (0, 3))] for _ in models]
    params = [[*model.parameters(), *extra] for model, extra in zip(models, extras, strict=True)]
    optimizers = [
        Anon(p, **copy.deepcopy(kwargs), **flags)
        for p, flags in zip(params, (PATHS["forloop"], path), strict=True)
    ]
    tracker = common.TensorTracker(tolerance)
    for step in range(9):
        for model, extra, optimizer in zip(models, extras, optimizers, strict=True):
            model[2].requires_grad_(step not in (3, 4))
            optimizer.zero_grad()
            if step != 2:
                model(x).sum().backward()
                for p in extra:
                    p.grad = torch.full_like(p, 0.5)
            optimizer.step()
        for plain, other in zip(*params, strict=True):
            expected, actual = (
                optimizer.state[p] for optimizer, p in zip(optimizers, (plain, other), strict=True)
            )
            assert {"step", "exp_avg"} <= expected.keys() == actual.keys()
            assert expected["exp_avg"].dtype == torch.promote_types(dtype, torch.float32)
            tracker.add(plain)
            tracker.pop_check_set(other, case)
            for name, value in expected.items():
                tracker.add(value)
                tracker.pop_check_set(actual[name], case)
    assert tracker.all_popped()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@each_rule
def test_foreach_matches_forloop(kwargs, dtype, common, case):
    assert_matches_forloop(common, case, kwargs, {"foreach": True}, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@each_rule
def test_fused_matches_forloop(kwargs, dtype, common, case):
    assert_matches_forloop(common, case, kwargs, {"fused": True}, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@each_rule
def test_capturable_matches_forloop(kwargs, dtype, common, case):
    assert_matches_forloop(common, case, kwargs, {"capturable": True}, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@cases({name: rule for name, rule in RULES.items() if rule.get("gamma") == 0.0}, "default")
def test_default_matches_forloop_at_gamma_zero(kwargs, dtype, common, case):
    assert_matches_forloop(common, case, kwargs, {}, dtype)


@each_flag
@each_rule
def test_mixed_device_dtype(kwargs, flag, assert_equal):
    start = [torch.rand(2, 3, dtype=dtype) for dtype in (*DTYPES, torch.float64, torch.float32)]
    grads = [torch.rand_like(p) for p in start]
    runs = []
    for value in (False, True):
        params = [p.clone() for p in start]
        optimizer = Anon(params, **copy.deepcopy(kwargs), **{**PATHS["forloop"], flag: value})
        for p, grad in zip(params, grads, strict=True):
            p.grad = grad.clone()
        for _ in range(7):
            optimizer.step()
        runs.append((params, [optimizer.state[p] for p in params]))
    (plain, plain_state), (flagged, flagged_state) = runs
    assert_equal(flagged, plain)
    assert_equal(flagged_state, plain_state)


@pytest.fixture(params=[torch.float64, torch.float16, torch.bfloat16], ids=str)
def default_dtype(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


@each_flag
@cases({name: RULES[name] for name in ("default", "sgd_decay", "negative", "tuned", "tensor_lr")}, "default")
def test_set_default_dtype_works_with_foreach(kwargs, flag, default_dtype, common, case):
    tolerance = {} if default_dtype is torch.float64 else {"atol": 1e-5, "rtol": 1e-4}
    assert_matches_forloop(common, case, kwargs, {flag: True}, torch.float64, **tolerance)


# 2,048 is the last whole number that float16 counts to, 256 that of bfloat16.
@cases({"default": {}, "capturable": {"capturable": True}}, "forloop")
def test_steps_count_on_in_every_default_dtype(kwargs, default_dtype):
    p = torch.ones(1, dtype=torch.float32)
    p.grad = torch.ones_like(p)
    optimizer = Anon([p], **kwargs)
    for _ in range(2_100):
        optimizer.step()
    step = optimizer.state[p]["step"]
    assert step.item() == 2_100
    assert step.dtype in (torch.float32, torch.float64)


def test_defaults_changed_to_foreach(monkeypatch):
    called: list[str] = []
    for name in ("foreach", "momentum", "single_tensor"):
        monkeypatch.setattr(f"anon_tune.optim.anon.{name}", lambda *_, name=name: called.append(name))
    for kwargs in RULES.values():
        called.clear()
        stepped(kwargs, steps=1)
        # Without multipliers it is torch's own kernel, of fused SGD.
        assert called == ["momentum" if kwargs.get("gamma") == 0.0 else "foreach"]


@pytest.mark.filterwarnings(r"ignore:Anon\(fused=True\) uses foreach on meta:RuntimeWarning")
@each_case
def test_params_on_meta(kwargs):
    with torch.device("meta"):
        model = torch.nn.Linear(2, 3)
        for p in model.parameters():
            p.grad = torch.rand_like(p)
    optimizer = Anon(model.parameters(), **kwargs)
    for _ in range(3):
        optimizer.step()
    for p in model.parameters():
        assert optimizer.state[p]["exp_avg"].is_meta
        assert optimizer.state[p]["exp_avg"].shape == p.shape


@each_case
def test_the_default_device_is_for_new_tensors_of_the_user_alone(kwargs, assert_equal):
    optimizer = stepped(kwargs, steps=0)
    twin = twin_of(optimizer)
    for _ in range(3):
        optimizer.step()
        with torch.device("meta"):
            twin.step()
    assert_equal(twin.state_dict(), optimizer.state_dict(), atol=0, rtol=0)


@each_case
def test_param_groups_weight_decay(kwargs):
    problem = Regression.random()
    groups = [
        {"params": [problem.weight], **kwargs},
        {"params": [problem.bias], **copy.deepcopy(kwargs), "weight_decay": 0.0},
    ]
    assert_right_direction(problem, Anon(groups), maximize=kwargs.get("maximize", False))


@each_case
def test_param_groups_lr(kwargs):
    for outer in (1e-28, 0.0):
        problem = Regression.random()
        resting = Parameter(torch.randn(2))
        before = resting.detach().clone()
        groups = [{"params": problem.params, "lr": 1e-3, **copy.deepcopy(kwargs)}, {"params": [resting]}]
        optimizer = Anon(groups, lr=outer)
        optimizer.register_step_pre_hook(lambda *_, p=resting: setattr(p, "grad", torch.rand_like(p)))
        assert_right_direction(problem, optimizer, maximize=kwargs.get("maximize", False))
        assert int(optimizer.state[resting]["step"]) == 20
        assert torch.equal(resting, before)


@each_option
def test_step_is_noop_when_params_have_no_grad(kwargs):
    params = [torch.randn(2, 3) for _ in range(2)]
    before = [p.clone() for p in params]
    optimizer = Anon(params, **kwargs)
    assert optimizer.step(lambda: torch.tensor([1.0])).item() == 1.0
    assert optimizer.step() is None
    assert all(map(torch.equal, params, before))
    assert not any(optimizer.state.values())


@cases(OPTIONS, *PATHS, without="weight_decay")
def test_step_is_noop_for_zero_grads(kwargs):
    p = torch.randn(5, 1, requires_grad=True)
    before = p.detach().clone()
    p.grad = torch.zeros_like(p)
    optimizer = Anon([p], **kwargs)
    for _ in range(10):
        optimizer.step(lambda: torch.tensor([1.0]))
    assert torch.equal(p, before)


@each_case
def test_grads_are_never_inplaced_into(kwargs):
    params = [torch.randn(5, 1), torch.randn(3, 4).t(), torch.randn(3).bfloat16(), torch.randn(3) * 1j]
    for p in params:
        p.grad = torch.rand_like(p)
    before = [(p.grad, p.grad._version, p.grad.clone()) for p in params]
    optimizer = Anon(params, **kwargs)
    for _ in range(5):
        optimizer.step()
    for p, (grad, version, value) in zip(params, before, strict=True):
        assert p.grad is grad
        assert grad._version == version
        assert torch.equal(grad, value)  # a kernel behind ctypes does not raise the version


@each_option
def test_optimizer_can_be_printed(kwargs):
    printed = repr(Anon([Parameter(torch.randn(2, 3))], **kwargs))
    assert printed.startswith("Anon (")
    assert f"gamma: {kwargs.get('gamma', 1.0)}" in printed


def assert_state_dict_deterministic(
    kwargs: dict[str, Any], assert_equal: Callable[..., None], named: tuple[bool, bool]
) -> None:
    """A twin that loads the state takes the same steps, bit by bit, to an equal state."""
    problem = Regression.random(2, 3)
    optimizer = Anon(with_names(problem.params, named[0]), **kwargs)
    problem.train(optimizer, 10)
    twin = problem.twin()
    other = Anon(with_names(twin.params, named[1]), **copy.deepcopy(kwargs))
    saved = copy.deepcopy(optimizer.state_dict())
    other.load_state_dict(saved)
    assert_equal(saved, optimizer.state_dict())
    for _ in range(10):
        problem.train(optimizer, 1)
        twin.train(other, 1)
        assert all(map(torch.equal, problem.params, twin.params))
    expected = without_names(optimizer.state_dict())
    assert_equal(without_names(other.state_dict()), expected, atol=0, rtol=0)
    # A group that is there twice looks the same twice.
    other.param_groups.extend(other.param_groups)
    assert_equal(without_names(other.state_dict())["param_groups"][-1], expected["param_groups"][-1])


@each_case
def test_state_dict_deterministic(kwargs, assert_equal):
    assert_state_dict_deterministic(kwargs, assert_equal, (False, False))


@pytest.mark.parametrize("named", NAMED[1:])
@some_options
def test_state_dict_deterministic_with_names(kwargs, named, assert_equal):
    assert_state_dict_deterministic(kwargs, assert_equal, named)


@each_option
def test_can_load_older_state_dict(kwargs):
    model, x = images()
    optimizer = Anon(model.parameters(), **kwargs)
    train_on(model, x, optimizer, 3)
    old = copy.deepcopy(optimizer.state_dict())
    for group in old["param_groups"]:
        for flag in NEWER_FLAGS:
            del group[flag]
    optimizer.load_state_dict(old)
    assert optimizer.param_groups[0].keys() == {"params", *optimizer.defaults}
    train_on(model, x, optimizer, 1)
    assert {int(state["step"]) for state in optimizer.state.values()} == {4}


@pytest.mark.parametrize("named", NAMED)
@some_options
def test_can_load_from_to_named_state_dict(kwargs, named):
    model, x = images()
    params = [model.named_parameters if wanted else model.parameters for wanted in named]
    optimizer = Anon(params[0](), **kwargs)
    train_on(model, x, optimizer, 3)
    other = Anon(params[1](), **copy.deepcopy(kwargs))
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train_on(model, x, other, 1)
    names = [name for name, _ in model.named_parameters()] if any(named) else None
    assert other.state_dict()["param_groups"][0].get("param_names") == names


@pytest.mark.parametrize("named", [False, True])
@each_option
def test_save_load_equality_with_weights_only(kwargs, named, assert_equal):
    problem = Regression.random(2, 3)
    optimizer = Anon(with_names(problem.params, named), **kwargs)
    problem.train(optimizer, 3)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    for weights_only in (True, False):
        file.seek(0)
        loaded = torch.load(file, weights_only=weights_only)
        assert_equal(loaded, optimizer.state_dict(), atol=0, rtol=0)


@each_option
def test_load_nontensor_step(kwargs, assert_equal):
    optimizer = stepped(kwargs)
    twin = twin_of(optimizer)
    saved = copy.deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        state["step"] = state["step"].item()
    optimizer.load_state_dict(saved)
    for either in (optimizer, twin):
        either.step()
    assert_equal(optimizer.state_dict()["state"], twin.state_dict()["state"], atol=0, rtol=0)


@pytest.mark.parametrize("flag", ["fused", "capturable"])
@each_rule
def test_cpu_load_state_dict(kwargs, flag):
    p = torch.tensor([0.1, 0.2])
    optimizer = Anon([p], **kwargs)
    p.grad = torch.rand_like(p)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0][flag] = True
    q = p.clone()
    q.grad = torch.rand_like(q)
    other = Anon([q], **copy.deepcopy(kwargs), **{flag: True})
    other.load_state_dict(saved)
    other.step()
    assert int(other.state[q]["step"]) == 2


@each_option
def test_load_across_dtypes(kwargs, assert_equal):
    for source, target in itertools.permutations(DTYPES, 2):
        p = torch.rand(3, 2).to(source)
        q = p.to(target)
        p.grad, q.grad = torch.rand_like(p), torch.rand_like(q)
        optimizer, other = (Anon([t], **copy.deepcopy(kwargs)) for t in (p, q))
        for _ in range(3):
            optimizer.step()
        other.step()
        made = {name: value.dtype for name, value in other.state[q].items()}
        other.load_state_dict(optimizer.state_dict())
        assert {name: value.dtype for name, value in other.state[q].items()} == made
        assert_equal(other.state[q], optimizer.state[p], exact_dtype=False)
        for _ in range(3):
            other.step()
        assert q.isfinite().all()
        assert int(other.state[q]["step"]) == 6


def mark_state(optimizer: Optimizer) -> None:
    optimizer.state["test"] = 1


def move_mark(_: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """The state dict, with a note whether `mark_state` ran before, and without its mark."""
    return {**state_dict, "was_marked": state_dict["state"].pop("test", None) == 1}


@some_options
def test_state_dict_pre_hook(kwargs):
    optimizer = stepped(kwargs)
    optimizer.register_state_dict_pre_hook(mark_state)
    assert optimizer.state_dict()["state"]["test"] == 1
    optimizer.step()


@some_options
def test_state_dict_post_hook(kwargs):
    optimizer = stepped(kwargs)
    optimizer.register_state_dict_post_hook(move_mark)
    assert optimizer.state_dict()["was_marked"] is False


@some_options
def test_state_dict_pre_post_hook(kwargs):
    optimizer = stepped(kwargs)
    optimizer.register_state_dict_pre_hook(mark_state)
    optimizer.register_state_dict_post_hook(move_mark)
    state_dict = optimizer.state_dict()
    assert state_dict["was_marked"] is True
    assert "test" not in state_dict["state"]


def lr_in_place(_: Optimizer, state_dict: dict[str, Any]) -> None:
    state_dict["param_groups"][0]["lr"] = 0.002


def lr_in_a_copy(_: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    mine = copy.deepcopy(state_dict)
    mine["param_groups"][0]["lr"] = 0.003
    return mine


@some_options
def test_load_state_dict_pre_hook_and_prepend(kwargs):
    optimizer = stepped(kwargs)
    optimizer.register_load_state_dict_pre_hook(lr_in_place)
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.002
    # This one runs first, so that the other has the last word.
    optimizer.register_load_state_dict_pre_hook(lr_in_a_copy, prepend=True)
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.002


@pytest.mark.parametrize("with_pre_hook", [False, True])
@some_options
def test_load_state_dict_pre_post_hook(kwargs, with_pre_hook):
    seen: list[Any] = []
    optimizer = stepped(kwargs)
    before = optimizer.param_groups[0]["lr"]
    if with_pre_hook:
        optimizer.register_load_state_dict_pre_hook(lr_in_a_copy)
    optimizer.register_load_state_dict_post_hook(lambda o: seen.append(o.param_groups[0]["lr"]))
    optimizer.load_state_dict(optimizer.state_dict())
    assert seen == [0.003 if with_pre_hook else before]


@each_option
def test_load_state_dict_post_hook(kwargs):
    """The hook sees the loaded state, and nothing overwrites what the hook makes of it."""
    optimizer = stepped(kwargs)
    other = stepped(kwargs, steps=1)
    seen: list[int] = []

    def forget(loaded: Optimizer) -> None:
        for p in loaded.param_groups[0]["params"]:
            seen.append(int(loaded.state[p]["step"]))
            loaded.state[p]["exp_avg"] = torch.zeros_like(p)
            loaded.state[p]["step"].fill_(7)
        loaded.state["test"] = 1

    other.register_load_state_dict_post_hook(forget)
    other.load_state_dict(optimizer.state_dict())
    assert seen == [3, 3]
    assert other.state["test"] == 1
    for p in other.param_groups[0]["params"]:
        assert int(other.state[p]["step"]) == 7
        assert not other.state[p]["exp_avg"].any()


@some_options
def test_step_pre_hook(kwargs):
    calls: list[tuple[Any, ...]] = []
    optimizer = stepped(kwargs, steps=0)
    with optimizer.register_step_pre_hook(lambda *given: calls.append(given)):
        optimizer.step()
        optimizer.step()
    optimizer.step()
    assert calls == [(optimizer, (optimizer,), {})] * 2


@some_options
def test_step_post_hook(kwargs):
    counts: list[int] = []
    optimizer = stepped(kwargs, steps=0)
    (first, *_) = optimizer.param_groups[0]["params"]
    with optimizer.register_step_post_hook(lambda *_: counts.append(int(optimizer.state[first]["step"]))):
        optimizer.step()
        optimizer.step()
    optimizer.step()
    assert counts == [1, 2]


@some_options
def test_step_all_hooks(kwargs):
    calls: list[str] = []
    optimizer, other = stepped(kwargs, steps=0), SGD([torch.ones(2)])
    handles = [
        register(lambda *_, name=name: calls.append(name))
        for register, name in (
            (register_optimizer_step_pre_hook, "every optimizer's, before"),
            (register_optimizer_step_post_hook, "every optimizer's, after"),
            *((one.register_step_pre_hook, "its own, before") for one in (optimizer, other)),
            *((one.register_step_post_hook, "its own, after") for one in (optimizer, other)),
        )
    ]
    expected = ["every optimizer's, before", "its own, before", "its own, after", "every optimizer's, after"]
    try:
        for step in (optimizer.step, other.step, lambda: optimizer.step(lambda: 1.0)):
            calls.clear()
            step()
            assert calls == expected
    finally:
        for handle in handles:
            handle.remove()
    calls.clear()
    optimizer.step()
    other.step()
    assert calls == []


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["deep", "pickle"]
)
@each_option
def test_deepcopy_copies_all_public_attrs(kwargs, copied, assert_equal):
    optimizer = stepped(kwargs)
    twin = copied(optimizer)
    assert {n for n in vars(twin) if n[0] != "_"} == {n for n in vars(optimizer) if n[0] != "_"}
    for one in (optimizer, twin):
        for p in one.param_groups[0]["params"]:
            p.grad = torch.ones_like(p)
        one.step()
    assert_equal(twin.state_dict(), optimizer.state_dict(), atol=0, rtol=0)


@each_option
def test_non_empty_state(kwargs):
    states = stepped(kwargs, steps=1).state.values()
    assert len(states) == 2
    assert all(len(state) > 0 for state in states)


@pytest.mark.parametrize("separate_unscale", [False, True])
@cases({name: OPTIONS[name] for name in ("default", "sgd", "tuned", "capturable_tensor_lr")}, *PATHS)
def test_grad_scaling_autocast_fused_optimizers(kwargs, separate_unscale, assert_equal):
    """A scaled training equals a plain one that leaves out the step with an infinite gradient."""
    create = importlib.import_module("torch.testing._internal.common_cuda")._create_scaling_case
    plain, scaled, plain_optimizer, optimizer, data, loss_fn, skipped = create(
        device="cpu", optimizer_ctor=Anon, optimizer_kwargs={"lr": 1e-3, **kwargs}
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=128.0, growth_interval=1)

    def loss_of(model: torch.nn.Module, x: Tensor, y: Tensor) -> Tensor:
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return loss_fn(model(x), y)

    for i, (x, y) in enumerate(data):
        loss_of(plain, x, y).backward()
        scaler.scale(loss_of(scaled, x, y)).backward()
        if i == skipped:
            scaled[1].weight.grad.fill_(float("inf"))
        else:
            plain_optimizer.step()
        if separate_unscale:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 128 * 2**3 / 2
    assert_equal(list(scaled.parameters()), list(plain.parameters()))
    assert_equal(optimizer.state_dict(), plain_optimizer.state_dict())


@pytest.mark.parametrize("flat", [False, True])
@each_option
def test_get_and_set_optimizer_state_dict(kwargs, flat):
    """State saved under the parameters' names, as of a distributed checkpoint, loads into a fresh optimizer."""
    checkpoint = importlib.import_module("torch.distributed.checkpoint.state_dict")
    options = checkpoint.StateDictOptions(flatten_optimizer_state_dict=flat)
    model, x = images()
    optimizer = Anon(model.parameters(), **kwargs)
    train_on(model, x, optimizer, 3)
    twin = copy.deepcopy(model)
    other = Anon(twin.parameters(), **copy.deepcopy(kwargs))
    saved = checkpoint.get_optimizer_state_dict(model, optimizer, options=options)
    checkpoint.set_optimizer_state_dict(twin, other, saved, options=options)
    train_on(model, x, optimizer, 3)
    train_on(twin, x, other, 3)
    assert all(map(torch.equal, model.parameters(), twin.parameters()))


@each_option
def test_swap_in_optimizer_params_and_state(kwargs, assert_equal):
    """A step with other parameters and state swapped in moves those alone, as it would have moved its own."""
    swap_in = importlib.import_module("torch.optim._stateless").swap_in_optimizer_params_and_state
    optimizer = stepped(kwargs)
    params = optimizer.param_groups[0]["params"]
    before = copy.deepcopy(optimizer.state_dict())
    others = {f"name{i}": p.detach().clone() for i, p in enumerate(params)}
    state = copy.deepcopy(before)
    with swap_in(optimizer, others, state):
        for p, other in zip(params, others.values(), strict=True):
            other.grad = p.grad
        optimizer.step()
    assert optimizer.param_groups[0]["params"] is params
    assert_equal(optimizer.state_dict(), before, atol=0, rtol=0)
    optimizer.step()
    assert_equal(list(others.values()), [p.detach() for p in params], atol=0, rtol=0)
    assert_equal(state["state"], optimizer.state_dict()["state"], atol=0, rtol=0)
