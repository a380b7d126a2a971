"""Rows of numbers with their intervals, each below its label: a forest plot that a phone can show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from anon_tune.dashboards.charts.style import GREY, faded, new_figure, tidy

__all__ = ["Row", "forest"]

_ROW, _OTHER = 64, 92
"""Pixels of a row, and of the margins."""

_MARGIN = 0.06
_LARGEST = 10.0
"""Shares beyond 1,000% are drawn there."""


@dataclass(frozen=True)
class Row:
    """A number with its interval.

    Attributes:
        label: Its name, above it; may be of several lines, joined by "<br>".
        middle: The number; None if it is not known.
        low: Lower end of its interval; None if it is not known.
        high: Upper end.
        colour: Colour of the mark.
        symbol: Symbol of the mark.
        hover: Text on it.
    """

    label: str
    middle: float | None
    low: float | None
    high: float | None
    colour: str
    symbol: str = "circle"
    hover: str = ""


def forest(
    rows: Sequence[Row],
    title: str,
    *,
    shares: bool = False,
    zero: bool = True,
    practical: float | None = None,
    lines: int = 1,
) -> go.Figure:
    """Return rows from top to bottom.

    Args:
        rows: The rows.
        title: Title of the axis.
        shares: Whether the numbers are shares, to be shown in percent.
        zero: Whether the axis is about differences, so that it shows 0.
        practical: The smallest difference that matters; smaller ones are shaded.
        lines: Lines of a label.
    """
    height = _ROW + 16 * (lines - 1)
    figure = new_figure(height * len(rows) + _OTHER, margin={"l": 16, "r": 16, "t": 16, "b": 72})
    if practical is not None:
        figure.add_vrect(
            x0=-practical, x1=practical, fillcolor=faded(GREY, 0.22), line_width=0, layer="below"
        )
    if zero:
        figure.add_vline(x=0, line={"color": GREY, "width": 1})
    for place, row in enumerate(reversed(rows)):
        _add_row(figure, place, row, shares)
    figure.update_yaxes(visible=False, range=[-0.35, len(rows) - 0.1], fixedrange=True)
    figure.update_xaxes(
        title=title,
        range=_range(rows, zero, practical, shares),
        tickformat="+.1~%" if shares and zero else ".3~g",
        nticks=6,
        zeroline=False,
    )
    return figure.update_layout(showlegend=False)


def _add_row(figure: go.Figure, place: int, row: Row, shares: bool) -> None:
    low, middle, high = (_clipped(value, shares) for value in (row.low, row.middle, row.high))
    shared = {"showlegend": False, "hovertemplate": f"{row.hover}<extra></extra>"}
    if low is not None and high is not None:
        line = {"color": row.colour, "width": 5}
        figure.add_scatter(
            x=tidy([low, high]), y=[place, place], mode="lines", line=line, name=row.label, **shared
        )
    if middle is not None:
        marker = {"color": row.colour, "size": 13, "symbol": row.symbol}
        figure.add_scatter(
            x=tidy([middle]), y=[place], mode="markers", marker=marker, name=row.label, **shared
        )
    figure.add_annotation(
        text=row.label,
        xref="x domain",
        x=0,
        xanchor="left",
        y=place,
        yanchor="bottom",
        yshift=9,
        align="left",
        showarrow=False,
    )


def _clipped(value: float | None, shares: bool) -> float | None:
    return value if value is None or not shares else min(value, _LARGEST)


def _range(rows: Sequence[Row], zero: bool, practical: float | None, shares: bool) -> list[float]:
    found = [0.0] if zero else []
    found += [-practical, practical] if practical is not None else []
    for row in rows:
        ends = (_clipped(value, shares) for value in (row.low, row.middle, row.high))
        found += [value for value in ends if value is not None]
    low, high = min(found, default=0.0), max(found, default=1.0)
    margin = _MARGIN * (high - low or 1.0)
    return [low - margin, high + margin]
