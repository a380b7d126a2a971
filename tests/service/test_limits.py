"""Limits and strictness of the service: long errors, unusual headers, types, methods, stored answers."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa

from anon_tune.jobs.files import csv_text
from anon_tune.ledger import Ledger
from anon_tune.settings import Settings
from tests.service.conftest import SPEC, Serve


def test_an_error_is_shorter_than_the_request_that_caused_it(http: httpx2.Client):
    for body in ({f"k{n}": 0 for n in range(50_000)}, {"spec": {**SPEC, "task": "x" * 900_000}}):
        answer = http.post("/jobs", json=body)
        assert answer.status_code == 422
        assert len(answer.content) < 30_000
        assert 1 <= len(answer.json()["problems"]) <= 21


def test_an_origin_that_cannot_be_parsed_is_refused_and_not_a_failure(serve: Serve):
    address = serve()
    for headers in ({"Origin": "http://["}, {"Origin": "http://[::1"}):
        assert httpx2.get(f"{address}/api/v1/jobs", headers=headers).status_code == 403


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/jobs", {"spec": SPEC, "priority": True}),
        ("/jobs", {"spec": SPEC, "priority": "9"}),
        ("/jobs/none:extend", {"trials": True}),
        ("/jobs/none:extend", {"trials": "9"}),
        ("/jobs/none:extend", {"time": "9"}),
        ("/tokens", {"owner": "ann", "may_send_code": 0}),
        ("/tokens", {"owner": "ann", "may_send_code": "no"}),
    ],
)
def test_values_of_another_type_are_refused(
    http: httpx2.Client, ledger: Ledger, path: str, body: dict[str, Any]
):
    if path.startswith("/jobs/"):
        path = path.replace("none", http.post("/jobs", json={"spec": SPEC}).json()["id"])
    answer = http.post(path, json=body)
    assert answer.status_code == 422
    assert next(key for key in body if key not in {"spec", "owner"}) in answer.json()["problems"][0]
    assert not ledger.tokens.all()


def test_owners_are_stripped_and_normalized(http: httpx2.Client):
    said = http.post("/tokens", json={"owner": "a\u202eb", "role": "admin"}).json()["detail"]
    assert "U+202E (RIGHT-TO-LEFT OVERRIDE)" in said
    assert http.post("/tokens", json={"owner": " Zoe\u0308 ", "role": "admin"}).json()["owner"] == "Zo\u00eb"


def test_verbs_take_post_alone(http: httpx2.Client):
    job = http.post("/jobs", json={"spec": SPEC}).json()["id"]
    for verb in ("pause", "resume", "cancel", "extend"):
        for method in ("GET", "PUT", "DELETE"):
            answer = http.request(method, f"/jobs/{job}:{verb}")
            assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")


def test_bodies_that_are_no_json_are_documented(http: httpx2.Client):
    paths = http.get("/openapi.json").json()["paths"]
    taking = [
        operation
        for methods in paths.values()
        for operation in methods.values()
        if "application/json" in operation.get("requestBody", {}).get("content", {})
    ]
    assert len(taking) == 5
    assert all("400" in operation["responses"] for operation in taking)
    assert (
        http.post("/jobs", content=b"[" * 100_000, headers={"Content-Type": "application/json"}).status_code
        == 400
    )


DAMAGED = [{"version": 1}, {"version": 2, "gamma": "none"}, {"version": 99, "found": {}}]


@pytest.mark.parametrize("stored", DAMAGED, ids=["old", "damaged", "new"])
def test_an_unreadable_answer_hides_no_other_job(
    http: httpx2.Client, settings: Settings, done: str, stored: dict[str, Any]
):
    with sa.create_engine(settings.ledger_url).begin() as connection:
        connection.execute(sa.text("UPDATE jobs SET result = :it"), {"it": json.dumps(stored)})
    pages = str(http.base_url).removesuffix("/api/v1/")
    assert http.get("/advice", params={"family": "mlp"}).status_code == 200
    assert http.post("/jobs", json={"spec": SPEC}).status_code == 201
    for page in ("/advice?family=mlp", "/submit", "/", f"/submit?from={done}"):
        assert httpx2.get(f"{pages}{page}", follow_redirects=True, timeout=60).status_code == 200
    view = http.get(f"/jobs/{done}").json()
    assert view["result"] is None
    assert view["reason"].startswith("The stored answer of this job cannot be read")
    shown = httpx2.get(f"{pages}/jobs/{done}", timeout=60)
    assert shown.status_code == 200
    assert "The stored answer of this job cannot be read" in shown.text


def test_no_text_of_a_csv_is_a_formula():
    texts = ["=1+1", "+1", "-cmd", "@SUM(A1)", "\t=1", "\r=1", "fine", "a=b"]
    text = "".join(
        csv_text([{"reason": each, "value": -1.5} for each in texts], {"reason": str, "value": float})
    )
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["reason"] for row in rows] == [*(f"'{each}" for each in texts[:5]), "'\n=1", *texts[6:]]
    assert {row["value"] for row in rows} == {"-1.5"}
