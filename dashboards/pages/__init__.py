"""Pages of jobs as HTML: templates and the files that they load. Nothing here knows HTTP or the ledger."""

from anon_tune.dashboards.pages.rendering import render
from anon_tune.dashboards.pages.static import static_file, static_path

__all__ = ["render", "static_file", "static_path"]
