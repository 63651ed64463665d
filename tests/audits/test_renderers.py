"""The renderer's name switches nothing off: what is known is listed, what decides is computed again."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedgan_audits.errors import VerificationFailed
from fedgan_audits.exports.verified_run import verified
from fedgan_audits.facts.run import MANIFEST
from fedgan_audits.facts.sections import MANIFEST_TYPE, REPORT_TYPE, RoundReport
from fedgan_audits.pages import render, renderers
from fedgan_audits.publishing.manifest import read_manifest, write_manifest
from fedgan_audits.report.reading import read_payload, record_of
from fedgan_audits.report.rebuilding import FIGURES, compare
from fedgan_audits.report.report import RoundDraft, build_report, build_round
from fedgan_audits.signing import envelope
from fedgan_audits.verification import recompute
from fedgan_audits.verification.verify import verify_run
from tests.audits import golden
from tests.audits.conftest import MECHANISM

VECTORS = Path(__file__).resolve().parents[1] / "vectors"
OLD = renderers.BEFORE_NUMBERS[-1]
NAMES = [renderers.RENDERER, OLD, "html-other", f"html-{renderers.VERSION + 1}", "html-0"]
CLAIM = b"<p>Epsilon 0.10, HIPAA compliant</p>"
MakeRun = Callable[..., Any]


def failures(result: Any) -> set[tuple[str, str]]:
    return {(check.name, check.file) for check in result.checks if check.outcome == "FAIL"}


def resign(public: Path, run: Any, renderer: str, signers: list[str]) -> None:
    """List the folder as it is in a manifest that names `renderer`, signed by `signers`."""
    manifest, subjects = read_manifest(envelope.parse((public / MANIFEST).read_bytes()).payload)
    values = manifest.model_dump(mode="json")
    values["renderer"] = renderer
    index = (public / "index.html").read_bytes()
    subjects["index.html"] = hashlib.sha256(index).hexdigest()
    for entry in values["files"]:
        if entry["path"] == "index.html":
            entry["size"] = len(index)
    payload = envelope.statement(subjects, MANIFEST_TYPE, values)
    signatures = [envelope.sign(payload, run.keys[name], name) for name in signers]
    (public / MANIFEST).write_bytes(envelope.assemble(payload, signatures))


def forge(run: Any, number: int, change: Callable[[dict[str, Any]], None], renderer: str) -> None:
    """Publish round `number` with everybody's signature after `change`, with the page that it renders to."""
    record = run.record(number)
    sample = run.public / f"samples/round-{number:04d}.png"
    values = build_round(record, sample_png=sample.read_bytes()).report.model_dump(mode="json")
    values["renderer"] = renderer
    change(values)
    report = RoundReport.model_validate(values)
    page = render.render_round(report, sample.read_bytes())
    subjects = {entry.path: entry.sha256 for entry in record.artefacts}
    subjects[f"reports/round-{number:04d}.html"] = hashlib.sha256(page).hexdigest()
    draft = RoundDraft(report, envelope.statement(subjects, REPORT_TYPE, report.model_dump(mode="json")), page)
    run.publish(draft)
    run.drafts.append(draft)


def nothing(_: dict[str, Any]) -> None:
    """No change but the renderer's name."""


