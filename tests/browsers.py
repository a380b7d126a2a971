"""A real browser for tests: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

__all__ = ["PATIENCE", "chromium", "screenshot"]

PATIENCE = 120_000.0
"""Milliseconds after which a test gives up; machines may be busy."""

_SCREENSHOTS = os.environ.get("ANON_TUNE_TEST_SCREENSHOTS")  # tests unset such variables


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Start Chromium; it asks for nothing from the network by itself."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs a Chromium browser")
    expect.set_options(timeout=PATIENCE)
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=quiet)
        yield browser
        browser.close()


def screenshot(page: Page, name: str) -> None:
    """Keep a picture of the whole page where ANON_TUNE_TEST_SCREENSHOTS says, for a person to look at."""
    if _SCREENSHOTS:
        Path(_SCREENSHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(Path(_SCREENSHOTS) / f"{name}.png"), full_page=True)
