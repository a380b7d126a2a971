"""Ray's start and end, without Ray: its own processes and calls are stood in for."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from anon_tune.errors import DependencyError
from anon_tune.ray_temp import ray_folder
from anon_tune.settings import Settings
from anon_tune.workers.driver import cluster

pytestmark = pytest.mark.usefixtures("own_temporary_folder")


class Calls:
    """Stands for the module `ray`, and remembers what was asked of it."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.folders: list[str] = []

    def init(self, **_: object) -> None:
        self.made.append("init")
        self.folders.append(os.environ["RAY_TMPDIR"])

    def shutdown(self) -> None:
        self.made.append("shutdown")


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls()
    monkeypatch.setitem(sys.modules, "ray", calls)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return calls


Processes = dict[str, "subprocess.Popen[bytes]"]


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Children of this process that have the names of Ray's."""
    names = ("raylet", "gcs_server")
    paths = [Path(shutil.copy(shutil.which("sleep") or "", tmp_path / name)) for name in names]
    started = {path.name: subprocess.Popen([path, "600"]) for path in paths}
    yield started
    for process in started.values():
        process.kill()
        process.wait()


@pytest.fixture
def port() -> Iterator[int]:
    """A port of this machine that is taken; nothing answers at it until it listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_an_unreachable_cluster_is_reported_before_ray_starts(monkeypatch: pytest.MonkeyPatch, port: int):
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    said = rf"No Ray cluster answers at RAY_ADDRESS=127\.0\.0\.1:{port} \("
    with pytest.raises(DependencyError, match=said), cluster.connected(Settings.from_environment()):
        pass


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "127.0.0.1:x", "127.0.0.1:99999", "[::1"])
def test_an_unreachable_ray_address_is_refused(port: int, address: str):
    with pytest.raises(DependencyError, match="No Ray cluster answers"):
        cluster._check_address(address.format(port=port))


def test_an_address_without_a_port_is_left_to_ray():
    cluster._check_address("127.0.0.1")


@pytest.fixture
def raylet(tmp_path: Path) -> Iterator[Callable[[str, Path], None]]:
    """Starts a process with the name and the options of a Ray at an address, with a temp directory."""
    program = Path(shutil.copy(shutil.which("sh") or "", tmp_path / "raylet"))
    with contextlib.ExitStack() as stack:

        def start(address: str, temporary: Path) -> None:
            options = ["raylet", f"--gcs-address={address}", f"--temp_dir={temporary}"]
            process = subprocess.Popen([program, "-c", "read end", *options], stdin=subprocess.PIPE)
            stack.enter_context(process)

        yield start


def clusters_here() -> set[str]:
    return {address for _, address in cluster._raylets()}


def test_auto_is_a_cluster_and_not_the_ray_of_another_job(
    raylet: Callable[[str, Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cluster, "_LATEST", tmp_path / "latest")
    before = clusters_here()  # of others on this machine
    with ray_folder(Settings(home=tmp_path / "home")) as folder:
        raylet("127.0.0.1:1", folder / "ray")
        assert clusters_here() == before
        if not before:
            with pytest.raises(DependencyError, match="RAY_ADDRESS=auto finds no Ray cluster"):
                cluster.find_address("auto")
        for port in (2, 3):
            raylet(f"127.0.0.1:{port}", tmp_path / "shared" / "ray")
        assert clusters_here() == before | {"127.0.0.1:2", "127.0.0.1:3"}
        assert cluster.find_address("auto") in before | {"127.0.0.1:2", "127.0.0.1:3"}
        for latest, taken in (("127.0.0.1:3", True), ("127.0.0.1:1", False)):
            (tmp_path / "latest").write_text(f"{latest}\n")
            assert (cluster.find_address("auto") == latest) is taken
    assert cluster.find_address("h:1") == "h:1"


def test_jobs_are_driven_from_a_node_alone(raylet: Callable[[str, Path], None], tmp_path: Path):
    with pytest.raises(
        DependencyError, match=r"not a node of the Ray cluster at RAY_ADDRESS=127\.0\.0\.1:4,"
    ):
        cluster.check_node("127.0.0.1:4")
    here = next(
        each.address
        for interface in psutil.net_if_addrs().values()
        for each in interface
        if each.family is socket.AF_INET
    )
    raylet(f"{here}:4", tmp_path / "ray")
    for same in ("127.0.0.1:4", "localhost:4", f"{here}:4"):  # Ray itself notes the machine's own address
        cluster.check_node(same)
    for other in ("127.0.0.1:5", "203.0.113.7:4"):
        with pytest.raises(DependencyError, match="ray start --address="):
            cluster.check_node(other)


def test_a_worker_ends_with_its_node(
    raylet: Callable[[str, Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cluster, "_NODE_SECONDS", 0.01)
    stop = threading.Event()
    with (
        pytest.raises(DependencyError, match="is not a node"),
        cluster.stopping_with_node("127.0.0.1:4", stop),
    ):
        pytest.fail("no node has joined at the start")
    raylet("127.0.0.1:4", tmp_path / "ray")
    with cluster.stopping_with_node("127.0.0.1:4", stop):
        assert not stop.wait(0.1)
    ((process, _),) = (each for each in cluster._raylets() if each[1] == "127.0.0.1:4")

    def work() -> None:
        with cluster.stopping_with_node("127.0.0.1:4", stop):
            process.kill()
            assert stop.wait(120)

    with pytest.raises(DependencyError, match="is not a node"):
        work()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("... InvalidAuthToken ..."), "does not accept the token. Set RAY_AUTH_MODE=token"),
        (ConnectionError("Failed to connect to Ray cluster at h:1"), "does not accept the token"),
        (
            RuntimeError("Version mismatch: The cluster was started with:\n  Ray: 1"),
            "another version of Ray or Python",
        ),
    ],
)
def test_errors_of_the_connection_say_what_to_do(error: Exception, said: str):
    found = cluster._explained(error, "h:1")
    assert isinstance(found, DependencyError)
    assert said in str(found)
    assert cluster._explained(other := OSError("no"), "h:1") is other


def test_a_cluster_that_answers_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as server:
        cluster._check_address(f"127.0.0.1:{server.getsockname()[1]}")


def test_ray_log_settings_of_the_user_stay(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "environ", {"RAY_ROTATION_MAX_BYTES": "1000"})
    cluster.prepare_environment(Settings.from_environment())
    assert os.environ["RAY_ROTATION_MAX_BYTES"] == "1000"
    assert os.environ["RAY_ROTATION_BACKUP_COUNT"] == "1"


@pytest.mark.parametrize("set_by_the_user", [None, "/scratch"])
@pytest.mark.parametrize("fails", [False, True])
def test_ray_keeps_its_files_in_a_folder_of_this_process(
    ray: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, set_by_the_user: str | None, fails: bool
):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    if set_by_the_user is not None:
        monkeypatch.setenv("RAY_TMPDIR", set_by_the_user)
    settings = Settings(home=tmp_path)
    with contextlib.suppress(ZeroDivisionError), cluster.connected(settings):
        assert ray.folders == [str(folder) for folder in settings.ray_temps()]
        if fails:
            raise ZeroDivisionError
    assert os.environ.get("RAY_TMPDIR") == set_by_the_user


def test_what_was_started_ahead_is_taken_over_and_stopped_with_the_work(ray: Calls, tmp_path: Path):
    settings = Settings(home=tmp_path)
    with cluster.ahead(settings):
        (folder,) = settings.ray_temps()
        with cluster.connected(settings):
            assert ray.made == ["init"]
        assert ray.made == ["init", "shutdown"], "before the lease is given back"
        assert not folder.exists()
        with cluster.connected(settings):
            assert ray.made == ["init", "shutdown", "init"], "another one for more work"
    assert ray.made == ["init", "shutdown"] * 2


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process, and leave its exit code for who asks for it."""
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


