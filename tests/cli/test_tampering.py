"""`audit verify` over a run of three rounds with real transcripts: what was changed is caught, exit 5, the file named.

The run is made without TensorFlow (benchmarks/audit_trail). Who changes it may be a stranger, who holds no key, or the
coordinator, who signs a fresh manifest over the change.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from benchmarks.audit_trail.trail import Trail
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedgan_audits.ledger.ledger import Ledger
from fedgan_audits.signing import envelope
from fedgan_audits.signing.public_keys import public_pem
from fedgan_cli.audit import command

pytestmark = pytest.mark.xdist_group("tampering")


@dataclass
class Published:
    """The finished run, what its folder was after round 2, another run of the same hospitals' names, and keys."""

    trail: Trail
    public: Path
    after_two: Path
    other: Path
    keys: Path
    digests: dict[int, str]
    ledger: Path


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    root = tmp_path_factory.mktemp("tampering")
    trail, digests = Trail(root / "run", 3, 4), {}
    for number in (1, 2, 3):
        trail.add(number, quick=False)
        digests[number] = str(trail.head)
        trail.close(number)
        if number == 2:
            shutil.copytree(trail.public, root / "after-two")
    other = Trail(root / "other", 3, 4)
    for number in (1, 2, 3):
        other.add(number, quick=True)
    other.close(3)
    keys = root / "keys"
    keys.mkdir()
    for name, identity in {**trail.identities, "coordinator": trail.coordinator}.items():
        (keys / f"{name}.pub.pem").write_bytes(identity.public_pem())
    name = next(iter(trail.identities))
    with Ledger.open(root / "ledger.sqlite", hospital=name, create=True) as ledger:
        for number, digest in digests.items():
            ledger.reserve(trail.run_id, number, trail.mechanism, 1e-5)
            ledger.record("report_signed", trail.run_id, number, {"digest": digest})
    return Published(
        trail, trail.public, root / "after-two", other.public, keys, digests, root / "ledger.sqlite"
    )  # fmt: skip


@pytest.fixture
def public(published: Published, tmp_path: Path) -> Iterator[Path]:
    """A copy of the finished run, to be tampered with."""
    yield Path(shutil.copytree(published.public, tmp_path / "public"))


