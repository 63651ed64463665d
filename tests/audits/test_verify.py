"""Verification: a whole run passes, and everything that was changed is caught and named."""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedgan_audits import canonical_json
from fedgan_audits.errors import RecordInvalid
from fedgan_audits.facts.checks import Verification
from fedgan_audits.facts.records import MissingSignature
from fedgan_audits.facts.sections import REPORT_TYPE
from fedgan_audits.publishing.manifest import write_manifest
from fedgan_audits.signing import envelope
from fedgan_audits.signing.public_keys import public_pem
from fedgan_audits.verification.verify import verify_run

Check = Callable[..., Verification]


@pytest.fixture
def check(whole_run: Any, transcript_check: Any, tmp_path: Path) -> Check:
    """Verify with the keys that the hospitals gave out, unless told otherwise."""
    keys = whole_run.trust(tmp_path / "keys")

    def run(path: Path, **settings: Any) -> Verification:
        return verify_run(path, **{"trust": [keys], "transcript_check": transcript_check, **settings})

    return run


def failures(result: Verification) -> set[str]:
    assert result.exit_code == (0 if result.ok else 5)
    return {check.file for check in result.checks if check.outcome == "FAIL"}


def outcomes(result: Verification) -> dict[str, str]:
    """The worst outcome by check name."""
    order = {"PASS": 0, "NOT CHECKED": 1, "FAIL": 2}
    found: dict[str, str] = {}
    for entry in result.checks:
        if order[entry.outcome] >= order[found.get(entry.name, "PASS")]:
            found[entry.name] = entry.outcome
    return found


def payload_of(file: Path) -> bytes:
    return envelope.parse(file.read_bytes()).payload


def resign(run: Any, public: Path, number: int, change: Callable[[dict[str, Any]], None], **keys: Any) -> str:
    """Change a report's predicate and sign it with everyone's real key: the worst that all together could do."""
    file = public / f"reports/round-{number:04d}.dsse.json"
    statement = json.loads(payload_of(file))
    change(statement["predicate"])
    payload = canonical_json.canonical(statement)
    signers = {**run.keys, **keys}
    signatures = [envelope.sign(payload, key, name) for name, key in signers.items()]
    file.write_bytes(envelope.assemble(payload, signatures))
    return f"reports/{file.name}"


def test_a_whole_run_verifies_with_keys_from_outside(whole_run: Any, check: Check) -> None:
    result = check(whole_run.folder, full=True)
    assert failures(result) == set()
    found = outcomes(result)
    assert found.pop("head") == "NOT CHECKED"
    assert set(found.values()) == {"PASS"}, found
    assert result.run["rounds"] == 3 and result.run["head"] == whole_run.drafts[-1].digest


def test_the_public_folder_alone_verifies(bundle: Path, check: Check) -> None:
    assert check(bundle).ok


def test_keys_from_the_bundle_are_said_loudly(bundle: Path, check: Check) -> None:
    result = check(bundle, trust=None)
    keys = next(entry for entry in result.checks if entry.name == "keys")
    assert result.ok and keys.outcome == "NOT CHECKED" and "NOT from".lower() in keys.detail.lower()


def test_without_a_transcript_check_it_reads_not_checked(bundle: Path, check: Check) -> None:
    assert outcomes(check(bundle, transcript_check=None))["transcripts"] == "NOT CHECKED"


def test_one_outside_key_is_enough_and_the_others_are_named(
    whole_run: Any, bundle: Path, check: Check, tmp_path: Path
) -> None:
    place = whole_run.trust(tmp_path / "some", ["coordinator", "b"])
    result = check(bundle, trust=[place / "coordinator.pub.pem", place / "b.pub.pem"])
    assert result.ok
    assert any(entry.outcome == "NOT CHECKED" and "a, c, d" in entry.detail for entry in result.checks)


