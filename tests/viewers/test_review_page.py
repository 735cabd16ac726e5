"""The review page in a real Chromium: nothing scrolls sideways, keys and wheel move slices, a rollback asks.

The screenshots are left in `build/review-page/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.server.conftest import Server
from tests.server.review_project import AWFUL, live, reviewed_project

pytestmark = [pytest.mark.viewer, pytest.mark.timeout(900)]
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-dev-shm-usage"]
CASE = f"/review/cases/{quote(AWFUL, safe='')}"
PAGES = {
    "overview": "/review",
    "cases": "/review/cases?status=all",
    "case": CASE,
    "history": "/review/cases/case_00",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with reviewed_project(tmp_path_factory.mktemp("reviewed")) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}; install chromium")
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield found
        found.close()


class Tab:
    """A page of the browser that remembers what went wrong in it."""

    def __init__(self, browser: Any, server: Server, width: int, scheme: str = "light") -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, base_url=server.url
        )
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        self.asked: list[str] = []
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", self._said)
        self.page.on("request", lambda request: self.asked.append(request.url))

    def _said(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.wrong.append(message.text)

    def open(self, path: str) -> Any:
        assert self.page.goto(path).status == 200
        # Pictures further down are loaded when they are scrolled to, and a screenshot shows all at once.
        self.page.evaluate("document.querySelectorAll('img').forEach(i => { i.loading = 'eager'; })")
        self.page.wait_for_load_state("networkidle")
        return self.page

    def shown(self, plane: str) -> int:
        """The slice whose pictures are on the screen."""
        return int(self.page.locator(f".plane[data-plane={plane}]").get_attribute("data-shown") or -1)

    def wait_for(self, plane: str, place: int) -> None:
        self.page.locator(f".plane[data-plane={plane}][data-shown='{place}']").wait_for(timeout=20_000)


@pytest.fixture
def tab(browser: Any, project: Server) -> Iterator[Tab]:
    opened = Tab(browser, project, 1280)
    yield opened
    opened.context.close()
    assert opened.wrong == []
    assert [url for url in opened.asked if not url.startswith((project.url, "data:"))] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_no_page_scrolls_sideways_and_every_picture_is_there(
    browser: Any, project: Server, repository: Path, width: int, scheme: str
) -> None:
    opened = Tab(browser, project, width, scheme)
    folder = repository / "build" / "review-page"
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in PAGES.items():
        page = opened.open(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        broken = "[...document.images].filter(i => !i.hidden && i.naturalWidth === 0).map(i => i.src)"
        assert page.evaluate(broken) == [], name
        page.screenshot(path=str(folder / f"{name}-{width}-{scheme}.png"), full_page=True)
    opened.context.close()
    assert opened.wrong == []


def test_documentation_is_drawn_without_the_internet(tab: Tab, repository: Path) -> None:
    page = tab.open("/")
    page.get_by_text("/rounds/{round_id}/events").wait_for(timeout=60_000)
    page.screenshot(path=str(repository / "build" / "review-page" / "documentation.png"))


def test_keys_move_the_slices_of_the_focused_plane(tab: Tab) -> None:
    page = tab.open(CASE)
    others = {plane: tab.shown(plane) for plane in ("coronal", "sagittal")}
    page.keyboard.press("1")  # axial, the first plane
    assert page.evaluate("document.activeElement.id") == "place-axial"
    page.keyboard.press("Home")
    tab.wait_for("axial", 0)
    page.keyboard.press("ArrowUp")
    tab.wait_for("axial", 1)
    page.keyboard.press("End")
    tab.wait_for("axial", 15)
    assert page.locator(".plane[data-plane=axial] output").inner_text() == "16 / 16"
    assert {plane: tab.shown(plane) for plane in others} == others
    sources = page.eval_on_selector_all(".plane[data-plane=axial] img", "all => all.map(i => i.src)")
    assert len(sources) == 3
    assert all("/axial/15?" in source for source in sources)


def test_every_control_is_reached_by_tab_and_its_focus_is_seen(tab: Tab) -> None:
    page = tab.open(CASE)
    reached = []
    for _ in range(14):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "[document.activeElement.id || document.activeElement.textContent.trim(),"
                " document.activeElement === document.body"  # after the last one
                " || getComputedStyle(document.activeElement).outlineStyle === 'solid']"
            )
        )
    names = [name for name, _ in reached]
    assert names[0] == "Skip to the content"
    assert {"place-axial", "place-coronal", "place-sagittal"} <= set(names)
    assert all(seen for _, seen in reached)


def test_the_wheel_moves_a_plane_and_not_the_page(tab: Tab) -> None:
    page = tab.open(CASE)
    page.locator("#place-coronal").press("Home")
    tab.wait_for("coronal", 0)
    page.locator(".plane[data-plane=coronal] .stage").hover()
    scrolled = page.evaluate("window.scrollY")
    page.mouse.wheel(0, -100)
    tab.wait_for("coronal", 1)
    page.mouse.wheel(0, 100)
    tab.wait_for("coronal", 0)
    assert page.evaluate("window.scrollY") == scrolled


def test_overlays_come_and_go_by_their_boxes_and_keys(tab: Tab) -> None:
    page = tab.open(CASE)
    seen = "layer => [...document.querySelectorAll(`img[data-layer=${layer}]`)].map(i => !i.hidden)"
    assert page.evaluate(seen, "segmentation") == [True] * 3
    page.keyboard.press("m")
    assert page.evaluate(seen, "segmentation") == [False] * 3
    page.get_by_label("model's segmentation").check()
    assert page.evaluate(seen, "segmentation") == [True] * 3
    page.keyboard.press("u")
    assert page.evaluate(seen, "uncertainty") == [False] * 3
    assert page.get_by_label("expert's label").is_disabled()


def test_the_least_sure_slices_are_one_key_away(tab: Tab, project: Server) -> None:
    page = tab.open(CASE)
    profiles = project.get(f"{CASE}/profiles").json()
    page.wait_for_function("document.querySelectorAll('.profile path').length === 3")
    page.locator("#place-axial").focus()
    page.keyboard.press("Home")
    tab.wait_for("axial", 0)
    page.keyboard.press("w")
    for plane, means in profiles.items():
        tab.wait_for(plane, means.index(max(means)))


def test_a_case_that_changed_meanwhile_says_so_instead_of_mixing_two_models(
    browser: Any, project: Server
) -> None:
    opened = Tab(browser, project, 1280)
    page = opened.open("/review/cases/case_03")
    project.post("/review/cases/case_03/draft")
    page.locator("#place-axial").press("Home")
    page.get_by_text("reload the page").wait_for(timeout=20_000)
    assert opened.shown("axial") != 0
    opened.context.close()
    assert all("409" in text for text in opened.wrong)


def test_a_rollback_asks_first_and_happens_once_confirmed(tab: Tab, project: Server) -> None:
    now = live(project)
    page = tab.open("/review")
    page.get_by_role("link", name="Make live").first.press("Enter")
    page.get_by_role("heading", name="live?").wait_for()
    assert live(project) == now
    page.get_by_role("link", name="Cancel").press("Enter")
    page.wait_for_url("**/review#models")
    assert live(project) == now
    page.get_by_role("link", name="Make live").first.press("Enter")
    page.get_by_role("button", name="live").press("Enter")
    page.wait_for_url("**/review#models")
    assert live(project) != now
    project.post(f"/models/{now}/publish")


def test_the_model_looks_at_a_case_on_a_click(tab: Tab) -> None:
    page = tab.open("/review/cases/case_01")
    page.get_by_role("button", name="Let the live model look").press("Enter")
    page.get_by_text("Segmentation and uncertainty by model").wait_for(timeout=60_000)
    assert page.url.endswith("/review/cases/case_01")
