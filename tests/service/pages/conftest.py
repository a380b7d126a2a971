"""A browser that is signed in at a service of the test's own, and watches what the pages do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page

from anon_tune.ledger import Ledger
from anon_tune.records import Role
from tests.browsers import PATIENCE
from tests.service.conftest import Serve

Visit = Callable[..., Page]


@pytest.fixture
def visit(browser: Browser, serve: Serve, ledger: Ledger) -> Iterator[Visit]:
    """Opens pages as a new user with a role. Errors in the console and requests to other machines fail the test."""
    faults: list[str] = []
    contexts = []
    address = serve()

    def open_page(path: str = "/", role: Role = Role.ADMIN, **options: object) -> Page:
        owner = f"{role}-{len(contexts)}"
        token, _ = ledger.tokens.create(owner, role)
        context = browser.new_context(base_url=address, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda said: faults.append(said.text) if _is_fault(said) else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "request",
            lambda asked: (
                None
                if asked.url.startswith((address, "data:", "blob:"))
                else faults.append(f"asked for {asked.url}")
            ),
        )
        link = ledger.sessions.link(token.id, 60.0)
        page.goto(f"/sign-in?link={link}&next={path}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


def _is_fault(said: ConsoleMessage) -> bool:
    """Return whether a line of the console is an error; Chromium itself notes each answer that refuses a request."""
    return said.type == "error" and not re.search(r"responded with a status of 4(01|03|04|09|22) ", said.text)


def check_accessible(page: Page) -> None:
    """Fail if axe finds a problem on the page that is serious or critical."""
    found = Axe().run(page)
    serious = [
        f"{each['id']}: {[node['target'] for node in each['nodes']]}"
        for each in found.response["violations"]
        if each["impact"] in {"serious", "critical"}
    ]
    assert serious == []
