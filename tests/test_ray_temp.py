"""Ray's folders: of living processes, and of those that were killed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from anon_tune import ray_temp
from anon_tune.errors import DependencyError
from anon_tune.settings import Settings

pytestmark = pytest.mark.usefixtures("own_temporary_folder")

HOLDS = """
import sys, time
from pathlib import Path
from anon_tune import ray_temp
from anon_tune.settings import Settings
with ray_temp.ray_folder(Settings(home=Path(sys.argv[1]))) as folder:
    (folder / "log").touch()
    print("here", flush=True)
    time.sleep(600)
"""


def test_a_folder_goes_with_its_block_and_so_does_its_lock(tmp_path: Path):
    settings = Settings(home=tmp_path)
    with ray_temp.ray_folder(settings) as first, ray_temp.ray_folder(settings) as second:
        assert first != second
        assert sorted(settings.ray_temps()) == sorted([first, second])
        ray_temp.remove_abandoned(settings)
        assert first.is_dir()
        assert second.is_dir(), "nobody deletes what is in use"
    assert list(first.parent.iterdir()) == []


def test_a_folder_whose_process_was_killed_is_deleted_by_the_next(tmp_path: Path):
    settings = Settings(home=tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        (folder,) = settings.ray_temps()
        ray_temp.remove_abandoned(settings)
        assert (folder / "log").exists(), "its process lives"
        process.kill()
    ray_temp.remove_abandoned(settings)
    assert list(folder.parent.iterdir()) == []


def test_a_home_with_a_long_path_has_them_elsewhere(tmp_path: Path):
    settings = Settings(home=tmp_path / ("long" * 10))
    with ray_temp.ray_folder(settings) as folder:
        assert not folder.is_relative_to(settings.home)
        assert folder in settings.ray_temps()
        assert folder.parent.stat().st_mode & 0o777 == 0o700, "of nobody else"
    assert not folder.exists()


def test_a_folder_that_another_user_has_made_in_its_place_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = Settings(home=tmp_path / ("long" * 10))
    settings.ray_temps_elsewhere.mkdir()
    monkeypatch.setattr("anon_tune.ray_temp.os.getuid", lambda: 12345)
    monkeypatch.setattr(Settings, "ray_temps_elsewhere", settings.ray_temps_elsewhere)
    with pytest.raises(DependencyError, match="belongs to another user"), ray_temp.ray_folder(settings):
        pass


def test_a_home_with_a_short_path_has_them_inside():
    with tempfile.TemporaryDirectory(prefix="at", dir="/tmp") as home:
        settings = Settings(home=Path(home))
        with ray_temp.ray_folder(settings) as folder:
            assert folder.parent == Path(home) / "ray"
