"""What is exported from a run: verified first, bound to the signed files, honest about what is not known."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from fedgan_audits.errors import RecordInvalid, VerificationFailed
from fedgan_audits.exports import documents, gdpr, oscal, registry_card
from fedgan_audits.exports.verified_run import VerifiedRun, verified
from fedgan_audits.facts.records import GovernanceEntry
from fedgan_audits.pages.printing import PdfUnavailable, pdf

from .conftest import toy_transcript_check
from .test_render import BANNED, HOSTILE, Outline

VOCABULARY = json.loads((Path(__file__).parents[1] / "vectors/deployments-registry.json").read_text(encoding="utf-8"))
NASTY = "Research | <script>alert(1)</script> [x](javascript:alert(1)) **bold** `code` # heading"


@pytest.fixture(scope="module")
def run(whole_run: Any) -> VerifiedRun:
    return verified(whole_run.public, trust=whole_run.public_keys, transcript_check=toy_transcript_check)


@pytest.fixture(scope="module")
def governed(run: VerifiedRun) -> VerifiedRun:
    """The same run, with declarations; one of them hostile."""
    entries = (
        GovernanceEntry(topic="Purpose", text=NASTY),
        GovernanceEntry(topic="Retention", text="Ten years."),
        GovernanceEntry(topic="Retention (hospital a)", text="Five years."),
        GovernanceEntry(topic="Ethics vote", text="No. 7 of the ethics board."),
    )
    section = run.last.governance.model_copy(update={"entries": entries})
    last = run.last.model_copy(update={"governance": section})
    return VerifiedRun(run.bundle, run.facts, run.files, run.digests, last, run.checks)


def everything(run: VerifiedRun) -> dict[str, str]:
    """All exports that are text."""
    return {
        "article-30": documents.markdown(gdpr.article_30(run)),
        "dpia": documents.markdown(gdpr.impact_assessment(run)),
        "article-30 page": documents.html(gdpr.article_30(run)).decode("utf-8"),
        "dpia page": documents.html(gdpr.impact_assessment(run)).decode("utf-8"),
        "oscal": json.dumps(oscal.assessment_results(run)),
        "registry card": json.dumps(registry_card.card(run)),
    }


def test_every_export_is_bound_to_the_signed_files_and_says_how_it_was_verified(run: VerifiedRun) -> None:
    for name, text in everything(run).items():
        assert run.head in text, name
        assert run.last.header.policy_sha256 in text, name
        assert "with keys from a source other than the run" in text, name
        assert "Not checked in whole or in part: head" in text, name


def test_an_export_without_outside_keys_says_so(whole_run: Any) -> None:
    own = verified(whole_run.public, transcript_check=toy_transcript_check)
    assert not own.outside_keys and "keys that came with the run:" in own.statement()
    assert "run's own keys" in own.foot(own.head) and own.head in own.foot(own.head)
    assert "Schlüsseln aus dem Lauf selbst" in own.foot(own.head, "de")


def test_exports_need_the_public_folder_alone(run: VerifiedRun, bundle: Path, whole_run: Any) -> None:
    copied = verified(bundle, trust=whole_run.public_keys, transcript_check=toy_transcript_check)
    assert everything(copied) == everything(run)
    assert copied.page(2, "en") == (whole_run.public / "reports/round-0002.html").read_bytes()
    assert copied.page(None, "en") == (whole_run.public / "index.html").read_bytes()
    assert b'<html lang="de">' in copied.page(2, "de") and b'<html lang="de">' in copied.page(None, "de")
    with pytest.raises(RecordInvalid, match="no report of round 4"):
        copied.page(4, "en")


@pytest.mark.parametrize("file", ["reports/round-0002.html", "reports/round-0003.dsse.json", "policy.json"])
def test_a_run_that_does_not_verify_is_not_exported(bundle: Path, file: str) -> None:
    data = bytearray((bundle / file).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / file).write_bytes(data)
    with pytest.raises(VerificationFailed, match="nothing is exported") as error:
        verified(bundle, transcript_check=toy_transcript_check)
    assert error.value.exit_code == 5


def test_a_page_that_changes_after_the_verification_is_not_passed_on(bundle: Path, whole_run: Any) -> None:
    run = verified(bundle, transcript_check=toy_transcript_check)
    shutil.copy(bundle / "reports/round-0001.html", bundle / "reports/round-0002.html")
    shutil.copy(bundle / "reports/round-0001.dsse.json", bundle / "reports/round-0002.dsse.json")
    with pytest.raises(VerificationFailed, match="changed while it was read"):
        run.page(2, "en")
    (bundle / "index.html").write_bytes(b"<p>all is well</p>")
    with pytest.raises(VerificationFailed, match="changed while it was read"):
        run.page(None, "en")


def test_no_export_makes_a_banned_claim(run: VerifiedRun) -> None:
    for name, text in everything(run).items():
        assert BANNED.search(re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)) is None, name


def test_documents_say_of_every_entry_how_it_is_known(run: VerifiedRun, governed: VerifiedRun) -> None:
    for document in (gdpr.article_30(run), gdpr.impact_assessment(run)):
        assert document.standings["not assessed"] >= 5 and document.standings["evidenced"] >= 4
        text = documents.markdown(document)
        assert text.count(" | not assessed | ") == document.standings["not assessed"]
        assert text.count(gdpr.NOTHING) >= 3
    record = {entry.topic: entry for part in gdpr.article_30(governed).parts for entry in part.entries}
    assert record["Retention"].standing == "declared" and record["Retention"].text == "Ten years."
    assert record["Retention (hospital a)"].text == "Five years."
    assert record["Ethics vote"].standing == "declared"
    assert record["Transfers"] == documents.Entry("Transfers", "not assessed", gdpr.NOTHING)
    titles = [part.title[:3] for part in gdpr.article_30(run).parts]
    assert titles == ["(a)", "(b)", "(c)", "(d)", "(e)", "(f)", "(g)"], "GDPR Art. 30(1)"
    assert [part.title[:3] for part in gdpr.impact_assessment(run).parts][:4] == ["(a)", "(b)", "(c)", "(d)"]


def test_what_people_declared_never_becomes_markup(governed: VerifiedRun) -> None:
    text = documents.markdown(gdpr.article_30(governed))
    row = next(line for line in text.splitlines() if line.startswith("| Purpose | declared |"))
    assert "<script" not in row and "&lt;script&gt;" in row and r"\[x\](javascript" in row and r"\*\*bold" in row
    assert len(re.findall(r"(?<!\\)\|", row)) == 4, "a bar in the text would open another cell"
    outline = Outline(documents.html(gdpr.article_30(governed)))
    assert "script" not in {tag for tag, _ in outline.tags} and "<script>alert(1)</script>" in outline.words


def test_the_topics_of_declarations_are_those_that_people_can_set() -> None:
    from fedgan_secure.policy.settings import TOPICS

    source = Path(gdpr.__file__).read_text(encoding="utf-8")
    for topic in TOPICS.values():
        assert f'"{topic}"' in source, topic


def test_oscal_has_observations_for_everything_and_judges_nothing(run: VerifiedRun) -> None:
    whole = oscal.assessment_results(run)["assessment-results"]
    result = whole["results"][0]
    assert "findings" not in result and "risks" not in result
    kinds = [{prop["name"]: prop["value"] for prop in entry["props"]} for entry in result["observations"]]
    by_control = {kind["control-id"]: kind for kind in kinds if "control-id" in kind}
    assert set(by_control) == {row.id for row in run.last.controls.controls}
    assert by_control["hipaa-2025-proposal"]["proposed"] == "yes"
    assert {kind["hospital"] for kind in kinds if "hospital" in kind} == {"a", "b", "c", "d"}
    assert sum("outcome" in kind for kind in kinds) == len(run.checks)
    plan = whole["import-ap"]["href"].removeprefix("#")
    resource = next(entry for entry in whole["back-matter"]["resources"] if entry["uuid"] == plan)
    assert resource["description"] == oscal.NO_PLAN and "No assessment plan exists" in oscal.NO_PLAN
    identities = re.findall(r'"uuid": "([^"]+)"', json.dumps(whole))
    assert len(set(identities)) == len(identities)
    assert all(
        re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", x) for x in identities
    )
    for entry in result["observations"]:
        assert entry["relevant-evidence"][0]["href"].removeprefix("#") in identities
    files = {link["href"]: link["hashes"][0]["value"] for entry in whole["back-matter"]["resources"][1:]
             for link in entry["rlinks"]}  # fmt: skip
    assert files["reports/round-0003.dsse.json"] == run.bundle.digest("reports/round-0003.dsse.json")[1]
    assert files["policy.json"] == run.bundle.digest("policy.json")[1]


def test_the_card_speaks_the_registry_s_vocabulary_and_guesses_nothing(run: VerifiedRun, governed: VerifiedRun) -> None:
    made = registry_card.card(run)
    validator = jsonschema.Draft202012Validator(VOCABULARY)
    missing = {
        ".".join((*map(str, error.absolute_path), name))
        for error in validator.iter_errors(made["record"])
        for name in error.validator_value
        if error.validator == "required" and name not in error.instance
    }
    assert missing == set(made["to_fill"]) == set(registry_card.TO_FILL)
    assert [error.message for error in validator.iter_errors(made["record"]) if error.validator != "required"] == []
    record = json.loads(json.dumps(made["record"]))
    record["deployment"]["basic"] |= {
        "data_curators": [{"data_curator_name": "x", "data_curator_type": "Nonprofit"}],
        "data_product_region": "x",
        "intended_use": "x",
    }
    record["deployment"]["administrative"]["registry_authors"] = ["x"]
    validator.validate(record)
    loss = record["deployment"]["privacy_loss"]
    assert loss["privacy_parameters"] == {"epsilon": float(run.last.privacy.epsilon), "delta": 1e-4}
    assert loss["number_of_privacy_units"] == 300
    assert made["standing"]["deployment.privacy_loss.number_of_privacy_units"] == "declared"
    declared = registry_card.card(governed)
    assert declared["record"]["deployment"]["basic"]["intended_use"] == NASTY
    assert "deployment.basic.intended_use" not in declared["to_fill"]


def test_an_unbounded_epsilon_is_no_number_on_the_card(run: VerifiedRun) -> None:
    privacy = run.last.privacy.model_copy(update={"epsilon": "unbounded"})
    last = run.last.model_copy(update={"privacy": privacy})
    made = registry_card.card(VerifiedRun(run.bundle, run.facts, run.files, run.digests, last, run.checks))
    loss = made["record"]["deployment"]["privacy_loss"]
    assert "privacy_parameters" not in loss and "nothing protects" in loss["privacy_parameters_details"]


def text_of(data: bytes, tmp_path: Path) -> str:
    import subprocess

    if shutil.which("pdftotext") is None and not os.environ.get("FEDGAN_CI"):
        pytest.skip("reading a PDF needs pdftotext (package poppler-utils)")
    place = tmp_path / "made.pdf"
    place.write_bytes(data)
    done = subprocess.run(["pdftotext", "-layout", str(place), "-"], capture_output=True, text=True, check=True)
    return " ".join(done.stdout.split())


@pytest.fixture(scope="module")
def weasyprint() -> Any:
    try:
        import weasyprint
    except (ImportError, OSError) as error:
        if os.environ.get("FEDGAN_CI"):
            raise
        pytest.skip(f"a PDF needs WeasyPrint and pango: {error}")
    return weasyprint


def test_a_round_becomes_a_tagged_pdf(weasyprint: Any, run: VerifiedRun, tmp_path: Path) -> None:
    made = pdf(run.page(2, "en"), run.foot(run.digests[1]))
    words = text_of(made, tmp_path)
    assert "Round 2 of 3" in words and f"{run.report(2).verdict.spent} of 8" in words
    assert run.digests[1] in words.replace(" ", "") and "page 1 of" in words and "not itself signed" in words


def test_a_pdf_marks_itself_as_tagged_and_accessible(weasyprint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    write = weasyprint.HTML.write_pdf

    def spy(self: Any, *given: Any, **options: Any) -> bytes:
        asked.update(options)
        made: bytes = write(self, *given, **options, uncompressed_pdf=True)
        return made

    monkeypatch.setattr(weasyprint.HTML, "write_pdf", spy)
    made = pdf(b'<html lang="de"><title>Bericht</title><h1>Bericht</h1><p>Text</p></html>', 'a "foot" \\ with <marks>')
    assert b"/MarkInfo" in made and b"/Marked true" in made and b"/Lang (de)" in made
    assert b"<pdfuaid:part>1</pdfuaid:part>" in made or b'pdfuaid:part="1"' in made
    assert asked["pdf_variant"] == "pdf/ua-1"


@pytest.mark.parametrize(
    "asks",
    [
        '<img src="file:///etc/hostname" alt="x">',
        '<img src="http://127.0.0.1:9/x.png" alt="x">',
        '<link rel="stylesheet" href="file:///etc/hostname">',
        "<style>@import 'http://127.0.0.1:9/x.css';</style>",
        "<style>p { background: url(http://127.0.0.1:9/x.png) }</style><p>x</p>",
        '<svg width="9" height="9"><image href="file:///etc/hostname" width="9" height="9"/></svg>',
        '<img src="data:image/svg+xml,%3Csvg/%3E" alt="x">',
    ],
)
def test_a_pdf_fetches_nothing(weasyprint: Any, asks: str) -> None:
    with pytest.raises(RecordInvalid, match="outside itself"):
        pdf(f'<html lang="en"><title>x</title><body>{asks}</body></html>'.encode(), "foot")


def test_a_hostile_name_stays_text_in_a_pdf(weasyprint: Any, run: VerifiedRun, tmp_path: Path) -> None:
    document = documents.Document(HOSTILE, (HOSTILE,), (), (("Run", HOSTILE),))
    words = text_of(pdf(documents.html(document), HOSTILE), tmp_path)
    assert words.count("<script>alert(1)</script>") >= 3


@pytest.mark.parametrize(
    ("failure", "says", "hint"),
    [
        (ModuleNotFoundError("No module named 'weasyprint'"), "not installed", "fedgan-secure[pdf]"),
        (OSError("cannot load library 'libpango-1.0-0': no such file\nAdditionally"), "libpango", "apt install"),
    ],
)
def test_what_is_missing_for_a_pdf_is_said(
    monkeypatch: pytest.MonkeyPatch, failure: Exception, says: str, hint: str
) -> None:
    class Absent:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "weasyprint":
                raise failure

    for name in [name for name in sys.modules if name.split(".")[0] == "weasyprint"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    with pytest.raises(PdfUnavailable, match=says) as error:
        pdf(b"<p>x</p>", "foot")
    assert hint in error.value.hint and error.value.exit_code == 2


Change = Callable[[dict[str, Any]], None]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data["rows"].append(data["rows"][0]), "same id"),
        (lambda data: data["rows"][0].update(source="nowhere"), "listed source"),
        (lambda data: data.update(as_of="2031-01-01"), "earliest date"),
        (lambda data: data["rows"][0].pop("does_not_show"), "does_not_show"),
        (lambda data: data["sources"]["gdpr"].update(as_of="soon"), "as_of"),
        (lambda data: data.update(edition="9"), "says that it is 9"),
    ],
)
def test_a_damaged_edition_of_the_provisions_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: Change, said: str
) -> None:
    from fedgan_audits.facts import controls

    data = json.loads((Path(controls.__file__).parents[1] / "provisions/2.json").read_text(encoding="utf-8"))
    change(data)
    (tmp_path / "provisions").mkdir()
    (tmp_path / "provisions/2.json").write_text(json.dumps(data), encoding="utf-8")
    monkeypatch.setattr(controls, "files", lambda _: tmp_path)
    with pytest.raises(RecordInvalid, match=said):
        controls.provisions.__wrapped__("2")


def test_a_report_keeps_the_edition_it_was_made_with(new_run: Callable[..., Any]) -> None:
    from fedgan_audits.facts import controls
    from fedgan_audits.pages import render
    from fedgan_audits.report.reading import record_of
    from fedgan_audits.report.report import build_report

    old = build_report(new_run().record(1, provisions_edition="1"))
    new = build_report(new_run().record(1))
    assert (old.controls.edition, new.controls.edition) == ("1", controls.NEWEST)
    assert len(old.controls.controls) == 19 and len(new.controls.controls) == 22
    assert build_report(record_of(old)) == old, "it is rebuilt with the edition that it names"
    assert "Edition 1 of the provisions, as of 2025-06-01" in Outline(render.render_round(old)).words
    assert [row.id for row in new.controls.controls if row.proposed] != [
        row.id for row in old.controls.controls if row.proposed
    ]
    with pytest.raises(RecordInvalid, match="no edition '7'"):
        build_report(new_run().record(1, provisions_edition="7"))
