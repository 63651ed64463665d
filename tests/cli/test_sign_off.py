"""`audit sign-off`: a role's review becomes a signed part of the run, and what is done to it afterwards is seen."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from benchmarks.audit_trail.trail import Trail
from click.testing import CliRunner, Result

from fedgan_audits import canonical_json
from fedgan_audits.facts.run import SIGN_OFF_TYPE
from fedgan_audits.publishing.signing_off import file_of
from fedgan_audits.signing import envelope
from fedgan_cli.main import cli
from fedgan_protocols import Identity

pytestmark = pytest.mark.xdist_group("tampering")
ROLE = "Privacy officer"


@dataclass
class Site:
    """A run of three rounds, of which two are reported, and everybody's private keys."""

    trail: Trail
    keys: Path

    def key(self, name: str) -> Path:
        return self.keys / f"{name}.pem"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Site:
    root = tmp_path_factory.mktemp("reviewed")
    trail = Trail(root / "run", 3, 3)
    for number in (1, 2):
        trail.add(number, quick=False)
    trail.close(2)
    keys = root / "keys"
    keys.mkdir()
    for name, identity in {**trail.identities, "coordinator": trail.coordinator}.items():
        identity.save(keys / f"{name}.pem")
    Identity.generate().save(keys / "stranger.pem")
    return Site(trail, keys)


@pytest.fixture
def public(made: Site, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made.trail.public, tmp_path / "public"))


def audit(*arguments: str | Path) -> Result:
    """As `main` does it: an error of ours becomes its exit code."""
    return CliRunner().invoke(cli, ["audit", *map(str, arguments)])


def code_of(done: Result) -> int:
    return int(getattr(done.exception, "exit_code", done.exit_code))


def sign(made: Site, public: Path, number: int = 1, name: str = "hospital-001", role: str = ROLE, *more: str) -> Result:
    return audit("sign-off", public, "--round", str(number), "--key", made.key(name), "--role", role, *more)


def reviewed(made: Site, public: Path) -> Path:
    """Three sign-offs: two hospitals of round 1, the coordinator of round 2."""
    for number, name in ((1, "hospital-001"), (1, "hospital-002"), (2, "coordinator")):
        done = sign(made, public, number, name)
        assert done.exit_code == 0, (done.output, done.exception)
    return public


def failed(public: Path, *more: str | Path) -> dict[str, str]:
    """File -> what is wrong with it, of the sign-offs and files; the exit code fits."""
    done = audit("verify", public, "--json", *more)
    checks = json.loads(done.stdout)["checks"]
    wrong = {check["file"]: check["detail"] for check in checks if check["outcome"] == "FAIL"}
    assert done.exit_code == (5 if wrong else 0)
    return wrong


def test_a_review_is_recorded_shown_and_verified(made: Site, public: Path) -> None:
    done = sign(made, public, 2, "hospital-002", ROLE, "--person", "Dr. Example", "--remarks", "Asked about round 1.")
    assert done.exit_code == 0 and "Round 2" in done.output and "Dr. Example, Privacy officer" in done.output
    assert failed(public) == {}
    shown = audit("show", public, "--round", "2").output
    assert "Signed off: Dr. Example, Privacy officer, with the key of hospital-002" in shown and "Asked about" in shown
    assert "Signed off: by nobody yet" in audit("show", public, "--round", "1").output
    (entry,) = json.loads(audit("show", public, "--json").stdout)["sign_offs"]
    assert (entry["round"], entry["signer"], entry["head"]) == (2, "hospital-002", made.trail.head)
    said = audit("verify", public).output
    assert "1 in order, each by a key of this run: 1 of 2 rounds reviewed" in said


def test_sign_offs_form_a_chain(made: Site, public: Path) -> None:
    reviewed(made, public)
    statements = [json.loads(envelope.parse((public / file_of(n)).read_bytes()).payload) for n in (1, 2, 3)]
    assert [entry["predicate"]["sequence"] for entry in statements] == [1, 2, 3]
    assert statements[0]["predicate"]["previous"] is None
    assert statements[2]["predicate"]["previous"] == (
        hashlib.sha256(envelope.parse((public / file_of(2)).read_bytes()).payload).hexdigest()
    )
    assert failed(public) == {}
    assert "every round reviewed" in audit("verify", public).output