def test_a_ray_that_ended_while_it_waited_is_not_taken(ray: Calls, tmp_path: Path, processes: Processes):
    with cluster.ahead(Settings(home=tmp_path)):
        end(processes["raylet"])
        with cluster.connected(Settings(home=tmp_path)) as runs:
            assert ray.made == ["init", "shutdown", "init"]
            assert runs(), "what is left of the one before is not of this one"
        assert ray.made == ["init", "shutdown"] * 2
    assert ray.made == ["init", "shutdown"] * 2


@pytest.mark.usefixtures("ray")
@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
@pytest.mark.parametrize("waited", [False, True])
def test_whether_a_ray_runs_is_seen_by_its_processes(
    tmp_path: Path, processes: Processes, waited: bool, name: str
):
    settings = Settings(home=tmp_path)
    with (
        cluster.ahead(settings) if waited else contextlib.nullcontext(),
        cluster.connected(settings) as runs,
    ):
        assert runs()
        end(processes[name])
        assert not runs()
        processes[name].wait()
        assert not runs()


@pytest.mark.parametrize("shutdown", [None, KeyboardInterrupt])
def test_what_an_interrupted_start_leaves_is_ended(
    ray: Calls, tmp_path: Path, processes: Processes, monkeypatch: pytest.MonkeyPatch, shutdown: Any
):
    """Ray stops what it has noted; it notes its processes once all have started."""

    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ray, "init", interrupted)
    if shutdown is not None:
        monkeypatch.setattr(ray, "shutdown", interrupted)
    with pytest.raises(KeyboardInterrupt), cluster.connected(Settings(home=tmp_path)):
        pytest.fail("it has started")
    assert all(process.poll() is not None for process in processes.values())


def test_what_was_started_ahead_in_vain_is_stopped(ray: Calls, tmp_path: Path):
    settings = Settings(home=tmp_path)
    with cluster.ahead(settings):
        assert len(settings.ray_temps()) == 1
    assert ray.made == ["init", "shutdown"]
    with cluster.connected(settings):
        assert ray.made == ["init", "shutdown", "init"]


def test_a_cluster_that_others_share_is_not_connected_to_ahead(ray: Calls, tmp_path: Path):
    with cluster.ahead(Settings(home=tmp_path, ray_address="auto")):
        assert ray.made == []


def test_a_ray_that_does_not_stop_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Its own processes are what it waits for."""
    raylet, other = (Path(shutil.copy(shutil.which("sleep") or "", tmp_path / n)) for n in ("raylet", "x"))
    with subprocess.Popen([other, "600"]) as untouched, subprocess.Popen([raylet, "600"]) as process:
        ray = types.SimpleNamespace(init=lambda **_: None, shutdown=process.wait)
        monkeypatch.setitem(sys.modules, "ray", ray)
        monkeypatch.setattr(cluster, "_STOP_SECONDS", 0.2)
        settings = Settings(home=tmp_path / "home")
        with cluster.connected(settings):
            assert settings.ray_temps()
        assert process.returncode == -signal.SIGKILL
        assert untouched.poll() is None
        untouched.kill()
    assert "in wait" in caplog.text, "where it hung"
    assert not settings.ray_temps()
