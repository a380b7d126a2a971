"""The Anon optimizer as a `torch.optim.Optimizer`."""

from __future__ import annotations

import itertools
import math
import operator
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from typing import Any, TypeAlias, overload

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.optim import Optimizer

from anon_tune.errors import HyperparameterError, InputError
from anon_tune.optim.bucket import Bucket, Row
from anon_tune.optim.capturable import capturable
from anon_tune.optim.checkpoint import STATE, check_state_dict
from anon_tune.optim.delay import Delay, DelayLike
from anon_tune.optim.foreach import foreach
from anon_tune.optim.fused import fused, momentum
from anon_tune.optim.rule import Step, single_tensor, three_betas

__all__ = ["Anon", "Params"]

Params: TypeAlias = "Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]"
"""The first argument of torch's optimizers."""

_HALF = (torch.bfloat16, torch.float16)


class Anon(Optimizer):
    """Anon: an optimizer whose adaptivity is a real number, gamma (arXiv 2605.02317).

    gamma = 0 is SGD with momentum, gamma = 1 behaves as Adam, and both sides beyond are allowed. The
    multiplier v that takes the place of Adam's 1/sqrt(v_hat) is renewed at the steps a_n of `delay` only, except
    between a coordinate's first gradient and its next refresh.
    docs/algorithm.md has the equations. The state of a parameter is `step`, `exp_avg` (m), and, unless gamma
    is 0, `exp_avg_sq` (s) and `multiplier` (v), in float32 for half-precision parameters: 12 bytes per
    float32 parameter, 4 at gamma = 0.

    Every option may differ per param group.

    Args:
        params: Parameters, named parameters, or param groups.
        lr: Learning rate, >= 0. If gradients scale by c, steps scale by c^(1-gamma), so tune lr with gamma.
        betas: Weights of the old values in m, s and v^-2 (the paper's beta3), each in [0, 1).
        eps: Added to sigma, >= 0, in units of a squared gradient. 1e-16 is the source's; it bounds v by
            eps^(-gamma/2) for gamma > 0.
        weight_decay: Decay rate, >= 0.
        gamma: Adaptivity, any finite number. The authors' code has 0 as its default.
        delay: The refresh steps: a base b > 1 for a_n = ceil(b^(n-1)), `"geometric:2"`, `"polynomial:2"`
            (a_n = n^2), `"every:10"` (a_n = 1 + 10(n-1)), or the rising steps themselves, from 1 on.
        floor: Adds this share of the tensor's mean second moment to sigma, >= 0; 0 is the paper's rule.
        decoupled_weight_decay: Shrink the parameter by lr * weight_decay (AdamW), or add
            weight_decay * parameter to the gradient (the authors' default).
        foreach: Whether to use torch's kernels for lists of tensors. None uses them, except for subclasses of
            Tensor.
        fused: Whether to use one kernel for the whole step: C on CPU. That needs a C compiler; without one, Anon
            warns once and uses foreach. None uses torch's fused SGD kernel at gamma = 0; False uses no fused
            kernel.
        maximize: Maximize the objective instead of minimizing it.
        capturable: Whether a CUDA graph may record the step. Every step then costs as much as a refresh.
        differentiable: Not supported.

    Raises:
        HyperparameterError: An option is out of its range, or not supported.
    """

    _settled: dict[int, tuple[Tensor | None, bool]]
    """Maps the id of a step count to its parameter's multipliers, and whether all are known to be positive."""

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.5),
        eps: float = 1e-16,
        weight_decay: float = 0.0,
        gamma: float = 1.0,
        delay: DelayLike = 2.0,
        floor: float = 0.0,
        *,
        decoupled_weight_decay: bool = True,
        foreach: bool | None = None,
        fused: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "gamma": gamma,
            "delay": delay,
            "floor": floor,
            "decoupled_weight_decay": decoupled_weight_decay,
            "foreach": foreach,
            "fused": fused,
            "maximize": maximize,
            "capturable": capturable,
            "differentiable": differentiable,
        }
        self._settled = {}
        super().__init__(params, {name: _plain(name, value) for name, value in defaults.items()})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a param group and check its options as the constructor does.

        Args:
            param_group: `params` and any options that differ from the defaults.

        Raises:
            HyperparameterError: An option is out of its range, or not supported.
        """
        if isinstance(param_group, dict):
            param_group = {name: _plain(name, value) for name, value in param_group.items()}
            _check_options({**self.defaults, **param_group})
        super().add_param_group(param_group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._settled = {}
        for values in self.state.values():
            if "step" in values:  # Earlier versions counted in float32, and a file may hold a plain number.
                values["step"] = torch.as_tensor(values["step"], device=_device(values["step"])).double()
        for group in self.param_groups:
            for name, default in self.defaults.items():
                group.setdefault(name, default)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state that `state_dict` returned.

        torch casts floating-point state to the dtype of its parameter, which would round the float32 state of
        half-precision parameters. It also keeps tensors that need no cast, so that two optimizers would share one
        state. This method copies the state from its source, in the dtype that it was saved in. Keys that a wrapper
        added are loaded as torch does.

        Args:
            state_dict: The dictionary; neither changed nor kept. `step` may be a number.

        Raises:
            InputError: The state is another optimizer's, or its shapes do not match the parameters. The optimizer
                is unchanged.
        """
        sources: list[dict[str, Any]] = []

        def check(_: Optimizer, source: dict[str, Any]) -> None:
            check_state_dict(source, self.param_groups)
            sources.append(source)

        def widen(_: Optimizer) -> None:
            self._copy_state(sources[0])

        # The last pre-hook sees the dictionary after the user's pre-hooks. The user's post-hooks see, and may
        # change, the state after the first post-hook.
        handles = [
            self.register_load_state_dict_pre_hook(check),
            self.register_load_state_dict_post_hook(widen, prepend=True),
        ]
        try:
            super().load_state_dict(state_dict)
        finally:
            for handle in handles:
                handle.remove()

    def _copy_state(self, source: dict[str, Any]) -> None:
        """Replace the tensors that torch has loaded with copies of their source, in the source's dtype."""
        ids = (i for group in source["param_groups"] for i in group["params"])
        params = ((p, group) for group in self.param_groups for p in group["params"])
        for i, (p, group) in zip(ids, params, strict=True):
            state = self.state[p] if i in source["state"] else {}
            for name, value in state.items():
                given = source["state"][i][name]
                if name == "step":
                    state[name] = torch.tensor(
                        float(given), dtype=torch.float64, device=_step_device(group, p)
                    )
                elif name in STATE:
                    state[name] = given.to(p.device, _state_dtype(p), copy=True)
                elif isinstance(value, Tensor):
                    state[name] = value.clone()

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step with the current gradients; `p.grad` is not changed.

        Args:
            closure: Computes the loss again, with gradients, and returns it.

        Returns:
            The closure's return value.

        Raises:
            InputError: A gradient is sparse, or gamma left 0 after the first step.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._take_step()
        return loss

    @_disable_dynamo
    def _take_step(self) -> None:
        """Take the step. torch.compile calls this untraced, because the path depends on the step count."""
        # All checks come before the first parameter moves.
        found = [(group, *self._rows(group)) for group in self.param_groups]
        for group, rows, counts in found:
            if not rows:
                continue
            for bucket, steps in self._buckets(group, rows, counts):
                if group["capturable"]:
                    capturable(group, bucket, steps)
                    continue
                _path(group, bucket)(Step.of(group, int(steps[0])), bucket)

    def _rows(self, group: dict[str, Any]) -> tuple[list[Row], list[Tensor]]:
        """Return the rows of the parameters with a gradient, and their step counts."""
        three_betas(group)
        Delay.parse(group["delay"])
        adaptive = group["gamma"] != 0
        rows: list[Row] = []
        steps: list[Tensor] = []
        for p in group["params"]:
            grad = p.grad
            if grad is None:
                continue
            if grad.layout is not torch.strided:
                raise InputError(
                    "Anon does not support sparse gradients; use Embedding(sparse=False), "
                    "or torch.optim.SparseAdam for that layer"
                )
            # Kernels read memory, which does not show a lazy conjugate or negation.
            if grad.is_conj():
                grad = grad.resolve_conj()
            if grad.is_neg():
                grad = grad.resolve_neg()
            state = self.state[p]
            m, v, dtype = state.get("exp_avg"), state.get("multiplier"), p.dtype
            fits = m is not None and (v is not None) is adaptive
            if not fits or (m.dtype is not dtype and m.dtype is not _state_dtype(p)):
                self._make_state(group, p)
                m, v = state["exp_avg"], state.get("multiplier")
            row = (p, grad, m, state.get("exp_avg_sq"), v)
            rows.append(_as_reals(row) if dtype.is_complex else row)
            steps.append(state["step"])
        recording = rows and rows[0][0].is_cuda and torch.cuda.is_current_stream_capturing()
        if recording and not group["capturable"]:
            raise HyperparameterError("to record a step in a CUDA graph, use Anon(capturable=True)")
        return rows, steps

    def _make_state(self, group: dict[str, Any], p: Tensor) -> None:
        """Make the state of a parameter, or adapt it to the parameter's dtype and the group's gamma."""
        state = self.state[p]
        dtype = _state_dtype(p)
        if "exp_avg" not in state:
            state["step"] = torch.zeros((), dtype=torch.float64, device=_step_device(group, p))
            state["exp_avg"] = torch.zeros_like(p, dtype=dtype)
            if group["gamma"] != 0:
                state["exp_avg_sq"] = torch.zeros_like(p, dtype=dtype)
                state["multiplier"] = torch.zeros_like(p, dtype=dtype)
        # The model has been cast since, e.g. by model.double().
        state.update({name: state[name].to(dtype) for name in STATE - {"step"} if name in state})
        if group["gamma"] == 0:
            state.pop("exp_avg_sq", None)
            state.pop("multiplier", None)
        elif "multiplier" not in state:
            raise InputError(
                f"gamma became {group['gamma']} after {int(state['step'])} steps at gamma = 0, which keep no "
                "second moment; start the group with a small gamma such as 1e-3 if gamma is to change"
            )

    def _buckets(
        self, group: dict[str, Any], rows: list[Row], steps: list[Tensor]
    ) -> list[tuple[Bucket, list[Tensor]]]:
        """Count the step, and sort the rows and their counts by count, device, dtype and `settled`.

        Unless gamma is 0, a tensor's count begins with its first nonzero gradient. Until then only decoupled decay
        moves it.
        """
        if group["capturable"]:
            # A captured step must not read the count, and its arithmetic needs no common one.
            self._count_captured(group, rows, steps)
            return _sorted(rows, steps, [0.0] * len(rows), [False] * len(rows))
        counts = list(map(Tensor.item, steps))
        adaptive = group["gamma"] != 0
        if adaptive and not all(counts):
            begun = [c > 0 or _is_true(_has_gradient(row[1])) for c, row in zip(counts, rows, strict=True)]
            for row in itertools.compress(rows, map(operator.not_, begun)):
                _decay(group, row[0])
            rows, steps = list(itertools.compress(rows, begun)), list(itertools.compress(steps, begun))
            counts = list(itertools.compress(counts, begun))
        settled = [
            not adaptive or self._is_settled(group, row[-1], step, count)
            for row, step, count in zip(rows, steps, counts, strict=True)
        ]
        if steps:
            # A number on the host would become a tensor again for each of them.
            torch._foreach_add_(steps, torch.ones((), dtype=torch.float64, device="cpu"), alpha=1.0)
        return _sorted(rows, steps, counts, settled)

    def _count_captured(self, group: dict[str, Any], rows: list[Row], steps: list[Tensor]) -> None:
        """Count a step as `_buckets` does, without reading the gradients."""
        if group["gamma"] == 0:
            torch._foreach_add_(steps, 1.0)
        elif steps:
            nonzero = (_has_gradient(row[1]) for row in rows)
            torch._foreach_add_(steps, [((t > 0) | h).to(t) for t, h in zip(steps, nonzero, strict=True)])

    def _is_settled(self, group: dict[str, Any], v: Tensor | None, step: Tensor, count: float) -> bool:
        """Whether all multipliers v are known to be positive after `count` steps.

        The tensor is checked when v has been replaced and, until all multipliers are positive, after each refresh.
        """
        known, settled = self._settled.get(id(step), (None, False))
        if known is v and (settled or not Delay.parse(group["delay"]).is_refresh(int(count))):
            return settled
        settled = count > 0 and v is not None and _is_true(_whole((v > 0).all()))
        self._settled[id(step)] = v, settled
        return settled