def test_the_published_schema_describes_it(made: Site, public: Path) -> None:
    import jsonschema

    from fedgan_audits.publishing import signing_off as sign_off

    reviewed(made, public)
    place = Path(sign_off.__file__).parents[1] / "schemas" / "sign-off-0.json"
    predicate = json.loads(envelope.parse((public / file_of(1)).read_bytes()).payload)["predicate"]
    jsonschema.validate(predicate, json.loads(place.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((1, "stranger"), 2, "belongs to nobody in this run"),
        ((3, "hospital-001"), 2, "no report of round 3; there are 2"),
        ((1, "hospital-001", "x"), 2, "role"),
        ((1, "hospital-001", "officer\x1b[2J"), 2, "role"),
        ((1, "hospital-001", ROLE, "--remarks", "a\x07b"), 2, "remarks"),
        ((1, "hospital-001", ROLE, "--remarks", "x" * 5000), 2, "remarks"),
    ],
)
def test_wrong_requests_sign_nothing(
    made: Site, public: Path, arguments: tuple[Any, ...], code: int, said: str
) -> None:
    done = sign(made, public, *arguments)
    assert code_of(done) == code and said in str(done.exception), (done.output, done.exception)
    assert not (public / "sign-offs").exists()


def test_a_key_file_must_hold_a_private_key(made: Site, public: Path, tmp_path: Path) -> None:
    (tmp_path / "public.pem").write_bytes(made.trail.coordinator.public_pem())
    done = audit("sign-off", public, "--round", "1", "--key", tmp_path / "public.pem", "--role", ROLE)
    assert code_of(done) == 2


def test_nobody_signs_the_same_round_off_twice_in_one_role(made: Site, public: Path) -> None:
    assert sign(made, public).exit_code == 0
    again = sign(made, public)
    assert code_of(again) == 2 and "before" in str(again.exception)
    assert sign(made, public, 1, "hospital-001", "Medical director").exit_code == 0
    assert sign(made, public, 1, "hospital-002").exit_code == 0


def test_a_run_that_does_not_verify_is_not_signed_off(made: Site, public: Path) -> None:
    page = public / "reports/round-0001.html"
    page.write_bytes(page.read_bytes().replace(b"PASS", b"STOP", 1))
    done = sign(made, public)
    assert code_of(done) == 5 and "reports/round-0001.html" in str(done.exception)
    assert not (public / "sign-offs").exists()


def test_every_random_single_byte_change_of_a_sign_off_is_caught(made: Site, public: Path) -> None:
    reviewed(made, public)
    chance = random.Random(7)  # noqa: S311 - which byte to change is no secret
    for index in range(45):
        file = public / file_of(index % 3 + 1)
        data = bytearray(file.read_bytes())
        place = chance.randrange(len(data))
        kept, data[place] = data[place], data[place] ^ chance.randrange(1, 256)
        file.write_bytes(data)
        assert file.relative_to(public).as_posix() in failed(public), place
        data[place] = kept
        file.write_bytes(data)


def forged(made: Site, public: Path, number: int, signer: Identity, **changes: Any) -> None:
    """Sign-off `number` with other values, signed by `signer`."""
    place = public / file_of(number)
    statement = json.loads(envelope.parse(place.read_bytes()).payload)
    statement["predicate"].update(changes)
    payload = canonical_json.canonical(statement)
    place.write_bytes(envelope.assemble(payload, [envelope.sign(payload, signer.private_key, "x")]))


def swap(made: Site, public: Path) -> None:
    one, two = (public / file_of(number) for number in (1, 2))
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def by_a_stranger(made: Site, public: Path) -> None:
    forged(made, public, 3, Identity.load(made.key("stranger")))


def in_anothers_name(made: Site, public: Path) -> None:
    forged(made, public, 3, made.trail.identities["hospital-003"])


def by_the_coordinator(**changes: Any) -> Callable[[Site, Path], object]:
    return lambda made, public: forged(made, public, 3, made.trail.coordinator, **changes)


