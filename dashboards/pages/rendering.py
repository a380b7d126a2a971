"""Templates of pages: Jinja2 with escaping always on, and an error for a name that is not given."""

from __future__ import annotations

import datetime
import re
from enum import StrEnum
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from anon_tune.dashboards.pages.static import static_path

__all__ = ["render"]


def render(name: str, **values: Any) -> str:
    """Return a page or a part of one as HTML.

    Args:
        name: Name of the template, such as "jobs.html".
        values: What the template shows.
    """
    return _TEMPLATES.get_template(name).render(values)


def _number(value: float | None, digits: int = 4) -> str:
    """Return a number with some significant digits; a dash for None."""
    return "-" if value is None else f"{value:.{digits}g}"


def _moment(value: datetime.datetime | None) -> Markup | str:
    """Return a time in UTC to the second, which pages.js turns into local time."""
    if value is None:
        return "-"
    shown = value.astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return Markup('<time datetime="{}">{}</time>').format(_iso(value), shown)


def _age(value: datetime.datetime) -> Markup:
    """Return the time since `value`, such as "3 h"; the time itself is its title."""
    seconds = (datetime.datetime.now(datetime.UTC) - value).total_seconds()
    return Markup('<time class="age" datetime="{}" title="{}">{}</time>').format(
        _iso(value), value.astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC"), _duration(seconds)
    )


def _duration(seconds: float) -> str:
    """Return a duration in its largest unit, such as "3 h"."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _prose(text: str) -> Markup:
    """Return a message as HTML: what it quotes in backticks is code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _iso(value: datetime.datetime) -> str:
    return value.astimezone(datetime.UTC).isoformat(timespec="seconds")


def _badge(state: StrEnum) -> Markup:
    """Return a state of a job or trial: its word in its colour."""
    return Markup('<span class="badge state-{0}">{0}</span>').format(state.value)


_TEMPLATES = Environment(
    loader=PackageLoader(__package__ or __name__),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
)
_TEMPLATES.globals["static"] = static_path
_TEMPLATES.filters.update(number=_number, moment=_moment, age=_age, badge=_badge, prose=_prose)
