"""Links to MLflow."""

from __future__ import annotations

from anon_tune.service.pages.mlflow import mlflow_of
from anon_tune.settings import Settings


def test_a_run_of_a_server_has_an_address_without_the_password() -> None:
    found = mlflow_of(Settings(mlflow_tracking_uri="https://ann:secret@host:5000/mlflow/"))
    assert found.run("abc") == "https://host:5000/mlflow/#/runs/abc"
    assert found.run(None) is None
    assert found.command is None


def test_a_database_has_a_command_without_the_password() -> None:
    found = mlflow_of(Settings(mlflow_tracking_uri="postgresql://ann:secret@host/mlflow"))
    assert found.run("abc") is None
    assert found.command == "mlflow ui --backend-store-uri 'postgresql://ann:***@host/mlflow'"


def test_the_pages_of_a_database_may_have_an_address() -> None:
    found = mlflow_of(Settings(mlflow_url="http://127.0.0.1:5000"))
    assert found.run("abc") == "http://127.0.0.1:5000/#/runs/abc"
    assert found.command is None