CHANGES: dict[str, tuple[Callable[[Site, Path], object], int, str]] = {
    "swapped": (swap, 1, "a gap, a repetition or another name"),
    "removed from the middle": (lambda made, public: (public / file_of(2)).unlink(), 3, "does not follow"),
    "by a stranger": (by_a_stranger, 3, "is not signed with the key of coordinator alone"),
    "in another's name": (in_anothers_name, 3, "is not signed with the key of coordinator alone"),
    "of another round": (by_the_coordinator(round=1), 3, "names another report of round 1"),
    "of another run": (by_the_coordinator(run_id="other"), 3, "belongs to another run"),
    "over a newer report": (by_the_coordinator(head="0" * 64), 3, "rounds were withheld"),
    "of a round to come": (by_the_coordinator(round=3), 3, "names another report of round 3"),
    "with a field more": (by_the_coordinator(verdict="fine"), 3, "schema: verdict"),
    "of a newer version": (by_the_coordinator(schema_version="1"), 3, "schema"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_done_to_a_sign_off_is_named(made: Site, public: Path, change: str) -> None:
    reviewed(made, public)
    alter, number, said = CHANGES[change]
    alter(made, public)
    wrong = failed(public)
    assert file_of(number) in wrong, wrong
    details = [check["detail"] for check in json.loads(audit("verify", public, "--json").stdout)["checks"]]
    assert any(said in detail for detail in details), details


def test_nothing_else_hides_among_the_sign_offs(made: Site, public: Path) -> None:
    reviewed(made, public)
    for name in ("notes.txt", "sign-off-1.dsse.json", "sign-off-0001.dsse.json.bak"):
        (public / "sign-offs" / name).write_text("x")
    assert set(failed(public)) == {
        "sign-offs/notes.txt", "sign-offs/sign-off-1.dsse.json", "sign-offs/sign-off-0001.dsse.json.bak"
    }  # fmt: skip


def test_a_sign_off_shows_that_rounds_were_withheld(made: Site, public: Path, tmp_path: Path) -> None:
    """A reviewer of round 1 had seen round 2: a folder without round 2 does not fit that sign-off."""
    trail = Trail(tmp_path / "longer", 3, 3)
    keys = Site(trail, tmp_path / "keys")
    keys.keys.mkdir()
    for name, identity in {**trail.identities, "coordinator": trail.coordinator}.items():
        identity.save(keys.key(name))
    trail.add(1, quick=False)
    trail.close(1)
    early = Path(shutil.copytree(trail.public, tmp_path / "early"))
    trail.add(2, quick=False)
    trail.close(2)
    assert sign(keys, trail.public).exit_code == 0
    shutil.copytree(trail.public / "sign-offs", early / "sign-offs")
    wrong = failed(early)
    assert set(wrong) == {file_of(1)} and "rounds were withheld" in wrong[file_of(1)]


def test_the_next_manifest_covers_the_sign_offs(made: Site, public: Path) -> None:
    reviewed(made, public)
    kept, made.trail.public = made.trail.public, public
    try:
        made.trail.close(2)
    finally:
        made.trail.public = kept
    assert failed(public) == {}
    page = (public / "index.html").read_text(encoding="utf-8")
    assert page.count("Signed off by Privacy officer, with the key of") == 3 and "nobody had signed off" not in page
    (public / file_of(3)).unlink()
    wrong = failed(public)
    assert wrong.pop(file_of(3)) == "missing; the manifest lists it" and set(wrong) <= {"index.html"}


def test_signing_under_a_manifest_stays_within_what_it_signed(made: Site, public: Path) -> None:
    """SIGN_OFF_TYPE is no report and no manifest: none can be passed off as the other."""
    reviewed(made, public)
    shutil.copy(public / file_of(1), public / "reports/round-0003.dsse.json")
    shutil.copy(public / "reports/round-0001.dsse.json", public / file_of(4))
    wrong = failed(public)
    assert file_of(4) in wrong and SIGN_OFF_TYPE in wrong[file_of(4)]
    assert "reports/round-0003.dsse.json" in wrong
