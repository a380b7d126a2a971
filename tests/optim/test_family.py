"""RMSprop, AdaGrad and Adam with gamma: torch's optimizers at 1, torch's SGD at 0, and the rules in between."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from anon_tune.optim import Anon, ReferenceAnon

from .family import AdaGrad, Adam, Member, RMSprop

SHAPES: list[tuple[int, ...]] = [(), (0,), (5, 3), (2, 3, 4)]
STEPS = 100
GAMMAS = (-0.5, 0.0, 0.5, 1.0, 1.5, 2.0)

# The members' options have the paper's names; this is what torch calls them.
NAMES = {
    "lr": "alpha",
    "alpha": "beta2",
    "eps": "epsilon",
    "lr_decay": "rate_decay",
    "initial_accumulator_value": "initial",
}

# An eps of 0.1 tells apart (sqrt(s) + eps)^(-1) and (s + eps)^(-1/2).
RMSPROP_OPTIONS = [
    {"lr": 0.01, "momentum": momentum, "centered": centered, **rest}
    for momentum in (0.0, 0.9)
    for centered in (False, True)
    for rest in (
        {"alpha": 0.99, "eps": 1e-8, "weight_decay": 0.0},
        {"alpha": 0.8, "eps": 0.1, "weight_decay": 0.1},
    )
]
ADAGRAD_OPTIONS = [
    {"lr": 0.1, "lr_decay": lr_decay, "initial_accumulator_value": initial, **rest}
    for lr_decay in (0.0, 0.1)
    for initial in (0.0, 0.5)
    for rest in ({"eps": 1e-10, "weight_decay": 0.0}, {"eps": 0.1, "weight_decay": 0.1})
]
ADAM_OPTIONS = [
    {"lr": 0.01, "betas": betas, **rest}
    for betas in ((0.9, 0.999), (0.5, 0.8))
    for rest in ({"eps": 1e-8, "weight_decay": 0.0}, {"eps": 0.1, "weight_decay": 0.1})
]

# One of each kind, without eps and weight decay.
KINDS: dict[str, Callable[..., Member]] = {
    "AdaGrad": AdaGrad,
    "AdaGrad, decaying": functools.partial(AdaGrad, rate_decay=0.1),
    "RMSprop": functools.partial(RMSprop, beta2=0.9),
    "RMSprop, momentum": functools.partial(RMSprop, beta2=0.9, momentum=0.9),
    "RMSprop, centered": functools.partial(RMSprop, beta2=0.9, centered=True),
    "Adam": Adam,
}


def tensors() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]


@functools.cache
def gradients() -> list[list[Tensor]]:
    """Return the gradients of each step, one for each of `tensors`, drawn independently of the parameters."""
    generator = torch.Generator().manual_seed(1)
    return [
        [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]
        for _ in range(STEPS)
    ]


def member_options(options: dict[str, Any]) -> dict[str, Any]:
    """Torch's options under the members' names."""
    named = {NAMES.get(name, name): value for name, value in options.items()}
    if "betas" in named:
        named["beta1"], named["beta2"] = named.pop("betas")
    return named


def end_points(build: Callable[[Tensor], Member], scale: float = 1.0, steps: int = STEPS) -> list[Tensor]:
    """Return where members that start at `tensors` end, with `gradients` multiplied by `scale`."""
    members = [build(theta) for theta in tensors()]
    for grads in gradients()[:steps]:
        for member, grad in zip(members, grads, strict=True):
            member.step(scale * grad)
    return [member.theta for member in members]


def torch_end_points(
    build: Callable[[list[Tensor]], torch.optim.Optimizer],
    rate: Callable[[int], float] | None = None,
) -> list[Tensor]:
    """Return the same for an optimizer of torch, whose step t has the learning rate rate(t) if given."""
    params = tensors()
    optimizer = build(params)
    for t, grads in enumerate(gradients(), 1):
        if rate is not None:
            optimizer.param_groups[0]["lr"] = rate(t)
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad
        optimizer.step()
    return params


def assert_same(ours: list[Tensor], theirs: list[Tensor], rtol: float = 1e-12, atol: float = 1e-12) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


@pytest.mark.parametrize(
    ("member", "optimizer", "options"),
    [
        *((RMSprop, torch.optim.RMSprop, options) for options in RMSPROP_OPTIONS),
        *((AdaGrad, torch.optim.Adagrad, options) for options in ADAGRAD_OPTIONS),
        *((Adam, torch.optim.Adam, options) for options in ADAM_OPTIONS),
    ],
)
def test_gamma_one_is_the_optimizer_of_torch(member, optimizer, options):
    ours = end_points(lambda theta: member(theta, gamma=1.0, **member_options(options)))
    assert_same(ours, torch_end_points(lambda params: optimizer(params, **options)))


@pytest.mark.parametrize("options", RMSPROP_OPTIONS)
def test_rmsprop_with_gamma_zero_is_sgd_with_momentum(options):
    ours = end_points(lambda theta: RMSprop(theta, gamma=0.0, **member_options(options)))
    kept = {name: options[name] for name in ("lr", "momentum", "weight_decay")}
    assert_same(ours, torch_end_points(lambda params: torch.optim.SGD(params, **kept)))


@pytest.mark.parametrize("options", ADAGRAD_OPTIONS)
def test_adagrad_with_gamma_zero_is_sgd_with_a_decaying_learning_rate(options):
    ours = end_points(lambda theta: AdaGrad(theta, gamma=0.0, **member_options(options)))
    theirs = torch_end_points(
        lambda params: torch.optim.SGD(params, weight_decay=options["weight_decay"]),
        rate=lambda t: options["lr"] / (1 + (t - 1) * options["lr_decay"]),
    )
    assert_same(ours, theirs)


@pytest.mark.parametrize("options", ADAM_OPTIONS)
def test_adam_with_gamma_zero_is_sgd_with_dampening_and_bias_correction(options):
    beta1 = options["betas"][0]

    def sgd(params: list[Tensor]) -> torch.optim.SGD:
        optimizer = torch.optim.SGD(
            params, momentum=beta1, dampening=beta1, weight_decay=options["weight_decay"]
        )
        # torch's SGD takes its first gradient undampened; from a buffer of zeros the rule holds from step 1 on.
        for param in params:
            optimizer.state[param]["momentum_buffer"] = torch.zeros_like(param)
        return optimizer

    ours = end_points(lambda theta: Adam(theta, gamma=0.0, **member_options(options)))
    assert_same(ours, torch_end_points(sgd, rate=lambda t: options["lr"] / (1 - beta1**t)))


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("kind", KINDS)
def test_scaled_gradients_scale_steps_by_c_to_one_minus_gamma(kind, gamma):
    moved = []
    for c in (1.0, 1000.0):
        ends = end_points(lambda theta: KINDS[kind](theta, gamma=gamma, epsilon=0.0), scale=c, steps=20)
        moved.append([end - start for end, start in zip(ends, tensors(), strict=True)])
    unscaled = [move / 1000.0 ** (1 - gamma) for move in moved[1]]
    assert_same(unscaled, moved[0], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("gamma", [-0.5, 0.5, 1.5])
@pytest.mark.parametrize("kind", KINDS)
def test_units_of_the_options(kind, gamma):
    """A loss in other units takes the same path if the options change with it."""

    def ends(c: float) -> list[Tensor]:
        options = {"alpha": 0.01 * c ** (gamma - 1), "epsilon": 0.1 * c, "weight_decay": 0.1 * c}
        if "AdaGrad" in kind:
            options["initial"] = 0.5 * c**2
        return end_points(lambda theta: KINDS[kind](theta, gamma=gamma, **options), scale=c, steps=20)

    assert_same(ends(1000.0), ends(1.0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_effective_step_over_time(gamma):
    """With gradients of size 1: a sum gives t^(-gamma/2), an average without bias correction starts off scale."""
    beta2 = 0.99
    expected: list[tuple[Member, Callable[[int], float]]] = [
        (AdaGrad(torch.zeros(1).double(), gamma=gamma, epsilon=0.0), lambda t: t ** (-gamma / 2)),
        (
            AdaGrad(torch.zeros(1).double(), gamma=gamma, epsilon=0.0, rate_decay=0.5),
            lambda t: t ** (-gamma / 2) / (1 + 0.5 * (t - 1)),
        ),
        (
            RMSprop(torch.zeros(1).double(), gamma=gamma, epsilon=0.0, beta2=beta2),
            lambda t: (1 - beta2**t) ** (-gamma / 2),
        ),
        (Adam(torch.zeros(1).double(), gamma=gamma, epsilon=0.0), lambda t: 1.0),
    ]
    for member, size in expected:
        for t in range(1, STEPS + 1):
            before = member.theta
            member.step(torch.ones(1).double())
            assert (before - member.theta).item() == pytest.approx(member.alpha * size(t), rel=1e-9)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_adagrad_is_rmsprop_whose_average_is_the_mean_of_all_squares(gamma):
    """Beta2 = 1 - 1/t makes the average a mean; the sum is t times that. At gamma 1: Mukkamala and Hein, 2017."""
    theta = tensors()[2]
    adagrad = AdaGrad(theta, alpha=0.1, gamma=gamma, epsilon=0.0)
    rmsprop = RMSprop(theta, gamma=gamma, epsilon=0.0)
    for t, grads in enumerate(gradients(), 1):
        rmsprop.beta2 = 1 - 1 / t
        rmsprop.alpha = 0.1 * t ** (-gamma / 2)
        adagrad.step(grads[2])
        rmsprop.step(grads[2])
    assert_same([rmsprop.theta], [adagrad.theta])


@pytest.mark.parametrize("gamma", GAMMAS)
def test_anon_without_memory_is_adam_without_memory(gamma):
    """A refresh at every step, and no old value kept: both precondition with |g|^(-gamma)."""
    ours = tensors()
    anon = Anon(ours, lr=0.01, gamma=gamma, betas=(0.9, 0.999, 0.0), delay="every:1", eps=0.0)
    for grads in gradients():
        for param, grad in zip(ours, grads, strict=True):
            param.grad = grad
        anon.step()
    build = functools.partial(Adam, alpha=0.01, gamma=gamma, epsilon=0.0, beta1=0.9, beta2=0.0)
    assert_same(ours, end_points(build), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_anon_averages_powers_where_rmsprop_takes_a_power_of_the_average(gamma):
    """Refreshed at every step, w averages |g|^(2 gamma): the same as RMSprop's s^gamma at 0 and 1 alone.

    RMSprop begins at the first square here, as Anon does. By the inequality of power means Anon's steps are
    longer for gamma between 0 and 1, and shorter outside.
    """
    beta = 0.9
    grads = [grads[2] for grads in gradients()]
    param = tensors()[2]
    anon = Anon([param], lr=0.01, gamma=gamma, betas=(0.0, 0.999, beta), delay="every:1", eps=0.0)
    rmsprop = RMSprop(param.clone(), alpha=0.01, gamma=gamma, epsilon=0.0, beta2=beta)
    rmsprop.s = grads[0] ** 2
    for t, grad in enumerate(grads, 1):
        before = param.clone(), rmsprop.theta
        param.grad = grad
        anon.step()
        rmsprop.step(grad)
        ratio = (param - before[0]) / (rmsprop.theta - before[1])
        if t == 1 or gamma in (0.0, 1.0):
            torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=1e-9, atol=0.0)
        elif 0 < gamma < 1:
            assert (ratio > 1).all(), t
        else:
            assert (ratio < 1).all(), t


def walk(member: Member, slopes: Sequence[float], rate: Callable[[int], float], steps: int) -> list[float]:
    """Return the average regret after a tenth and after all steps; linear losses on [-1, 1], in turn."""
    paid, marks = 0.0, []
    for t in range(1, steps + 1):
        slope = slopes[(t - 1) % len(slopes)]
        paid += slope * member.theta.item()
        member.alpha = rate(t)
        member.step(torch.tensor(slope, dtype=torch.float64))
        member.theta = member.theta.clamp(-1.0, 1.0)
        if t in (steps // 10, steps):
            best = -abs(sum(slopes)) * t / len(slopes)
            marks.append((paid - best) / t)
    return marks


# One large slope against small ones: an average of squares shrinks it for gamma > 0 and blows it up below 0.
OUTWEIGHS = (4.0, -1.0, -1.0)
IS_OUTWEIGHED = (4.0, *[-1.0] * 7)


@pytest.mark.parametrize(
    ("slopes", "gamma"),
    [(OUTWEIGHS, 1.0), (OUTWEIGHS, 1.5), (IS_OUTWEIGHED, -0.5), (IS_OUTWEIGHED, -1.0)],
)
def test_an_average_of_squares_goes_the_wrong_way_on_either_side_of_zero_and_a_mean_does_not(slopes, gamma):
    """After Reddi, Kale and Kumar (2018), with their beta2 and learning rate. gamma = 0 goes the right way."""
    right, steps = -math.copysign(1.0, sum(slopes)), 1000
    start = torch.zeros((), dtype=torch.float64)

    average = RMSprop(start, gamma=gamma, beta2=1 / 17)
    early, late = walk(average, slopes, lambda t: 0.5 / math.sqrt(t), steps)
    assert average.theta.item() * right < -0.8
    assert late > max(0.5, 0.9 * early)

    # The mean of all squares, as a sum with a matching learning rate: 0.5 / sqrt(t) * mean^(-gamma/2).
    mean = AdaGrad(start, gamma=gamma)
    early, late = walk(mean, slopes, lambda t: 0.5 * t ** ((gamma - 1) / 2), steps)
    assert mean.theta.item() * right > 0.8
    assert late < 0.4 * early

    sgd = RMSprop(start, gamma=0.0)
    early, late = walk(sgd, slopes, lambda t: 0.5 / math.sqrt(t), steps)
    assert sgd.theta.item() * right > 0.8
    assert late < 0.4 * early


@pytest.mark.parametrize("gamma", [0.25, 0.5, 1.0, 1.5])
def test_adagrads_regret_is_bounded_for_gamma_between_zero_and_two(gamma):
    """Regret <= D^2 / (2 alpha) s^(gamma/2) + alpha / (2 - gamma) s^(1 - gamma/2) in each coordinate."""
    alpha, width, steps, coordinates = 0.5, 2.0, 500, 200
    generator = torch.Generator().manual_seed(2)
    tilt = torch.linspace(-0.2, 0.2, coordinates, dtype=torch.float64)
    member = AdaGrad(torch.zeros_like(tilt), alpha=alpha, gamma=gamma, epsilon=0.0)
    paid, total = torch.zeros_like(tilt), torch.zeros_like(tilt)
    for _ in range(steps):
        slope = tilt + torch.randn(coordinates, generator=generator, dtype=torch.float64)
        paid += slope * member.theta
        total += slope
        member.step(slope)
        member.theta = member.theta.clamp(-width / 2, width / 2)
    regret = paid + width / 2 * total.abs()
    near, far = member.s ** (gamma / 2), member.s ** (1 - gamma / 2)
    assert (regret <= width**2 / (2 * alpha) * near + alpha / (2 - gamma) * far).all()


@pytest.mark.parametrize("gamma", [0.5, 1.0, 1.5])
def test_an_average_of_squares_never_settles_without_noise_and_a_sum_or_a_delay_does(gamma):
    """On h/2 theta^2 RMSprop ends in theta <-> -theta, of size (alpha h^(1 - gamma) / 2)^(1 / gamma)."""
    alpha, h = 0.1, 0.5
    start = torch.ones((), dtype=torch.float64)
    average = RMSprop(start, alpha=alpha, gamma=gamma, epsilon=0.0, beta2=0.5)
    total = AdaGrad(start, alpha=alpha, gamma=gamma, epsilon=0.0)
    delayed = ReferenceAnon(start, alpha=alpha, gamma=gamma, beta1=0.0)
    for _ in range(300):
        for member in (average, total, delayed):
            member.step(h * member.theta)
    size = (alpha * h ** (1 - gamma) / 2) ** (1 / gamma)
    assert average.theta.abs().item() == pytest.approx(size, rel=1e-9)
    assert total.theta.abs().item() < 1e-3
    assert delayed.theta.abs().item() < 1e-3
