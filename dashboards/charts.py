"""Charts of one job, as plotly figures."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

import plotly.graph_objects as go

from anon_tune.answer import Gamma
from anon_tune.records import JobRecord, Phase, Trial, TrialState, objective_key

__all__ = ["best_so_far", "charts_page", "learning_curves", "loss_over_gamma"]

# Okabe and Ito's palette, which people with colour blindness can distinguish.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_FAINT = 0.35


def loss_over_gamma(job: JobRecord) -> go.Figure:
    """Return the chart of the objective over gamma, a point per search trial of Anon, diverged ones at the top."""
    unit = _unit(job)
    trials = [trial for trial in _search(job) if trial.arm == "anon"]
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE and trial.value is not None]
    figure = go.Figure()
    figure.add_scatter(
        x=[trial.hyperparameters["gamma"] for trial in complete],
        y=[trial.value for trial in complete],
        mode="markers",
        name="complete",
        marker={
            "size": 10,
            "color": [math.log10(trial.params["step_size"]) for trial in complete]
            if all("step_size" in trial.params for trial in complete)
            else _COLOURS[0],
            "colorscale": "Viridis",
            "colorbar": {"title": "log10 step size"},
            "line": {"width": 1, "color": "white"},
        },
        text=[trial.id for trial in complete],
        hovertemplate="%{text}<br>gamma %{x:.3f}<br>%{y:.4g}<extra></extra>",
    )
    pruned = [trial for trial in trials if trial.state is TrialState.PRUNED and trial.reports]
    if pruned:
        figure.add_scatter(
            x=[trial.hyperparameters["gamma"] for trial in pruned],
            y=[trial.reports[-1].value for trial in pruned],
            mode="markers",
            name="pruned (last report)",
            marker={"symbol": "circle-open", "size": 9, "color": "#777777"},
            text=[f"{trial.id}, {unit} {trial.reports[-1].step}" for trial in pruned],
            hovertemplate="%{text}<br>gamma %{x:.3f}<br>%{y:.4g}<extra></extra>",
        )
    diverged = [trial for trial in trials if trial.state is TrialState.DIVERGED]
    if diverged:
        seen = [
            value for trial in complete + pruned for value in (trial.value, _last(trial)) if value is not None
        ]
        figure.add_scatter(
            x=[trial.hyperparameters["gamma"] for trial in diverged],
            y=[_edge(seen, job)] * len(diverged),
            mode="markers",
            name="diverged",
            marker={"symbol": "x", "size": 11, "color": "#C00000"},
            text=[
                f"{trial.id}<br>step size {trial.params.get('step_size', math.nan):.3g}" for trial in diverged
            ],
            hovertemplate="%{text}<br>gamma %{x:.3f}<br>diverged<extra></extra>",
        )
    if job.answer is not None:
        _add_response(figure, job.answer.gamma)
    figure.update_xaxes(title="gamma (0 SGD-like, 1 Adam-like)")
    figure.update_yaxes(title=_objective(job), type="log" if _positive(job) else "linear")
    return _titled(figure, "Objective over gamma")


def _add_response(figure: go.Figure, gamma: Gamma) -> None:
    """Add the response with its bands, and the interval of the best gamma."""
    curve = gamma.curve
    if curve is None or gamma.low is None or gamma.high is None:
        return
    for low, high, name, opacity in (
        (curve.low, curve.high, "90% band", 0.12),
        (curve.low50, curve.high50, "50% band", 0.22),
    ):
        figure.add_scatter(
            x=[*curve.gamma, *reversed(curve.gamma)],
            y=[*high, *reversed(low)],
            mode="none",
            fill="toself",
            fillcolor=_COLOURS[0],
            opacity=opacity,
            name=name,
            hoverinfo="skip",
        )
    figure.add_scatter(
        x=curve.gamma,
        y=curve.median,
        mode="lines",
        name="response: all else at its best",
        line={"color": _COLOURS[0], "width": 3},
        hovertemplate="gamma %{x:.2f}<br>%{y:.4g}<extra></extra>",
    )
    figure.add_vrect(
        x0=gamma.low,
        x1=gamma.high,
        fillcolor=_COLOURS[4],
        opacity=0.12,
        line_width=0,
        annotation_text=f"best gamma ({gamma.level:.0%})",
        annotation_position="top left",
    )


def learning_curves(job: JobRecord) -> go.Figure:
    """Return the chart of learning curves of all search trials, a colour per arm, with the best of each arm bold."""
    unit = _unit(job)
    figure = go.Figure()
    for colour, arm in zip(_COLOURS, job.spec["arms"], strict=False):
        trials = [trial for trial in _search(job) if trial.arm == arm and trial.reports]
        best = _best(trials, job.spec["objective"]["mode"])
        for index, trial in enumerate(sorted(trials, key=lambda t: t is best)):
            figure.add_scatter(
                x=[report.step for report in trial.reports],
                y=[report.value for report in trial.reports],
                mode="lines",
                name=arm,
                legendgroup=arm,
                showlegend=index == len(trials) - 1,
                line={"color": colour, "width": 4 if trial is best else 1},
                opacity=1.0 if trial is best else _FAINT,
                text=[trial.id] * len(trial.reports),
                hovertemplate=f"%{{text}}<br>{unit} %{{x}}<br>%{{y:.4g}}<extra></extra>",
            )
    figure.update_xaxes(title=unit)
    figure.update_yaxes(title=_objective(job), type="log" if _positive(job) else "linear", range=_bulk(job))
    return _titled(figure, "Learning curves of the search trials (bold: the best of each arm)")


def best_so_far(job: JobRecord) -> go.Figure:
    """Return the chart of the best objective so far over the started trials, a line per search, a colour per arm."""
    figure = go.Figure()
    better = min if job.spec["objective"]["mode"] == "min" else max
    for colour, arm in zip(_COLOURS, job.spec["arms"], strict=False):
        searches: dict[int, list[Trial]] = {0: []}
        for trial in sorted((t for t in _search(job) if t.arm == arm), key=lambda t: (t.repeat, t.number)):
            searches.setdefault(trial.repeat, []).append(trial)
        for repeat, trials in searches.items():
            x: list[int] = []
            y: list[float] = []
            for trial in trials:
                if trial.state is TrialState.COMPLETE and trial.value is not None:
                    x.append(trial.number + 1)
                    y.append(better(trial.value, y[-1]) if y else trial.value)
                elif y:
                    x.append(trial.number + 1)
                    y.append(y[-1])
            figure.add_scatter(
                x=x,
                y=y,
                mode="lines+markers",
                name=arm,
                legendgroup=arm,
                showlegend=repeat == 0,
                line={"color": colour, "shape": "hv"},
            )
    figure.update_xaxes(title="trials of the search")
    figure.update_yaxes(title=_objective(job), type="log" if _positive(job) else "linear")
    return _titled(figure, "Best so far, on one seed each (the verdict uses fresh seeds)")


def charts_page(job: JobRecord) -> str:
    """Return all charts of a job as one HTML page that needs no network."""
    figures = [loss_over_gamma(job), learning_curves(job), best_so_far(job)]
    parts = [
        figure.to_html(full_html=False, include_plotlyjs=index == 0, config={"displaylogo": False})
        for index, figure in enumerate(figures)
    ]
    title = html.escape(f"{job.name} ({job.id})")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>'
        f'<body style="font-family: sans-serif; margin: 1rem"><h1>{title}</h1>{"".join(parts)}</body></html>'
    )


def _search(job: JobRecord) -> list[Trial]:
    return [trial for trial in job.trials if trial.phase is Phase.SEARCH]


def _last(trial: Trial) -> float | None:
    value = trial.reports[-1].value if trial.reports else None
    return value if value is not None and math.isfinite(value) else None


def _edge(values: Sequence[float], job: JobRecord) -> float:
    """Return the value at which diverged trials are drawn: slightly worse than all others."""
    if job.spec["objective"]["mode"] == "max":
        return min(values, default=1.0) * 0.9
    return max(values, default=1.0) * 1.2


def _bulk(job: JobRecord) -> list[float] | None:
    """Return the axis range without the worst twentieth of the reports, which may be off by orders of magnitude."""
    values = sorted(r.value for trial in _search(job) for r in trial.reports if math.isfinite(r.value))
    if not values:
        return None
    cut = len(values) // 20
    low, high = (
        (values[0], values[-1 - cut]) if job.spec["objective"]["mode"] == "min" else (values[cut], values[-1])
    )
    if _positive(job):
        return [math.log10(low) - 0.05, math.log10(high) + 0.05]
    margin = 0.05 * (high - low)
    return [low - margin, high + margin]


def _positive(job: JobRecord) -> bool:
    """Whether all values are above 0, so that a log axis can show them."""
    if job.spec["objective"]["mode"] == "max":
        return False
    return all(not report.value <= 0 for trial in job.trials for report in trial.reports)


def _unit(job: JobRecord) -> str:
    """Return the unit of the job's budget, "epoch" or "step"."""
    return "step" if job.spec["budget"].get("steps") else "epoch"


def _objective(job: JobRecord) -> str:
    return f"validation {job.spec['objective']['metric']}"


def _titled(figure: go.Figure, title: str) -> go.Figure:
    # The legend is above the plot, because on the right it would cover the colour bar.
    legend = {
        "groupclick": "togglegroup",
        "orientation": "h",
        "x": 1,
        "xanchor": "right",
        "y": 1.02,
        "yanchor": "bottom",
    }
    return figure.update_layout(title=title, template="plotly_white", height=460, legend=legend)


def _best(trials: Sequence[Trial], mode: str) -> Trial | None:
    """Return the COMPLETE trial with the best value."""
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE and trial.value is not None]
    return min(complete, key=lambda trial: objective_key(trial.value or 0.0, mode), default=None)
