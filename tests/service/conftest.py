"""A service of each test's own, asked over HTTP."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
import uvicorn

from anon_tune.ledger import Ledger
from anon_tune.service.app import create_app
from anon_tune.settings import Settings

Serve = Callable[..., str]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unset: None) -> Settings:
    """A home of this test's own, with a folder of data."""
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("ANON_TUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ANON_TUNE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("ANON_TUNE_ALLOWED_MODULES", "acme.training, installed")
    return Settings.from_environment()


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    opened = Ledger.open(settings.ledger_url)
    yield opened
    opened.close()


@pytest.fixture
def serve(ledger: Ledger, settings: Settings) -> Iterator[Serve]:
    """Starts a service on the ledger and returns its address; all of them stop after the test."""
    with contextlib.ExitStack() as stack:

        def start(
            *, on_loopback: bool = True, settings: Settings = settings, certificate: Path | None = None
        ) -> str:
            app = create_app(ledger, settings, on_loopback=on_loopback)
            config = uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=1,
                ssl_certfile=certificate,  # with its key
            )
            server = uvicorn.Server(config)
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
            thread.start()

            def stop() -> None:
                server.should_exit = True
                thread.join()

            stack.callback(stop)
            scheme = "http" if certificate is None else "https"
            return f"{scheme}://127.0.0.1:{listening.getsockname()[1]}"

        yield start


@pytest.fixture
def http(serve: Serve) -> Iterator[httpx2.Client]:
    """A client of a service that is open to this machine."""
    with httpx2.Client(base_url=f"{serve()}/api/v1") as client:
        yield client