def unpacked(name: str, folder: Path) -> Path:
    with tarfile.open(VECTORS / f"{name}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.mark.parametrize("renderer", NAMES)
def test_the_coordinators_key_alone_changes_no_page(
    whole_run: Any, bundle: Path, transcript_check: Any, renderer: str
) -> None:
    index = bundle / "index.html"
    index.write_bytes(index.read_bytes().replace(b"<main", CLAIM + b"<main", 1))
    assert CLAIM in index.read_bytes()
    resign(bundle, whole_run, renderer, ["coordinator"])
    result = verify_run(bundle, trust=whole_run.public_keys, transcript_check=transcript_check)
    assert failures(result) == {("manifest", MANIFEST)}


@pytest.mark.parametrize("renderer", NAMES)
def test_a_roll_up_that_nobody_looked_at_fails_with_all_signatures_too(
    whole_run: Any, bundle: Path, transcript_check: Any, renderer: str
) -> None:
    """Hospitals that signed the manifest as it came: the page is made again, and an old name is no way out."""
    index = bundle / "index.html"
    index.write_bytes(index.read_bytes().replace(b"<main", CLAIM + b"<main", 1))
    resign(bundle, whole_run, renderer, list(whole_run.keys))
    result = verify_run(bundle, trust=whole_run.public_keys, transcript_check=transcript_check)
    assert {name for name, _ in failures(result)} == {"pages"}


@pytest.mark.parametrize("signers", [[], ["a"], ["a", "b"]])
def test_a_manifest_needs_as_many_hospitals_as_a_round(
    whole_run: Any, bundle: Path, transcript_check: Any, signers: list[str]
) -> None:
    write_manifest(bundle, whole_run.facts(), {name: whole_run.keys[name] for name in ["coordinator", *signers]})
    result = verify_run(bundle, trust=whole_run.public_keys, transcript_check=transcript_check)
    assert failures(result) == {("manifest", MANIFEST)}
    said = next(check.detail for check in result.checks if check.outcome == "FAIL")
    assert said == f"signed by {len(signers)} of 4 hospitals, fewer than the threshold of 3"


def test_a_threshold_of_hospitals_is_enough_for_a_manifest(whole_run: Any, bundle: Path, transcript_check: Any) -> None:
    keys = {name: whole_run.keys[name] for name in ("coordinator", "a", "c", "d")}
    write_manifest(bundle, whole_run.facts(), keys)
    assert verify_run(bundle, trust=whole_run.public_keys, transcript_check=transcript_check).ok


def hospital(values: dict[str, Any], index: int) -> dict[str, Any]:
    found: dict[str, Any] = values["composition"]["hospitals"][index]
    return found


FALSE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "verdict.reasons": lambda values: values["verdict"].update(reasons=["Epsilon 0.10, HIPAA compliant."]),
    "verdict.headline": lambda values: values["verdict"].update(headline="Certified."),
    "verdict.verdict": lambda values: values["verdict"].update(verdict="STOP"),
    "verdict.may_continue": lambda values: values["verdict"].update(may_continue=False),
    "verdict.rounds_left": lambda values: values["verdict"].update(rounds_left=0),
    "verdict.remaining": lambda values: values["verdict"].update(remaining="7.9000"),
    "composition.hospitals[1].status": lambda values: hospital(values, 1).update(status="over budget"),
    "composition.hospitals[0].remaining": lambda values: hospital(values, 0).update(remaining="9.0000"),
    "composition.two_hospitals": lambda values: values["composition"].update(two_hospitals="0.1000"),
    "privacy.profile[0].epsilon": lambda values: values["privacy"]["profile"][0].update(epsilon="0.0100"),
    "privacy.assumptions": lambda values: values["privacy"].update(assumptions=["None."]),
    "mechanism.rows[2].self_test_summary": lambda values: values["mechanism"]["rows"][2].update(self_test_summary="x"),
    "controls.controls[0].status": lambda values: values["controls"]["controls"][0].update(status="failed"),
    "nist_sp_800_226[0].text": lambda values: values["nist_sp_800_226"][0].update(text="Assessed and met."),
    "aggregation.adversary": lambda values: values["aggregation"].update(adversary=["Hidden from everybody."]),
    "verification.text": lambda values: values["verification"].update(text="Signed by a notary."),
}


@pytest.mark.parametrize("renderer", [renderers.RENDERER, OLD])
@pytest.mark.parametrize("field", FALSE)
def test_with_all_keys_no_section_says_what_does_not_follow(
    new_run: MakeRun, transcript_check: Any, field: str, renderer: str
) -> None:
    run = new_run(rounds=3)
    run.report(1)
    forge(run, 2, FALSE[field], renderer)
    run.close("ended early", "It was ended.")
    result = verify_run(run.folder, trust=run.public_keys, transcript_check=transcript_check)
    told = [check.detail for check in result.checks if check.outcome == "FAIL" and check.name == "figures"]
    assert len(told) == 1 and field in told[0]
    with pytest.raises(VerificationFailed, match="nothing is exported"):
        verified(run.folder, trust=run.public_keys, transcript_check=transcript_check)


