"""The page of tokens in a browser, and who may open it."""

from __future__ import annotations

import httpx2
import pytest
from playwright.sync_api import expect

from anon_tune.ledger import Ledger
from anon_tune.records import Role
from anon_tune.service.pages.session import COOKIE
from tests.browsers import screenshot
from tests.service.conftest import Serve
from tests.service.pages.conftest import Visit, check_accessible

PHONE = {"width": 390, "height": 844}


@pytest.mark.parametrize("role", Role)
def test_only_admins_see_tokens(serve: Serve, ledger: Ledger, role: Role):
    token, _ = ledger.tokens.create("me", role)
    other, _ = ledger.tokens.create("other", Role.READ)
    session = ledger.sessions.begin(token.id, 60.0)
    address = serve()
    cookies = {f"{COOKIE}_{address.rpartition(':')[2]}": session}
    with httpx2.Client(base_url=address, cookies=cookies, headers={"Accept": "text/html"}) as http:
        assert http.get("/tokens").status_code == (200 if role is Role.ADMIN else 403)
        for path in ("/tokens", f"/tokens/{other.id}/revoke"):
            assert http.post(path, data={"owner": "x", "csrf": "0" * 64}).status_code == 403
    assert [token.revoked for token in ledger.tokens.all()] == [None, None]


@pytest.mark.slow
def test_a_token_is_created_shown_once_and_revoked(visit: Visit, ledger: Ledger):
    page = visit("/tokens")
    expect(page.get_by_role("row", name="yours")).to_be_visible()
    check_accessible(page)
    screenshot(page, "tokens")
    page.get_by_label("Name of the user").press_sequentially("zoe")
    page.get_by_label("Role").select_option("read")
    page.get_by_role("button", name="Create token").press("Enter")
    secret = page.locator("#secret").inner_text()
    token = ledger.tokens.find(secret)
    assert token is not None
    assert (token.owner, token.role, token.may_send_code) == ("zoe", Role.READ, False)
    expect(page.get_by_role("button", name="Copy")).to_be_focused()
    check_accessible(page)
    screenshot(page, "tokens_new")
    page.reload()
    expect(page.get_by_role("row", name="zoe")).to_be_visible()
    assert secret not in page.content()
    assert len(ledger.tokens.all()) == 2, "loading the page again creates no token"
    asked: list[str] = []
    page.once("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    revoke = page.get_by_role("button", name=f"Revoke the token {token.id} of zoe")
    revoke.press("Enter")
    assert "cannot be undone" in asked[0]
    assert ledger.tokens.find(secret) is not None
    page.once("dialog", lambda dialog: dialog.accept())
    revoke.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("of zoe is revoked")
    assert ledger.tokens.find(secret) is None
    page.get_by_label("Name of the user").fill("\u202e")
    page.get_by_role("button", name="Create token").click()
    expect(page.get_by_role("alert")).to_contain_text("is not a valid name")
    expect(page.get_by_label("Name of the user")).to_have_value("\u202e")


@pytest.mark.slow
def test_tokens_on_a_phone_in_the_dark(visit: Visit, ledger: Ledger):
    revoked, _ = ledger.tokens.create("old", Role.SUBMIT, may_send_code=True)
    ledger.tokens.revoke(revoked.id)
    page = visit("/tokens", viewport=PHONE, color_scheme="dark")
    expect(page.get_by_role("row", name="old")).to_contain_text("revoked")
    check_accessible(page)
    assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")
    screenshot(page, "tokens_phone")
