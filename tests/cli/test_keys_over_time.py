"""Keys over time: a rotation leads from the trusted key to the next, a revoked key is named, a thief is seen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

import pytest
import rfc8785

from fedgan_audits.ledger.ledger import Ledger
from fedgan_audits.signing import key_statements
from fedgan_audits.signing.public_keys import public_pem, raw_of
from fedgan_audits.signing.trust import load_trust
from fedgan_protocols import Identity
from fedgan_secure.site.key_rotation import KeyPlace
from fedgan_secure.storage.files import sole_owner
from tests.cli.conftest import SMALL, fedgan
from tests.cli.key_site import NOW, WHO, Site, at, code_of, command, end, failures, make, put

pytestmark = pytest.mark.xdist_group("tampering")
LONG_AGO, EARLIER = datetime(2020, 1, 1, tzinfo=UTC), datetime(2026, 1, 5, 6, 0, tzinfo=UTC)


@pytest.fixture(scope="module", autouse=True)
def clock() -> Iterator[None]:
    """Everything here happens within one second, whatever the day."""
    with at(NOW + timedelta(milliseconds=200)):
        yield


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Run 1 with the first key, a rotation, run 2 with the new key, and a run that the old key signed afterwards."""
    made = Site.new(tmp_path_factory.mktemp("keys"))
    made.run("one", made.first)
    done = command("keys", "rotate", made.key, "--output", made.root / "out", "--json")
    assert done.exit_code == 0, (done.output, done.exception)
    assert json.loads(done.stdout)["runs_listed"] == 1
    made.run("two", Identity.load(made.key), start=NOW + timedelta(hours=1))
    made.run("stolen", made.first, kept=False)
    return made


@pytest.fixture
def rotation(site: Site) -> Path:
    return site.root / WHO / "keys" / f"{WHO}.rotation-0001.dsse.json"


def test_both_runs_verify_with_the_key_of_their_time(site: Site, rotation: Path, tmp_path: Path) -> None:
    trust = site.trust(tmp_path / "trust", rotation)
    assert failures(site.runs["one"].public, trust) == {}
    assert failures(site.runs["two"].public, trust) == {}
    said = command("audit", "verify", site.runs["one"].public, "--trust", trust).output
    assert site.first.fingerprint in said and "among those that hospital-001 had signed by its own list" in said


def test_the_newest_key_leads_back_to_the_first(site: Site, rotation: Path, tmp_path: Path) -> None:
    trust = site.trust(tmp_path / "trust", rotation, anchor=Identity.load(site.key))
    assert failures(site.runs["one"].public, trust) == {} == failures(site.runs["two"].public, trust)


def test_without_the_statement_the_new_key_is_a_stranger(site: Site, tmp_path: Path) -> None:
    assert "is not the one that you trust" in failures(site.runs["two"].public, site.trust(tmp_path / "trust"))["keys"]


def test_a_run_signed_with_the_old_key_afterwards_fails_whatever_its_date(
    site: Site, rotation: Path, tmp_path: Path
) -> None:
    """Its reports are dated months before the rotation; the list in the statement knows better."""
    wrong = failures(site.runs["stolen"].public, site.trust(tmp_path / "trust", rotation))
    assert set(wrong) == {"key standing"} and site.first.fingerprint in wrong["key standing"]
    assert "not among those that hospital-001 had signed" in wrong["key standing"]


def test_the_ledger_knows_which_came_first(site: Site, tmp_path: Path) -> None:
    """Without any statement: a ledger in which the old key signed after its rotation contradicts itself."""
    ledger = Path(shutil.copy(site.root / WHO / "ledger.sqlite", tmp_path))
    stolen = site.runs["stolen"]
    with Ledger.open(ledger, hospital=WHO) as opened:
        opened.record("report_signed", stolen.run_id, 1, {"digest": stolen.head})
    trust = site.trust(tmp_path / "trust")
    assert "after its key" in failures(stolen.public, trust, "--ledger", ledger)["ledger"]
    assert "after its key" not in failures(site.runs["one"].public, trust, "--ledger", ledger)["ledger"]


