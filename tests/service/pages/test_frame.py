"""The frame of the pages in a browser: menu, sign-in, messages and errors."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from anon_tune.ledger import Ledger
from anon_tune.records import Role
from tests.browsers import screenshot
from tests.service.pages.conftest import Visit, check_accessible

pytestmark = pytest.mark.slow


def test_signing_in_and_out_by_keyboard(visit: Visit, ledger: Ledger):
    page = visit("/", Role.READ)
    page.get_by_role("button", name="Sign out").press("Enter")
    expect(page.get_by_label("Token")).to_be_focused()
    check_accessible(page)
    screenshot(page, "sign_in")
    _, secret = ledger.tokens.create("zoe", Role.SUBMIT)
    page.keyboard.type(secret)
    page.keyboard.press("Enter")
    expect(page.get_by_text("zoe")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#content")).to_be_focused()


def test_the_api_is_described_without_network(visit: Visit):
    page = visit("/api/v1/docs")
    page.get_by_text("/api/v1/jobs/{job_id}:pause").click()
    expect(page.get_by_text("let its running trials finish").first).to_be_visible()
    check_accessible(page)
    screenshot(page, "api")


def test_a_refused_request_is_shown_beside_the_page(visit: Visit):
    """A request of htmx that fails: its message is announced, and the page stays as it is."""
    page = visit("/")
    heading = page.get_by_role("heading", name="Jobs", exact=True)
    message = page.get_by_role("alert")
    page.evaluate("htmx.ajax('GET', '/rows?sort=wrong', {target: '#content', swap: 'innerHTML'})")
    expect(message).to_contain_text("Invalid request.")
    expect(heading).to_be_visible()
    check_accessible(page)
    screenshot(page, "message")
    page.keyboard.press("Escape")
    expect(message).to_be_empty()
