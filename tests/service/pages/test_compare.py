"""The page that compares jobs, in a browser."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from anon_tune.ledger import Ledger
from anon_tune.records import Role
from tests.browsers import screenshot
from tests.service.pages.conftest import Visit, check_accessible
from tests.service.pages.test_job import PHONE, submit

pytestmark = pytest.mark.slow


def test_jobs_stand_side_by_side(visit: Visit, ledger: Ledger, done: str) -> None:
    other = submit(ledger)
    page = visit(f"/compare?jobs={done},{other}", Role.READ)
    gammas = page.get_by_role("region", name="Gamma")
    expect(gammas.get_by_role("row", name=re.compile("recommended gamma 0.40 -"))).to_be_visible()
    expect(page.get_by_role("region", name="Verdicts")).to_contain_text("against adamw")
    expect(page.get_by_role("region", name="Best results")).to_contain_text("anon, fresh seeds")
    differing = page.get_by_role("region", name="Settings that differ")
    expect(differing.get_by_role("row", name="confirm.verdict_seeds 2 10")).to_be_visible()
    expect(differing).not_to_contain_text("budget.trials")
    check_accessible(page)
    screenshot(page, "compare")


def test_jobs_are_added_and_removed_by_keyboard(visit: Visit, ledger: Ledger, done: str) -> None:
    other = submit(ledger)
    page = visit(f"/compare?jobs={done}", viewport=PHONE)
    page.get_by_label("Job to add").fill(other)
    page.keyboard.press("Enter")
    expect(page.get_by_role("columnheader", name=f"digits-mlp ({other})").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    check_accessible(page)
    page.get_by_role("link", name=f"Remove {done}").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text("Settings that differ")).to_have_count(0)
    expect(page.locator(".chosen li")).to_have_count(1)


def test_an_unknown_job_is_named(visit: Visit) -> None:
    page = visit("/compare?jobs=nowhere")
    expect(page.get_by_role("alert").filter(has_text="There is no job nowhere.")).to_be_visible()
    expect(page.get_by_text("No job is chosen.")).to_be_visible()
    check_accessible(page)
