"""The list of jobs in a browser."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.service.pages.conftest import Visit, check_accessible

pytestmark = pytest.mark.slow


def test_jobs_are_listed(visit: Visit, done: str) -> None:
    page = visit("/")
    expect(page.get_by_role("link", name=done)).to_be_visible()
    check_accessible(page)