@pytest.mark.parametrize("renderer", NAMES[2:])
def test_a_renderer_that_is_not_known_fails_and_says_what_to_do(
    new_run: MakeRun, transcript_check: Any, renderer: str
) -> None:
    run = new_run(rounds=1)
    forge(run, 1, nothing, renderer)
    run.close()
    result = verify_run(run.folder, trust=run.public_keys, transcript_check=transcript_check)
    file = "reports/round-0001.dsse.json"
    assert failures(result) == {("pages", file), ("figures", file)}
    assert all(
        renderer in check.detail and renderers.RENDERER in check.detail and "verify with" in check.detail
        for check in result.checks
        if check.outcome == "FAIL"
    )


def test_pages_of_an_older_renderer_are_not_checked_and_close_what_rests_on_them(
    new_run: MakeRun, transcript_check: Any
) -> None:
    run = new_run(rounds=2)
    forge(run, 1, nothing, OLD)
    run.report(2)
    run.close()
    result = verify_run(run.folder, trust=run.public_keys, transcript_check=transcript_check)
    assert result.ok and not result.to_dict()["releasable"]
    told = [check.detail for check in result.closing]
    assert len(told) == 1 and told[0].startswith(f"1 page was made by an older renderer ({OLD})")
    with pytest.raises(VerificationFailed, match=r"cannot check the run in whole, so nothing is exported: pages") as no:
        verified(run.folder, trust=run.public_keys, transcript_check=transcript_check)
    assert no.value.exit_code == 5 and "with the version of fedgan-secure that made the run" in no.value.hint


@pytest.mark.parametrize("version", ["report-version-0", "report-version-1"])
def test_a_run_that_an_older_version_wrote_verifies_and_is_not_exported(version: str, tmp_path: Path) -> None:
    from fedgan_secure.transcript_check import check_transcript

    old = unpacked(version, tmp_path)
    result = verify_run(old / "public", trust=[old / "trust"], transcript_check=check_transcript)
    assert result.ok and {check.name for check in result.closing} == {"pages", "figures"}
    assert any("3 pages were made by an older renderer" in check.detail for check in result.closing)
    with pytest.raises(VerificationFailed, match="cannot check the run in whole"):
        verified(old / "public", trust=[old / "trust"], transcript_check=check_transcript)


def test_a_long_run_is_built_again_in_whole_before_anything_of_it_is_exported(
    new_run: MakeRun, transcript_check: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recompute, "ALL_UP_TO", 2)
    run = new_run(rounds=3)
    run.report(1)
    forge(run, 2, FALSE["verdict.reasons"], renderers.RENDERER)
    run.report(3)
    run.close()
    result = verify_run(run.folder, trust=run.public_keys, transcript_check=transcript_check)
    assert result.ok and [check.name for check in result.closing] == ["figures"]
    with pytest.raises(VerificationFailed, match="does not verify, so nothing is exported: figures"):
        verified(run.folder, trust=run.public_keys, transcript_check=transcript_check)


def test_a_whole_run_of_this_renderer_is_open(whole_run: Any, transcript_check: Any) -> None:
    result = verify_run(whole_run.folder, trust=whole_run.public_keys, transcript_check=transcript_check)
    assert result.ok and not result.closing and result.to_dict()["releasable"]
    result.require("nothing is exported")


def test_what_was_left_is_counted_by_todays_rule_but_for_renderers_before_it(new_run: MakeRun) -> None:
    """Version 73650c3 counted more rounds than a ledger with a cap and other runs in it took (ADR 27)."""
    earlier = (MECHANISM.model_copy(update={"steps": 40}),)
    run = new_run(rounds=3)
    report = build_round(run.record(1, hospital={"a": {"earlier": earlier, "cap": 8.0}})).report
    values = report.model_dump(mode="json")
    values["renderer"] = OLD
    values["composition"]["hospitals"][0]["remaining"] = "5.4381"
    older = RoundReport.model_validate(values)
    assert compare(older, 0).unchecked == ("composition.hospitals[0].remaining",) and not compare(older, 0).wrong
    assert compare(older, renderers.VERSION).wrong == ("renderer", "composition.hospitals[0].remaining")
    values["aggregation"]["participants"][0]["cap"] = None
    assert "composition.hospitals[0].remaining" in compare(RoundReport.model_validate(values), 0).wrong