def test_every_random_single_byte_change_is_caught_and_named(whole_run: Any, bundle: Path, check: Check) -> None:
    chance = random.Random(20260302)  # noqa: S311 - which byte to flip is no secret
    files = sorted(path for path in bundle.rglob("*") if path.is_file())
    for index in range(200):
        file = files[index] if index < len(files) else chance.choice(files)
        data = file.read_bytes()
        at = chance.randrange(len(data))
        file.write_bytes(data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :])
        result = check(bundle, transcript_check=None, trust=None if index % 2 else whole_run.public_keys)
        name = file.relative_to(bundle).as_posix()
        assert name in failures(result), f"byte {at} of {name}: {failures(result)}"
        file.write_bytes(data)
    assert check(bundle).ok


def _remove(name: str) -> Callable[[Path], None]:
    return lambda public: (public / name).unlink()


def _copy(source: str, target: str) -> Callable[[Path], None]:
    return lambda public: (public / target).write_bytes((public / source).read_bytes()) and None


def _swap(public: Path) -> None:
    one, two = (public / f"reports/round-000{n}.dsse.json" for n in (1, 2))
    data = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(data)


def _extra(public: Path) -> None:
    (public / "reports/round-0004.html").write_text("<p>all is well</p>")


def _link(public: Path) -> None:
    page = public / "index.html"
    target = public.parent / "elsewhere.html"
    page.rename(target)
    page.symlink_to(target)


def _malleable(public: Path) -> None:
    file = public / "reports/round-0002.dsse.json"
    value = json.loads(file.read_bytes())
    sig = value["signatures"][0]["sig"]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    changed = sig[:-3] + alphabet[alphabet.index(sig[-3]) ^ 1] + "=="
    assert base64.b64decode(changed) == base64.b64decode(sig)
    file.write_bytes(file.read_bytes().replace(sig.encode(), changed.encode()))


def _drop_signature(public: Path) -> None:
    file = public / "reports/round-0002.dsse.json"
    value = json.loads(file.read_bytes())
    value["signatures"].pop()
    file.write_bytes(canonical_json.canonical(value))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_remove("reports/round-0002.dsse.json"), "reports/round-0002.dsse.json"),
        (_remove("reports/round-0003.dsse.json"), "reports/round-0003.dsse.json"),
        (_remove("reports/round-0001.a.sig"), "reports/round-0001.a.sig"),
        (_remove("reports/round-0001.pae"), "reports/round-0001.pae"),
        (_remove("transcripts/round-0002.cbor"), "transcripts/round-0002.cbor"),
        (_remove("model/generator.keras"), "model/generator.keras"),
        (_remove("manifest.dsse.json"), "manifest.dsse.json"),
        (_remove("policy.json"), "policy.json"),
        (_remove("index.html"), "index.html"),
        (_swap, "reports/round-0001.dsse.json"),
        (_extra, "reports/round-0004.html"),
        (_link, "index.html"),
        (_malleable, "reports/round-0002.dsse.json"),
        (_drop_signature, "reports/round-0002.dsse.json"),
        (lambda public: (public / "samples" / ".hidden").write_text("x"), "samples/.hidden"),
        (_copy("trust/a.pub.pem", "trust/e.pub.pem"), "trust/e.pub.pem"),
        (_copy("samples/round-0002.png", "samples/round-0001.png"), "samples/round-0001.png"),
    ],
)
@pytest.mark.parametrize("manifest_again", [False, True])
def test_structural_changes_are_caught_and_named(
    whole_run: Any, bundle: Path, check: Check, change: Callable[[Path], None], named: str, manifest_again: bool
) -> None:
    change(bundle)
    if manifest_again:
        try:  # a coordinator who covers a change up with a fresh manifest
            write_manifest(bundle, whole_run.facts(), whole_run.keys)
        except (RecordInvalid, canonical_json.EnvelopeError, OSError):
            pytest.skip("no manifest can be made over this change")
    result = check(bundle)
    removed_tail = named in ("reports/round-0003.dsse.json", "index.html", "manifest.dsse.json")
    harmless = named in ("reports/round-0004.html",)
    if manifest_again and (removed_tail or harmless):
        return  # truncation by the coordinator is only seen against a head: see below
    assert not result.ok
    assert named in failures(result) or (manifest_again and failures(result)), failures(result)


