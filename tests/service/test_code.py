"""Code that comes with a job: only where service and token allow it, and never out of its folder."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from typing import Any

import httpx2
import pytest

from anon_tune import code_archive
from anon_tune.errors import InputError
from anon_tune.jobs.service import ServiceJobs
from anon_tune.ledger import Ledger
from anon_tune.records import Role
from anon_tune.settings import Settings
from anon_tune.spec import JobFile
from tests.service.conftest import SPEC, Serve
from tests.service.test_jobs import problem

JOB = {"name": "mine", "task": "mine:train", "budget": SPEC["budget"]}


def zipped(**files: str) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return written.getvalue()


def send(address: str, archive: bytes, digest: str | None = None, token: str = "") -> httpx2.Response:
    headers = {"Content-Type": "application/zip", "Authorization": f"Bearer {token}"}
    url = f"{address}/api/v1/code/{digest or code_archive.digest(archive)}"
    return httpx2.put(url, content=archive, headers=headers if token else {"Content-Type": "application/zip"})


@pytest.fixture
def open_to_code(settings: Settings) -> Settings:
    return settings.model_copy(update={"allow_code": True})


def test_code_is_off_by_default(serve: Serve, ledger: Ledger):
    address = serve()
    archive = zipped(**{"mine.py": ""})
    assert "does not accept code" in problem(send(address, archive), 403)["detail"]
    body = {"spec": JOB, "code": code_archive.digest(archive)}
    problem(httpx2.post(f"{address}/api/v1/jobs", json=body), 403)
    assert ledger.overviews.jobs() == []


def test_code_needs_its_own_permission(serve: Serve, ledger: Ledger, open_to_code: Settings):
    address = serve(settings=open_to_code)
    archive = zipped(**{"mine.py": ""})
    _, without = ledger.tokens.create("ann", Role.ADMIN)
    _, reader = ledger.tokens.create("bob", Role.READ, may_send_code=True)
    _, allowed = ledger.tokens.create("eve", Role.SUBMIT, may_send_code=True)
    for token in (without, reader):
        problem(send(address, archive, token=token), 403)
    assert send(address, archive, token=allowed).status_code == 204
    body = {"spec": JOB, "code": code_archive.digest(archive)}
    refused = httpx2.post(f"{address}/api/v1/jobs", json=body, headers={"Authorization": f"Bearer {without}"})
    problem(refused, 403)


def test_a_job_may_only_use_modules_of_its_code_archive(
    serve: Serve, ledger: Ledger, open_to_code: Settings, tmp_path: Path
):
    jobs = ServiceJobs(serve(settings=open_to_code))
    folder = tmp_path / "code"
    (folder / "package").mkdir(parents=True)
    (folder / "package" / "__init__.py").write_text("")
    (folder / "mine.py").write_text("def train(context): ...")
    (folder / ".secret").write_text("x")
    made = [jobs.submit(JobFile(JOB), code=folder).id for _ in range(2)]
    codes = {ledger.jobs.get(job).code for job in made}
    assert len(codes) == 1  # the same files are one archive
    (digest,) = codes
    unpacked = code_archive.unpack(ledger.archives.get(str(digest)), tmp_path / "there")
    found = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    assert found == {"mine.py", "package/__init__.py"}
    for task in ("other:train", "os:system"):
        with pytest.raises(InputError, match="may not import"):
            jobs.submit(JobFile({**JOB, "task": task}), code=folder)
    command = {key: value for key, value in JOB.items() if key not in ("task", "arguments")}
    made_of_command = jobs.submit(JobFile({**command, "command": "python mine.py"}), code=folder)
    assert ledger.jobs.get(made_of_command.id).spec["command"] == "python mine.py"
    jobs.close()


@pytest.mark.parametrize(
    ("archive", "says"),
    [
        (b"not a zip", "not a readable zip"),
        (zipped(**{"mine.py": "x = 1"})[:-9], "not a readable zip"),
        (
            zipped(**{"mine.py": "x = 1\n" * 99}).replace(b"x = 1\nx = 1", b"y = 1\nx = 1", 1),
            "not a readable zip|damaged",
        ),
        (zipped(**{"../mine.py": ""}), "unsafe entry"),
        (zipped(**{"/etc/mine.py": ""}), "unsafe entry"),
        (zipped(**{"a/../../mine.py": ""}), "unsafe entry"),
    ],
)
def test_a_code_archive_is_checked_before_it_is_stored(
    serve: Serve, open_to_code: Settings, archive: bytes, says: str
):
    assert re.search(says, problem(send(serve(settings=open_to_code), archive), 422)["detail"])


def test_links_and_zip_bombs_are_refused(serve: Serve, open_to_code: Settings):
    address = serve(settings=open_to_code)
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        link = zipfile.ZipInfo("mine.py")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    assert "unsafe entry" in problem(send(address, written.getvalue()), 422)["detail"]
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mine.py", b"0" * (65 * 2**20))
    assert len(bomb.getvalue()) < 2**20
    assert "64 MiB" in problem(send(address, bomb.getvalue()), 422)["detail"]
    assert "8388608 bytes" in problem(send(address, b"0" * (8 * 2**20 + 1)), 413)["detail"]


def test_code_beyond_the_quota_is_refused(serve: Serve, ledger: Ledger, open_to_code: Settings):
    address = serve(settings=open_to_code.model_copy(update={"code_quota": 0}))
    refused = problem(send(address, zipped(**{"mine.py": ""})), 507)
    assert "anon-tune delete JOB" in refused["detail"]
    assert refused["type"] == "urn:anon-tune:QuotaError"
    assert ledger.archives.size() == 0


def test_a_wrong_code_digest_is_refused(serve: Serve, open_to_code: Settings):
    address = serve(settings=open_to_code)
    assert "SHA-256" in problem(send(address, zipped(**{"mine.py": ""}), "0" * 64), 422)["detail"]
    problem(send(address, zipped(**{"mine.py": ""}), "../x"), 404)
    body: dict[str, Any] = {"spec": JOB, "code": "0" * 64}
    assert "no code" in problem(httpx2.post(f"{address}/api/v1/jobs", json=body), 404)["detail"]