def _sorted(
    rows: list[Row], steps: list[Tensor], counts: list[float], settled: list[bool]
) -> list[tuple[Bucket, list[Tensor]]]:
    """Return buckets of rows that share a count, a device, a dtype and `settled`, with their step counts."""
    keys = (counts, settled, [row[0].device for row in rows], [row[0].dtype for row in rows])
    if all(len(set(key)) == 1 for key in keys):  # The usual case.
        return [(Bucket.of(rows, settled[0]), steps)]
    found: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for index, key in enumerate(zip(*keys, strict=True)):
        found[key].append(index)
    return [
        (Bucket.of([rows[i] for i in indices], settled[indices[0]]), [steps[i] for i in indices])
        for indices in found.values()
    ]


def _as_reals(row: Row) -> Row:
    """Return a view with complex numbers as pairs of reals, as in Adam."""
    p, g, m, s, v = row
    pairs = torch.view_as_real
    return pairs(p), pairs(g), pairs(m), None if s is None else pairs(s), None if v is None else pairs(v)


def _has_gradient(grad: Tensor) -> Tensor:
    """Whether any entry is nonzero, as a 0-d tensor; true for an empty tensor, which has no gradient to wait for."""
    return _whole((grad != 0).any()) | (not grad.numel())


def _whole(value: Tensor) -> Tensor:
    """Return a 0-d value; a distributed one (DTensor) is gathered from all ranks."""
    gather: Callable[[], Tensor] | None = getattr(value, "full_tensor", None)
    return gather() if gather else value