def test_truncation_by_the_coordinator_is_seen_against_a_head_alone(whole_run: Any, bundle: Path, check: Check) -> None:
    for file in bundle.glob("*/round-0003*"):
        file.unlink()
    for name in ("generator", "discriminator"):
        (bundle / f"model/{name}.keras").write_bytes(f"{name} after round 2".encode())
    write_manifest(bundle, whole_run.facts("ended early", "The run was ended."), whole_run.keys)
    unseen = check(bundle)
    assert unseen.ok and outcomes(unseen)["head"] == "NOT CHECKED"
    seen = check(bundle, head=whole_run.drafts[2].digest)
    assert not seen.ok and outcomes(seen)["head"] == "FAIL"
    assert any("withheld or rewritten" in entry.detail for entry in seen.checks)
    assert check(bundle, head=whole_run.drafts[0].digest).ok
    assert check(bundle, head=whole_run.drafts[1].digest).ok


def test_a_report_signed_with_another_key_is_named(whole_run: Any, bundle: Path, check: Check) -> None:
    stranger = Ed25519PrivateKey.generate()
    file = resign(whole_run, bundle, 2, lambda predicate: None, b=stranger)
    write_manifest(bundle, whole_run.facts(), whole_run.keys)
    result = check(bundle)
    assert file in failures(result) and outcomes(result)["signatures"] == "FAIL"


def test_a_policy_with_other_keys_does_not_replace_the_trusted_ones(whole_run: Any, new_run: Any, check: Check) -> None:
    forged = new_run(rounds=1).all_rounds()
    result = check(forged.folder)
    assert "policy.json" in failures(result)
    assert outcomes(result)["keys"] == outcomes(result)["manifest"] == outcomes(result)["signatures"] == "FAIL"


@pytest.mark.parametrize(
    ("change", "caught_by"),
    [
        (lambda p: p["verdict"].update(spent="0.5", remaining="7.5"), "epsilon"),
        (lambda p: [row.update(spent="0.5") for row in p["composition"]["hospitals"]], "epsilon"),
        (lambda p: p["composition"]["hospitals"][1].update(spent_second_accountant="0.1"), "epsilon"),
        (lambda p: p["verdict"].update(headline="All is well."), "figures"),
        (lambda p: p["composition"].update(two_hospitals="0.1"), "figures"),
        (
            lambda p: p["aggregation"]["participants"][0]["this_run"][0]["mechanism"].update(noise_multiplier=9),
            "figures",
        ),
        (lambda p: p["header"].update(previous_report="0" * 64), "chain"),
        (lambda p: p["header"].update(policy_sha256="0" * 64), "chain"),
        (lambda p: p["header"].update(run_id="other"), "chain"),
        (lambda p: p["aggregation"]["facts"].update(transcript_sha256="0" * 64), "artefacts"),
        (lambda p: p["aggregation"]["participants"].pop(), "schema"),
        (lambda p: p["verdict"].update(surprise="x"), "schema"),
        (lambda p: p.update(schema_version="0"), "schema"),
        (lambda p: p["controls"]["controls"][0].update(status="failed"), "figures"),
    ],
)
def test_false_figures_are_caught_even_when_everyone_signs_them(
    whole_run: Any, bundle: Path, check: Check, change: Callable[[dict[str, Any]], None], caught_by: str
) -> None:
    file = resign(whole_run, bundle, 3, change)
    result = check(bundle)
    named = {entry.name for entry in result.checks if entry.outcome == "FAIL" and entry.file == file}
    named |= {entry.name for entry in result.checks if entry.outcome == "FAIL" and caught_by == "artefacts"}
    # a mechanism that contradicts the reservation of the round is refused as a record; one that agrees is recomputed
    assert caught_by in named or ("schema" in named and caught_by == "figures"), named


