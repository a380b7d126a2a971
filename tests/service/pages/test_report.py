"""A job as one HTML file: downloaded from a service, and opened from a disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from typer.testing import CliRunner

from anon_tune.cli import app
from anon_tune.dashboards.pages.report import notebook_part
from anon_tune.jobs.figures import pictures_of
from anon_tune.jobs.ledger import LedgerJobs
from anon_tune.ledger import Ledger
from anon_tune.records import Role
from anon_tune.settings import Settings
from tests.browsers import PATIENCE, screenshot
from tests.service.pages.conftest import Visit, check_accessible

pytestmark = pytest.mark.slow

BRIGHT = "el => getComputedStyle(el).fill.match(/\\d+/g).map(Number).reduce((a, b) => a + b)"


@pytest.fixture
def saved(done: str, tmp_path: Path) -> Path:
    path = tmp_path / "job.html"
    result = CliRunner().invoke(app, ["report", done, "-o", str(path)])
    assert result.exit_code == 0, result.output
    return path


def opened(browser: Browser, path: Path, asked: list[str], **options: object) -> Page:
    """Open a file, and note what it asks for and what goes wrong in it."""
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(PATIENCE)
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: asked.append(str(error)))
    page.on("console", lambda said: asked.append(said.text) if said.type == "error" else None)
    page.goto(path.as_uri())
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_saved_report_draws_its_pictures_without_a_network(
    browser: Browser, saved: Path, scheme: str, width: int
) -> None:
    asked: list[str] = []
    page = opened(browser, saved, asked, color_scheme=scheme, viewport={"width": width, "height": 844})
    places = page.locator(".chart")
    expect(page.locator(".chart .main-svg").first).to_be_visible()
    expect(page.locator(".js-plotly-plot")).to_have_count(places.count())
    assert asked == [saved.as_uri()]
    text = page.locator(".chart .xtitle").first.evaluate(BRIGHT)
    assert (text > 382) is (scheme == "dark")
    check_accessible(page)
    screenshot(page, f"report-{scheme}-{width}")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator(".chart .xtitle").first.evaluate(BRIGHT) < 382, "paper is white"
    page.context.close()


def test_a_report_is_read_without_javascript(browser: Browser, saved: Path, done: str) -> None:
    page = opened(browser, saved, [], java_script_enabled=False)
    expect(page.get_by_role("heading", name="The answer")).to_be_visible()
    expect(page.get_by_role("row", name=f"{done}-anon-s002")).to_be_visible()
    expect(page.get_by_text("This picture needs JavaScript").first).to_be_visible()
    page.context.close()


@pytest.mark.parametrize(("text", "is_dark"), [("#111", False), ("#eee", True)])
def test_a_notebook_draws_all_its_figures_with_one_plotly(
    browser: Browser, ledger: Ledger, settings: Settings, done: str, tmp_path: Path, text: str, is_dark: bool
) -> None:
    jobs = LedgerJobs(ledger, settings)
    pictures = pictures_of(jobs, done, ["response"])
    parts = [notebook_part(jobs.job(done), pictures, with_plotly=first) for first in (True, False)]
    ground = "#111" if is_dark else "#fff"
    path = tmp_path / "notebook.html"
    path.write_text(
        f'<!doctype html><meta charset="utf-8"><body style="background: {ground}; color: {text}">{"".join(parts)}'
    )
    asked: list[str] = []
    page = opened(browser, path, asked)
    expect(page.locator(".js-plotly-plot .main-svg .xtitle")).to_have_count(2)
    assert asked == [path.as_uri()]
    assert (page.locator(".xtitle").first.evaluate(BRIGHT) > 382) is is_dark
    screenshot(page, f"notebook-{'dark' if is_dark else 'light'}")
    path.write_text(f'<!doctype html><meta charset="utf-8">{parts[1]}')
    page.reload()
    expect(page.get_by_text("run the notebook from its top")).to_be_visible()
    page.context.close()


def test_a_service_offers_the_report_to_those_who_may_read(visit: Visit, ledger: Ledger, done: str) -> None:
    page = visit("/", Role.READ)
    with page.expect_download() as download:
        page.evaluate(f"location.href = '/jobs/{done}/report.html'")
    assert download.value.suggested_filename == f"{done}.html"
    assert "The answer" in Path(download.value.path()).read_text(encoding="utf-8")
    answer = page.request.get("/jobs/nojob/report.html")
    assert answer.status == 404
