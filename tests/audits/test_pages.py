"""Pages of plans and of compared settings: escaped, self-contained, and clean in a browser."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser  # noqa: F401 - the fixtures' annotations name it

from fedgan_audits.pages.curves import Point, Series, chart, ticks
from fedgan_audits.pages.page import Page, Picture, Section, Table, render_page
from tests.audits.test_browser import WIDTHS, Show, browser, findings, show  # noqa: F401 - fixtures

pytestmark = pytest.mark.xdist_group("browser")


def picture() -> Picture:
    out = io.BytesIO()
    Image.new("RGB", (60, 40), (40, 90, 120)).save(out, "PNG")
    return Picture(out.getvalue(), "A sheet of generated images, trial 1", "epsilon 2, score 3")


def page() -> Page:
    points = tuple(Point(float(x), x**0.5 + 1, x**0.5, x**0.5 + 2, f"{x}") for x in (1, 4, 9))
    drawing = chart(
        "Quality against epsilon", "epsilon", "score",
        [Series("front", points), Series("others", (Point(5.0, 2.0),), line=False),
         Series("third", points[:2]), Series("fourth", points[1:])],
    )  # fmt: skip
    wide = ("Trial", "Epsilon", "Score", "Interval over seeds", "On the front", "Minutes", "clip", "rate")
    two = Table("Two", ("A", "B"), (("a", "1"),))
    return Page(
        title="Search <one>",
        brand="fedgan-secure",
        headline="The best setting is <b>this</b>.",
        remarks=("Read <i>this</i>.",),
        sections=(
            Section("The plan", ("A paragraph.",), (("Epsilon", "2"),), tables=(two,)),
            Section("Compared", chart=drawing, tables=(Table("All", wide, (tuple("12345678"),), frozenset({1, 2})),)),
            Section("Pictures", pictures=(picture(),)),
            Section("As text", code="[federation]\nrounds = 3\n"),
        ),
    )  # fmt: skip


def test_everything_is_escaped_and_nothing_is_fetched() -> None:
    text = render_page(page()).decode()
    assert "<b>this" not in text and "&lt;b&gt;this" in text
    assert "<script" not in text and "http" not in text.replace("http-equiv", "")
    assert "default-src 'none'" in text
    assert text.count("<polyline") == 6  # three lines in the chart, three in its legend


def test_the_chart_has_every_point_inside_it() -> None:
    drawing = page().sections[1].chart
    assert drawing is not None
    for series in drawing.series:
        for place in series.places:
            assert drawing.left <= place.x <= drawing.right
            for y in (place.y, place.low, place.high):
                assert y is None or drawing.top <= y <= drawing.bottom
    first = drawing.series[0].places
    assert [place.x for place in first] == sorted(place.x for place in first)
    assert first[0].y > first[-1].y  # larger values stand higher


def test_what_cannot_be_drawn_is_not() -> None:
    assert chart("t", "x", "y", [Series("none", ())]) is None
    assert chart("t", "x", "y", [Series("one", (Point(1.0, math.inf),))]) is None
    assert chart("t", "x", "y", [Series("one", (Point(0.0, 0.0),))]) is not None


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (0.0, 7.3), (523.1, 533.9), (-2.0, 3.0), (5.0, 5.0), (0.0, 1e-9)]
)
def test_ticks_are_round_and_enclose(low: float, high: float) -> None:
    found = ticks(low, high, 5)
    assert found[0] <= low + 1e-12 and found[-1] >= high - 1e-12
    assert 2 <= len(found) <= 8
    step = found[1] - found[0]
    assert re.fullmatch(r"[125]\.?0*e[+-]\d+", f"{step:.4e}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_axe_finds_nothing(show: Show, width: str, scheme: str) -> None:  # noqa: F811 - the fixture
    shown = show(render_page(page()), width, scheme)
    assert findings(shown) == []
    assert shown.evaluate("document.documentElement.scrollWidth") <= WIDTHS[width]


@pytest.mark.slow
def test_axe_finds_nothing_in_a_real_plan(show: Show, tmp_path: Path) -> None:  # noqa: F811 - the fixture
    from click.testing import CliRunner

    from fedgan_cli.plan import command

    arguments = (
        "--batch 64 --hospital north=3000 --hospital south=900 --hospital west=800 --steps 60 --delta 1e-5 --epsilon 4 "
        "--noise-placement both --threshold 3 --colluders 1 --dimension 1000 --drop-outs 1 --known-to 3"
    )
    done = CliRunner().invoke(command, [*arguments.split(), "--html", str(tmp_path / "plan.html")])
    assert done.exit_code == 0, done.output
    for width, scheme in (("wide", "light"), ("narrow", "dark")):
        shown = show((tmp_path / "plan.html").read_bytes(), width, scheme)
        assert findings(shown) == []
        assert shown.evaluate("document.documentElement.scrollWidth") <= WIDTHS[width]