def test_forgotten_reservations_are_caught(whole_run: Any, bundle: Path, check: Check) -> None:
    def forget(predicate: dict[str, Any]) -> None:
        for hospital in predicate["aggregation"]["participants"]:
            hospital["this_run"][0]["first_round"] = 3

    file = resign(whole_run, bundle, 3, forget)
    result = check(bundle)
    assert outcomes(result)["reservations"] == outcomes(result)["epsilon"] == "FAIL"
    assert file in failures(result)


def test_a_false_page_is_caught_even_when_its_digest_is_signed(whole_run: Any, bundle: Path, check: Check) -> None:
    import hashlib

    page = bundle / "reports/round-0003.html"
    page.write_bytes(page.read_bytes().replace(b"2.5619", b"0.2561"))
    file = bundle / "reports/round-0003.dsse.json"
    statement = json.loads(payload_of(file))
    for subject in statement["subject"]:
        if subject["name"] == "reports/round-0003.html":
            subject["digest"]["sha256"] = hashlib.sha256(page.read_bytes()).hexdigest()
    payload = canonical_json.canonical(statement)
    file.write_bytes(envelope.assemble(payload, [envelope.sign(payload, k, n) for n, k in whole_run.keys.items()]))
    result = check(bundle)
    assert any(entry.name == "pages" and entry.file == "reports/round-0003.html" for entry in result.checks)


def test_a_transcript_of_another_round_is_caught(bundle: Path, check: Check) -> None:
    (bundle / "transcripts/round-0002.cbor").write_bytes((bundle / "transcripts/round-0001.cbor").read_bytes())
    result = check(bundle)
    assert outcomes(result)["transcripts"] == "FAIL"
    assert "transcripts/round-0002.cbor" in failures(result)


def test_a_missing_cosignature_verifies_as_incomplete(new_run: Any, transcript_check: Any) -> None:
    run = new_run(rounds=1)
    missing = (MissingSignature(name="c", reason="The hospital could not be reached."),)
    run.report(1, signers=("coordinator", "a", "b", "d"), missing_cosignatures=missing)
    run.close()
    assert verify_run(run.folder, trust=run.public_keys, transcript_check=transcript_check).ok
    assert run.drafts[0].report.verdict.verdict == "INCOMPLETE"


def test_a_run_without_rounds_verifies(new_run: Any, transcript_check: Any) -> None:
    run = new_run()
    run.close("refused", "Every hospital refused the first round.")
    result = verify_run(run.folder, trust=run.public_keys, transcript_check=transcript_check)
    assert result.ok and result.run["rounds"] == 0


