"""Charts in a real browser: in the file with all of them, and on a page with a policy that allows no inline code."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from anon_tune.answer import Customary, Interval, Outcome
from anon_tune.dashboards.charts import CHARTS, ChartData, charts_page, figure_json, theme
from anon_tune.dashboards.pages import static_file
from anon_tune.dashboards.pages.rendering import _TEMPLATES as TEMPLATES
from tests.answers import compared, stored
from tests.browsers import PATIENCE, screenshot
from tests.dashboards.charts import jobs

pytestmark = pytest.mark.slow

POLICY = "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:"
"""Content-Security-Policy as strict as that of the service's pages."""

PHONE = {"width": 390, "height": 844}
TEXT = {scheme: theme(dark=scheme == "dark")["layout"]["font"]["color"] for scheme in ("light", "dark")}

Open = Callable[..., Page]


@pytest.fixture
def new_page(browser: Browser) -> Iterator[Open]:
    """Opens pages; errors in the console fail the test."""
    faults: list[str] = []
    contexts: list[BrowserContext] = []

    def open_page(**options: Any) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on(
            "console", lambda said: faults.append(said.text) if said.type in {"error", "warning"} else None
        )
        page.on("pageerror", lambda error: faults.append(str(error)))
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture(scope="module")
def data() -> ChartData:
    verdict = [
        compared("adamw", Outcome.BETTER, difference=-0.09, low=-0.12, high=-0.05),
        compared("adamw", of="optimizer", difference=-0.04, low=-0.2, high=0.1),
    ]
    customary = [Customary(coordinate="beta3", value=0.5, cost=Interval(low=-0.01, middle=0.01, high=0.05))]
    return jobs.data(*jobs.FEW, result=stored(("anon", "adamw"), verdict=verdict, customary=customary))


def see_all(page: Page) -> int:
    """Scroll to each chart, wait until it is drawn, and return their number."""
    places = page.locator(".chart")
    for place in places.all():
        place.scroll_into_view_if_needed()
        expect(place.locator("svg.main-svg").first).to_be_attached()
    return places.count()


def text_colour(page: Page, place: str = ".chart") -> str:
    """The colour of text in a chart that is drawn."""
    return str(page.locator(place).first.evaluate("place => place._fullLayout.font.color"))


@pytest.mark.parametrize(("scheme", "size"), [("light", PHONE), ("dark", {"width": 1100, "height": 800})])
def test_the_file_draws_all_charts_without_a_request(
    new_page: Open, data: ChartData, tmp_path: Path, scheme: str, size: dict[str, int]
):
    file = tmp_path / "charts.html"
    file.write_text(charts_page(data), encoding="utf-8")
    page = new_page(color_scheme=scheme, viewport=size)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    assert see_all(page) == len(CHARTS)
    assert asked == [file.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    assert text_colour(page) == TEXT[scheme]
    found = Axe().run(page).response["violations"]
    assert [each["id"] for each in found if each["impact"] in {"serious", "critical"}] == []
    screenshot(page, f"charts-{scheme}-{size['width']}")


@pytest.mark.parametrize("ours", [True, False], ids=["charts.js", "plotly alone, as in a notebook"])
def test_no_button_sends_the_data_away(new_page: Open, data: ChartData, tmp_path: Path, ours: bool):
    file = tmp_path / "chart.html"
    figure = CHARTS["curves"].draw(data)
    file.write_text(
        charts_page(data) if ours else figure.to_html(config={"displaylogo": False}), encoding="utf-8"
    )
    page = new_page()
    page.goto(file.as_uri())
    expect(page.locator(".modebar-btn").first).to_be_attached()
    labels = page.locator(".js-plotly-plot").first.locator(".modebar-btn").all()
    assert {label.get_attribute("aria-label") for label in labels} == {"Reset axes", "Download plot as a PNG"}


def test_on_a_touch_screen_nothing_covers_the_plot_and_fingers_scroll(
    new_page: Open, data: ChartData, tmp_path: Path
):
    file = tmp_path / "charts.html"
    file.write_text(charts_page(data), encoding="utf-8")
    page = new_page(viewport=PHONE, has_touch=True, is_mobile=True)
    page.goto(file.as_uri())
    expect(page.locator("svg.main-svg").first).to_be_attached()
    assert page.locator(".modebar-btn").count() == 0
    assert page.locator(".chart").first.evaluate("place => place._fullLayout.dragmode") is False


def test_print_is_light_and_has_charts_that_nobody_scrolled_to(
    new_page: Open, data: ChartData, tmp_path: Path
):
    file = tmp_path / "charts.html"
    file.write_text(charts_page(data), encoding="utf-8")
    page = new_page(color_scheme="dark", viewport=PHONE)
    page.goto(file.as_uri())
    expect(page.locator("svg.main-svg").first).to_be_attached()
    assert page.locator(".js-plotly-plot").count() < len(CHARTS)
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator(".js-plotly-plot").count() == len(CHARTS)
    assert text_colour(page) == TEXT["light"]
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert text_colour(page) == TEXT["dark"]


PAGE = """{% from "charts.html" import scripts, chart %}<!doctype html><html lang="en"><head>
<title>x</title><link rel="icon" href="data:,">{{ scripts() }}</head><body>
{% for each in charts %}{{ chart(each, "/jobs/j/charts/" ~ each.name ~ ".json") }}{% endfor %}</body></html>"""


class Site:
    """A site with a page of charts, whose answers the test can change."""

    def __init__(self, data: ChartData, *names: str) -> None:
        self.page = TEMPLATES.from_string(PAGE).render(charts=[CHARTS[name] for name in names])
        self.data: ChartData | None = data
        self.asked: list[str] = []

    def answer(self, route: Route) -> None:
        """Answer a request of the browser."""
        path = urlsplit(route.request.url).path
        name = path.rpartition("/")[2]
        self.asked.append(name)
        if path == "/":
            headers = {"Content-Security-Policy": POLICY}
            route.fulfill(body=self.page, content_type="text/html", headers=headers)
        elif path.startswith("/static/"):
            found = static_file(name)
            assert found is not None
            route.fulfill(body=gzip.decompress(found.content), content_type=found.media_type)
        elif self.data is None:
            route.fulfill(status=204)
        else:
            figure = CHARTS[name.removesuffix(".json")].draw(self.data)
            route.fulfill(body=figure_json(figure), content_type="application/json")

    def open(self, page: Page) -> None:
        """Open the page."""
        page.route("http://charts.test/**", self.answer)
        page.goto("http://charts.test/")


def test_a_page_draws_every_chart_under_a_strict_policy_once_it_is_seen(new_page: Open, data: ChartData):
    site = Site(data, *CHARTS)
    page = new_page(viewport=PHONE)
    site.open(page)
    expect(page.locator("svg.main-svg").first).to_be_attached()
    assert site.asked.count("plotly.min.js") == 1
    assert "timeline.json" not in site.asked, "it is far below"
    assert see_all(page) == len(CHARTS)
    assert all(site.asked.count(f"{name}.json") == 1 for name in CHARTS)
    assert page.get_by_role("group", name="Best so far", exact=True).count() == 1


def test_the_keyboard_chooses_what_is_drawn(new_page: Open, data: ChartData):
    page = new_page()
    Site(data, "best").open(page)
    epochs = page.get_by_role("button", name="epochs")
    epochs.focus()
    page.keyboard.press("Enter")
    expect(epochs).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("button", name="trials")).to_have_attribute("aria-pressed", "false")
    expect(page.locator(".xtitle")).to_have_text("epochs of all trials")
    assert page.locator(".chart").evaluate("place => [...place.data[0].x]") == [2, 4, 9]


