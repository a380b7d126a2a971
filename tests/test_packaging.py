"""The wheel: everything is in it, and a user's own package `workers` is not shadowed."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_links_lead_to_the_top_level_folders() -> None:
    for name in ("workers", "dashboards", "search_spaces"):
        assert (ROOT / "anon_tune" / name).resolve() == ROOT / name


def test_a_users_workers_package_is_theirs(tmp_path: Path) -> None:
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "__init__.py").write_text("OWNER = 'user'\n")
    code = (
        "import workers, anon_tune.workers.training, anon_tune.search_spaces as s;"
        "print(workers.OWNER, len(s.space_names()) > 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == ["user", "True"], done.stderr


@pytest.mark.slow
def test_wheel_holds_every_module_and_data_file(tmp_path: Path) -> None:
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(source)], check=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    tracked = subprocess.run(
        ["git", "ls-files", "anon_tune", "workers", "dashboards", "search_spaces"],
        cwd=source, check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    wanted = {
        path if path.startswith("anon_tune/") else f"anon_tune/{path}"
        for path in tracked
        if not (source / path).is_dir()
    }
    assert wanted <= held, wanted - held
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r});"
        "import anon_tune.workers.training, anon_tune; print(anon_tune.__file__)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert str(tmp_path / "site") in done.stdout, done.stderr
