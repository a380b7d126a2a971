"""A main thread that hangs is noticed; one that comes by, or waits for Ray's start, is not."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from anon_tune.workers.driver import hang_watchdog
from anon_tune.workers.driver.hang_watchdog import HangWatchdog
from anon_tune.workers.driver.shutdown_request import ShutdownRequest
from tests.workers.driver.watching import LOOK_SECONDS, PATIENCE


def test_a_hanging_main_thread_is_detected(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr(hang_watchdog, "_TURN_SECONDS", 0.5)
    noticed, shutdown = threading.Event(), ShutdownRequest()
    with HangWatchdog("a job", shutdown, noticed.set).watching(LOOK_SECONDS):
        assert not noticed.wait(1.0), "Ray starts and the model is probed before the first turn"
        with shutdown.notice(lambda: None):
            assert noticed.wait(PATIENCE)
    (message,) = [record.getMessage() for record in caplog.records if record.levelname == "CRITICAL"]
    assert message.startswith("job a job: its process hangs")
    assert "MainThread" in message
    assert "noticed.wait(PATIENCE)" in message


def test_a_main_thread_that_checks_does_not_hang(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hang_watchdog, "_TURN_SECONDS", 0.5)
    noticed, shutdown = threading.Event(), ShutdownRequest()
    limit = time.monotonic() + 1.5
    with (
        HangWatchdog("a job", shutdown, noticed.set).watching(LOOK_SECONDS),
        shutdown.notice(lambda: None),
    ):
        while time.monotonic() < limit:
            shutdown.check()
            time.sleep(0.01)
    assert not noticed.is_set()


def test_a_main_thread_that_does_not_stop_is_detected(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hang_watchdog, "_STOP_SECONDS", 0.5)
    noticed, shutdown = threading.Event(), ShutdownRequest()
    with HangWatchdog("a job", shutdown, noticed.set).watching(LOOK_SECONDS), shutdown.signals():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert noticed.wait(PATIENCE)
