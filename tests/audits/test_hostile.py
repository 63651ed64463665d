"""Bundles made to break what reads them: each is a clear failure, no stack trace, and memory stays bounded."""

from __future__ import annotations

import base64
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedgan_audits import canonical_json
from fedgan_audits.accounting import budget
from fedgan_audits.accounting.mechanism import MechanismRecord
from fedgan_audits.errors import AuditError, RecordInvalid
from fedgan_audits.facts.checks import Verification, shown
from fedgan_audits.facts.records import RoundHeader
from fedgan_audits.facts.run import MANIFEST
from fedgan_audits.publishing.manifest import write_manifest
from fedgan_audits.signing import envelope
from fedgan_audits.signing.trust import load_trust
from fedgan_audits.verification.verify import public_folder, verify_run

MakeRun = Callable[..., Any]
ESCAPES = "\x1b[2J\x1b]0;owned\x07\u202e"


def failures(result: Verification) -> set[str]:
    assert result.exit_code == (0 if result.ok else 5)
    return {check.file for check in result.checks if check.outcome == "FAIL"}


def details(result: Verification, outcome: str = "FAIL") -> str:
    return "\n".join(check.detail for check in result.checks if check.outcome == outcome)


def audit(*arguments: str | Path) -> tuple[int, str, int]:
    """Exit code, all output and peak memory in MiB of `fedgan-secure audit ...` in a process of its own.

    The peak is VmHWM: ru_maxrss starts at what the process that started this one held.
    """
    code = (
        "import pathlib, sys\nfrom fedgan_cli.main import main\n"
        "try:\n    main(['audit', *sys.argv[1:]])\n"
        "finally:\n    status = pathlib.Path('/proc/self/status').read_text().split()\n"
        "    print(status[status.index('VmHWM:') + 1], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert "Traceback" not in done.stderr and "defect" not in done.stderr, done.stderr
    *said, peak = done.stderr.split("\n")[:-1]
    return done.returncode, done.stdout + "\n".join(said), int(peak) // 1024


def sign(run: Any, payload: bytes) -> bytes:
    return envelope.assemble(payload, [envelope.sign(payload, key, name) for name, key in run.keys.items()])


def altered(run: Any, public: Path, file: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a signed statement and let everybody sign it again: what all keys together could publish."""
    place = public / file
    statement = json.loads(envelope.parse(place.read_bytes()).payload)
    change(statement)
    place.write_bytes(sign(run, canonical_json.canonical(statement)))


# what is read


@pytest.mark.parametrize(
    "bomb",
    [
        b"[" + b"[]," * 4_000_000 + b"[]]",
        b"[" + b'{"":0},' * 2_000_000 + b"0]",
        b"[" + b"0," * 20_000_000 + b"0]",
        b"[" * 30_000_000,
        b'{"a":' * 5_000_000,
        b'"' + b"\xf0\x9f\x92\xa3" * 12_000_000 + b'"',
        b"1" * 40_000_000,
        b'{"payload":"' + base64.b64encode(b"[" + b"[]," * 4_000_000 + b"[]]"),
    ],
    ids=["lists", "objects", "numbers", "depth", "nested objects", "text", "digits", "inside the payload"],
)
def test_a_json_bomb_is_refused_in_bounded_memory(bundle: Path, bomb: bytes) -> None:
    if bomb.startswith(b'{"payload":"'):
        tail = f'","payloadType":"{envelope.PAYLOAD_TYPE}","signatures":[{{"keyid":"x","sig":"{"A" * 86}=="}}]}}'
        bomb += tail.encode()
    for file in ("reports/round-0002.dsse.json", MANIFEST, "policy.json"):
        (bundle / file).write_bytes(bomb)
    code, said, peak = audit("verify", bundle)
    assert code == 5
    assert all(file in said for file in ("reports/round-0002.dsse.json", MANIFEST, "policy.json"))
    assert peak < 700, f"{peak} MiB"
    assert audit("show", bundle, "--round", "2")[0] == 5


def test_files_of_any_size_are_digested_without_being_held(bundle: Path) -> None:
    with (bundle / "model/generator.keras").open("wb") as file:
        file.truncate(2 * 2**30)
    code, said, peak = audit("verify", bundle)
    assert code == 5 and "model/generator.keras" in said and peak < 700, peak


@pytest.mark.parametrize("target", ["/etc/passwd", "/dev/zero", "../outside", "reports"])
@pytest.mark.parametrize("file", ["policy.json", MANIFEST, "reports/round-0001.dsse.json", "samples/round-0003.png"])
def test_no_link_is_followed(whole_run: Any, bundle: Path, file: str, target: str) -> None:
    (bundle.parent / "outside").write_bytes((bundle / file).read_bytes())
    (bundle / file).unlink()
    (bundle / file).symlink_to(target)
    result = verify_run(bundle, trust=whole_run.public_keys)
    assert file in failures(result) and "symbolic link" in details(result)


PATHS = [
    "../../../etc/passwd",
    "/etc/passwd",
    "reports/../../x",
    "a\\b",
    "a/b/c/d/e/f/g",
    ".hidden",
    "x\0y",
    "con\n",
    "",
]


@pytest.mark.parametrize("path", PATHS)
def test_no_path_leaves_the_folder(whole_run: Any, bundle: Path, path: str) -> None:
    """In the manifest, among a report's artefacts and as its picture: signed by everybody, and refused all the same."""

    def in_manifest(statement: dict[str, Any]) -> None:
        statement["predicate"]["files"].insert(0, {"path": path, "size": 1})
        statement["subject"] = sorted(
            [*statement["subject"], {"name": path, "digest": {"sha256": "0" * 64}}], key=lambda entry: entry["name"]
        )

    def in_report(statement: dict[str, Any]) -> None:
        for entry in statement["predicate"]["verification"]["artefacts"]:
            if entry["kind"] == "samples":
                entry["path"] = path
        for entry in statement["subject"]:
            if entry["name"].startswith("samples/"):
                entry["name"] = path
        statement["subject"].sort(key=lambda entry: entry["name"])

    altered(whole_run, bundle, MANIFEST, in_manifest)
    altered(whole_run, bundle, "reports/round-0002.dsse.json", in_report)
    result = verify_run(bundle, trust=whole_run.public_keys)
    assert {MANIFEST, "reports/round-0002.dsse.json"} <= failures(result)
    assert "schema" in details(result)


@pytest.mark.parametrize("name", ["../../a", "<script>alert(1)</script>", ESCAPES, "a b", "", "a" * 64, "coordinator"])
def test_a_hospital_has_a_plain_name_or_none(new_run: MakeRun, name: str) -> None:
    run = new_run(rounds=1).all_rounds()
    policy = json.loads(run.policy)
    policy["hospitals"][1]["name"] = name
    (run.public / "policy.json").write_bytes(canonical_json.canonical(policy))

    def rename(statement: dict[str, Any]) -> None:
        for table in ("composition.hospitals", "mechanism.rows", "aggregation.participants"):
            section, key = table.split(".")
            statement["predicate"][section][key][1]["name"] = name

    altered(run, run.public, "reports/round-0001.dsse.json", rename)
    write_anyway(run)
    result = verify_run(run.folder)
    assert {"policy.json", "reports/round-0001.dsse.json"} <= failures(result)
    everything = json.dumps(result.to_dict(), ensure_ascii=False)
    assert "\x1b" not in everything and "\u202e" not in everything


def write_anyway(run: Any) -> None:
    with suppress(AuditError):
        write_manifest(run.public, run.facts(), run.keys)


def test_what_a_bundle_says_cannot_move_the_cursor(whole_run: Any, bundle: Path) -> None:
    altered(
        whole_run, bundle, "reports/round-0002.dsse.json",
        lambda statement: statement["predicate"]["verdict"].update({ESCAPES: "x", "y" * 5_000: "x"}),
    )  # fmt: skip
    (bundle / "reports" / "evil\x1b[2J.html").write_text("x")
    code, said, _ = audit("verify", bundle)
    assert code == 5 and "reports/round-0002.dsse.json" in said
    assert "\x1b" not in said and "\x07" not in said and "\u202e" not in said
    assert max(map(len, said.splitlines())) < 1_200
    assert shown("a\x1b[31mb\u202e") == "a\\x1b[31mb\\u202e"


# what is no run, or not a whole one


def test_what_is_no_run_is_a_wrong_request(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "archive.zip").write_bytes(b"PK\x03\x04")
    for name in ("empty", "file", "archive.zip", "absent", "\x1b[2J"):
        for command in ("verify", "show"):
            code, said, _ = audit(command, tmp_path / name)
            assert code == 2 and "holds no run" in said and "hint" in said, said
            assert "\x1b" not in said
    with pytest.raises(RecordInvalid, match="holds no run"):
        public_folder(tmp_path / "file" / "below")


@pytest.mark.parametrize("left", ["policy.json", "reports", MANIFEST, "policy.json reports", "policy.json trust"])
def test_an_incomplete_folder_says_what_is_missing(whole_run: Any, bundle: Path, left: str) -> None:
    for place in list(bundle.iterdir()):
        if place.name not in left.split():
            shutil.rmtree(place) if place.is_dir() else place.unlink()
    result = verify_run(bundle, trust=whole_run.public_keys)
    missing = {"policy.json", MANIFEST} - set(left.split())
    assert missing <= failures(result) and "missing" in details(result)
    assert len([check for check in result.checks if check.outcome == "FAIL"]) < 60


def test_a_run_of_a_newer_version_says_so(whole_run: Any, bundle: Path) -> None:
    def newer(statement: dict[str, Any]) -> None:
        statement["predicateType"] = statement["predicateType"][:-1] + "12"
        statement["predicate"] = {"whatever": "comes"}

    for file in (MANIFEST, "reports/round-0003.dsse.json"):
        altered(whole_run, bundle, file, newer)
    result = verify_run(bundle, trust=whole_run.public_keys)
    assert {MANIFEST, "reports/round-0003.dsse.json"} <= failures(result)
    for reads in ("0", "0, 1, 2, 3"):  # manifests, and reports
        assert f"version 12, and this fedgan-secure reads version {reads}: verify with a newer one" in details(result)
    code, said, _ = audit("show", bundle)
    assert code == 5 and "verify with a newer one" in said


def test_a_statement_of_another_kind_is_not_called_newer(whole_run: Any, bundle: Path) -> None:
    altered(
        whole_run, bundle, MANIFEST, lambda statement: statement.update(predicateType="https://example.com/other:7")
    )  # fmt: skip
    assert "expected a predicate of type" in details(verify_run(bundle, trust=whole_run.public_keys))


# keys


def pem(key: Any) -> bytes:
    return bytes(key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))


KEYS: dict[str, Callable[[], bytes]] = {
    "RSA": lambda: pem(rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()),
    "an elliptic curve": lambda: pem(ec.generate_private_key(ec.SECP256R1()).public_key()),
    "private": lambda: Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ),
    "a certificate": lambda: b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
    "raw": lambda: os.urandom(32),
    "OpenSSH": lambda: b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ9 someone@example\n",
    "huge": lambda: b"-----BEGIN PUBLIC KEY-----\n" + b"A" * 10_000_000,
    "empty": lambda: b"",
}


