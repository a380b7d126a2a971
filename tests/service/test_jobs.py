"""Jobs over HTTP: submitted once, in pages, with errors that say what to do."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from anon_tune.answer import (
    Answer,
    Comparison,
    Cost,
    Curve,
    Gamma,
    Interval,
    Repeats,
    Search,
    Spent,
    Stopped,
    Winner,
)
from anon_tune.ledger import Ledger
from anon_tune.records import JobState, NewTrial, Phase, TrialState
from anon_tune.search_spaces import load_space
from anon_tune.settings import Settings
from tests.service.conftest import SPEC, Serve


def spec(**keys: Any) -> dict[str, Any]:
    return {"spec": {**SPEC, **keys}}


def problem(answer: httpx2.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert found["status"] == status
    assert found["detail"]
    return found


def test_a_job_is_queued_as_the_command_line_queues_it(http: httpx2.Client, ledger: Ledger):
    answer = http.post("/jobs", json={**spec(), "priority": 3})
    assert answer.status_code == 201
    (job,) = ledger.overviews.jobs()
    assert answer.json()["id"] == job.id
    assert answer.headers["location"] == f"/api/v1/jobs/{job.id}"
    assert (job.state, job.priority, job.owner) == (JobState.QUEUED, 3, None)
    assert job.spec["folder"] is None
    assert set(ledger.jobs.spaces(job.id)) == {"anon", "adamw", "sgd"}
    assert http.get(f"/jobs/{job.id}").json()["spec"] == job.spec


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"budgt": {}}, "budgt: unknown key 'budgt'; did you mean 'budget'?"),
        ({"model": "cnm"}, "unknown model of image_classification 'cnm'"),
        (
            {"task": "os:system", "data": None, "model": None},
            "task: os:system is of a module that this service may not import",
        ),
        ({"model": "acme:make"}, "model: acme:make is of a module"),
        ({"model": "acme.trainings:make"}, "model: acme.trainings:make is of a module"),
        ({"data": "subprocess:run"}, "data: subprocess:run is of a module"),
        (
            {"data": {"name": "idx", "folder": "../home"}},
            "no folder '../home' in this service's data folder",
        ),
        ({"data": {"name": "idx", "folder": "/etc"}}, "no folder '/etc' in this service's data folder"),
        ({"data": {"name": "idx", "folder": "~"}}, "no folder '~' in this service's data folder"),
        (
            {"data": {"name": "idx", "folder": "a\0b"}},
            "spec.data.folder: contains characters that cannot be stored",
        ),
        ({"data": {"name": "idx", "folder": "x" * 9000}}, "in this service's data folder"),
        ({"folder": "/tmp"}, "folder: is for job files"),
        (
            {"task": "command", "command": "rm -rf /", "data": None, "model": None},
            "command: needs its code; send it with `anon-tune submit JOB.yaml --with-code FOLDER`",
        ),
        ({"space": "/etc/passwd.yaml"}, "send your own file in `spaces`"),
        ({"space": "../../x"}, "space: unknown space '../../x'"),
        ({"arms": ["anon", "muon.yaml"]}, "send your own file in `spaces`"),
    ],
)
def test_disallowed_names_in_a_job_are_refused_by_key(http: httpx2.Client, keys: dict[str, Any], says: str):
    found = problem(http.post("/jobs", json=spec(**keys)), 422)
    assert says in found["detail"]
    assert found["type"] == "urn:anon-tune:SpecError"
    assert any(says in line for line in found["problems"])
    assert http.get("/jobs").json()["items"] == []


def test_a_link_does_not_lead_out_of_the_folder_of_data(http: httpx2.Client, settings: Settings):
    assert settings.data is not None
    (settings.data / "link").symlink_to("/etc")
    (settings.data / "inside").mkdir()
    (settings.data / "fine").symlink_to(settings.data / "inside")
    refused = http.post("/jobs", json=spec(data={"name": "idx", "folder": "link"}))
    assert "no folder 'link'" in problem(refused, 422)["detail"]
    taken = http.post("/jobs", json=spec(data={"name": "idx", "folder": "fine"}))
    assert taken.status_code == 201
    stored = http.get(taken.headers["location"].removeprefix("/api/v1")).json()["spec"]
    assert stored["data"]["options"]["folder"] == str((settings.data / "inside").resolve())


def test_functions_of_modules_that_are_allowed_are_taken(http: httpx2.Client, ledger: Ledger):
    for name in ("acme.training:train", "acme.training.deep.down:train", "installed:train"):
        answer = http.post("/jobs", json={"spec": {"name": "x", "task": name, "budget": SPEC["budget"]}})
        assert answer.status_code == 201, answer.text
    assert {job.spec["task"] for job in ledger.overviews.jobs()} == {
        "acme.training:train",
        "acme.training.deep.down:train",
        "installed:train",
    }


def test_search_spaces_go_along(http: httpx2.Client, ledger: Ledger):
    own = load_space("mlp").model_dump(mode="json", exclude_none=True)
    muon = {
        "optimizer": "installed:muon",
        "summary": "Muon",
        "parameters": {"lr": {"low": 0.001, "high": 1, "log": True}},
    }
    body = {
        **spec(space="mine.yaml", arms=["anon", "muon.yaml"]),
        "spaces": {"mine.yaml": own, "muon.yaml": muon},
    }
    assert http.post("/jobs", json=body).status_code == 201, http.post("/jobs", json=body).text
    job = ledger.overviews.jobs()[0]
    assert ledger.jobs.spaces(job.id)["anon"] == load_space("mlp").model_dump(mode="json")
    assert ledger.jobs.spaces(job.id)["muon"]["optimizer"] == "installed:muon"
    body["spaces"]["muon.yaml"]["optimizer"] = "os:system"
    assert "spaces.muon: os:system is of a module" in problem(http.post("/jobs", json=body), 422)["detail"]
    body["spaces"]["muon.yaml"] = {"optimzer": "sgd"}
    assert "spaces.muon.yaml.optimzer: unknown key" in problem(http.post("/jobs", json=body), 422)["detail"]


def test_a_submission_that_is_repeated_makes_one_job(serve: Serve, ledger: Ledger):
    """Also where they come at once, to two instances."""
    addresses = [serve(), serve()]

    def submit(number: int) -> str:
        address = addresses[number % 2]
        headers = {"Idempotency-Key": f"key {number % 5}"}
        body = spec(name=f"job {number % 5}")
        answer = httpx2.post(f"{address}/api/v1/jobs", json=body, headers=headers, timeout=60)
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(submit, range(40)))
    assert len(set(made)) == len(ledger.overviews.jobs()) == 5
    assert all(made[number] == made[number % 5] for number in range(40))


def test_a_key_that_was_used_for_another_job_is_refused(http: httpx2.Client, ledger: Ledger):
    headers = {"Idempotency-Key": "once"}
    first = http.post("/jobs", json=spec(), headers=headers).json()["id"]
    again = http.post("/jobs", json=spec(name="another"), headers=headers)
    assert (
        f"'once' was already used for job {first} with a different request" in problem(again, 422)["detail"]
    )
    assert len(ledger.overviews.jobs()) == 1


def test_jobs_come_in_pages_newest_first(http: httpx2.Client, ledger: Ledger):
    made = [ledger.jobs.create(f"job {number}", _stored(), {}).id for number in range(7)]
    seen, after = [], None
    while True:
        page = http.get("/jobs", params={"limit": 3, **({"after": after} if after else {})}).json()
        seen += [item["id"] for item in page["items"]]
        after = page["next"]
        if after is None:
            break
        ledger.jobs.create("meanwhile", _stored(), {})  # moves no page
    assert [job_id for job_id in seen if job_id in made] == made[::-1]
    assert len(seen) == len(set(seen)) == 7
    assert "no job 'nojob'" in problem(http.get("/jobs", params={"after": "nojob"}), 404)["detail"]
    assert "limit" in problem(http.get("/jobs", params={"limit": 0}), 422)["detail"]


def _stored(**keys: Any) -> dict[str, Any]:
    from anon_tune.spec import parse_spec

    return parse_spec({**SPEC, **keys}).model_dump(mode="json")


@pytest.fixture
def searched(ledger: Ledger) -> str:
    """A job with ten trials of Anon, of which the seventh is the best, and one rerun."""
    job = ledger.jobs.create("searched", _stored(), {}).id
    lease = ledger.leases.acquire(job, "me", 60.0)
    for number in range(10):
        params = {"gamma": number / 10}
        trial = ledger.trials.add(
            lease, NewTrial("anon", Phase.SEARCH, number, number, params, {"gamma": number / 10})
        )
        ledger.attempts.start(lease, trial.id)
        for step in (1, 2):
            ledger.trials.report(lease, trial.id, 1, step, 1.0, {"epoch_seconds": 0.5})
        if number == 9:
            ledger.trials.finish(lease, trial.id, TrialState.FAILED, reason="no data", log="line 1\nline 2")
        else:
            ledger.trials.finish(lease, trial.id, TrialState.COMPLETE, abs(number - 6.0))
    rerun = NewTrial("anon", Phase.CONFIRM, 0, 100, {"gamma": 0.6}, {"gamma": 0.6}, f"{job}-anon-s006")
    ledger.trials.add(lease, rerun)
    return job


def test_a_job_is_summed_up(http: httpx2.Client, searched: str):
    arm = http.get(f"/jobs/{searched}").json()["arms"]["anon"]
    assert arm["trials"] == {"COMPLETE": 9, "FAILED": 1}
    assert arm["reruns"] == {"WAITING": 1}
    assert arm["best"] == {"trial": f"{searched}-anon-s006", "value": 0.0, "params": {"gamma": 0.6}}
    assert (arm["epochs"], arm["seconds"]) == (20, 10.0)
    assert http.get(f"/jobs/{searched}/best").json() == {"anon": arm["best"], "adamw": None, "sgd": None}


def test_trials_come_in_pages_in_the_order_in_which_they_were_made(
    http: httpx2.Client, searched: str, ledger: Ledger
):
    seen, query = [], {"limit": 4}
    while True:
        page = http.get(f"/jobs/{searched}/trials", params=query).json()
        seen += page["items"]
        if page["next"] is None:
            break
        query["after"] = page["next"]
    assert [item["id"] for item in seen] == [
        trial.id for trial in ledger.jobs.get(searched, trials=True).trials
    ]
    assert [item["steps"] for item in seen] == [2] * 10 + [0]
    wrong = http.get(f"/jobs/{searched}/trials", params={"after": "other-anon-s000"})
    assert "has no trial" in problem(wrong, 404)["detail"]


def test_logs_show_failed_attempts_and_new_lines(http: httpx2.Client, searched: str, settings: Settings):
    (attempt,) = http.get(f"/jobs/{searched}/logs").json()["attempts"]
    assert (attempt["trial"], attempt["reason"], attempt["log"]) == (
        f"{searched}-anon-s009",
        "no data",
        "line 1\nline 2",
    )
    log = settings.job_folder(searched) / "job.log"
    log.parent.mkdir(parents=True)
    log.write_text("".join(f"line {number}\n" for number in range(70)))
    found = http.get(f"/jobs/{searched}/logs").json()
    assert (found["job_log"][0], len(found["job_log"]), found["lines"]) == ("line 20", 50, 70)
    with log.open("a") as more:
        more.write("new\n")
    assert http.get(f"/jobs/{searched}/logs", params={"since": found["lines"]}).json()["job_log"] == ["new"]


def test_pause_resume_cancel_and_extend(http: httpx2.Client):
    job = http.post("/jobs", json=spec()).json()["id"]
    assert http.post(f"/jobs/{job}:pause").json() == {"id": job, "state": "PAUSED", "requested": None}
    assert "nothing to pause" in problem(http.post(f"/jobs/{job}:pause"), 409)["detail"]
    assert http.post(f"/jobs/{job}:resume").json()["state"] == "QUEUED"
    assert http.post(f"/jobs/{job}:extend", json={"trials": 6}).json()["state"] == "QUEUED"
    assert http.get(f"/jobs/{job}").json()["arms"]["sgd"]["budget"] == 6
    assert "a larger number" in problem(http.post(f"/jobs/{job}:extend", json={"trials": 6}), 409)["detail"]
    early = problem(http.post(f"/jobs/{job}:extend", json={"seeds": 30}), 409)
    assert "has not reached its verdict" in early["detail"]
    many = problem(http.post(f"/jobs/{job}:extend", json={"seeds": 10_000_000}), 422)
    assert "at most 1000" in many["detail"]
    assert "trials, time or seeds" in problem(http.post(f"/jobs/{job}:extend", json={}), 422)["detail"]
    assert http.post(f"/jobs/{job}:cancel").json()["state"] == "CANCELLED"
    problem(http.post(f"/jobs/{job}:resume"), 409)
    assert "has no result yet" in problem(http.get(f"/jobs/{job}/export"), 409)["detail"]
    for path in (
        "/jobs/nojob",
        "/jobs/nojob/trials",
        "/jobs/nojob/logs",
        "/jobs/nojob/events",
        "/jobs/nojob/best",
    ):
        assert "no job 'nojob'" in problem(http.get(path), 404)["detail"]


def test_a_watcher_sees_each_change_and_the_end(http: httpx2.Client, ledger: Ledger):
    job = ledger.jobs.create("watched", _stored(), {}).id
    states = []
    with http.sse(f"/jobs/{job}/events") as source:
        for event in source:
            seen = json.loads(event.data)
            states.append((seen["state"], seen["phase"]))
            match len(states):
                case 1:
                    lease = ledger.leases.acquire(job, "me", 60.0)
                case 2:
                    ledger.jobs.update(lease, phase=Phase.SEARCH)
                case 3:
                    ledger.leases.release(lease, JobState.FAILED, "no data")
    assert states == [("QUEUED", "probe"), ("RUNNING", "probe"), ("RUNNING", "search"), ("FAILED", "search")]


@pytest.mark.usefixtures("settings")
def test_a_service_that_stops_ends_what_watchers_get(ledger: Ledger):
    """As one that breaks off would be waited for until its time is up."""
    job = ledger.jobs.create("watched", _stored(), {}).id
    command = [sys.executable, "-m", "anon_tune", "serve", "--port", "0"]
    with (
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process,
        httpx2.Client(timeout=60) as http,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(process.kill)
        assert process.stderr is not None
        address = re.fullmatch(r"Serving at (\S+)\n", process.stderr.readline())
        assert address is not None
        assert process.stderr.readline().startswith("It is open: it has no tokens yet")
        with http.sse(f"{address[1]}/api/v1/jobs/{job}/events") as source:
            seen = iter(source)
            assert json.loads(next(seen).data)["state"] == "QUEUED"
            process.terminate()
            assert list(seen) == []
        said = process.stderr.read()
    assert "exceeded" not in said


def test_bodies_are_checked_before_they_are_read(http: httpx2.Client):
    assert "1048576 bytes" in problem(http.post("/jobs", content=b" " * (2**20 + 1)), 413)["detail"]
    unsaid = http.post(
        "/jobs", content=(b" " * 2**16 for _ in range(17)), headers={"content-type": "application/json"}
    )
    problem(unsaid, 413)
    problem(http.post("/jobs", content=b"{", headers={"content-type": "application/json"}), 422)
    problem(
        http.post("/jobs", content=json.dumps(spec()).encode(), headers={"content-type": "text/plain"}), 422
    )
    found = problem(http.post("/jobs", json={**spec(), "prioriti": 1}), 422)
    assert found["problems"] == ["body.prioriti: Extra inputs are not permitted"]
    assert "docs lists all routes" in problem(http.get("/nothing"), 404)["detail"]


def test_method_not_allowed_names_the_allowed_methods(http: httpx2.Client):
    refused = http.patch("/jobs")
    assert problem(refused, 405)["detail"] == "/api/v1/jobs accepts GET, POST."
    assert refused.headers["allow"] == "GET, POST"
    problem(http.put("/jobs"), 405)


def test_nothing_of_a_request_is_read_as_yaml_or_pickle(http: httpx2.Client, tmp_path: Path):
    target = tmp_path / "made"
    text = f"spec: !!python/object/apply:os.mkdir ['{target}']"
    answer = http.post("/jobs", content=text.encode(), headers={"content-type": "application/yaml"})
    problem(answer, 422)
    nested = spec(arguments={"x": yaml.dump({"a": 1})}, name=text)
    problem(http.post("/jobs", json=nested), 422)
    assert not target.exists()


def test_advice_is_given(http: httpx2.Client):
    found = http.get("/advice", params={"family": "cnn"}).json()
    assert found["source"] == "shipped searches"
    assert found["low"] <= found["gamma"] <= found["high"]
    assert found["published"]["source"] == "arXiv 2605.02317"
    model = {"family": "cnn", "parameters": 100, "layers": {"convolution": 2}, "share": {"convolution": 1.0}}
    assert http.post("/advice", json={"architecture": model}).json() == found
    measured = http.post("/advice", json={"architecture": model, "log_mean_sigma": -8.0}).json()
    assert measured["start"]["line"].startswith("Anon(model.parameters(), lr=")
    problem(http.post("/advice", json={"architecture": model, "log_mean_sigma": 1e9}), 422)
    problem(http.post("/advice", json={"architecture": {**model, "family": "cnnn"}}), 422)
    assert "did you mean 'cnn'" in problem(http.get("/advice", params={"family": "cnnn"}), 422)["detail"]


HUGE = 10**400


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (spec(arguments={"x": "\ud800"}), "spec.arguments.x: contains characters that cannot be stored"),
        (spec(arguments={"\ud800": 1}), "spec.arguments: a key contains characters"),
        (spec(name="a\0b"), "spec.name: contains characters that cannot be stored"),
        (spec(data={"name": "digits", "x": HUGE}), "spec.data.x: expected a finite number"),
        (spec(search={"try_first": [{"gamma": HUGE}]}), "spec.search.try_first.0.gamma: expected a finite"),
        ({**spec(), "spaces": {"\ud800.yaml": {}}}, "spaces: a key contains characters"),
        ({**spec(), "spaces": {"adamw": {"optimizer": "sgd"}}}, "spaces.adamw: the job does not use a file"),
        (
            {**spec(), "spaces": {"other.yaml": {"optimizer": "sgd"}}},
            "spaces.other.yaml: the job does not use a file",
        ),
    ],
)
def test_unstorable_values_are_refused_by_key(http: httpx2.Client, body: dict[str, Any], says: str):
    sent = json.dumps(body).encode()
    answer = http.post("/jobs", content=sent, headers={"content-type": "application/json"})
    assert says in problem(answer, 422)["detail"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e400"])
def test_a_number_is_finite(http: httpx2.Client, number: str):
    text = json.dumps(spec(arguments={"x": 123456})).replace("123456", number)
    answer = http.post("/jobs", content=text.encode(), headers={"content-type": "application/json"})
    assert "spec.arguments.x: expected a finite number" in problem(answer, 422)["detail"]


def test_a_space_of_too_many_parts_is_refused_at_once(http: httpx2.Client):
    many = [round(0.001 * number, 3) for number in range(1, 41)]
    space = {
        "optimizer": "anon",
        "summary": "x",
        "parameters": {
            **{name: {"choices": many} for name in ("gamma", "step_size", "beta3")},
            "decay": {"low": 0, "high": 1, "when": dict.fromkeys(("gamma", "step_size", "beta3"), many)},
        },
        "fixed": {"delay": 2},
    }
    body = {**spec(space="many.yaml"), "spaces": {"many.yaml": space}}
    assert "64000 parts; at most 1000 are allowed" in problem(http.post("/jobs", json=body), 422)["detail"]


def test_the_answer_of_a_job_is_typed(http: httpx2.Client):
    """Also what is inside it, down to single numbers."""
    document = http.get("/openapi.json").json()

    def schema(name: str) -> dict[str, Any]:
        return document["components"]["schemas"][name]["properties"]

    def refers(given: dict[str, Any]) -> set[str]:
        """The names of the schemas that a field's schema refers to."""
        return set(re.findall(r"#/components/schemas/(\w+)", json.dumps(given)))

    ok = document["paths"]["/api/v1/jobs/{job_id}"]["get"]["responses"]["200"]
    assert refers(ok) == {"JobView"}
    assert refers(schema("JobView")["result"]) == {"Answer"}
    assert refers(schema("JobView")["verdict"]) == {"Comparison"}
    assert refers(schema("JobView")["probe"]) == {"ProbeView"}
    assert refers(schema("JobView")["architecture"]) == {"Fingerprint"}
    for model in (Answer, Comparison, Gamma, Winner, Repeats, Curve, Cost, Interval, Spent, Stopped, Search):
        assert schema(model.__name__).keys() == model.model_fields.keys()
    assert refers(schema("Answer")["gamma"]) == {"Gamma"}
    assert schema("Gamma")["best"]["anyOf"] == [{"type": "number"}, {"type": "null"}]


def test_an_answer_is_sent_as_it_was_found(http: httpx2.Client, done: str, ledger: Ledger):
    sent = http.get(f"/jobs/{done}").json()
    answer = ledger.jobs.get(done).answer
    assert answer is not None
    assert Answer.model_validate(sent["result"]) == answer
    assert sent["winners"] == {arm: winner.trial for arm, winner in answer.winners.items()}
    assert sent["verdict"] == sent["result"]["verdict"]
    plain = {"family": "mlp", "parameters": 9, "layers": {}, "share": {}, "multiplications": {}}
    assert sent["architecture"] == plain
