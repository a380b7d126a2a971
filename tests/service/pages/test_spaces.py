"""The page of search spaces and tasks, over HTTP and in a browser."""

from __future__ import annotations

import html
import re
from typing import Any

import httpx2
import pytest
from playwright.sync_api import expect

from anon_tune import catalogue
from anon_tune.documents import load_yaml
from anon_tune.records import Role
from anon_tune.search_spaces import space_names, space_text
from tests.browsers import screenshot
from tests.service.pages.conftest import Visit, check_accessible
from tests.service.pages.test_submit import client, fits, problems

__all__ = ["client"]


def test_everything_that_a_job_may_name_is_there(client: httpx2.Client):
    page = html.unescape(client.get("/spaces").text)
    for name in space_names():
        assert f'id="space-{name}"' in page
        assert space_text(name) in page
    for task in catalogue.TASKS:
        assert f'id="task-{task}"' in page
    copied = [load_yaml(text) for text in re.findall(r'<div class="copy"><code>(.*?)</code>', page)]
    named = {
        str(value["name"] if isinstance(value, dict) else value) for each in copied for value in each.values()
    }
    assert named >= {*catalogue.DATASETS, *catalogue.MODELS}


def test_each_link_leads_to_a_job_without_problems(client: httpx2.Client):
    links = sorted(set(re.findall(r'href="(/submit\?[^"]+)"', client.get("/spaces").text)))
    assert len(links) > len(catalogue.DATASETS)
    for link in links:
        page = client.get(html.unescape(link))
        lacks_files = "in this service" in problems(page)  # of data that is not here
        assert lacks_files or "What it will cost" in page.text, link


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("light", {}),
        ("dark", {"color_scheme": "dark"}),
        ("phone", {"viewport": {"width": 390, "height": 844}}),
    ],
)
def test_spaces_fit(visit: Visit, name: str, options: dict[str, Any]):
    page = visit("/spaces", Role.SUBMIT, **options)
    check_accessible(page)
    fits(page)
    screenshot(page, f"spaces-{name}")
    page.get_by_role("link", name="Use in a job: vit_tiny").press("Enter")
    expect(page.get_by_label("Job file")).to_have_value(re.compile("model: vit_tiny\nspace: transformer"))


@pytest.mark.slow
def test_a_viewer_sees_spaces_and_no_links_to_submit(visit: Visit):
    page = visit("/spaces", Role.READ)
    expect(page.get_by_role("heading", name="transformer")).to_be_visible()
    expect(page.locator('a[href^="/submit"]')).to_have_count(0)
