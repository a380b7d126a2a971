"""The answer of a job, computed from its trials."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anon_tune.advice.costs import spent
from anon_tune.advice.importance import customary_values
from anon_tune.advice.response import FEWEST_TRIALS, respond, seed_deviation
from anon_tune.advice.verdict import verdicts
from anon_tune.answer import Answer, Confirmed, Customary, Repeats, Search, Stopped, Winner
from anon_tune.records import Phase, Trial, TrialState
from anon_tune.search.landscape import Landscape
from anon_tune.search.policy import Plan, stopped
from anon_tune.search.repeat import reasons_to_differ
from anon_tune.search.rounds import rounds_of
from anon_tune.search.scale import Scale, scale_of
from anon_tune.search.winners import Searched, searches, winner
from anon_tune.search_spaces import Space
from anon_tune.spec import JobSpec

__all__ = ["summarize"]


def summarize(plan: Plan, trials: list[Trial], probe: Mapping[str, Any] | None = None) -> Answer:
    """Return a job's answer, from all its trials and the probe's measurements."""
    spec, mode = plan.spec, plan.spec.objective.mode
    scale = scale_of(spec.objective, trials)
    best = {arm: found for arm in spec.arms if (found := winner(trials, arm, mode)) is not None}
    landscapes = {
        arm: Landscape(plan.spaces[arm], [t for t in trials if t.arm == arm], spec.objective)
        for arm in spec.arms
    }
    reruns = [t for t in trials if t.phase is Phase.CONFIRM]
    planned = len({t.origin for t in reruns}) * spec.confirm.seeds
    baselines = [arm for arm in spec.arms if arm != "anon"]
    chosen = float(best["anon"].hyperparameters["gamma"]) if "anon" in best else None
    searched = plan.spaces["anon"].parameters.get("gamma")
    gamma = respond(landscapes["anon"], searched, chosen, seed_deviation(trials, scale), scale)
    several = searches(spec, trials)
    return Answer(
        scale=spec.objective.scale,
        trials=spec.budget.trials,
        tested=_is_tested(spec, trials),
        may_differ=list(reasons_to_differ(spec, trials)),
        stopped=[
            Stopped(arm=arm, repeat=repeat, trials=made, planned=spec.budget.trials)
            for (arm, repeat), made in stopped(plan, trials).items()
        ],
        confirm=Confirmed(planned=planned, made=len(reruns)),
        gamma=gamma,
        customary=_customary(landscapes["anon"], scale),
        winners={arm: _won(trials, found, plan.spaces[arm], scale) for arm, found in best.items()},
        searches=[_search(trials, each, scale) for each in several],
        verdict=verdicts(scale, trials, baselines, best, landscapes, rounds_of(spec), several),
        spent=list(spent(trials, spec.arms, probe or {}, spec.budget.unit)),
    )


def _is_tested(spec: JobSpec, trials: list[Trial]) -> bool:
    """Return whether the verdict's values are of test data; without a value, whether they would be."""
    ended = [t for t in trials if t.phase is Phase.VERDICT and t.state is TrialState.COMPLETE and t.reports]
    if not ended:
        return spec.model is not None
    return all(f"test_{spec.objective.metric}" in trial.reports[-1].metrics for trial in ended)


def _customary(landscape: Landscape, scale: Scale) -> list[Customary]:
    known = landscape.complete >= FEWEST_TRIALS and not landscape.is_level
    return list(customary_values(landscape, scale)) if known else []


def _won(trials: list[Trial], best: Trial, space: Space, scale: Scale) -> Winner:
    finalists = dict.fromkeys(t.origin for t in trials if t.arm == best.arm and t.phase is Phase.CONFIRM)
    return Winner(
        trial=best.id,
        params=dict(best.params),
        hyperparameters=dict(best.hyperparameters),
        finalists=list(finalists),
        confirm=_repeats(trials, best, Phase.CONFIRM, scale),
        test=_repeats(trials, best, Phase.VERDICT, scale),
        at_bound=space.at_bound(best.params),
    )


def _search(trials: list[Trial], found: Searched, scale: Scale) -> Search:
    best = found.winner
    if best is None:
        return Search(arm=found.arm, repeat=found.repeat)
    tested = [t for t in trials if t.seed in found.round.seeds]
    gamma = best.hyperparameters.get("gamma") if found.arm == "anon" else None
    return Search(
        arm=found.arm,
        repeat=found.repeat,
        trial=best.id,
        gamma=None if gamma is None else float(gamma),
        confirm=_repeats(trials, best, Phase.CONFIRM, scale).mean,
        test=_repeats(tested, best, Phase.VERDICT, scale).mean,
    )


def _repeats(trials: list[Trial], source: Trial, phase: Phase, scale: Scale) -> Repeats:
    """Return the values of a configuration's reruns by seed; None for a rerun that did not complete."""
    found = [trial for trial in trials if trial.phase is phase and trial.origin == source.id]
    mean = scale.mean(trial.value for trial in found if trial.value is not None)
    return Repeats(mean=mean, seeds={str(trial.seed): trial.value for trial in found})