def test_charts_follow_the_colours_of_the_system(new_page: Open, data: ChartData):
    page = new_page(color_scheme="light")
    Site(data, "response").open(page)
    see_all(page)
    assert text_colour(page) == TEXT["light"]
    page.emulate_media(color_scheme="dark")
    red, green, blue = (int(TEXT["dark"][place : place + 2], 16) for place in (1, 3, 5))
    expect(page.locator(".xtitle").first).to_have_css("fill", f"rgb({red}, {green}, {blue})")


def test_a_chart_is_loaded_anew_when_the_job_has_changed_and_keeps_the_choice(
    new_page: Open, data: ChartData
):
    page = new_page()
    site = Site(data, "best")
    site.open(page)
    see_all(page)
    page.get_by_role("button", name="epochs").click()
    expect(page.locator(".chart .point")).to_have_count(4)
    more = [jobs.anon(n, 0.4, 0.1 / n, curve=(0.5, 0.1 / n), start=60) for n in (5, 6)]
    site.data = jobs.data(*jobs.FEW, *more)
    page.evaluate("document.body.dispatchEvent(new Event('chart:refresh', {bubbles: true}))")
    expect(page.locator(".chart .point")).to_have_count(5)
    expect(page.locator(".xtitle")).to_have_text("epochs of all trials")
    assert page.locator(".chart").evaluate("place => [...place.data[0].x]") == [2, 4, 11, 13]
    expect(page.get_by_role("button", name="epochs")).to_have_attribute("aria-pressed", "true")
    assert page.get_by_role("button", name="epochs").count() == 1


def test_a_part_of_the_page_that_htmx_exchanges_is_drawn_too(new_page: Open, data: ChartData):
    page = new_page()
    site = Site(data, "verdict")
    site.open(page)
    see_all(page)
    page.evaluate(
        """() => {
            const place = document.querySelector(".chart").cloneNode(false);
            place.dataset.src = "/jobs/j/charts/best.json";
            document.querySelector("figure").replaceChildren(place);
            place.dispatchEvent(new Event("htmx:load", {bubbles: true}));
        }"""
    )
    expect(page.get_by_role("button", name="epochs")).to_be_visible()
    assert see_all(page) == 1


def test_a_chart_that_cannot_be_loaded_says_so(new_page: Open, data: ChartData):
    page = new_page()
    site = Site(data, "best")
    site.data = None
    site.open(page)
    expect(page.locator(".chart .problem")).to_contain_text("Reload the page")
