"""The page of an attack: its sentence, its limits, and clean in a browser."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from playwright.sync_api import Browser  # noqa: F401 - the fixtures' annotations name it

from fedgan_secure.attacks.page import _most, attack_page, headline
from fedgan_secure.attacks.verdict import Guesses, Verdict
from tests.audits.test_browser import WIDTHS, Show, browser, findings, show  # noqa: F401 - fixtures

pytestmark = pytest.mark.xdist_group("browser")

ROWS = (
    Guesses(128, 128, 162, 0.249, 4.05, 1.0), Guesses(32, 32, 48, 0.358, 2.64, 1.0),
    Guesses(64, 0, 51, 0.4399, 2.64, 0.5),
)  # fmt: skip
SOUND = Verdict(
    epsilon=3.07765, delta=3.9e-7, claimed=(2.0, 8.3e-4), control=True, steps=40, canaries=256, others=64,
    rows=ROWS,
    roc=((0.0, 0.0), (0.2, 0.5), (1.0, 1.0)), area=0.67, seconds=25.0,
)  # fmt: skip
REFUTED = replace(SOUND, rows=(Guesses(128, 128, 256, 4.05, 4.05, 1e-9), *ROWS[1:]))


def test_the_sentence_names_the_bound_and_the_proof() -> None:
    assert headline(SOUND) == (
        "Not refuted: epsilon is at least 0.43 by this attack; at most 3.0777 is proved for 40 steps (delta 3.9e-07). "
        "The same attack refuted a training without noise."
    )
    assert headline(REFUTED).startswith(
        "REFUTED: epsilon is at least 4.05 by this attack, but at most 3.0777 is proved"
    )
    text = attack_page("<run>", REFUTED).decode()
    assert "<run>" not in text and "&lt;run&gt;" in text and "REFUTED" in text
    assert "epsilon 2.0000 at delta 0.00083" in text and "64 in, 0 out" in text


def test_there_are_four_outcomes() -> None:
    doubtful = replace(SOUND, rows=(Guesses(128, 128, 250, 3.5, 4.05, 5e-3), *ROWS[1:]))
    large = replace(SOUND, control=False)
    found = [one.outcome for one in (SOUND, REFUTED, doubtful, large)]
    assert found == ["not refuted", "refuted", "doubtful", "not testable"]
    assert headline(doubtful).startswith("IN DOUBT: epsilon is at least 3.50 by this attack, but at most 3.0777")
    assert "sure at 95% and not at 99.9%" in headline(doubtful)
    assert headline(large).startswith("NOT TESTED: at most 3.0777 is proved")
    assert "did not refute a training without noise either" in headline(large)


def test_a_contradiction_has_to_be_sure_of_all_four_counts_together() -> None:
    close = replace(SOUND, rows=tuple(replace(row, p_value=3.4e-4) for row in ROWS))
    assert not close.contradicted  # three looks: 1.02e-3
    assert replace(SOUND, rows=(replace(ROWS[0], p_value=3.2e-4), *ROWS[1:])).contradicted


def test_no_attack_can_be_above_what_epsilon_allows() -> None:
    assert _most(0.0, 2.0, 1e-3) == pytest.approx(1e-3)
    assert _most(1.0, 2.0, 1e-3) == 1.0
    assert _most(0.5, 0.0, 0.0) == 0.5
    assert all(_most(rate / 50, 1.5, 1e-5) >= rate / 50 for rate in range(51))
    assert _most(0.3, 900.0, 0.0) == 1.0


@pytest.mark.parametrize(("width", "scheme"), [("wide", "light"), ("narrow", "dark")])
def test_axe_finds_nothing(show: Show, width: str, scheme: str) -> None:  # noqa: F811 - the fixture
    shown = show(attack_page("a run", SOUND), width, scheme)
    assert findings(shown) == []
    assert shown.evaluate("document.documentElement.scrollWidth") <= WIDTHS[width]
    assert len(re.findall("<polyline", attack_page("a run", SOUND).decode())) == 6
