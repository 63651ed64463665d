"""What a bundle cannot show alone: a hospital's ledger against the coordinator's chain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedgan_audits.facts.checks import Verification
from fedgan_audits.ledger.ledger import Ledger
from fedgan_audits.publishing.manifest import write_manifest
from fedgan_audits.verification.verify import verify_run


def make_ledger(run: Any, path: Path, *, hospital: str = "b", signed: dict[int, str] | None = None) -> Path:
    """The ledger that `hospital` would hold after the run."""
    digests = {number: draft.digest for number, draft in enumerate(run.drafts, start=1)}
    with Ledger.open(path, hospital=hospital, create=True) as ledger:
        for number in range(1, run.rounds + 1):
            ledger.reserve(run.run_id, number, run.scheduled(number), 1e-4)
            digest = (digests if signed is None else signed).get(number)
            if digest:
                ledger.record("report_signed", run.run_id, number, {"digest": digest})
    return path


def failed(result: Verification) -> list[str]:
    return [
        f"{check.file} {check.detail}" for check in result.checks if check.name == "ledger" and check.outcome == "FAIL"
    ]


def test_an_honest_ledger_agrees(whole_run: Any, tmp_path: Path) -> None:
    ledger = make_ledger(whole_run, tmp_path / "ledger.sqlite")
    result = verify_run(whole_run.folder, trust=whole_run.public_keys, ledger=ledger)
    assert result.ok, failed(result)
    assert any(check.name == "ledger" and check.outcome == "PASS" for check in result.checks)
    assert not any(check.name == "head" for check in result.checks)


def test_another_history_is_caught(whole_run: Any, tmp_path: Path) -> None:
    signed = {1: whole_run.drafts[0].digest, 2: "0" * 64, 3: whole_run.drafts[2].digest}
    ledger = make_ledger(whole_run, tmp_path / "ledger.sqlite", signed=signed)
    result = verify_run(whole_run.folder, trust=whole_run.public_keys, ledger=ledger)
    assert result.exit_code == 5
    assert failed(result) == ["reports/round-0002.dsse.json b signed another report of this round"]


def test_withheld_rounds_are_caught(whole_run: Any, bundle: Path, tmp_path: Path) -> None:
    ledger = make_ledger(whole_run, tmp_path / "ledger.sqlite")
    for file in bundle.glob("*/round-0003*"):
        file.unlink()
    for name in ("generator", "discriminator"):
        (bundle / f"model/{name}.keras").write_bytes(f"{name} after round 2".encode())
    write_manifest(bundle, whole_run.facts("ended early", "The run was ended."), whole_run.keys)
    assert verify_run(bundle, trust=whole_run.public_keys).ok
    result = verify_run(bundle, trust=whole_run.public_keys, ledger=ledger)
    assert any("round 3 that is not here" in text for text in failed(result))


def test_a_signature_that_the_hospital_never_gave_is_caught(whole_run: Any, tmp_path: Path) -> None:
    signed = {1: whole_run.drafts[0].digest, 2: whole_run.drafts[1].digest}
    ledger = make_ledger(whole_run, tmp_path / "ledger.sqlite", signed=signed)
    result = verify_run(whole_run.folder, trust=whole_run.public_keys, ledger=ledger)
    assert any("knows no signature" in text for text in failed(result))


@pytest.mark.parametrize("kind", ["stranger", "damaged", "no ledger"])
def test_an_unusable_ledger_fails_clearly(whole_run: Any, tmp_path: Path, kind: str) -> None:
    place = tmp_path / "ledger.sqlite"
    if kind == "no ledger":
        place.write_bytes(b"this is no database" * 100)
    else:
        make_ledger(whole_run, place, hospital="z" if kind == "stranger" else "b")
    if kind == "damaged":
        data = place.read_bytes()
        place.write_bytes(data.replace(b"report_signed", b"report_resign"))
    result = verify_run(whole_run.folder, trust=whole_run.public_keys, ledger=place)
    assert result.exit_code == 5 and failed(result)


@pytest.mark.parametrize(("kind", "said"), [("earlier", "earlier runs are not those"), ("cap", "cap is not the one")])
def test_a_report_that_hides_what_the_ledger_held_is_caught(
    whole_run: Any, tmp_path: Path, kind: str, said: str
) -> None:
    place = tmp_path / "ledger.sqlite"
    digests = {number: draft.digest for number, draft in enumerate(whole_run.drafts, start=1)}
    with Ledger.open(place, hospital="b", create=True) as ledger:
        if kind == "earlier":
            ledger.reserve("last-year", 1, whole_run.mechanism, 1e-4)
        for number in range(1, whole_run.rounds + 1):
            cap = 50.0 if kind == "cap" else None
            ledger.reserve(whole_run.run_id, number, whole_run.mechanism, 1e-4, cap)
            ledger.record("report_signed", whole_run.run_id, number, {"digest": digests[number]})
    result = verify_run(whole_run.folder, trust=whole_run.public_keys, ledger=place)
    found = failed(result)
    assert len(found) == whole_run.rounds and all(said in text for text in found)


def test_what_other_runs_reserved_later_is_no_earlier_run(whole_run: Any, tmp_path: Path) -> None:
    place = make_ledger(whole_run, tmp_path / "ledger.sqlite")
    with Ledger.open(place) as ledger:
        ledger.reserve("next-year", 1, whole_run.mechanism, 1e-4)
    assert verify_run(whole_run.folder, trust=whole_run.public_keys, ledger=place).ok


@pytest.mark.parametrize("beyond", [1, 4])
def test_a_round_beyond_the_schedule_is_caught(whole_run: Any, tmp_path: Path, beyond: int) -> None:
    """One round more than a run that is complete was once taken for one that may still be running."""
    place = make_ledger(whole_run, tmp_path / "ledger.sqlite")
    with Ledger.open(place) as ledger:
        ledger.reserve(whole_run.run_id, whole_run.rounds + beyond, whole_run.mechanism, 1e-4)
    result = verify_run(whole_run.folder, trust=whole_run.public_keys, ledger=place)
    (text,) = failed(result)
    assert result.exit_code == 5
    assert text.endswith(f"b reserved budget for round {3 + beyond}, and 3 rounds are scheduled, spare ones included")


def test_a_reservation_after_the_run_was_complete_is_caught(whole_run: Any, tmp_path: Path) -> None:
    place = tmp_path / "ledger.sqlite"
    with Ledger.open(place, hospital="b", create=True) as ledger:
        for number, draft in enumerate(whole_run.drafts, start=1):
            if number == whole_run.rounds:
                ledger.end_run(whole_run.run_id, "complete")
            ledger.reserve(whole_run.run_id, number, whole_run.scheduled(number), 1e-4)
            ledger.record("report_signed", whole_run.run_id, number, {"digest": draft.digest})
    result = verify_run(whole_run.folder, trust=whole_run.public_keys, ledger=place)
    (text,) = failed(result)
    assert text.endswith(
        f"b reserved budget for round {whole_run.rounds}, after it had signed that the run is complete"
    )


@pytest.mark.parametrize(("outcome", "caught"), [("running", False), ("complete", True)])
def test_a_reserved_round_without_a_report_may_be_running_until_the_run_is_complete(
    whole_run: Any, bundle: Path, tmp_path: Path, outcome: Any, caught: bool
) -> None:
    signed = {1: whole_run.drafts[0].digest, 2: whole_run.drafts[1].digest}
    place = make_ledger(whole_run, tmp_path / "ledger.sqlite", signed=signed)
    for file in bundle.glob("*/round-0003*"):
        file.unlink()
    for name in ("generator", "discriminator"):
        (bundle / f"model/{name}.keras").write_bytes(f"{name} after round 2".encode())
    write_manifest(bundle, whole_run.facts(outcome, "As the coordinator says."), whole_run.keys)
    result = verify_run(bundle, trust=whole_run.public_keys, ledger=place)
    assert [text.endswith("of which no report is here") for text in failed(result)] == [True] * caught
    skipped = [check for check in result.checks if check.name == "ledger" and check.outcome == "NOT CHECKED"]
    assert len(skipped) == (not caught)


@pytest.mark.parametrize("signer", ["b", "a", "nobody"])
def test_who_raised_the_cap_is_compared_with_the_hospitals_key(whole_run: Any, tmp_path: Path, signer: str) -> None:
    place = tmp_path / "ledger.sqlite"
    with Ledger.open(place, hospital="b", create=True) as ledger:
        ledger.reserve("last-year", 1, whole_run.mechanism, 1e-4, 50.0)
        ledger.raise_cap(90.0, "the board agreed", whole_run.keys["b" if signer == "nobody" else signer])
        for number, draft in enumerate(whole_run.drafts, start=1):
            ledger.reserve(whole_run.run_id, number, whole_run.scheduled(number), 1e-4)
            ledger.record("report_signed", whole_run.run_id, number, {"digest": draft.digest})
        if signer == "nobody":
            facts = {**ledger.entries()[2].facts, "cap": 95.0}
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("fedgan_audits.ledger.caps.raise_facts", lambda *given: facts)
                ledger.raise_cap(95.0, "forged", whole_run.keys["b"])
            ledger.reserve(whole_run.run_id, 4, whole_run.mechanism, 1e-4)
    result = verify_run(whole_run.folder, trust=whole_run.public_keys, ledger=place)
    found = [text for text in failed(result) if "cap was raised" in text]
    said = {"a": "by another key", "nobody": "without a valid signature"}
    assert len(found) == (signer != "b") and all(said[signer] in text for text in found)


@pytest.mark.parametrize("honest", [True, False])
def test_which_mechanism_came_first_decides_the_filter_and_is_compared(
    new_run: Any, tmp_path: Path, honest: bool
) -> None:
    run = new_run(rounds=1)
    quiet = run.mechanism.model_copy(update={"noise_multiplier": 9.0})
    earlier = (run.mechanism, quiet) if honest else (quiet, run.mechanism)
    base = run.record(1)
    rows = tuple(row.model_copy(update={"earlier": earlier}) if row.name == "b" else row for row in base.hospitals)
    draft = run.report(1, hospitals=rows)
    run.close()
    place = tmp_path / "ledger.sqlite"
    with Ledger.open(place, hospital="b", create=True) as ledger:
        for number, mechanism in enumerate((run.mechanism, quiet), start=1):
            ledger.reserve(f"year-{number}", 1, mechanism, 1e-4)
        ledger.reserve(run.run_id, 1, run.mechanism, 1e-4)
        ledger.record("report_signed", run.run_id, 1, {"digest": draft.digest})
    result = verify_run(run.folder, trust=run.public_keys, ledger=place)
    assert any("earlier runs are not those" in text for text in failed(result)) is not honest