def test_the_ledger_and_the_key_file_follow(site: Site, rotation: Path) -> None:
    signed = key_statements.read(rotation.read_bytes(), "x")
    with Ledger.open(site.root / WHO / "ledger.sqlite", read_only=True) as ledger:
        (entry,) = [entry for entry in ledger.entries() if entry.kind == "key_rotated"]
    assert entry.facts == {"statement": signed.digest, "key": site.first.fingerprint}
    assert site.key.stat().st_mode & 0o777 == 0o600 and not list(site.key.parent.glob(".*next"))


def fork(site: Site, trust: Path) -> None:
    put(trust, "fork", make(site, site.first, Identity.generate()))


def wrong_signer(site: Site, trust: Path) -> None:
    """The statement says that the first key signed; a stranger did."""
    new, stranger = Identity.generate(), Identity.generate()
    with patch.object(key_statements, "raw_of", side_effect=[raw_of(site.first.private_key.public_key()),
                                                             raw_of(new.private_key.public_key())]):  # fmt: skip
        put(trust, "wrong", make(site, stranger, new))


def unaccepted(site: Site, trust: Path) -> None:
    """The old key names a key whose holder has not accepted."""
    parsed = key_statements.envelope.parse(make(site, site.first, Identity.generate()))
    payload = parsed.payload
    one = key_statements.envelope.sign(payload, site.first.private_key, WHO)
    put(trust, "alone", key_statements.envelope.assemble(payload, [one]))


def circle(site: Site, trust: Path) -> None:
    new = Identity.load(site.key)
    before = key_statements.read(next(trust.glob("*rotation-0001*")).read_bytes(), "x")
    put(trust, "circle", make(site, new, site.first, before=before, moment=NOW + timedelta(hours=1)))


def stale(site: Site, trust: Path) -> None:
    """A second rotation that does not name the first: made from an old backup, say."""
    put(trust, "stale", make(site, Identity.load(site.key), Identity.generate()))


def from_nowhere(site: Site, trust: Path) -> None:
    put(trust, "nowhere", make(site, Identity.generate(), Identity.generate()))


def revoked_by_a_stranger(site: Site, trust: Path) -> None:
    put(trust, "stranger", end(site.others["hospital-002"], site.first, LONG_AGO))


def revoked_by_the_one_before(site: Site, trust: Path) -> None:
    put(trust, "before", end(site.first, Identity.load(site.key), LONG_AGO))


def altered(site: Site, trust: Path) -> None:
    file = next(trust.glob("*rotation-0001*"))
    data = bytearray(file.read_bytes())
    data[300] ^= 1
    file.write_bytes(data)


def another_file(site: Site, trust: Path) -> None:
    shutil.copy(site.runs["one"].public / "reports/round-0001.dsse.json", trust)