def _is_true(value: Tensor) -> bool:
    """Return a 0-d value as a bool; True for a meta tensor, which has no value."""
    return value.is_meta or bool(value)


def _decay(group: dict[str, Any], p: Tensor) -> None:
    """Apply decoupled decay, which needs no gradient; coupled decay moves nothing without a multiplier."""
    if group["decoupled_weight_decay"] and group["weight_decay"]:
        p.mul_(1.0 - float(group["lr"]) * float(group["weight_decay"]))


def _device(value: Any) -> torch.device:
    return value.device if isinstance(value, Tensor) else torch.device("cpu")


def _state_dtype(p: Tensor) -> torch.dtype:
    return torch.float32 if p.dtype in _HALF else p.dtype


def _step_device(group: dict[str, Any], p: Tensor) -> torch.device:
    """Return the device of the step count: the host, where reading it is free, unless a CUDA graph must count."""
    return p.device if group["capturable"] else torch.device("cpu")


def _path(group: dict[str, Any], bucket: Bucket) -> Callable[[Step, Bucket], None]:
    """Return the user's choice; by default torch's SGD kernel at gamma = 0, and foreach for plain tensors."""
    if group["fused"]:
        return fused
    if group["foreach"] is not None:
        return foreach if group["foreach"] else single_tensor
    if group["fused"] is None and not bucket.multipliers:
        return momentum
    plain = set(map(type, bucket.params)) <= {Tensor, torch.nn.Parameter}
    return foreach if plain else single_tensor


