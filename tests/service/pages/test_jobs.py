"""The list of jobs in a browser."""

from __future__ import annotations

import dataclasses
import re

import pytest
from playwright.sync_api import Page, expect

from anon_tune.ledger import Ledger
from anon_tune.records import JobState, Role
from anon_tune.spec import parse_spec
from tests.browsers import screenshot
from tests.ledger.test_workers import NEW
from tests.service.conftest import SPEC
from tests.service.pages.conftest import Visit, check_accessible

pytestmark = pytest.mark.slow

PHONE = {"width": 390, "height": 844}


def create(ledger: Ledger, name: str, owner: str | None = None) -> str:
    return ledger.jobs.create(name, parse_spec(SPEC).model_dump(mode="json"), {}, owner=owner).id


def listed(page: Page) -> list[str]:
    return page.locator("#rows a").all_inner_texts()


def test_jobs_are_listed_with_their_answers(visit: Visit, done: str, ledger: Ledger):
    create(ledger, "waiting")
    for name, options in (
        ("jobs", {}),
        ("jobs_dark", {"color_scheme": "dark"}),
        ("jobs_phone", {"viewport": PHONE}),
    ):
        page = visit("/", **options)
        row = page.get_by_role("row").filter(has_text=done)
        expect(row.get_by_text("SUCCEEDED")).to_be_visible()
        expect(row).to_contain_text("0.4")
        expect(page.get_by_text("2 jobs, 1 queued")).to_be_visible()
        check_accessible(page)
        wide = page.evaluate("document.documentElement.scrollWidth > innerWidth")
        assert not wide, "the page itself never scrolls sideways"
        screenshot(page, name)


def test_jobs_are_filtered_and_sorted_in_place(visit: Visit, ledger: Ledger):
    for name, owner in (("beta", "ann"), ("alpha", "ben"), ("gamma ray", "ann")):
        create(ledger, name, owner)
    ledger.jobs.pause(create(ledger, "delta", "ben"))
    page = visit("/")
    assert listed(page) == ["delta", "gamma ray", "alpha", "beta"]
    page.get_by_label("Search", exact=True).press_sequentially("RAY")
    expect(page.locator("#rows tr")).to_have_count(1)
    expect(page.locator("#count")).to_have_text("1 job of 4, 3 queued")
    expect(page).to_have_url(re.compile(r"/\?q=RAY"))
    expect(page.get_by_label("Search", exact=True)).to_be_focused()
    page.get_by_label("Search", exact=True).fill("")
    expect(page.locator("#rows tr")).to_have_count(4)
    page.get_by_label("State").select_option("PAUSED")
    expect(page.locator("#rows tr")).to_have_count(1)
    page.get_by_label("State").select_option("")
    page.get_by_label("Owner").select_option("ann")
    expect(page.locator("#rows tr")).to_have_count(2)
    page.get_by_label("Owner").select_option("")
    expect(page.locator("#rows tr")).to_have_count(4)
    header = page.get_by_role("columnheader", name="Job")
    header.get_by_role("link").focus()
    page.keyboard.press("Enter")
    expect(header).to_have_attribute("aria-sort", "ascending")
    assert listed(page) == ["alpha", "beta", "delta", "gamma ray"]
    expect(header.get_by_role("link")).to_be_focused()
    page.keyboard.press("Enter")
    expect(header).to_have_attribute("aria-sort", "descending")
    page.go_back()
    expect(header).to_have_attribute("aria-sort", "ascending")
    check_accessible(page)


def test_rows_are_live_and_keep_focus_and_ticks(visit: Visit, ledger: Ledger):
    first, second = create(ledger, "first"), create(ledger, "second")
    page = visit("/")
    page.get_by_label(f"Compare first ({first})").check()
    compare = page.get_by_role("button", name="Compare the selected jobs")
    expect(compare).to_be_disabled()
    page.locator(f"#job-{second}").focus()
    ledger.jobs.pause(second)
    create(ledger, "third")
    expect(page.get_by_role("row").filter(has_text=second).get_by_text("PAUSED")).to_be_visible()
    expect(page.get_by_role("link", name="third")).to_be_visible()
    expect(page.locator("#count")).to_have_text("3 jobs, 2 queued")
    expect(page.locator(f"#job-{second}")).to_be_focused()
    expect(page.get_by_label(f"Compare first ({first})")).to_be_checked()
    page.get_by_label(f"Compare second ({second})").focus()
    page.keyboard.press("Space")
    expect(compare).to_be_enabled()
    with page.expect_request("**/compare?**") as asked:
        compare.press("Enter")
    assert asked.value.url.endswith(f"/compare?jobs={second},{first}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_workers_are_seen_and_change_while_the_table_is_open(visit: Visit, ledger: Ledger, scheme: str):
    job = create(ledger, "waiting")
    page = visit("/", color_scheme=scheme)
    line = page.locator("#workers-line")
    expect(line).to_have_text("No worker is running")
    line.click()
    expect(page.get_by_text("Queued jobs wait for a worker.")).to_be_visible()
    holder = "ann@<b>box</b>, process 1"
    ledger.workers.heartbeat(dataclasses.replace(NEW, holder=holder))
    ledger.workers.heartbeat(dataclasses.replace(NEW, id="w2", holder="ben@laptop, process 2", gpus=()))
    ledger.leases.claim(holder, 600.0)
    expect(line).to_have_text("2 workers: 1 idle, 1 busy")
    row = page.get_by_role("region", name="Workers").get_by_role("row").filter(has_text=holder)
    expect(row).to_contain_text("2 H200")
    expect(row.get_by_role("link", name=job)).to_be_visible()
    check_accessible(page)
    screenshot(page, f"workers_{scheme}")


def test_pages_follow_one_another(visit: Visit, ledger: Ledger):
    for number in range(51):
        create(ledger, f"job {number}")
    page = visit("/")
    assert len(listed(page)) == 50
    page.get_by_role("link", name="Next").click()
    expect(page.locator("#rows tr")).to_have_count(1)
    assert listed(page) == ["job 0"]
    expect(page.get_by_text("Page 2 of 2")).to_be_visible()


@pytest.mark.parametrize("role", [Role.READ, Role.SUBMIT])
def test_an_empty_list_says_what_to_do_first(visit: Visit, ledger: Ledger, role: Role):
    page = visit("/", role)
    expect(page.get_by_role("heading", name="No jobs yet")).to_be_visible()
    may = role is Role.SUBMIT
    expect(page.get_by_text("submit examples/digits_cnn.yaml")).to_have_count(int(may))
    expect(page.get_by_role("link", name="New job")).to_have_count(int(may))
    expect(page.get_by_role("link", name="Tokens")).to_have_count(0)
    if may:
        page.get_by_role("button", name="Copy").click()
        expect(page.get_by_role("button", name="Copied")).to_be_visible()
    check_accessible(page)
    screenshot(page, f"jobs_empty_{role}")
    ledger.jobs.pause(create(ledger, "the first"))
    expect(page.get_by_role("link", name="the first")).to_be_visible()
    assert ledger.overviews.jobs()[0].state is JobState.PAUSED
