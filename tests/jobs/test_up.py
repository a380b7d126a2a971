"""`anon-tune up`: everything on this machine by one command, and gone by one."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys

import httpx2
import psutil
import pytest

from tests.jobs.conftest import Home

pytestmark = pytest.mark.slow


def said_once_ready(process: subprocess.Popen[str]) -> str:
    """Return what `up` has printed when everything runs."""
    assert process.stderr is not None
    said = ""
    while "Ctrl-C" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    return said


@pytest.mark.parametrize("proxy", [None, "socks5://127.0.0.1:9"])
def test_service_worker_and_pages_come_up_together_and_end_together(
    home: Home, monkeypatch: pytest.MonkeyPatch, proxy: str | None
):
    if proxy is not None:  # which leads nowhere
        for name in ("http_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy)
        monkeypatch.delenv("no_proxy", raising=False)
    process = home.start("up", "--port", "0", "--mlflow-port", "0")
    said = said_once_ready(process)
    monkeypatch.undo()
    service, pages = re.findall(r"(http://127\.0\.0\.1:\d+)(?= |\n)", said)[:2]
    assert httpx2.get(f"{service}/readyz").json()["ready"] is True
    assert httpx2.get(f"{pages}/health").text == "OK"
    assert httpx2.get(f"{service}/api/v1/jobs").status_code == 401, "others of this machine are refused"
    assert (home.folder / "token").stat().st_mode & 0o777 == 0o600
    assert home.json("--server", service, "jobs") == []
    with httpx2.Client(base_url=service, follow_redirects=True) as browser:
        link = re.findall(r"http\S+sign-in\?link=\S+", said)[0]
        assert "<h1>Jobs</h1>" in browser.get(link).text
        assert "has been used" in browser.get(link).text
        printed = home.call("open", "--print").stdout
        assert printed.startswith(f"{service}/sign-in?link=")
        assert "<h1>Jobs</h1>" in browser.get(printed.strip()).text
    started = psutil.Process(process.pid).children(recursive=True)
    assert len(started) >= 3
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0
    _, alive = psutil.wait_procs(started, timeout=30)
    assert alive == []
    assert "No service runs here" in home.call("open").stderr
    assert {log.name for log in (home.folder / "logs").iterdir()} == {
        "service.log",
        "worker.log",
        "mlflow.log",
    }


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has ended")
def test_a_killed_up_leaves_nothing_behind(home: Home):
    process = home.start("up", "--port", "0", "--mlflow-port", "0")
    said_once_ready(process)
    started = psutil.Process(process.pid).children(recursive=True)
    assert len(started) >= 3
    process.kill()
    process.communicate(timeout=60)
    _, alive = psutil.wait_procs(started, timeout=60)
    assert alive == []


def test_a_port_that_is_taken_is_named(home: Home):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = home.call("up", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 6
    assert "Choose another --port" in done.stderr
