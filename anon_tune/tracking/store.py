"""The MLflow server or database that jobs are written to, and what can be wrong with it."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import tempfile
from functools import cached_property, partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anon_tune.errors import DependencyError
from anon_tune.ledger import database_errors, sqlite_file, with_sqlite_file
from anon_tune.reachable import bypass_proxies, password_problem, without_password, without_passwords

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["EXPERIMENT", "Store", "check_experiment", "check_uri"]

EXPERIMENT = "anon_tune"

_PRIMARY_METRIC = "mlflow.experiment.primaryMetric.name"  # the chart that MLflow's pages draw first
_VIEW = "mlflow.sharedViewState.anon_tune"
_COLUMNS = (
    "attributes.`Duration`",
    *(f"metrics.`{name}`" for name in ("objective", "gamma", "trials_done")),
    *(f"tags.`anon_tune.{name}`" for name in ("state", "arm", "phase")),
)
_SCHEMES = {"http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks"}


def check_uri(uri: str) -> None:
    """Check the scheme of a tracking URI as MLflow does, without importing MLflow, which takes seconds.

    Raises:
        DependencyError: MLflow has no store for this URI, or its password is not written as URLs need it.
    """
    problem = password_problem(uri)
    if problem is not None:
        raise DependencyError(f"MLFLOW_TRACKING_URI={without_password(uri)!r}: {problem}")
    scheme, separator, _ = uri.partition("://")
    if uri == "databricks" or (separator and scheme.partition("+")[0] in _SCHEMES):
        return
    if uri.partition(":")[0] in entry_points(group="mlflow.tracking_store").names:
        return  # a plugin's
    raise DependencyError(
        f"MLflow does not support MLFLOW_TRACKING_URI={without_password(uri)!r}. Give a server (http://host:5000) or "
        "a database (sqlite:////folder/mlflow.db, postgresql://user@host/name), or unset it: the default is sqlite "
        "in ANON_TUNE_HOME."
    )


def check_experiment(uri: str) -> None:
    """Check that the experiment of the jobs was not deleted in MLflow. This loads MLflow, which takes seconds.

    Raises:
        DependencyError: It was deleted, or MLflow cannot use its store; the message says what to do.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    bypass_proxies()
    store = sqlite_file(uri)
    if store is not None and not store.exists():
        return  # the first job makes it
    try:
        with database_errors(partial(_no_store, uri)):
            deleted = _deleted(MlflowClient(uri), uri)
    except (MlflowException, OSError, ImportError) as error:
        raise _no_store(uri, _first_line(error)) from error
    if deleted is not None:
        raise deleted


