"""The German pages: every fixed text has a translation, none is left in English, and none makes a banned claim."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any

import pytest

from fedgan_audits.facts import controls, self_tests
from fedgan_audits.facts.binding import start_text
from fedgan_audits.pages import languages, render, wording
from fedgan_audits.pages.languages import PLACEHOLDER, Catalogue, catalogue
from fedgan_audits.report.report import RoundDraft

from . import golden
from .conftest import FEATURES, PUBLIC_START, STATISTIC
from .test_render import HOSTILE, Outline

BANNED = re.compile(
    r"konform|anonym|garanti|manipulationssicher|fälschungssicher|unknackbar|zertifizi|vollkommen|perfekt|risikofrei|"
    r"100 ?%|unmöglich|rechtssicher|stand der technik|absolut",
    re.IGNORECASE,
)
FREE = (
    "Gaussian noise from a keyed stream.", "Pixels and a keyed pseudonym are read, nothing else.", "Research.",
    "As said.",    "The gradient of a patient is clipped to norm 1.", "An independent coin for every patient and step.",
    "4 inputs of at most 2^29 sum to at most 2^31, which is less than 2^32.", "late", "away",
    "Hospital b left out unreadable files.", "The process ended.", STATISTIC, FEATURES, start_text(**PUBLIC_START),
    "Of the release: 4 inputs of at most 2^29 sum to at most 2^31, which is less than 2^32.",
)  # fmt: skip
"""What the records of these tests hold word for word: text that a person or another room wrote, in no catalogue."""


@pytest.fixture(scope="module")
def de() -> Catalogue:
    return catalogue("de")


def template_texts() -> set[str]:
    """Every fixed text that a template asks for."""
    environment, found = render._environment("en"), set()
    for name in ("base", "parts", "round", "index"):
        source = (files("fedgan_audits") / "templates" / f"{name}.html.j2").read_text(encoding="utf-8")
        for _, _, message in environment.extract_translations(source):
            if isinstance(message, str):  # None: a text that is looked up by its value
                found.add(" ".join(message.split()))
    return found


def report_texts() -> set[str]:
    """Every fixed sentence that code and provisions put into a report, without those that hold a figure."""
    found = {value for value in vars(wording).values() if isinstance(value, str) and "{" not in value}
    for value in vars(wording).values():
        if isinstance(value, tuple):
            found |= {text for entry in value for text in (entry if isinstance(entry, tuple) else (entry,))}
    found -= {
        wording.VERIFY_TEXT,
        wording.BEYOND_AGGREGATION,
        wording.__doc__ or "",
        wording.__name__,
        wording.__file__,
    }
    found = {text for text in found if " " in text and "fedgan_audits" not in text}
    for edition in controls.EDITIONS:
        for row in controls.provisions(edition).rows:
            found |= {row.title, row.evidence, row.does_not_show}
        found |= set(controls.provisions(edition).cited())
    return found | {render._sentence(text) for text in self_tests.TEXTS.values()}


def test_every_text_of_the_templates_is_in_the_catalogue(de: Catalogue) -> None:
    texts = template_texts()
    assert len(texts) > 150
    assert sorted(texts - set(de.texts)) == []


def test_every_sentence_of_the_reports_is_in_the_catalogue(de: Catalogue) -> None:
    texts = report_texts()
    assert len(texts) > 100
    assert sorted(text for text in texts if de.said(text) is None) == []


def test_a_translation_has_the_placeholders_and_the_markup_of_its_text(de: Catalogue) -> None:
    for english, german in de.texts.items():
        assert german.strip(), english
        assert set(PLACEHOLDER.findall(english)) == set(PLACEHOLDER.findall(german)), english
        assert sorted(re.findall(r"<[^>]+>", english)) == sorted(re.findall(r"<[^>]+>", german)), english
        assert sorted(re.findall(r"\{\w+\}", english)) == sorted(re.findall(r"\{\w+\}", german)), english
    assert not any("%" in PLACEHOLDER.sub("", text) for text in (*de.texts, *de.texts.values()))


def test_no_english_is_left_in_a_german_page(de: Catalogue, german: dict[str, bytes]) -> None:
    sentences = {
        english
        for english, text in de.texts.items()
        if english != text and len(re.findall(r"[A-Za-z]{2,}", PLACEHOLDER.sub("", english))) > 3
    }
    assert len(sentences) > 200
    patterns = [
        re.compile(r"\S+".join(map(re.escape, PLACEHOLDER.split(re.sub(r"<[^>]+>", "", english))[::2])))
        for english in sentences
    ]
    for name, page in german.items():
        outline = Outline(page)
        assert outline.tags[0] == ("html", {"lang": "de"}), name
        marked = re.findall(r'<span lang="en">(.*?)</span>', page.decode("utf-8"))
        assert set(marked) <= set(FREE), name
        for pattern in patterns:
            assert pattern.search(outline.words) is None, f"{name}: {pattern.pattern}"
        assert "Signiert ist nur die englische Seite" in outline.words, name


def test_no_german_text_makes_a_banned_claim(de: Catalogue, german: dict[str, bytes]) -> None:
    for text in (*de.texts.values(), *(Outline(page).words for page in german.values())):
        assert BANNED.search(text) is None, BANNED.search(text)
    for claim in ("HIPAA-konform", "anonyme Daten", "garantiert", "manipulationssicher"):
        assert BANNED.search(claim)


def test_a_german_page_says_what_the_english_one_says(drafts: dict[str, RoundDraft], german: dict[str, bytes]) -> None:
    for name, draft in drafts.items():
        verdict = draft.report.verdict
        words = Outline(german[name]).words
        word = {"PASS": "IN ORDNUNG", "STOP": "STOPP", "INCOMPLETE": "UNVOLLSTÄNDIG"}[verdict.verdict]
        assert f"{word} {catalogue('de').said(verdict.headline)}" in words
        for row in draft.report.composition.hospitals:
            assert f" {'unbegrenzt' if row.spent == 'unbounded' else row.spent} " in words
        english, translated = Outline(draft.html), Outline(german[name])
        assert [t for t, _ in english.tags if t != "span"].count("td") == [t for t, _ in translated.tags].count("td")


def test_placeholders_are_filled_from_the_text_of_the_report(de: Catalogue) -> None:
    assert de.said("Hospital a and b exceeded its budget.") == "Krankenhaus a und b: Budget überschritten."
    assert de.said("Hospital x y did not sign this report: away.") == (
        "Das Krankenhaus x y hat diesen Bericht nicht signiert: away."
    )
    stop = "No, the run should not go on. Hospital c exceeded its budget."
    assert de.said(stop) == "Nein, der Lauf sollte nicht fortgesetzt werden. Krankenhaus c: Budget überschritten."
    assert de.said("The coordinator and 2 hospitals (accounted for; the binding figure)") == (
        "Der Koordinator und 2 Krankenhäuser (eingerechnet; der maßgebliche Wert)"
    )
    assert de.said("A sentence that nobody translated.") is None


def test_nothing_from_a_report_becomes_markup_in_german(drafts: dict[str, RoundDraft]) -> None:
    report = drafts["stop"].report
    verdict = report.verdict.model_copy(
        update={"headline": HOSTILE, "reasons": (f"Hospital {HOSTILE} exceeded its budget.", "%(name)s %s {0}")}
    )
    named = tuple(row.model_copy(update={"name": HOSTILE}) for row in report.composition.hospitals)
    hostile = report.model_copy(
        update={
            "verdict": verdict,
            "composition": report.composition.model_copy(update={"hospitals": named}),
            "header": report.header.model_copy(update={"run_id": HOSTILE}),
        }
    )
    outline = Outline(render.render_round(hostile, None, "de"))
    assert "script" not in {tag for tag, _ in outline.tags} and "{{7*7}}" in outline.words
    assert f"Krankenhaus {HOSTILE}: Budget überschritten." in outline.words
    assert "%(name)s %s {0}" in outline.words


def test_dates_and_odds_are_said_in_german() -> None:
    from datetime import UTC, datetime

    say = languages.Voice("de")
    start = datetime(2026, 3, 2, 9, 5, tzinfo=UTC)
    assert say.period(start, start.replace(hour=11)) == "2. März 2026, 09:05 bis 11:05 Uhr (UTC)"
    assert say.one_in("3.3e-05") == "1 zu 30\u202f303"
    assert say.word("almost 100 in 100") == "fast 100 von 100" and say.word("87.4 in 100") == "87.4 von 100"
    with pytest.raises(ValueError, match="no catalogue"):
        catalogue("xx")


def test_the_catalogue_is_no_source_of_the_signed_page(whole_run: Any) -> None:
    """A better translation must not change what verifies: the English pages do not depend on it."""
    assert not any("translations" in name for name in golden.TEXTS)
    german = catalogue("de")
    assert german.fixed("The coordinator alone") != "The coordinator alone"
    assert all(catalogue("en").fixed(text) == text for text in ("The coordinator alone", wording.GOVERNANCE_TEXT))
