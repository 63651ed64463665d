"""The pages in a real browser: axe-core finds nothing, nothing overflows, nothing is fetched, and paper loses nothing.

Needs Chromium (Debian's package `chromium`); `.ci/run` installs it and sets FEDGAN_REQUIRE_BROWSER.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.base import AXE_FILE_PATH
from playwright.sync_api import Browser, Error, Page, expect, sync_playwright

from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.xdist_group("browser")

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
WIDTHS = {"wide": 1280, "narrow": 360}
PATIENCE = 1000 * HANG_SECONDS
"""In milliseconds, as Playwright counts."""
CONTRAST = """() => {
  const parts = color => color.match(/[0-9.]+/g).slice(0, 3).map(Number);
  const light = color => parts(color).map(one => one / 255)
    .map(one => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4)
    .reduce((sum, one, index) => sum + one * [0.2126, 0.7152, 0.0722][index], 0);
  return [...document.querySelectorAll('.chart text')].map(one => {
    const ground = light(getComputedStyle(one.closest('.card')).backgroundColor);
    const ink = light(getComputedStyle(one).fill);
    return [(Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05), one.outerHTML];
  }).filter(([ratio]) => ratio < 4.5);
}"""
"""The letters of a chart with a contrast below 4.5 (WCAG 2.2, 1.4.3): axe-core does not look inside a drawing."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    place = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if place is None:
        if os.environ.get("FEDGAN_REQUIRE_BROWSER"):
            pytest.fail("FEDGAN_REQUIRE_BROWSER is set and there is no Chromium: install the package `chromium`")
        pytest.skip("there is no Chromium on this machine; CI checks the pages in one")
    with sync_playwright() as playwright:
        try:
            opened = playwright.chromium.launch(executable_path=place, args=list(FLAGS), timeout=PATIENCE)
        except Error as error:
            if os.environ.get("FEDGAN_REQUIRE_BROWSER"):
                raise
            pytest.skip(f"{place} does not start here: {str(error).splitlines()[0]}")
        yield opened
        opened.close()


Show = Callable[..., Page]


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Show]:
    """Open a page (a file, or bytes) with everything that can be unfolded unfolded."""
    contexts = []

    def open_page(page: Path | bytes, width: str = "wide", scheme: Any = "light", unfold: bool = True) -> Page:
        if isinstance(page, bytes):
            place = tmp_path / "page.html"
            place.write_bytes(page)
        else:
            place = page
        context = browser.new_context(viewport={"width": WIDTHS[width], "height": 900}, color_scheme=scheme)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        shown = context.new_page()
        asked: list[str] = []
        said: list[str] = []
        shown.on("request", lambda request: asked.append(request.url))
        shown.on("console", lambda message: said.append(message.text))
        shown.goto(place.resolve().as_uri())
        assert [url for url in asked if not url.startswith("data:")] == [place.resolve().as_uri()]
        assert said == []
        if unfold:
            shown.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        return shown

    yield open_page
    for context in contexts:
        context.close()


def findings(page: Page) -> list[str]:
    """What axe-core objects to, and what it could not decide."""
    page.evaluate(Path(AXE_FILE_PATH).read_text(encoding="utf-8"))
    found = page.evaluate("rules => axe.run(document, {runOnly: {type: 'tag', values: rules}})", list(RULES))
    assert len(found["passes"]) > 20, "axe-core looked at next to nothing"
    violations = [(rule["id"], node["html"]) for rule in found["violations"] for node in rule["nodes"]]
    undecided = [(f"undecided {rule['id']}", node["html"]) for rule in found["incomplete"] for node in rule["nodes"]]
    faint = [("faint letters", html) for _, html in page.evaluate(CONTRAST)]
    return [
        f"{name}: {html[:200]}"
        for name, html in (*violations, *undecided, *faint)
        if not (name == "undecided color-contrast" and html.startswith("<text"))  # judged by CONTRAST
    ]