class Store:
    """A tracking URI's client, and the experiment of the jobs. MLflow is loaded on first use.

    Args:
        uri: MLflow tracking URI.
        artifacts: Folder for artifacts, if the store at `uri` has none of its own.
    """

    def __init__(self, uri: str, artifacts: Path) -> None:
        self._uri = uri
        self._artifacts = artifacts
        self._experiment: str | None = None

    @property
    def shown(self) -> str:
        """The URI without its password."""
        return without_password(self._uri)

    def clean(self, text: str) -> str:
        """Return a message of MLflow without passwords."""
        return _clean(text, self._uri)

    @cached_property
    def errors(self) -> tuple[type[Exception], type[Exception]]:
        """Errors of MLflow. Imported here, since MLflow takes seconds to load."""
        from mlflow.exceptions import MlflowException

        return (MlflowException, OSError)

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow's client, created on first use, since this connects to a database; a failure is tried again."""
        from mlflow import MlflowClient

        try:
            with database_errors(partial(_no_store, self._uri)):
                self._make()
                return MlflowClient(self._uri)
        except (*self.errors, ImportError) as error:
            raise _no_store(self._uri, _first_line(error)) from error

    @property
    def experiment(self) -> str:
        """The experiment's id; the first use finds or creates it. Raises DependencyError if deleted."""
        if self._experiment is None:
            deleted = _deleted(self.client, self._uri)
            if deleted is not None:
                raise deleted
            found = self.client.get_experiment_by_name(EXPERIMENT)
            # MLflow's default place for artifacts is the working directory; a server knows its own.
            place = self._artifacts.as_uri() if self._uri.startswith("sqlite:") else None
            self._experiment = str(
                self.client.create_experiment(EXPERIMENT, place) if found is None else found.experiment_id
            )
            for tag, value in _page_tags().items():
                if found is None or tag not in found.tags:
                    self.client.set_experiment_tag(self._experiment, tag, value)
        return self._experiment

    def forget_experiment(self) -> None:
        """Look for the experiment again at its next use: it may have been deleted."""
        self._experiment = None

    def check(self) -> None:
        """Raise DependencyError if the experiment was deleted; do nothing if MLflow does not answer."""
        with contextlib.suppress(*self.errors):
            deleted = _deleted(self.client, self._uri)
            if deleted is not None:
                raise deleted

    def find_run(self, tag: str, value: str) -> Any | None:
        """Return the run with this tag, or None."""
        found = self.client.search_runs([self.experiment], f"tags.`{tag}` = '{value}'", max_results=1)
        return found[0] if found else None

    def is_active(self, run: str) -> bool:
        """Return whether a run exists and is not deleted."""
        from mlflow.exceptions import MlflowException

        try:
            return bool(self.client.get_run(run).info.lifecycle_stage == "active")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def _make(self) -> None:
        """Create a missing sqlite store, completely or not at all, with a write-ahead log.

        MLflow never accepts a store whose creation was interrupted between two tables, so it is created under
        another name. The write-ahead log saves two of three syncs to disk.
        """
        from mlflow import MlflowClient

        store = sqlite_file(self._uri)
        if store is None or store.exists():
            return
        with tempfile.TemporaryDirectory(prefix=f"{store.name}-", dir=store.parent) as folder:
            made, whole = Path(folder, "made.db"), Path(folder, "whole.db")
            MlflowClient(with_sqlite_file(self._uri, made)).search_experiments(max_results=1)
            with (
                contextlib.closing(sqlite3.connect(made)) as source,
                contextlib.closing(sqlite3.connect(whole)) as target,
            ):
                source.backup(target)
                target.execute("PRAGMA journal_mode = WAL")
            try:
                store.hardlink_to(whole)
            except FileExistsError:
                pass  # another process was faster
            except OSError:  # a file system without links
                whole.replace(store)


def _page_tags() -> dict[str, str]:
    """Return the experiment's tags about MLflow's pages: the first chart, and a saved view with loss and gamma.

    A view that MLflow cannot read is not in its list of views, and nothing else changes.
    """
    state = json.dumps({"selectedColumns": _COLUMNS})
    view = {"name": "Loss and gamma", "createdAt": 0, "updatedAt": 0, "state": state}
    return {_PRIMARY_METRIC: "objective", _VIEW: json.dumps(view)}


def _deleted(client: MlflowClient, uri: str) -> DependencyError | None:
    """Return the error for an experiment that was deleted in MLflow; None if it can be written or does not exist."""
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None or found.lifecycle_stage != "deleted":
        return None
    shown = without_password(uri)
    return DependencyError(
        f"The experiment {EXPERIMENT!r} was deleted in MLflow at {shown}, so no job can be written there. Restore "
        f"it: MLFLOW_TRACKING_URI={shown} mlflow experiments restore --experiment-id {found.experiment_id}; then "
        "write each job again: anon-tune mlflow sync JOB"
    )


def _no_store(uri: str, reason: str) -> DependencyError:
    return DependencyError(
        f"MLflow cannot use its store at {without_password(uri)} ({_clean(reason, uri)}). "
        "Check MLFLOW_TRACKING_URI."
    )


def _clean(text: str, uri: str) -> str:
    """Return a text without the passwords of its URLs, also if that of `uri` has spaces."""
    return without_passwords(text.replace(uri, without_password(uri)))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