@pytest.mark.parametrize("kind", KEYS)
def test_a_key_of_the_wrong_kind_is_a_wrong_request(bundle: Path, tmp_path: Path, kind: str) -> None:
    place = tmp_path / "keys"
    place.mkdir()
    (place / "a.pub.pem").write_bytes(KEYS[kind]())
    code, said, _ = audit("verify", bundle, "--trust", place)
    assert code == 2 and "a.pub.pem" in said and "hint" in said, said


def test_one_name_has_one_key(bundle: Path, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.pub.pem").write_bytes(pem(Ed25519PrivateKey.generate().public_key()))
    with pytest.raises(RecordInvalid, match="two different keys are given for a"):
        load_trust([tmp_path / "one", tmp_path / "two"])


def test_keys_of_another_federation_fail_every_signature(bundle: Path, new_run: MakeRun, tmp_path: Path) -> None:
    keys = new_run().trust(tmp_path / "keys")
    result = verify_run(bundle, trust=[keys])
    assert {"policy.json", MANIFEST, "reports/round-0001.dsse.json"} <= failures(result)


# time, size and work


def moved(run: Any, number: int, start: int, end: int) -> RoundHeader:
    header = run.record(number).header
    return header.model_copy(
        update={"started": header.started + timedelta(hours=start), "ended": header.ended + timedelta(hours=end)}
    )


def test_a_clock_that_goes_backwards_is_said_and_proves_nothing(new_run: MakeRun, transcript_check: Any) -> None:
    run = new_run(rounds=3)
    run.report(1)
    run.report(2, header=moved(run, 2, 0, -5))
    run.report(3, header=moved(run, 3, -9, -9))
    run.close()
    assert any("clock went backwards" in reason for reason in run.drafts[1].report.verdict.reasons)
    assert not any("clock" in reason for reason in run.drafts[2].report.verdict.reasons)
    result = verify_run(run.folder, trust=run.public_keys, transcript_check=transcript_check)
    assert result.ok, details(result)
    assert "clock went backwards at round 2, 3" in details(result, "NOT CHECKED")


def test_a_clock_that_runs_forwards_is_no_remark(whole_run: Any) -> None:
    result = verify_run(whole_run.folder, trust=whole_run.public_keys)
    assert {check.outcome for check in result.checks if check.name == "times"} == {"PASS"}


def test_figures_that_would_take_days_are_not_computed(new_run: MakeRun) -> None:
    many = tuple(
        MechanismRecord(
            sampling_probability=0.1, noise_multiplier=1 + number / 1e4, steps=5, l2_clip_norm=1.0, unit="patient"
        )
        for number in range(budget.MAX_KINDS + 1)
    )
    run = new_run(rounds=1).all_rounds()

    def burden(statement: dict[str, Any]) -> None:
        hospital = statement["predicate"]["aggregation"]["participants"][0]
        hospital["earlier"] = [mechanism.model_dump(mode="json") for mechanism in many]

    altered(run, run.public, "reports/round-0001.dsse.json", burden)
    write_manifest(run.public, run.facts(), run.keys)
    result = verify_run(run.folder, trust=run.public_keys)
    assert "lists 258 different mechanisms, expected at most 256" in details(result)


@pytest.mark.parametrize(("steps", "sigma", "q"), [(2**40, 1e-3, 1.0), (2**40, 1e9, 1e-9), (1, 1e-9, 0.5)])
def test_extreme_mechanisms_cost_no_more_than_others(new_run: MakeRun, steps: int, sigma: float, q: float) -> None:
    run = new_run(rounds=1).all_rounds()

    def extreme(statement: dict[str, Any]) -> None:
        for hospital in statement["predicate"]["aggregation"]["participants"]:
            for mechanism in (hospital["reserved"], hospital["this_run"][0]["mechanism"]):
                mechanism.update(steps=steps, noise_multiplier=sigma, sampling_probability=q)

    altered(run, run.public, "reports/round-0001.dsse.json", extreme)
    write_manifest(run.public, run.facts(), run.keys)
    before = resource.getrusage(resource.RUSAGE_SELF)
    result = verify_run(run.folder, trust=run.public_keys)
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert "reports/round-0001.dsse.json" in failures(result)
    assert after.ru_utime - before.ru_utime < 30


def test_thousands_of_failures_are_summed_up_for_a_person(bundle: Path) -> None:
    for number in range(3_000):
        (bundle / "samples" / f"round-{number:05d}.png").write_bytes(b"x")
    code, said, _ = audit("verify", bundle)
    assert code == 5 and len(said.splitlines()) < 120
    assert "and 2960 more like these: --json lists them all" in said
    code, said, _ = audit("verify", bundle, "--json")
    assert code == 5 and said.count("not listed in the manifest") == 3_000


@pytest.mark.slow
def test_ten_thousand_reports_are_read_in_bounded_memory(bundle: Path) -> None:
    """The same report under 10,000 names: all of them but one are out of place, and each is said."""
    source = bundle / "reports/round-0001.dsse.json"
    for number in range(4, 10_001):
        os.link(source, bundle / f"reports/round-{number:04d}.dsse.json")
    code, said, peak = audit("verify", bundle, "--json")
    assert code == 5 and peak < 700, peak
    assert '"file": "reports/round-10000.dsse.json"' in said