def test_the_list_of_renderers() -> None:
    assert renderers.number(renderers.RENDERER) == renderers.VERSION
    assert {renderers.number(name) for name in renderers.BEFORE_NUMBERS} == {0}
    assert all(renderers.number(f"html-{number}") == number for number in range(1, renderers.VERSION + 1))
    for name in ("", "html-", "html-0", "html-01", f"html-{renderers.VERSION + 1}", "HTML-1", "html-1 "):
        assert renderers.number(name) is None, name


def test_what_decides_is_never_among_the_fields_that_go_unchecked(new_run: MakeRun) -> None:
    deciding = {"verdict", "may_continue", "reasons", "status", "flags", "rounds_left", "target", "cap"}
    figures = FIGURES - {"gdp_mu"}
    fields = golden.leaves(build_round(new_run().record(1)).report.model_dump(mode="json"))
    loose = {path for path in fields if renderers.reworded(path, 0)}
    assert loose and {path.rpartition(".")[2].partition("[")[0] for path in loose}.isdisjoint(deciding | figures)
    assert not any(renderers.reworded(path, renderers.VERSION) for path in fields)
    assert all(0 < first <= renderers.VERSION for first in renderers.REWORDED.values())


def test_the_golden_pages_and_figures_have_not_changed_under_this_number() -> None:
    """Run `python -m tests.audits.golden` after a change to what is rendered: it raises the renderer's number."""
    frozen = golden.frozen()
    changed = golden.differences(frozen, golden.made())
    assert (frozen["renderer"], changed) == (renderers.VERSION, []), golden.__doc__


def test_a_golden_set_sees_every_kind_of_change() -> None:
    frozen = golden.frozen()
    assert golden.differences(frozen, frozen) == []
    for kind in ("pages", "reports", "figures", "texts"):
        name = next(iter(frozen[kind]))
        other = {**frozen, kind: {**frozen[kind], name: "changed"}}
        assert golden.differences(frozen, other) == [f"{kind}: {name}"]
    assert len(frozen["pages"]) > 15 and {"wording.NOT_COVERED", "templates/round.html.j2"} <= frozen["texts"].keys()


def test_a_page_names_its_renderer_by_its_number(whole_run: Any) -> None:
    page = whole_run.drafts[0].html
    assert f"Renderer {renderers.RENDERER}.".encode() in page
    assert renderers.RENDERER.encode() not in golden.nameless(page)
    assert read_payload(whole_run.drafts[0].payload)[0].renderer == renderers.RENDERER


def test_a_run_with_shared_noise_that_version_73650c3_wrote_verifies(tmp_path: Path, transcript_check: Any) -> None:
    """Its mu, which that version could not bound, is not compared; its epsilons are, and its pages close an export."""
    old = unpacked("report-version-1-shared", tmp_path)
    result = verify_run(old / "public", trust=[old / "trust"], transcript_check=transcript_check)
    assert result.ok, failures(result)
    told = {check.name: check.detail for check in result.closing}
    assert told.keys() == {"pages", "figures"} and "3 pages" in told["pages"] and "privacy.gdp_mu" in told["figures"]
    with pytest.raises(VerificationFailed, match="cannot check the run in whole"):
        verified(old / "public", trust=[old / "trust"], transcript_check=transcript_check)


