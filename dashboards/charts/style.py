"""The look that all charts share: colours, symbols, light and dark themes, empty charts and notes."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from typing import Any

import plotly.graph_objects as go

__all__ = [
    "GREY",
    "PALETTE",
    "SCALE",
    "arm_colour",
    "arm_symbol",
    "buttons",
    "empty",
    "faded",
    "new_figure",
    "note",
    "plain",
    "short_id",
    "theme",
    "tidy",
    "wrapped",
]

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette, which people with colour blindness can distinguish, without black (invisible in the dark)
and yellow (on white)."""

# Arms that most jobs have keep their look, so that two jobs look alike.
_USUAL = {"anon": (PALETTE[0], "circle"), "adamw": (PALETTE[1], "square"), "sgd": (PALETTE[2], "diamond")}
_FURTHER = ((PALETTE[3], "triangle-up"), (PALETTE[4], "pentagon"), (PALETTE[5], "star"))

GREY = "#808080"
"""Grey that is seen on white and in the dark."""

SCALE = "Cividis"
"""Colour scale of the objective; it grows in brightness, also for the colour-blind. The best is bright."""

_DIGITS = 5
_HEIGHT = 420

_REMOVED = ("sendChartToCloud", "zoom", "pan", "select", "lasso", "zoomin", "zoomout", "autoscale")
"""Plotly's buttons that figures do without. The first one sends the data to another company's server."""


def arm_colour(arms: Sequence[str], arm: str) -> str:
    """Return the colour of one of a job's arms, the same in all charts."""
    return _look(arms, arm)[0]


def arm_symbol(arms: Sequence[str], arm: str) -> str:
    """Return the symbol of one of a job's arms, the same in all charts."""
    return _look(arms, arm)[1]


def _look(arms: Sequence[str], arm: str) -> tuple[str, str]:
    if arm in _USUAL:
        return _USUAL[arm]
    return _FURTHER[[each for each in arms if each not in _USUAL].index(arm) % len(_FURTHER)]


def faded(colour: str, opacity: float) -> str:
    """Return a colour ("#0072B2") with an opacity, as plotly takes it."""
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"


def theme(*, dark: bool) -> dict[str, Any]:
    """Return the plotly template for light or dark pages, and for print (light).

    Figures set no colours of text, axes and grids themselves, so that a page can exchange the template of a drawn
    figure: `Plotly.relayout(place, {template: ...})`. `charts.js` does this.
    """
    text, faint, grid, raised = (
        ("#e6e9ee", "#a0a9b6", "#2b323c", "#1d2129") if dark else ("#1b1f24", "#5a6370", "#e3e7ec", "#ffffff")
    )
    axis = {
        "gridcolor": grid,
        "zerolinecolor": grid,
        "linecolor": faint,
        "tickcolor": faint,
        "tickfont": {"color": faint},
        "automargin": True,
        "title": {"standoff": 8},
    }
    return {
        "layout": {
            "font": {"family": "system-ui, sans-serif", "size": 13, "color": text},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "xaxis": axis,
            "yaxis": axis,
            "hoverlabel": {"bgcolor": raised, "bordercolor": faint, "font": {"color": text}, "align": "left"},
            "updatemenudefaults": {"bgcolor": raised, "bordercolor": faint, "font": {"color": text}},
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": faint, "activecolor": text, "orientation": "v"},
        }
    }


def new_figure(height: int = _HEIGHT, **layout: Any) -> go.Figure:
    """Return an empty figure in the light theme, with its legend below the plot."""
    return go.Figure(
        layout={
            "template": theme(dark=False),
            "height": height,
            "margin": {"l": 56, "r": 16, "t": 24, "b": 48},
            "legend": {"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"},
            "hovermode": "closest",
            "modebar": {"remove": list(_REMOVED)},
            "showlegend": True,
            **layout,
        }
    )


def empty(message: str) -> go.Figure:
    """Return a figure that says in one sentence why it shows nothing."""
    figure = new_figure(140, margin={"l": 8, "r": 8, "t": 8, "b": 8})
    figure.update_xaxes(visible=False, range=[0, 1])
    figure.update_yaxes(visible=False, range=[0, 1])
    figure.add_annotation(text=wrapped(message), x=0.5, y=0.5, showarrow=False, font={"size": 15})
    return figure.update_layout(meta={"empty": True})


def note(figure: go.Figure, text: str) -> None:
    """Say above the legend what the figure leaves out."""
    title = {"text": wrapped(text), "side": "top", "font": {"size": 12}}
    figure.update_layout(legend_title=title)


def buttons(choices: Sequence[tuple[str, dict[str, Any], dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return buttons above the plot: for each its label, and the changes of traces and layout that it makes.

    Pages draw HTML buttons in their place, which the keyboard reaches.
    """
    made = [
        {"label": label, "method": "update", "args": [traces, layout]} for label, traces, layout in choices
    ]
    place = {"x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "pad": {"b": 4}}
    return [{"type": "buttons", "direction": "right", "buttons": made, "showactive": True, **place}]


def tidy(values: Iterable[float | None]) -> list[float | None]:
    """Return numbers with as many digits as a chart can show; None in place of one that is not finite."""
    return [
        float(f"{value:.{_DIGITS}g}") if value is not None and math.isfinite(value) else None
        for value in values
    ]


def short_id(trial: str, job: str) -> str:
    """Return a trial's id without that of its job: "anon-s003"."""
    return trial.removeprefix(f"{job}-")


def plain(text: str) -> str:
    """Return text of a user, escaped for plotly, which reads some HTML."""
    return html.escape(text, quote=False)


def wrapped(text: str, width: int = 44) -> str:
    """Return a sentence in lines that a phone can show."""
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "<br>".join(lines)