def test_what_is_no_run_is_said_before_anything_else(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for place in (tmp_path / "photos", tmp_path / "absent"):
        with pytest.raises(RecordInvalid, match="holds no run"):
            verify_run(place)


@pytest.mark.parametrize("text", ["not a key", "", "-----BEGIN PRIVATE KEY-----\nMC4=\n-----END PRIVATE KEY-----\n"])
def test_a_file_that_is_no_public_key_is_said(bundle: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "coordinator.pub.pem").write_text(text)
    with pytest.raises(RecordInvalid, match=r"coordinator\.pub\.pem"):
        verify_run(bundle, trust=[tmp_path / "coordinator.pub.pem"])


def test_a_key_of_another_kind_is_said(bundle: Path, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    (tmp_path / "a.pub.pem").write_bytes(public_pem(X25519PrivateKey.generate().public_key()))  # type: ignore[arg-type]
    with pytest.raises(RecordInvalid, match="expected Ed25519"):
        verify_run(bundle, trust=[tmp_path / "a.pub.pem"])
    with pytest.raises(RecordInvalid, match="64 lowercase"):
        verify_run(bundle, head="abc")


@pytest.mark.parametrize("kind", ["deep", "huge", "fifo", "folder", "binary", "many brackets", "sparse"])
def test_hostile_files_fail_clearly(bundle: Path, check: Check, kind: str) -> None:
    file = bundle / "reports/round-0002.dsse.json"
    file.unlink()
    if kind == "deep":
        file.write_bytes(b"[" * 1_000_000)
    elif kind == "many brackets":
        file.write_bytes(b'{"payload":' * 200_000)
    elif kind == "huge":
        file.write_bytes(b'{"payload":"' + b"A" * 5_000_000)
    elif kind == "sparse":
        with file.open("wb") as opened:
            opened.truncate(65 * 2**20)
    elif kind == "fifo":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        file.write_bytes(bytes(range(256)) * 40)
    result = check(bundle)
    assert not result.ok
    assert "reports/round-0002.dsse.json" in failures(result)


def test_a_linked_folder_is_refused(bundle: Path, check: Check, tmp_path: Path) -> None:
    shutil.move(bundle / "samples", tmp_path / "outside")
    (bundle / "samples").symlink_to(tmp_path / "outside")
    result = check(bundle)
    assert "samples" in failures(result)


def test_every_byte_of_a_policy_matters(whole_run: Any, bundle: Path, check: Check) -> None:
    policy = json.loads((bundle / "policy.json").read_bytes())
    policy["threshold"] = 2
    (bundle / "policy.json").write_bytes(canonical_json.canonical(policy))
    write_manifest(bundle, whole_run.facts(), whole_run.keys)
    result = check(bundle)
    assert "policy.json" in failures(result) and outcomes(result)["chain"] == "FAIL"


def test_the_statement_type_is_checked(whole_run: Any, bundle: Path, check: Check) -> None:
    manifest = bundle / "manifest.dsse.json"
    (bundle / "reports/round-0003.dsse.json").write_bytes(manifest.read_bytes())
    result = check(bundle)
    assert any(REPORT_TYPE in entry.detail for entry in result.checks if entry.outcome == "FAIL")


def test_the_manifest_alone_covers_files_that_no_report_names(new_run: Any) -> None:
    run = new_run(rounds=1)
    run.report(1)
    note = run.public / "trust" / "statements.json"
    note.parent.mkdir(exist_ok=True)
    note.write_text("sent to the board on Monday")
    run.close()
    assert verify_run(run.folder, trust=run.public_keys).ok
    note.write_text("sent to the board on Friday")
    result = verify_run(run.folder, trust=run.public_keys)
    assert failures(result) == {"trust/statements.json"}


@pytest.mark.parametrize(
    "name", ["notes.txt", "reports/summary.html", "trust/README.html", "model/photographs.keras", "samples/a.svg"]
)
def test_a_file_that_no_run_publishes_fails_whoever_signed_for_it(new_run: Any, name: str) -> None:
    run = new_run(rounds=1)
    run.report(1)
    place = run.public / name
    place.parent.mkdir(exist_ok=True)
    place.write_text("Epsilon 0.10, HIPAA compliant")
    run.close()
    assert failures(verify_run(run.folder, trust=run.public_keys)) == {name}


def test_a_report_that_does_not_follow_from_the_last_is_caught_under_a_fresh_manifest(
    whole_run: Any, bundle: Path, check: Check
) -> None:
    file = resign(whole_run, bundle, 3, lambda predicate: predicate["header"].update(previous_report="0" * 64))
    write_manifest(bundle, whole_run.facts(), whole_run.keys)
    result = check(bundle)
    details = {entry.detail for entry in result.checks if entry.outcome == "FAIL" and entry.file == file}
    assert "does not follow from the report before it" in details


def test_a_signed_report_with_impossible_content_is_a_failure_and_no_crash(
    whole_run: Any, bundle: Path, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedgan_audits.pages import render

    def broken(*_: Any) -> bytes:
        raise ZeroDivisionError

    monkeypatch.setattr(render, "render_round", broken)
    result = check(bundle)
    assert not result.ok and "reports/round-0001.html" in failures(result)


def test_keys_given_from_inside_the_bundle_are_no_outside_keys(bundle: Path, check: Check) -> None:
    keys = next(entry for entry in check(bundle, trust=[bundle / "trust"]).checks if entry.name == "keys")
    assert keys.outcome == "NOT CHECKED" and "BUNDLE ITSELF" in keys.detail