def test_a_reason_that_was_added_since_may_be_missing_and_no_other(
    new_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if this renderer were the first to give the first reason of a run that has to stop."""
    report = build_round(new_run().record(1, hospital={"b": {"cap": 1.0}})).report
    first, second = report.verdict.reasons[:2]
    monkeypatch.setattr(renderers, "ADDED_REASONS", {first[:20]: renderers.VERSION})
    values = report.model_dump(mode="json")
    values["renderer"] = OLD
    then = build_report(record_of(report), [first]).verdict.model_dump(mode="json")
    assert then["verdict"] == "PASS" and report.verdict.verdict == "STOP"
    values["verdict"] = dict(then)
    lacking = compare(RoundReport.model_validate(values), 0)
    assert lacking.wrong == () and lacking.unchecked == ("verdict.reasons",)
    assert "verdict.reasons" in compare(RoundReport.model_validate(values), renderers.VERSION).wrong
    for name, false in (("headline", "Epsilon 0.10."), ("may_continue", True), ("verdict", "INCOMPLETE")):
        values["verdict"] = {**then, name: false}
        assert f"verdict.{name}" in compare(RoundReport.model_validate(values), 0).wrong
    values["verdict"] = {**then, "reasons": [*then["reasons"], "HIPAA compliant."]}
    assert "verdict.reasons" in compare(RoundReport.model_validate(values), 0).wrong
    values["verdict"] = {**then, "reasons": [text for text in then["reasons"] if text != second]}
    assert "verdict.reasons" in compare(RoundReport.model_validate(values), 0).wrong
    values["verdict"] = {**then, "reasons": list(report.verdict.reasons)}
    assert {"verdict.verdict", "verdict.headline"} <= set(compare(RoundReport.model_validate(values), 0).wrong)


def test_a_reason_that_stops_nothing_frees_no_verdict(new_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """A warning that an older renderer did not give is left out of a report that had to stop: it stops all the same."""
    report = build_round(new_run().record(1, hospital={"b": {"cap": 1.0}})).report
    warning = report.verdict.reasons[-1]
    monkeypatch.setattr(renderers, "ADDED_REASONS", {warning[:20]: renderers.VERSION})
    values = report.model_dump(mode="json")
    values["renderer"] = OLD
    values["verdict"]["reasons"] = list(report.verdict.reasons[:-1])
    assert compare(RoundReport.model_validate(values), 0).wrong == ()
    values["verdict"].update(verdict="PASS", headline="Yes, the next round may go ahead.", may_continue=True)
    wrong = set(compare(RoundReport.model_validate(values), 0).wrong)
    assert {"verdict.verdict", "verdict.headline", "verdict.may_continue"} <= wrong


def test_a_field_that_was_added_since_is_empty_in_an_older_report_or_right(
    new_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if this renderer were the first to say what is left."""
    monkeypatch.setattr(renderers, "ADDED_FIELDS", {"composition.hospitals[].remaining": renderers.VERSION})
    values = build_round(new_run().record(1)).report.model_dump(mode="json")
    values["renderer"] = OLD
    rows = values["composition"]["hospitals"]
    said = [row["remaining"] for row in rows]
    rows[2]["remaining"] = None
    one = RoundReport.model_validate(values)
    assert compare(one, 0).wrong == ("composition.hospitals[2].remaining",), "no renderer knew it of some rows alone"
    for row in rows:
        row["remaining"] = None
    lacking = RoundReport.model_validate(values)
    assert compare(lacking, 0).wrong == () and "composition.hospitals[2].remaining" not in compare(lacking, 0).unchecked
    assert "composition.hospitals[2].remaining" in compare(lacking, renderers.VERSION).wrong
    for row, text in zip(rows, said, strict=True):
        row["remaining"] = text
    rows[2]["remaining"] = "7.9999"
    assert compare(RoundReport.model_validate(values), 0).wrong == ("composition.hospitals[2].remaining",)


def test_a_field_of_every_row_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renderers, "REWORDED", {"composition.hospitals[].held": 2, "data.codes": 2})
    assert renderers.reworded("composition.hospitals[11].held", 1) and renderers.reworded("data.codes[0].text", 1)
    assert not renderers.reworded("composition.hospitals[11].held", 2)
    assert not renderers.reworded("composition.hospitals[11].spent", 1) and not renderers.reworded("data.codesets", 1)
