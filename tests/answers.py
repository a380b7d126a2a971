"""Answers of jobs, for tests of what reads them."""

from __future__ import annotations

from typing import Any

from anon_tune.answer import Answer, Comparison, Cost, Curve, Gamma, Outcome, Repeats, Winner

HYPERPARAMETERS: dict[str, dict[str, Any]] = {
    "anon": {"lr": 0.01, "betas": [0.9, 0.999, 0.5], "gamma": 0.5, "delay": 2.5, "eps": 1e-16, "floor": 0.03},
    "adamw": {"lr": 0.01, "betas": [0.9, 0.99], "weight_decay": 0.1},
    "sgd": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0},
}

CURVE = Curve(
    gamma=[0.0, 0.5, 1.0],
    median=[0.3, 0.2, 0.4],
    low=[0.2, 0.1, 0.3],
    high=[0.5, 0.4, 0.6],
    low50=[0.25, 0.15, 0.35],
    high50=[0.35, 0.25, 0.45],
    flat=[0.1, 0.8, 0.0],
)

GAMMA = Gamma(
    best=0.5,
    low=0.2,
    high=0.8,
    low50=0.4,
    high50=0.6,
    flat=[(0.4, 0.6)],
    indistinguishable=[(-0.2, 0.9)],
    costs=[Cost(gamma=0.0, cost=0.12, low=0.05, high=0.21), Cost(gamma=1.0, cost=0.003, low=0.0, high=0.02)],
    curve=CURVE,
    practical=0.01,
    deviation=0.05,
    enough=True,
    trials=20,
)


def compared(baseline: str = "sgd", outcome: Outcome = Outcome.UNDECIDED, **keys: Any) -> Comparison:
    """A verdict on two configurations."""
    usual = {"anon": 0.2, "other": 0.22, "difference": -0.03, "low": -0.09, "high": 0.04, "seeds": 10}
    return Comparison(baseline=baseline, outcome=outcome, **{**usual, **keys})


def winner(
    arm: str, tests: tuple[float | None, ...] = (1.0, 2.0, 3.0), confirm: float = 0.9, **keys: Any
) -> Winner:
    """What an arm came up with."""
    seeds = {str(seed): value for seed, value in enumerate(tests)}
    known = [value for value in tests if value is not None]
    return Winner(
        trial=f"abc-{arm}-s001",
        params={},
        finalists=[],
        confirm=Repeats(mean=confirm, seeds={}),
        test=Repeats(mean=sum(known) / len(known) if known else None, seeds=seeds),
        **{"hyperparameters": HYPERPARAMETERS[arm], **keys},
    )


def answer(arms: tuple[str, ...] = ("anon", "adamw", "sgd"), **keys: Any) -> Answer:
    """A whole answer."""
    usual = {"scale": "log", "gamma": GAMMA, "winners": {arm: winner(arm) for arm in arms}}
    return Answer(**{**usual, **keys})


def stored(arms: tuple[str, ...] = ("anon", "adamw", "sgd"), **keys: Any) -> dict[str, Any]:
    """The same as the ledger keeps it."""
    return answer(arms, **keys).model_dump(mode="json")