def verify(place: Path, *more: str | Path) -> tuple[int, list[dict[str, str]]]:
    """Exit code and checks."""
    done = CliRunner().invoke(command, ["verify", str(place), "--json", *map(str, more)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    checks: list[dict[str, str]] = json.loads(done.stdout)["checks"]
    return done.exit_code, checks


def failed(checks: list[dict[str, str]], name: str = "") -> set[str]:
    """The files of the checks that failed."""
    return {check["file"] for check in checks if check["outcome"] == "FAIL" and name in ("", check["name"])}


def outcome(checks: list[dict[str, str]], name: str) -> str:
    found = {check["outcome"] for check in checks if check["name"] == name}
    return "FAIL" if "FAIL" in found else "NOT CHECKED" if "NOT CHECKED" in found else "PASS"


def test_the_run_as_it_is_verifies(published: Published) -> None:
    code, checks = verify(published.public, "--trust", published.keys, "--ledger", published.ledger, "--full")
    assert code == 0 and {check["outcome"] for check in checks} == {"PASS"}, checks
    assert verify(published.other)[0] == 5, "its figures are Rényi's: it serves for substitution alone"


def test_each_of_200_random_single_byte_changes_is_caught(published: Published, public: Path) -> None:
    chance = random.Random(20261124)  # noqa: S311 - which byte to change is no secret
    files = sorted(path for path in public.rglob("*") if path.is_file())
    assert len(files) == 40
    for index in range(200):
        file = files[index] if index < len(files) else chance.choice(files)
        data = bytearray(file.read_bytes())
        place = chance.randrange(len(data))
        kept, data[place] = data[place], data[place] ^ chance.randrange(1, 256)
        file.write_bytes(data)
        code, checks = verify(public, *(("--trust", published.keys) if index % 2 else ()))
        name = file.relative_to(public).as_posix()
        assert code == 5 and name in failed(checks), f"byte {place} of {name}: {failed(checks)}"
        data[place] = kept
        file.write_bytes(data)
    assert verify(public)[0] == 0


@pytest.mark.parametrize("change", ["appended", "cut short", "emptied"])
def test_bytes_that_come_or_go_are_caught_in_every_file(published: Published, public: Path, change: str) -> None:
    wrong = []
    for file in sorted(path for path in public.rglob("*") if path.is_file()):
        data = file.read_bytes()
        file.write_bytes({"appended": data + b"\n", "cut short": data[:-1], "emptied": b""}[change])
        code, checks = verify(public, "--trust", published.keys)
        if code != 5 or file.relative_to(public).as_posix() not in failed(checks):
            wrong.append(file)
        file.write_bytes(data)
    assert wrong == []


def of_round(public: Path, number: int) -> list[Path]:
    return sorted(public.glob(f"*/round-{number:04d}*"))


def sign_again(published: Published, public: Path) -> None:
    """What a coordinator does who covers a change up: a fresh manifest over the folder as it is."""
    kept, published.trail.public = published.trail.public, public
    try:
        published.trail.close(3)
    finally:
        published.trail.public = kept


def reorder(published: Published, public: Path) -> str:
    """Rounds 1 and 2 change places, with everything that belongs to them."""
    for file in of_round(public, 1):
        twin = file.with_name(file.name.replace("0001", "0002"))
        first, second = file.read_bytes(), twin.read_bytes()
        file.write_bytes(second)
        twin.write_bytes(first)
    return "reports/round-0001.dsse.json"


def remove(published: Published, public: Path) -> str:
    """Round 2 is taken out of the middle."""
    for file in of_round(public, 2):
        file.unlink()
    return "reports/round-0003.dsse.json"


def renumber(published: Published, public: Path) -> str:
    """Round 2 is taken out and the report of round 3 put in its place."""
    for file in of_round(public, 2):
        file.unlink()
    for file in sorted(public.glob("reports/round-0003*")):
        file.rename(file.with_name(file.name.replace("0003", "0002")))
    return "reports/round-0002.dsse.json"


def repeat(published: Published, public: Path) -> str:
    """Round 3's report stands once more as that of round 4."""
    for file in of_round(public, 3):
        shutil.copy(file, file.with_name(file.name.replace("0003", "0004")))
    return "reports/round-0004.dsse.json"


def substitute(published: Published, public: Path) -> str:
    """Round 2 comes from another run of hospitals with the same names."""
    for file in of_round(public, 2):
        shutil.copy(published.other / file.relative_to(public), file)
    return "reports/round-0002.dsse.json"


def resign(published: Published, public: Path) -> str:
    """One hospital's signature of round 2 is made with another key."""
    file = public / "reports/round-0002.dsse.json"
    payload = envelope.parse(file.read_bytes()).payload
    signers = {name: identity.private_key for name, identity in published.trail.identities.items()}
    signers["coordinator"] = published.trail.coordinator.private_key
    signers["hospital-002"] = Ed25519PrivateKey.generate()
    signatures = [envelope.sign(payload, key, name) for name, key in signers.items()]
    file.write_bytes(envelope.assemble(payload, signatures))
    (public / "trust/hospital-002.pub.pem").write_bytes(public_pem(signers["hospital-002"].public_key()))
    for signature in signatures:
        (public / f"reports/round-0002.{signature.name}.sig").write_bytes(signature.sig)
    return "reports/round-0002.dsse.json"


def stale_page(published: Published, public: Path) -> str:
    """The roll-up is the one that was published after round 2."""
    shutil.copy(published.after_two / "index.html", public / "index.html")
    return "index.html"


def old_model(published: Published, public: Path) -> str:
    """The generator is the one that was published after round 2."""
    shutil.copy(published.after_two / "model/generator.keras", public / "model/generator.keras")
    return "model/generator.keras"


def other_policy(published: Published, public: Path) -> str:
    """The policy is that of another run: other keys, another run's id."""
    shutil.copy(published.other / "policy.json", public / "policy.json")
    return "policy.json"


CHANGES: list[Callable[[Published, Path], str]] = [
    reorder, remove, renumber, repeat, substitute, resign, stale_page, old_model, other_policy,
]  # fmt: skip


@pytest.mark.parametrize("by", ["a stranger", "the coordinator"])
@pytest.mark.parametrize("change", CHANGES, ids=[change.__name__ for change in CHANGES])
def test_structural_changes_are_caught_and_named(
    published: Published, public: Path, change: Callable[[Published, Path], str], by: str
) -> None:
    named = change(published, public)
    if by == "the coordinator":
        if change is stale_page:
            return  # a fresh manifest comes with a fresh roll-up: nothing is left of the change
        sign_again(published, public)
    code, checks = verify(public, "--trust", published.keys)
    assert code == 5 and named in failed(checks), failed(checks)


def test_a_stale_manifest_over_newer_rounds_is_caught(published: Published, public: Path) -> None:
    shutil.copy(published.after_two / "manifest.dsse.json", public / "manifest.dsse.json")
    code, checks = verify(public, "--trust", published.keys)
    assert code == 5
    assert {"manifest.dsse.json"} <= failed(checks, "chain")
    assert "reports/round-0003.dsse.json" in failed(checks, "files")


def test_a_whole_older_state_is_only_seen_against_what_is_kept_elsewhere(published: Published) -> None:
    """Truncation at the tail, with the manifest of that time: every signature holds."""
    old, newest = published.after_two, published.digests[3]
    code, checks = verify(old, "--trust", published.keys)
    assert code == 0 and outcome(checks, "head") == "NOT CHECKED"
    code, checks = verify(old, "--trust", published.keys, "--head", newest)
    assert code == 5 and outcome(checks, "head") == "FAIL"
    code, checks = verify(old, "--trust", published.keys, "--ledger", published.ledger)
    assert code == 5 and any("withheld" in check["detail"] for check in checks if check["name"] == "ledger")
    assert verify(old, "--trust", published.keys, "--head", published.digests[2])[0] == 0


def test_a_truncated_tail_under_the_newest_manifest_is_caught(published: Published, public: Path) -> None:
    for file in of_round(public, 3):
        file.unlink()
    code, checks = verify(public, "--trust", published.keys)
    assert code == 5
    assert "reports/round-0003.dsse.json" in failed(checks, "files") & failed(checks, "chain")


def test_what_is_said_to_a_person_names_the_file(published: Published, public: Path) -> None:
    named = substitute(published, public)
    done = CliRunner().invoke(command, ["verify", str(public), "--trust", str(published.keys)])
    assert done.exit_code == 5 and "VERIFICATION FAILED" in done.output
    assert any(line.startswith("[FAIL]") and named in line for line in done.output.splitlines())


def test_every_outcome_is_one_of_three(published: Published) -> None:
    _, checks = verify(published.public)
    found: set[Any] = {check["outcome"] for check in checks}
    assert found == {"PASS", "NOT CHECKED"}
