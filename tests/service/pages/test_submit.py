"""The page that submits a job, over HTTP and in a browser."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Page, expect

from anon_tune.ledger import Ledger
from anon_tune.records import JobState, Role
from anon_tune.spec.starting import starting_text
from tests.browsers import screenshot
from tests.service.conftest import Serve
from tests.service.pages.conftest import Visit, check_accessible

TEXT = starting_text()
OWN = """\
mine.yaml:
  optimizer: sgd
  summary: SGD with a fixed momentum
  parameters: {lr: {low: 0.01, high: 1.0, log: true}}
  fixed: {momentum: 0.9, weight_decay: 0.0}
"""

Post = Callable[..., httpx2.Response]


@pytest.fixture
def client(serve: Serve) -> Iterator[httpx2.Client]:
    """A client of a service that is open to this machine."""
    with httpx2.Client(base_url=serve(), timeout=60) as opened:  # machines may be busy
        yield opened


def sent(text: str = TEXT, **fields: str) -> dict[str, str]:
    return {"yaml": text, "spaces": "", "priority": "0", "key": "k" * 32, **fields}


def problems(response: httpx2.Response) -> str:
    """The list of problems of an answer, without tags."""
    part = response.text.partition('id="outcome"')[2].partition("</section>")[0]
    return " ".join(re.sub(r"<[^>]+>", " ", part).split())


def test_the_form_and_the_job_file_show_the_same_job(client: httpx2.Client):
    page = client.get("/submit?task=diffusion").text
    assert "task: diffusion\n" in page
    assert "<option selected>unet</option>" in page
    assert "What it will cost" in page
    assert "The time is unknown until the first trials" in page


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("budget.trials", "8", "budget: {trials: 8, epochs: 12}   # for each arm"),
        ("model.width", "32", "model: {name: cnn, width: 32}"),
        ("objective.metric", "accuracy", "objective: {metric: accuracy, mode: max}"),
        ("task", "regression", "model: mlp"),
        ("budget.time", "2h", "budget: {trials: 20, epochs: 12, time: 2h}   # for each arm"),
    ],
)
def test_a_field_is_written_to_the_job_file(client: httpx2.Client, field: str, value: str, line: str):
    answer = client.post("/submit/check", data=sent(**{f"shown.{field}": "", f"field.{field}": value}))
    text = answer.text.partition('<textarea id="yaml"')[2].partition("</textarea>")[0]
    assert line in text.splitlines()
    assert "# the same seed, the same answer" in text


def test_an_emptied_field_leaves_the_job_file(client: httpx2.Client):
    answer = client.post("/submit/check", data=sent(**{"shown.search.seed": "0", "field.search.seed": ""}))
    assert "search:" not in answer.text.partition('<textarea id="yaml"')[2].partition("</textarea>")[0]


def test_what_is_written_shows_in_the_form(client: httpx2.Client):
    same = {"shown.budget.trials": "20", "field.budget.trials": "20"}
    answer = client.post("/submit/check", data=sent(TEXT.replace("trials: 20", "trials: 7"), **same)).text
    assert "<textarea" not in answer, "the text that is being written stays"
    assert re.search(r'name="field.budget.trials"[^>]* value="7"', answer)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TEXT.replace("trials: 20", "trials: many"), "budget.trials: input should be a valid integer"),
        (TEXT.replace("model: cnn", "model: cnnn"), "model: unknown model of image_classification 'cnnn'"),
        (TEXT + "wrong: 1\n", "wrong: unknown key 'wrong'"),
        ("a: [1", "line 1, column 6: invalid YAML"),
        ("", "expected keys and values"),
        ("- 1\n", "expected keys and values (name: ..., task: ...), found list"),
        ("a: &a [1]\nb: *a\n", "*a is an alias, which is not accepted here"),
        ("[" * 2000, "invalid YAML (more than 64 levels)"),
        ("name: " + "x" * 9_000, "The job file has 9,006 characters; this page takes 8,192"),
        (TEXT + "folder: /\n", "folder: is for job files only"),
        (
            TEXT.replace("data: digits", "data: {name: idx, folder: ../..}"),
            "no folder '../..' in this service's data",
        ),
        (TEXT + "command: python train.py\n", "a job needs either `task` or `command`"),
        (
            TEXT.replace("name: digits-cnn", 'name: "a\\0b"'),
            "spec.name: contains characters that cannot be stored",
        ),
        (TEXT.replace("space: cnn", "space: mine.yaml"), "send your own file in `spaces`"),
        ("name: 2020-13-45\n", "holds a value that cannot be read"),
    ],
)
def test_problems_are_those_of_the_command_line(client: httpx2.Client, text: str, said: str):
    answer = client.post("/submit/check", data=sent(text))
    assert answer.status_code == 200
    assert said in problems(answer).replace("&#39;", "'")
    refused = client.post("/submit", data=sent(text))
    assert refused.status_code == 422
    assert said in problems(refused).replace("&#39;", "'")


@pytest.mark.parametrize(
    ("spaces", "said"),
    [
        (OWN, "spaces.mine.yaml: the job does not use a file of this name"),
        ("mine.yaml: 3\n", "spaces.mine.yaml: expected keys and values"),
        ("a: [\n", "spaces: line"),
    ],
)
def test_problems_of_own_spaces(client: httpx2.Client, spaces: str, said: str):
    assert said in problems(client.post("/submit/check", data=sent(spaces=spaces)))


@pytest.mark.parametrize("priority", ["x", "1001", "-1001", "1.5", "9" * 5000])
def test_a_priority_is_a_whole_number_in_its_range(client: httpx2.Client, priority: str):
    assert "priority: expected a whole number" in problems(
        client.post("/submit", data=sent(priority=priority))
    )


def test_a_problem_is_beside_its_field(client: httpx2.Client):
    answer = client.post("/submit/check", data=sent(TEXT.replace("trials: 20", "trials: 0"))).text
    beside = answer.partition('id="problem-budget-trials"')[2].partition("</p>")[0]
    assert "input should be greater than or equal to 1" in beside


def test_the_same_job_sent_twice_is_one_job(client: httpx2.Client, ledger: Ledger):
    one, two = (client.post("/submit", data=sent(priority="3")) for _ in range(2))
    assert one.status_code == two.status_code == 303
    assert one.headers["Location"] == two.headers["Location"]
    (job,) = ledger.overviews.jobs()
    assert (one.headers["Location"], job.state, job.priority) == (f"/jobs/{job.id}", JobState.QUEUED, 3)
    other = client.post("/submit", data=sent(TEXT.replace("trials: 20", "trials: 3")))
    assert other.headers["Location"] != one.headers["Location"], (
        "another job from the same page is a job of its own"
    )


def test_a_field_that_was_changed_last_counts(client: httpx2.Client, ledger: Ledger):
    client.post("/submit", data=sent(**{"shown.budget.trials": "20", "field.budget.trials": "5"}))
    (job,) = ledger.overviews.jobs()
    assert job.spec["budget"]["trials"] == 5


def test_a_job_with_its_own_space_is_submitted_and_copied(client: httpx2.Client, ledger: Ledger):
    text = TEXT.replace("arms: [anon, adamw, sgd]", "arms: [anon, mine.yaml]")
    assert client.post("/submit", data=sent(text, spaces=OWN)).status_code == 303
    (job,) = ledger.overviews.jobs()
    assert job.spec["arms"] == ["anon", "mine"]
    page = client.get(f"/submit?from={job.id}").text
    assert f"# Copy of job {job.id}\n" in page
    assert "arms: [anon, mine.yaml]" in page
    assert "summary: SGD with a fixed momentum" in page
    assert "What it will cost" in page


def test_the_time_is_that_of_a_job_which_is_alike(client: httpx2.Client, ledger: Ledger, measured: str):
    said = problems(client.get("/submit"))
    assert f"0.5 s for an epoch, as job {measured} measured" in said
    other = client.post("/submit/check", data=sent(TEXT.replace("batch_size: 64", "batch_size: 32")))
    assert "The time is unknown until the first trials" in problems(other)


@pytest.fixture
def measured(ledger: Ledger, client: httpx2.Client) -> str:
    """A job of the text's model and data, of which the probe was made."""
    job = client.post("/submit", data=sent(key="m")).headers["Location"].removeprefix("/jobs/")
    lease = ledger.leases.acquire(job, "me", 60.0)
    ledger.jobs.update(lease, probe={"log_mean_sigma": -8.0, "seconds_per_step": 0.02, "steps_per_epoch": 25})
    return str(job)