HOSTILE: dict[str, tuple[Callable[[Site, Path], None], str]] = {
    "a fork": (fork, "names another successor of"),
    "signed by the wrong key": (wrong_signer, "is not signed by the old key"),
    "not accepted": (unaccepted, "is not signed by the old key"),
    "a circle": (circle, "a circle"),
    "a stale statement": (stale, "stale or replaced"),
    "from no known key": (from_nowhere, "leads from no key of hospital-001"),
    "revoked by a stranger": (revoked_by_a_stranger, "it does not count"),
    "revoked by the key before": (revoked_by_the_one_before, "it does not count"),
    "altered": (altered, "dsse.json"),
    "no statement": (another_file, "no statement about keys"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_could_mislead_is_named_and_fails(site: Site, rotation: Path, tmp_path: Path, case: str) -> None:
    trust = site.trust(tmp_path / "trust", rotation)
    change, said = HOSTILE[case]
    change(site, trust)
    details = [
        check["detail"]
        for check in json.loads(command("audit", "verify", site.runs["one"].public, "--trust", trust, "--json").stdout)[
            "checks"
        ]
        if check["name"] == "keys" and check["outcome"] == "FAIL"
    ]
    assert any(said in detail for detail in details) or (case == "altered" and details), details
    failures(site.runs["one"].public, trust)
    believed = [held.fingerprint for held in load_trust([trust]).histories[WHO].keys]
    own = [site.first.fingerprint, Identity.load(site.key).fingerprint]
    assert believed == (own[:1] if case in ("a fork", "altered") else own)


def test_a_circle_of_two_other_keys_ends(site: Site, tmp_path: Path) -> None:
    """first -> x -> y -> x would go on for ever."""
    x, y = Identity.generate(), Identity.generate()
    one = make(site, site.first, x)
    two = make(site, x, y, before=key_statements.read(one, "one"))
    trust = site.trust(tmp_path / "trust")
    for name, data in {
        "one": one,
        "two": two,
        "three": make(site, y, x, before=key_statements.read(two, "two")),
    }.items():
        put(trust, name, data)
    assert "neither is followed" in failures(site.runs["one"].public, trust)["keys"]


def test_a_revoked_key_is_named_before_and_after(site: Site, tmp_path: Path) -> None:
    """Of a key with no list of what it signed, dates alone can be compared, and the table says so."""
    after = site.trust(tmp_path / "after")
    put(after, "revoked", end(site.first, site.first, NOW))
    done = command("audit", "verify", site.runs["one"].public, "--trust", after)
    assert done.exit_code == 0 and f"{WHO}'s key {site.first.fingerprint} is revoked from" in done.output
    assert "A date is the signer's word" in done.output and "NOT CHECKED" in done.output
    before = site.trust(tmp_path / "before")
    put(before, "revoked", end(site.first, site.first, EARLIER))
    wrong = failures(site.runs["one"].public, before)["key standing"]
    assert site.first.fingerprint in wrong and "reports/round-0001.dsse.json" in wrong and "manifest" in wrong


def test_a_revocation_with_a_list_catches_a_backdated_run(site: Site, rotation: Path, tmp_path: Path) -> None:
    done = command(
        "keys", "revoke", site.first.fingerprint, "--signed-by", site.key, "--reason", "laptop stolen",
        "--output", tmp_path / "out",
    )  # fmt: skip
    assert done.exit_code == 0, (done.output, done.exception)
    (statement,) = (tmp_path / "out").glob("*revocation*")
    (site.root / WHO / "keys" / statement.name).unlink()
    trust = site.trust(tmp_path / "trust", rotation, statement)
    assert failures(site.runs["one"].public, trust) == {}
    assert "laptop stolen" in command("audit", "verify", site.runs["one"].public, "--trust", trust).output
    assert failures(site.runs["two"].public, trust) == {}
    assert set(failures(site.runs["stolen"].public, trust)) == {"key standing"}


def test_an_auditors_own_list_counts_for_a_key_that_no_statement_is_about(site: Site, tmp_path: Path) -> None:
    trust = site.trust(tmp_path / "trust")
    line = f"# told by phone\n{site.others['coordinator'].fingerprint} 2026-01-01T00:00:00Z stolen\n"
    (trust / "revoked.txt").write_text(line)
    wrong = failures(site.runs["one"].public, trust)
    assert "coordinator's key" in wrong["key standing"] and "your own list" in wrong["key standing"]
    (trust / "revoked.txt").write_text("SHA256:short yesterday\n")
    assert code_of(command("audit", "verify", site.runs["one"].public, "--trust", trust)) == 2


def test_a_key_stolen_before_it_named_its_successor_leads_nowhere(site: Site, rotation: Path, tmp_path: Path) -> None:
    """Whoever stole it could have signed that rotation: the new key has to come by another way."""
    new = Identity.load(site.key)
    revoked = end(new, site.first, NOW - timedelta(days=1), successor=raw_of(new.private_key.public_key()))
    trust = site.trust(tmp_path / "trust", rotation)
    put(trust, "revoked", revoked)
    assert "by another way" in command("audit", "verify", site.runs["two"].public, "--trust", trust, "--json").stdout
    assert "keys" in failures(site.runs["two"].public, trust)
    by_phone = site.trust(tmp_path / "by-phone", rotation, anchor=new)
    put(by_phone, "revoked", revoked)
    assert failures(site.runs["two"].public, by_phone) == {}


def test_a_stolen_and_revoked_key_vouches_for_no_predecessor(site: Site, tmp_path: Path) -> None:
    """The thief of the first key makes a key "before" it, with a list of the very run that it then signs."""
    theirs = Identity.generate()
    forged = site.run("predecessor", theirs, kept=False)
    trust = site.trust(tmp_path / "trust")
    put(trust, "revoked", end(site.first, site.first, LONG_AGO, signed=()))
    listed = (key_statements.SignedRun(run_id=forged.run_id, round=1, digest=forged.head),)
    put(trust, "forged", make(site, theirs, site.first, moment=LONG_AGO - timedelta(days=1), signed=listed))
    wrong = failures(forged.public, trust)["keys"]
    assert "names a predecessor of" in wrong and "is not the one that you trust" in wrong


def test_a_key_on_the_auditors_list_names_no_successor_whatever_the_date(site: Site, tmp_path: Path) -> None:
    theirs = Identity.generate()
    forged = site.run("successor", theirs, kept=False, start=NOW + timedelta(hours=1))
    trust = site.trust(tmp_path / "trust")
    (trust / "revoked.txt").write_text(f"{site.first.fingerprint} {NOW:%Y-%m-%dT%H:%M:%SZ} stolen\n")
    put(trust, "forged", make(site, site.first, theirs, moment=NOW - timedelta(days=1)))
    wrong = failures(forged.public, trust)["keys"]
    assert "by another way" in wrong and "is not the one that you trust" in wrong


def test_a_key_signs_nothing_before_it_was_made(site: Site, rotation: Path, tmp_path: Path) -> None:
    early = site.run("early", Identity.load(site.key), kept=False)
    wrong = failures(early.public, site.trust(tmp_path / "trust", rotation))
    assert "was not in use before" in wrong["key standing"] and "manifest" in wrong["key standing"]


def test_keys_that_only_stand_in_a_policy_vouch_for_nothing(site: Site, tmp_path: Path) -> None:
    """The hospital is trusted, and nobody else; the others sign without it."""
    public = Path(shutil.copytree(site.runs["one"].public, tmp_path / "public"))
    trust = tmp_path / "trust"
    trust.mkdir()
    (trust / f"{WHO}.pub.pem").write_bytes(public_pem(site.first.private_key.public_key()))
    (trust / "elsewhere.pub.pem").write_bytes(public_pem(Identity.generate().private_key.public_key()))
    assert failures(public, trust) == {}
    assert "does not name: elsewhere" in command("audit", "verify", public, "--trust", trust).output
    for file in (public / "manifest.dsse.json", public / "reports" / "round-0001.dsse.json"):
        whole = json.loads(file.read_bytes())
        rest = [one for one in whole["signatures"] if one["keyid"] != site.first.fingerprint]
        file.write_bytes(rfc8785.dumps({**whole, "signatures": rest}))
    wrong = failures(public, trust)["keys"]
    assert wrong.count("no key that you trust has signed it") == 2


@pytest.mark.parametrize("since", ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00"])
def test_a_date_that_no_calendar_has_is_a_finding_and_no_crash(site: Site, tmp_path: Path, since: str) -> None:
    trust = site.trust(tmp_path / "trust")
    (trust / "revoked.txt").write_text(f"{site.first.fingerprint} {since}\n")
    assert code_of(command("audit", "verify", site.runs["one"].public, "--trust", trust)) == 2
    (trust / "revoked.txt").unlink()
    text = end(site.first, site.first, NOW).decode()
    data = key_statements.envelope.parse(text.encode())
    payload = data.payload.replace(NOW.strftime("%Y-%m-%dT%H:%M:%SZ").encode(), since.encode(), 1)
    one = key_statements.envelope.sign(payload, site.first.private_key, WHO)
    put(trust, "odd", key_statements.envelope.assemble(payload, [one]))
    assert "keys" in failures(site.runs["one"].public, trust)


def test_a_list_that_is_too_long_is_refused_and_not_read_in_part(site: Site, tmp_path: Path) -> None:
    trust = site.trust(tmp_path / "trust")
    line = f"{site.first.fingerprint} 2026-01-01T00:00:00Z stolen\n"
    (trust / "revoked.txt").write_text("# nothing to see\n" * 70_000 + line)
    assert code_of(command("audit", "verify", site.runs["one"].public, "--trust", trust)) == 2


def test_a_forged_copy_does_not_hide_a_genuine_statement(site: Site, tmp_path: Path) -> None:
    trust = site.trust(tmp_path / "trust")
    genuine = end(site.first, site.first, EARLIER)
    payload = key_statements.envelope.parse(genuine).payload
    stranger = key_statements.envelope.sign(payload, Identity.generate().private_key, WHO)
    put(trust, "aa", key_statements.envelope.assemble(payload, [stranger]))
    put(trust, "zz", genuine)
    assert "is revoked from" in failures(site.runs["one"].public, trust)["key standing"]


def test_a_run_inside_another_is_not_verified_in_its_place(site: Site, tmp_path: Path) -> None:
    shown = Path(shutil.copytree(site.runs["two"].public, tmp_path / "shown"))
    shutil.copytree(site.runs["one"].public, shown / "public")
    trust = site.trust(tmp_path / "trust")
    assert code_of(command("audit", "verify", shown, "--trust", trust)) == 2
    outer = tmp_path / "outer"
    outer.mkdir()
    (outer / "public").symlink_to(site.runs["one"].public)
    assert code_of(command("audit", "verify", outer, "--trust", trust)) == 2
    copied = tmp_path / "copied"
    shutil.copytree(site.runs["one"].public, copied / "public")
    shutil.copytree(trust, copied / "keys")
    said = command("audit", "verify", copied, "--trust", copied / "keys").output
    assert "KEYS WERE TAKEN FROM THE BUNDLE ITSELF" in said


def test_a_review_is_signed_with_the_key_of_its_time(site: Site, rotation: Path, tmp_path: Path) -> None:
    public = Path(shutil.copytree(site.runs["one"].public, tmp_path / "public"))
    trust = site.trust(tmp_path / "trust", rotation)
    words = ["audit", "sign-off", public, "--round", "1", "--role", "Privacy officer"]
    stolen = tmp_path / "stolen.pem"
    site.first.save(stolen)
    late = command(*words, "--key", stolen, "--trust", trust)
    assert code_of(late) == 2 and "was followed by another" in str(late.exception)
    assert code_of(command(*words, "--key", site.key)) == 2
    assert command(*words, "--key", site.key, "--trust", trust).exit_code == 0
    assert failures(public, trust) == {}
    ended = site.trust(tmp_path / "ended", rotation)
    put(ended, "ended", end(Identity.load(site.key), Identity.load(site.key), NOW + timedelta(hours=1),
                            moment=NOW + timedelta(hours=1)))  # fmt: skip
    assert failures(public, ended) == {}
    assert "1 with keys that have ended since" in command("audit", "verify", public, "--trust", ended).output
    assert "is not signed with the key of" in failures(public, site.trust(tmp_path / "without"))["sign-offs"]


def test_wrong_requests_change_nothing(site: Site, tmp_path: Path) -> None:
    own = Identity.load(site.key).fingerprint
    words = ["keys", "revoke", "--signed-by", site.key, "--reason", "x"]
    assert code_of(command(*words, Identity.generate().fingerprint)) == 2
    assert code_of(command(*words, own, "--since", "2999-01-01T00:00:00Z")) == 2
    assert code_of(command(*words, own, "--since", "yesterday")) == 2
    assert code_of(command("keys", "rotate", site.root / WHO / "ledger.sqlite")) == 2
    assert len(list((site.root / WHO / "keys").iterdir())) == 1 and Identity.load(site.key).fingerprint == own


@pytest.fixture
def plain(tmp_path: Path) -> tuple[Path, Identity]:
    """A coordinator's key: no ledger beside it."""
    identity = Identity.generate()
    identity.save(tmp_path / "coordinator.pem")
    return tmp_path / "coordinator.pem", identity


def test_a_rotation_that_was_cut_off_goes_on_and_never_forks(plain: tuple[Path, Identity]) -> None:
    key, first = plain
    with patch("fedgan_secure.site.key_rotation._note", side_effect=KeyboardInterrupt):
        command("keys", "rotate", key)
    assert Identity.load(key).fingerprint == first.fingerprint
    (statement,) = (key.parent / "keys").iterdir()
    kept = statement.read_bytes()
    assert command("keys", "rotate", key).exit_code == 0
    assert [file.read_bytes() for file in (key.parent / "keys").iterdir()] == [kept]
    named = key_statements.read(kept, "x").statement
    assert isinstance(named, key_statements.Rotation) and named.new_key == Identity.load(key).public_key.hex()
    assert command("keys", "rotate", key).exit_code == 0
    second = key_statements.read((key.parent / "keys/coordinator.rotation-0002.dsse.json").read_bytes(), "x").statement
    assert isinstance(second, key_statements.Rotation) and second.old_key == named.new_key


def test_two_at_work_on_one_key_do_not_fork_it(plain: tuple[Path, Identity]) -> None:
    """One reads the old key, another rotates it, the first goes on with what it read: it has to wait instead."""
    key, first = plain
    revoking = ("keys", "revoke", first.fingerprint, "--signed-by", key, "--reason", "lost")
    with sole_owner(KeyPlace.of(key).lock, "the key"):
        for words in (("keys", "rotate", key), revoking):
            refused = command(*words)
            assert code_of(refused) == 2 and "in use by another process" in str(refused.exception)
    assert not (key.parent / "keys").exists() and Identity.load(key).fingerprint == first.fingerprint
    assert command("keys", "rotate", key).exit_code == 0
    with patch("fedgan_secure.storage.files.os.open", side_effect=PermissionError(13, "Permission denied")):
        refused = command("keys", "rotate", key)
    assert code_of(refused) == 2 and "cannot be locked" in str(refused.exception)


def test_a_revoked_key_names_no_successor(plain: tuple[Path, Identity]) -> None:
    key, first = plain
    assert command("keys", "revoke", first.fingerprint, "--signed-by", key, "--reason", "lost").exit_code == 0
    refused = command("keys", "rotate", key)
    assert code_of(refused) == 2 and "is revoked" in str(refused.exception)


@pytest.mark.slow
def test_real_runs_in_one_site_directory_go_on_with_the_new_keys(tmp_path: Path) -> None:
    """Two whole runs with a rotation of a hospital's and of the coordinator's key between them."""
    sites, first, second = tmp_path / "site", tmp_path / "one", tmp_path / "two"
    settings = [*SMALL, "--rounds", "1", "--site-dir", sites, "--quiet"]
    assert fedgan("run", *settings, "--output", first).code == 0
    trust = Path(shutil.copytree(first / "public/trust", tmp_path / "trust"))
    for name in ("a", "coordinator"):
        assert fedgan("keys", "rotate", sites / name / "identity.pem", "--output", tmp_path / "out").code == 0
    for file in (tmp_path / "out").glob("*.dsse.json"):
        shutil.copy(file, trust)
    assert fedgan("run", *settings, "--output", second).code == 0
    for run in (first, second):
        assert fedgan("audit", "verify", run, "--trust", trust, "--ledger", sites / "a/ledger.sqlite").code == 0
    old, new = ((run / "public/trust/a.pub.pem").read_bytes() for run in (first, second))
    assert old != new == public_pem(Identity.load(sites / "a/identity.pem").private_key.public_key())
    refused = fedgan("run", "--resume", first)
    assert refused.code == 2 and "after `keys rotate` start a new run" in refused.err
    mine = fedgan("keys", "fingerprint", sites / "a/identity.pem", "--json")
    key = json.loads(mine.out)["fingerprint"]
    words = ("keys", "revoke", key, "--signed-by", sites / "a/identity.pem", "--reason", "lost")
    assert fedgan(*words).code == 0
    stopped = fedgan("run", *settings, "--output", tmp_path / "three")
    assert stopped.code == 2 and "is revoked from" in stopped.err
