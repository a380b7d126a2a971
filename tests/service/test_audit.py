"""The audit: who did what, by each way; in the action's own transaction, and without secrets."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator

import httpx2
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from anon_tune.cli import app
from anon_tune.errors import DependencyError, TransitionError
from anon_tune.jobs.client import Client
from anon_tune.jobs.interface import Jobs
from anon_tune.ledger import Ledger
from anon_tune.records import LOCAL, Actor, AuditAction, AuditQuery, Channel, JobState, Role
from tests.service.conftest import SPEC, Serve
from tests.service.test_jobs import problem


def entries(ledger: Ledger, **query: str) -> list[tuple[str, str | None, str, str | None]]:
    """Action, owner, way and job of all entries, oldest first."""
    found = ledger.audit.find(AuditQuery(**query))
    return [(each.action.value, each.by.owner, each.by.channel.value, each.job) for each in reversed(found)]


def test_each_way_is_recorded_with_its_user(serve: Serve, ledger: Ledger):
    token, secret = ledger.tokens.create("ann", Role.ADMIN)
    with Client(serve(), secret) as jobs:
        job = jobs.submit(SPEC).id
        jobs.pause(job)
        jobs.extend(job, trials=9)
        made, other = jobs.create_token("zoe", Role.READ, expires="1d")
        jobs.revoke_token(made.id)
        jobs.revoke_token(made.id)  # changes nothing
    with Client() as jobs:
        jobs.resume(job)
    with httpx2.Client(base_url=serve(), headers={"Accept": "text/html"}) as browser:
        browser.post("/sign-in", data={"token": secret})
        csrf = re.search(r'name="csrf" value="([0-9a-f]{64})"', browser.get("/").text)
        assert csrf is not None
        assert browser.post(f"/jobs/{job}/cancel", data={"csrf": csrf[1]}).status_code == 200
        history = browser.get(f"/jobs/{job}/history").text
    assert entries(ledger) == [
        ("create-token", None, "cli", None),
        ("submit", "ann", "service", job),
        ("pause", "ann", "service", job),
        ("extend", "ann", "service", job),
        ("create-token", "ann", "service", None),
        ("revoke-token", "ann", "service", None),
        ("resume", None, "cli", job),
        ("sign-in", "ann", "page", None),
        ("cancel", "ann", "page", job),
    ]
    found = {entry.action: entry for entry in ledger.audit.find(AuditQuery())}
    assert found[AuditAction.CANCEL].by == Actor("ann", token.id, Channel.PAGE)
    assert found[AuditAction.RESUME].by == LOCAL
    assert found[AuditAction.EXTEND].note == "trials 9"
    assert found[AuditAction.REVOKE_TOKEN].subject == made.id
    assert [word in history for word in ("submit", "cancel", "this machine", "sign-in")] == [
        True,
        True,
        True,
        False,
    ]
    assert not any(each in str(found) for each in (secret, other))


def test_what_did_not_happen_is_not_recorded(ledger: Ledger):
    job = ledger.jobs.create("x", {}, {}).id
    ledger.jobs.pause(job)
    with pytest.raises(TransitionError):
        ledger.jobs.pause(job)
    assert entries(ledger) == [("submit", None, "cli", job), ("pause", None, "cli", job)]


def test_an_action_without_its_entry_does_not_happen(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    job = ledger.jobs.create("x", {}, {}).id

    def fail(connection: sa.Connection, clause: object, *_: object) -> None:
        if isinstance(clause, sa.Insert) and clause.table.name == "audit":
            raise sa.exc.OperationalError("", {}, Exception("disk full"))

    sa.event.listen(sa.Engine, "before_execute", fail)
    try:
        for act in (lambda: ledger.jobs.cancel(job), lambda: ledger.tokens.create("ann", Role.ADMIN)):
            with pytest.raises(DependencyError):
                act()
    finally:
        sa.event.remove(sa.Engine, "before_execute", fail)
    assert ledger.jobs.get(job).state is JobState.QUEUED
    assert ledger.tokens.all() == []


@pytest.fixture
def three(ledger: Ledger) -> str:
    """The second of three jobs of two users."""
    return [ledger.jobs.create(f"job {n}", {}, {}, owner="ann" if n else None).id for n in range(3)][1]


def test_it_is_filtered(jobs: Jobs, three: str):
    """On the ledger and on a service."""
    assert [entry.note for entry in jobs.audit()] == ["job 2", "job 1", "job 0"]
    assert [entry.job for entry in jobs.audit(job=three)] == [three]
    assert [entry.note for entry in jobs.audit(owner="ann")] == ["job 2", "job 1"]
    now = datetime.datetime.now(datetime.UTC)
    assert len(list(jobs.audit(since=now - datetime.timedelta(days=1)))) == 3
    assert list(jobs.audit(since=now + datetime.timedelta(days=1))) == []


@pytest.mark.usefixtures("three")
def test_it_comes_in_pages(http: httpx2.Client):
    def pages() -> Iterator[list[str]]:
        after: dict[str, str] = {}
        while True:
            page = http.get("/audit", params={"limit": 2, **after}).json()
            yield [item["note"] for item in page["items"]]
            if page["next"] is None:
                return
            after = {"after": page["next"]}

    assert list(pages()) == [["job 2", "job 1"], ["job 0"]]
    problem(http.get("/audit", params={"since": "2026-12-01T00:00:00"}), 422)


@pytest.mark.usefixtures("unset")
def test_the_command_lists_it(ledger: Ledger, three: str):
    def run(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, ["audit", *arguments])
        assert result.exit_code == code, result.output
        return result.stdout

    assert [line.split()[5] for line in run().splitlines()[-3:]] == ["submit"] * 3
    assert [each["job"] for each in json.loads(run("--json", "--job", three))] == [three]
    assert len(json.loads(run("--json", "--since", "2026-01-01", "--limit", "2"))) == 2
    assert "Nothing was done" in run("--owner", "nobody")
