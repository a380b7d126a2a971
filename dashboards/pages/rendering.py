"""Templates of pages: Jinja2 with escaping always on, and an error for a name that is not given."""

from __future__ import annotations

import datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

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


def _moment(value: datetime.datetime | None) -> str:
    """Return a time in UTC to the second, which a script on the page turns into local time."""
    return "-" if value is None else value.astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


_TEMPLATES = Environment(
    loader=PackageLoader(__package__ or __name__),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
)
_TEMPLATES.globals["static"] = static_path
_TEMPLATES.filters["number"] = _number
_TEMPLATES.filters["moment"] = _moment
