"""Links from our pages to MLflow's."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from anon_tune.reachable import mlflow_page, without_password
from anon_tune.settings import Settings

__all__ = ["MLflow", "mlflow_of"]


@dataclass(frozen=True)
class MLflow:
    """Place of MLflow's pages.

    Attributes:
        pages: Address of MLflow's pages; None if MLflow is only a database.
        command: Command that serves the pages of such a database.
    """

    pages: str | None
    command: str | None

    def run(self, run: str | None) -> str | None:
        """Return the address of a run's page; None without one."""
        return None if self.pages is None or not run else mlflow_page(self.pages, run)


def mlflow_of(settings: Settings) -> MLflow:
    """Return the place of MLflow's pages; nothing in it holds a password."""
    uri = settings.mlflow_url or settings.tracking_uri
    if not uri.startswith(("http://", "https://")):
        return MLflow(None, f"mlflow ui --backend-store-uri {shlex.quote(without_password(uri))}")
    parts = urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    return MLflow(urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", "")), None)