def _plain(name: str, value: Any) -> Any:
    """Return an option in Python's own types, because torch.load(weights_only=True) rejects NumPy's and Delay."""
    if name == "params":
        return value
    if isinstance(value, Delay):
        return str(value)
    if isinstance(value, list | tuple):
        return type(value)(_plain(name, item) for item in value)
    if isinstance(value, Tensor) and name != "delay":
        return value
    return value.tolist() if hasattr(value, "tolist") else value


def _check_options(group: dict[str, Any]) -> None:
    """Raise HyperparameterError for the first option that is out of its range."""
    for name in ("lr", "eps", "weight_decay", "floor"):
        if not 0.0 <= _number(name, group[name]) < math.inf:
            raise HyperparameterError(f"{name} must be a finite number >= 0, not {group[name]}")
    if not math.isfinite(_number("gamma", group["gamma"])):
        raise HyperparameterError(f"gamma must be a finite number, not {group['gamma']}")
    betas = group["betas"]
    if isinstance(betas, str) or not isinstance(betas, Sequence) or len(betas) != 3:
        raise HyperparameterError(f"betas must be three numbers, beta1, beta2 and beta3, not {betas!r}")
    if not all(0.0 <= _number("each of betas", beta) < 1.0 for beta in betas):
        raise HyperparameterError(f"betas must be three numbers in [0, 1): beta1, beta2, beta3; not {betas}")
    Delay.parse(group["delay"])
    for name in ("decoupled_weight_decay", "foreach", "fused", "maximize", "capturable", "differentiable"):
        if group[name] not in (True, False, None):
            raise HyperparameterError(f"{name} must be True or False, not {group[name]!r}")
    if group["differentiable"]:
        raise HyperparameterError("Anon has no differentiable step; leave differentiable=False")
    if group["foreach"] and group["fused"]:
        raise HyperparameterError("fused and foreach cannot both be True; leave foreach out")
    if group["fused"] and group["capturable"]:
        raise HyperparameterError("fused and capturable cannot both be True; a captured step needs no fusing")


def _number(name: str, value: Any) -> float:
    """Return the value as a float; raise HyperparameterError if it is not a number."""
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise HyperparameterError(f"Tensor {name} must be 1-element, not of {value.numel()} elements")
    elif not isinstance(value, Real):
        hint = "; in YAML write 1.0e-3, because YAML reads 1e-3 as text" if isinstance(value, str) else ""
        raise HyperparameterError(f"{name} must be a number, not {value!r}{hint}")
    return float(value)