@pytest.fixture(scope="module")
def published(whole_run: Any) -> dict[str, Path]:
    return {"round": whole_run.public / "reports/round-0002.html", "roll-up": whole_run.public / "index.html"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["round", "roll-up"])
def test_axe_finds_nothing(show: Show, published: dict[str, Path], name: str, width: str, scheme: str) -> None:
    page = show(published[name], width, scheme)
    assert findings(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= WIDTHS[width]
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(int(part) for part in ground.strip("rgb()").split(",")) > 380) == (scheme == "light"), ground


def test_axe_finds_nothing_in_any_kind_of_page(show: Show, pages: dict[str, bytes], german: dict[str, bytes]) -> None:
    wrong = {}
    translated = {f"german {name}": german[name] for name in ("stop", "index running")}
    for index, (name, data) in enumerate({**pages, **translated}.items()):
        width, scheme = [("narrow", "dark"), ("wide", "light")][index % 2]
        page = show(data, width, scheme)
        overflow = page.evaluate("document.documentElement.scrollWidth") > WIDTHS[width]
        if found := findings(page) + ["wider than the window"] * overflow:
            wrong[name] = found
    assert wrong == {}


@pytest.mark.parametrize(
    ("good", "bad", "found"),
    [
        (b"--ink: #17232e", b"--ink: #c0c0c0", "color-contrast"),
        (b"--soft: #4a5966", b"--soft: #c0c0c0", "faint letters"),
        (b' alt="', b' data-was="', "image-alt"),
        (b'<th scope="col" role="columnheader">', b'<th role="presentation">', "aria"),
    ],
)
def test_a_page_that_is_hard_to_read_is_noticed(
    show: Show, published: dict[str, Path], good: bytes, bad: bytes, found: str
) -> None:
    data = published["round"].read_bytes()
    assert good in data
    assert any(text.startswith(found) for text in findings(show(data.replace(good, bad))))


def test_a_page_that_scrolls_sideways_is_noticed(show: Show, published: dict[str, Path]) -> None:
    data = published["round"].read_bytes().replace(b"<main", b'<p style="width: 500px">x</p><main')
    assert show(data, "narrow").evaluate("document.documentElement.scrollWidth") > WIDTHS["narrow"]


@pytest.mark.parametrize("name", ["round", "roll-up"])
def test_on_paper_nothing_is_folded_away_or_cut_off(show: Show, published: dict[str, Path], name: str) -> None:
    page = show(published[name], unfold=False)
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    hidden = page.evaluate(
        "[...document.querySelectorAll('details > :not(summary)')]"
        ".filter(one => one.getBoundingClientRect().height === 0).map(one => one.textContent)"
    )
    assert hidden == []
    page.set_viewport_size({"width": 690, "height": 1000})  # the width of A4 between the margins
    page.wait_for_function("innerWidth === 690")
    cut = page.evaluate(
        "[...document.querySelectorAll('main *')].filter(one => one.getBoundingClientRect().right > 691)"
        ".map(one => one.outerHTML.slice(0, 120))"
    )
    assert cut == []
    assert page.pdf(prefer_css_page_size=True, tagged=True).startswith(b"%PDF")


def test_everything_can_be_reached_by_the_keyboard(show: Show, published: dict[str, Path]) -> None:
    page = show(published["round"], unfold=False)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the verdict"
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("#main$"), timeout=PATIENCE)  # the page has moved before its address is told
    reached = set()
    for _ in range(200):
        page.keyboard.press("Tab")
        name = page.evaluate("document.activeElement.tagName + ' ' + document.activeElement.textContent.slice(0, 40)")
        if name in reached or name.startswith("BODY"):
            break
        reached.add(name)
    folded = page.evaluate("[...document.querySelectorAll('summary')].map(one => one.textContent.slice(0, 40))")
    assert folded and all(f"SUMMARY {text}" in reached for text in folded)