def test_a_copy_of_no_job_is_not_found(client: httpx2.Client):
    assert client.get("/submit?from=nothing").status_code == 404


def test_names_that_the_catalogue_does_not_have_are_left_out(client: httpx2.Client):
    assert "task: image_classification\n" in client.get("/submit?task=x&data=y&model=z&space=..%2F..").text


def test_a_large_body_is_refused(client: httpx2.Client):
    assert client.post("/submit/check", data=sent("x" * 2**20)).status_code == 413


@pytest.mark.slow
def test_a_job_is_written_and_submitted(visit: Visit, ledger: Ledger):
    page = visit("/submit", Role.SUBMIT)
    text = page.get_by_label("Job file")
    expect(text).to_have_value(TEXT)
    check_accessible(page)

    page.get_by_label("trials", exact=True).fill("6")
    page.get_by_label("trials", exact=True).press("Tab")
    expect(text).to_have_value(TEXT.replace("trials: 20", "trials: 6"))
    expect(page.get_by_label("epochs", exact=True)).to_be_focused()
    expect(page.locator("#outcome")).to_contain_text("18")

    page.get_by_label("task").select_option("language_model")
    expect(page.get_by_label("model", exact=True)).to_have_value("gpt")
    expect(text).to_have_value(re.compile("model: gpt"))
    page.get_by_label("sgd").uncheck()
    expect(text).to_have_value(re.compile(re.escape("arms: [anon, adamw] ")))

    now = text.input_value()
    text.fill(now.replace("trials: 6", "trials: 0"))
    expect(page.locator("#problem-budget-trials")).to_contain_text("greater than or equal to 1")
    expect(page.get_by_label("trials", exact=True)).to_have_value("0")
    text.press_sequentially("#")
    expect(text).to_be_focused()
    check_accessible(page)
    screenshot(page, "submit-problem")
    text.fill(now)
    expect(page.locator("#outcome")).to_contain_text("What it will cost")
    page.get_by_role("button", name="Submit job").dblclick(no_wait_after=True)
    expect(page).to_have_url(re.compile("/jobs/[a-z0-9]+$"))
    (job,) = ledger.overviews.jobs()
    assert job.spec["arms"] == ["anon", "adamw"]
    assert job.owner == "submit-0"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("light", {}),
        ("dark", {"color_scheme": "dark"}),
        ("phone", {"viewport": {"width": 390, "height": 844}}),
    ],
)
def test_the_page_fits(visit: Visit, done: str, name: str, options: dict[str, Any]):
    page = visit(f"/submit?from={done}", Role.SUBMIT, **options)
    check_accessible(page)
    fits(page)
    screenshot(page, f"submit-{name}")


def fits(page: Page) -> None:
    """Fail if the page is wider than the window; name what sticks out."""
    wide = page.evaluate(
        """() => document.documentElement.scrollWidth <= window.innerWidth ? [] :
          [...document.querySelectorAll("main *")].filter(e => e.getBoundingClientRect().right > window.innerWidth)
            .map(e => e.outerHTML.slice(0, 80))"""
    )
    assert wide == []


@pytest.mark.slow
def test_a_viewer_is_not_offered_to_submit(visit: Visit):
    page = visit("/", Role.READ)
    expect(page.get_by_role("link", name="Advice")).to_be_visible()
    expect(page.get_by_role("link", name="Submit")).to_have_count(0)
