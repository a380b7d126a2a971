"""The page of a job in a browser: its states, its parts, and requests to it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from anon_tune.errors import DependencyError
from anon_tune.ledger import Lease, Ledger
from anon_tune.records import JobState, NewTrial, Phase, Role, TrialState
from anon_tune.settings import Settings
from anon_tune.spec import parse_spec, spaces_of
from tests.browsers import screenshot
from tests.service.conftest import SPEC, Serve
from tests.service.pages.conftest import Visit, check_accessible

pytestmark = pytest.mark.slow

PHONE = {"width": 390, "height": 844}


def submit(ledger: Ledger, owner: str | None = None) -> str:
    spec = parse_spec(SPEC)
    spaces = {arm: space.model_dump(mode="json") for arm, space in spaces_of(spec).items()}
    return ledger.jobs.create("digits-mlp", spec.model_dump(mode="json"), spaces, owner=owner).id


def train(ledger: Ledger, lease: Lease, number: int, value: float | None, gamma: float = 0.5) -> str:
    """Make a search trial of Anon, which DIVERGED if it has no value."""
    given = {"lr": 0.1, "gamma": gamma, "betas": [0.9, 0.999, 0.5], "delay": 2.0, "weight_decay": 0.01}
    new = NewTrial(
        "anon", Phase.SEARCH, number, number, {"gamma": gamma, "step_size": 0.2, "n": number}, given
    )
    trial = ledger.trials.add(lease, new).id
    ledger.attempts.start(lease, trial)
    for step in (1, 2):
        ledger.trials.report(
            lease, trial, 1, step, (value or 1.0) + 2 - step, {"loss": 1.0, "epoch_seconds": 1.5}
        )
    if value is None:
        ledger.trials.finish(lease, trial, TrialState.DIVERGED, reason="the loss was NaN", log="loss nan")
    else:
        ledger.trials.finish(lease, trial, TrialState.COMPLETE, value)
    return trial


def open_part(page: Page, name: str) -> None:
    summary = page.locator(f"#{name} > summary")
    summary.focus()
    page.keyboard.press("Enter")


def test_the_page_of_a_finished_job_answers_the_question(visit: Visit, done: str) -> None:
    page = visit(f"/jobs/{done}")
    answer = page.locator(".answer")
    expect(answer).to_contain_text("recommended gamma 0.40")
    expect(answer).to_contain_text("Anon with the settings below:")
    expect(answer.get_by_role("heading", name="What to do next")).to_be_visible()
    expect(answer).to_contain_text(f"anon-tune export {done} -o best.yaml")
    expect(page.get_by_role("heading", name="Is Anon worth it?")).to_be_visible()
    expect(page.get_by_role("row", name=re.compile("adamw these settings")).first).to_be_visible()
    expect(page.locator("#job .chart .main-svg").first).to_be_visible()
    check_accessible(page)
    screenshot(page, "job-done")


def test_each_part_opens_by_keyboard(visit: Visit, done: str) -> None:
    page = visit(f"/jobs/{done}")
    open_part(page, "charts")
    places = page.locator("#charts .chart")
    expect(places).not_to_have_count(0)
    for place in places.all():
        place.scroll_into_view_if_needed()
        expect(place.locator(".main-svg").first).to_be_visible()
    open_part(page, "logs")
    expect(page.locator("#logs")).to_contain_text("attempt 1: FAILED (no data)")
    open_part(page, "settings")
    expect(page.locator("#settings pre")).to_contain_text("task: image_classification")
    expect(page.locator("#settings")).to_contain_text("family")
    check_accessible(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(visit: Visit, done: str, scheme: str) -> None:
    page = visit(f"/jobs/{done}", color_scheme=scheme, viewport=PHONE)
    open_part(page, "trials")
    expect(page.locator("#found")).to_contain_text("trials")
    check_accessible(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    screenshot(page, f"job-phone-{scheme}")


def test_numbers_move_without_a_reload(visit: Visit, ledger: Ledger) -> None:
    job = submit(ledger)
    page = visit(f"/jobs/{job}")
    expect(page.get_by_label("Progress", exact=True)).to_contain_text("Waiting: no worker is running")
    page.evaluate("window.sameDocument = true")

    lease = ledger.leases.acquire(job, "worker", 3600.0)
    expect(page.locator("#job .badge").first).to_have_text("RUNNING")
    for number, value in enumerate((0.9, 0.3)):
        train(ledger, lease, number, value)
        progress = page.get_by_label("Progress", exact=True)
        expect(progress).to_contain_text(re.compile(rf"{number + 1}\s+of \d+ trials done"))
        expect(progress.get_by_role("row", name=re.compile("^anon"))).to_contain_text(str(value))
    expect(page.locator("#job .chart .main-svg").first).to_be_visible()
    screenshot(page, "job-running")

    ledger.leases.release(lease, JobState.SUCCEEDED)
    expect(page.locator("#job .badge").first).to_have_text("SUCCEEDED")
    assert page.evaluate("window.sameDocument")
    check_accessible(page)


def test_a_new_part_of_the_page_listens_at_once(visit: Visit, ledger: Ledger) -> None:
    job = submit(ledger)
    lease = ledger.leases.acquire(job, "worker", 3600.0)
    for number in range(3):
        train(ledger, lease, number, float(number), gamma=number / 60)
    page = visit(f"/jobs/{job}")
    open_part(page, "trials")
    expect(page.locator("#found")).to_contain_text("3 trials")
    page.evaluate(
        """() => new MutationObserver((changes, self) => {
            self.disconnect();
            document.getElementById("sort-value").click();
        }).observe(document.getElementById("found").parentElement, {childList: true})"""
    )
    page.get_by_role("button", name="value", exact=True).click()
    expect(page.locator("#found th[aria-sort=descending]")).to_have_text("value")


def test_trials_are_sorted_filtered_and_paged(visit: Visit, ledger: Ledger) -> None:
    job = submit(ledger)
    lease = ledger.leases.acquire(job, "worker", 3600.0)
    for number in range(60):
        train(ledger, lease, number, None if number % 10 == 9 else (number * 7) % 60 / 10, gamma=number / 60)
    page = visit(f"/jobs/{job}")
    open_part(page, "trials")
    found = page.locator("#found")
    expect(found).to_contain_text("60 trials, page 1 of 2")

    values = found.locator("tbody tr:not([hidden]) td:nth-child(5)")
    header = page.get_by_role("button", name="value", exact=True)
    header.focus()
    page.keyboard.press("Enter")
    expect(found.locator("th[aria-sort=ascending]")).to_have_text("value")
    expect(values.first).to_have_text("0")
    page.keyboard.press("Enter")  # the header keeps the focus
    expect(found.locator("th[aria-sort=descending]")).to_have_text("value")
    expect(values.first).to_have_text("5.9")

    page.get_by_role("button", name="Next").focus()
    page.keyboard.press("Enter")
    expect(found).to_contain_text("page 2 of 2")
    expect(values.last).to_have_text("-")  # those without a value come last

    page.get_by_label("State").select_option("DIVERGED")
    expect(found).to_contain_text("6 trials")
    page.get_by_label("Trial or reason contains").fill("s019")
    expect(found).to_contain_text("1 trial")
    page.get_by_label("Trial or reason contains").fill("nothing like it")
    expect(found).to_contain_text("Choose other filters")
    check_accessible(page)


def test_a_trial_opens_in_its_row_and_as_a_page(visit: Visit, ledger: Ledger) -> None:
    job = submit(ledger)
    trial = train(ledger, ledger.leases.acquire(job, "worker", 3600.0), 0, None)
    page = visit(f"/jobs/{job}")
    open_part(page, "trials")
    button = page.get_by_role("button", name="anon-s000")
    button.focus()
    page.keyboard.press("Enter")
    opened = page.locator("#trial-1")
    expect(opened).to_contain_text("the loss was NaN")
    expect(opened.get_by_role("img", name=re.compile("Learning curve"))).to_be_visible()
    expect(button).to_have_attribute("aria-expanded", "true")
    check_accessible(page)
    page.keyboard.press("Enter")
    expect(opened).to_be_hidden()
    expect(button).to_have_attribute("aria-expanded", "false")

    page.goto(f"/jobs/{job}/trials/{trial}")
    expect(page.get_by_role("heading", name=trial)).to_be_visible()
    check_accessible(page)


def test_pause_resume_cancel_by_keyboard(visit: Visit, ledger: Ledger) -> None:
    job = submit(ledger)
    page = visit(f"/jobs/{job}")
    state = page.locator("#job .badge").first
    for button, after in (("Pause", "PAUSED"), ("Resume", "QUEUED")):
        page.get_by_role("button", name=button).focus()
        page.keyboard.press("Enter")
        expect(state).to_have_text(after)

    page.once("dialog", lambda dialog: dialog.dismiss())
    page.get_by_role("button", name="Cancel").focus()
    page.keyboard.press("Enter")
    assert ledger.jobs.get(job).state is JobState.QUEUED
    page.once("dialog", lambda dialog: dialog.accept())
    page.keyboard.press("Enter")
    expect(state).to_have_text("CANCELLED")
    expect(page.get_by_role("button", name="Resume")).to_have_count(0)


def test_a_running_job_is_asked_to_pause(visit: Visit, ledger: Ledger) -> None:
    job = submit(ledger)
    ledger.leases.acquire(job, "worker", 3600.0)
    page = visit(f"/jobs/{job}")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator(".hint")).to_contain_text(
        "Pause requested; the worker will act on it within seconds."
    )
    expect(page.get_by_role("button", name="Pause")).to_have_count(0)


def test_a_refused_request_is_explained_in_place(visit: Visit, ledger: Ledger) -> None:
    job = submit(ledger)
    page = visit(f"/jobs/{job}")
    extend = page.locator("#extend")
    extend.locator("summary").focus()
    page.keyboard.press("Enter")
    page.get_by_label("Trials per arm").fill("2")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert").filter(has_text="4")).to_be_visible()
    for field, text, problem in (
        ("Trials per arm", "many", "trials: Input should be a valid integer"),
        ("Time of work", "soon", "expected a duration from 0.001 s"),
    ):
        page.get_by_label(field).fill(text)
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert").filter(has_text=problem)).to_be_visible()
        expect(page.get_by_label(field)).to_have_value(text)
        page.get_by_label(field).fill("")
    check_accessible(page)

    page.get_by_label("Trials per arm").fill("9")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Trials per arm, now 9")).to_have_count(1)
    assert ledger.jobs.get(job).spec["budget"]["trials"] == 9


def test_export_is_ready_to_copy_and_to_download(visit: Visit, done: str) -> None:
    page = visit(f"/jobs/{done}")
    page.locator("#export > summary").focus()
    page.keyboard.press("Enter")
    snippet = page.locator("#snippet")
    expect(snippet.locator("code")).to_contain_text("Anon(")
    page.get_by_label("Form").select_option("yaml")
    expect(snippet.locator("code")).to_contain_text("optimizer: anon")
    page.get_by_label("Arm", exact=True).select_option("sgd")
    expect(snippet.locator("code")).to_contain_text("optimizer: sgd")
    expect(snippet.get_by_role("button", name="Copy")).to_be_visible()
    with page.expect_download() as started:
        snippet.get_by_role("link", name="Download best.yaml").click()
    text = Path(started.value.path()).read_text(encoding="utf-8")
    assert "optimizer: sgd" in text
    check_accessible(page)


def test_a_failed_job_shows_the_failure_first(visit: Visit, ledger: Ledger, settings: Settings) -> None:
    job = submit(ledger)
    lease = ledger.leases.acquire(job, "worker", 3600.0)
    ledger.leases.release(lease, JobState.FAILED, reason="the first 3 trials failed: <no data>")
    folder = settings.job_folder(job)
    folder.mkdir(parents=True)
    (folder / "job.log").write_text("line one\nno such file\n", encoding="utf-8")
    page = visit(f"/jobs/{job}")
    failure = page.locator("#job > .heading + *")
    expect(failure).to_contain_text("the first 3 trials failed: <no data>")
    expect(failure).to_contain_text("Fix the cause")
    expect(failure.locator("pre")).to_contain_text("no such file")
    check_accessible(page)
    screenshot(page, "job-failed")


def test_a_viewer_is_offered_nothing_that_they_may_not_do(visit: Visit, ledger: Ledger, done: str) -> None:
    page = visit(f"/jobs/{done}", Role.READ)
    expect(page.locator("#export > summary")).to_be_visible()
    for name in ("Pause", "Resume", "Cancel"):
        expect(page.get_by_role("button", name=name)).to_have_count(0)
    expect(page.locator("#extend")).to_have_count(0)
    page.goto(f"/jobs/{submit(ledger, owner='ann')}")
    expect(page.locator("#job .badge").first).to_have_text("QUEUED")
    for name in ("Pause", "Resume", "Cancel"):
        expect(page.get_by_role("button", name=name)).to_have_count(0)
    check_accessible(page)


def test_the_command_for_mlflow_is_shown_where_it_is_only_a_database(
    visit: Visit, ledger: Ledger, done: str
) -> None:
    ledger.projections.set(done, done, "0123456789abcdef")
    page = visit(f"/jobs/{done}")
    page.locator("summary", has_text="MLflow").click()
    expect(page.get_by_text("mlflow ui --backend-store-uri sqlite:")).to_be_visible()


def test_a_page_leads_to_signing_in_once_its_session_has_ended(visit: Visit, ledger: Ledger) -> None:
    job = submit(ledger)
    lease = ledger.leases.acquire(job, "worker", 3600.0)
    page = visit(f"/jobs/{job}")
    train(ledger, lease, 0, 0.9)
    expect(page.get_by_label("Progress", exact=True)).to_contain_text("0.9")
    for token in ledger.tokens.all():
        ledger.tokens.revoke(token.id)
    expect(page).to_have_url(re.compile(f"/sign-in.next=/jobs/{job}$"))


def test_a_page_says_that_the_service_does_not_answer_and_goes_on(
    browser: Browser, serve: Serve, ledger: Ledger
) -> None:
    job = submit(ledger)
    page = browser.new_page(base_url=serve())
    for part in ("live", "content"):
        page.route(re.compile(f"/{part}"), lambda route: route.abort())
    page.goto(f"/jobs/{job}")
    expect(page.locator("#messages")).to_contain_text("The service does not answer.")

    page.unroute_all()
    expect(page.locator("#messages")).to_be_empty()
    ledger.leases.acquire(job, "worker", 3600.0)
    expect(page.locator("#job .badge").first).to_have_text("RUNNING")
    page.close()


def test_a_page_goes_on_once_the_database_is_back(
    browser: Browser, serve: Serve, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(ledger)
    page = browser.new_page(base_url=serve())
    page.goto(f"/jobs/{job}")
    expect(page.locator("#job .badge").first).to_have_text("QUEUED")

    def unavailable(job_id: str) -> None:
        raise DependencyError("no database")

    with monkeypatch.context() as away:
        for name, method in ((ledger.overviews, "job"), (ledger.jobs, "get")):
            away.setattr(name, method, unavailable)
        expect(page.locator("#messages")).to_contain_text("cannot use something that it needs")
    expect(page.locator("#messages")).to_have_text("")
    ledger.leases.acquire(job, "worker", 3600.0)
    expect(page.locator("#job .badge").first).to_have_text("RUNNING")
    page.close()
