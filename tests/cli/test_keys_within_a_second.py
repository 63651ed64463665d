"""Whoever rotates, revokes and signs in one script does so within one second, and is not locked out by it."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from fedgan_audits.signing.key_statements import SignedRun
from fedgan_audits.signing.public_keys import raw_of
from fedgan_audits.signing.trust import load_trust
from fedgan_protocols import Identity
from fedgan_secure.errors import InputError
from fedgan_secure.site.key_rotation import Done, KeyPlace, revoke, rotate
from tests.cli.key_site import NOW, WHO, Site, at, code_of, command, end, failures, make, put

pytestmark = pytest.mark.xdist_group("tampering")
EARLY, MIDDLE, LATE = (NOW + timedelta(milliseconds=part) for part in (100, 500, 900))
THE_HOUR_AFTER = NOW + timedelta(hours=1)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A hospital whose one run was signed, with report and manifest, in the second of all that follows."""
    made = Site.new(tmp_path / "keys")
    made.run("one", made.first, ended=NOW)
    return made


def believed(trust: Path) -> list[str]:
    return [held.fingerprint for held in load_trust([trust]).histories[WHO].keys]


def ended(site: Site, fingerprint: str, **changes: object) -> Done:
    since = changes.get("since")
    return revoke(KeyPlace.of(site.key), fingerprint, since, LATE, "laptop stolen")  # type: ignore[arg-type]


def test_who_rotates_and_revokes_in_one_script_is_not_locked_out(site: Site, tmp_path: Path) -> None:
    """By the commands, as a script gives them; whoever trusts the old key takes both runs, and not a thief's."""
    with at(EARLY):
        assert command("keys", "rotate", site.key, "--output", tmp_path / "out").exit_code == 0
    with at(LATE):
        words = ["keys", "revoke", site.first.fingerprint, "--signed-by", site.key, "--reason", "laptop stolen"]
        done = command(*words, "--output", tmp_path / "out")
    assert done.exit_code == 0 and "revoked from 2026-03-02 09:00:01 UTC on" in done.stdout
    assert "by another way" not in done.stderr
    site.run("two", Identity.load(site.key), start=THE_HOUR_AFTER)
    site.run("stolen", site.first, kept=False, ended=NOW)
    trust = site.trust(tmp_path / "trust", *(tmp_path / "out").glob("*.dsse.json"))
    assert believed(trust) == [site.first.fingerprint, Identity.load(site.key).fingerprint]
    assert failures(site.runs["one"].public, trust) == {} == failures(site.runs["two"].public, trust)
    assert set(failures(site.runs["stolen"].public, trust)) == {"key standing"}


def test_several_rotations_and_revocations_in_one_second(site: Site, tmp_path: Path) -> None:
    made = [rotate(KeyPlace.of(site.key), moment).in_use for moment in (EARLY, MIDDLE, LATE)]
    for fingerprint in (site.first.fingerprint, *made[:-1]):
        assert ended(site, fingerprint).leads
    site.run("two", Identity.load(site.key), start=THE_HOUR_AFTER)
    trust = site.trust(tmp_path / "trust", *KeyPlace.of(site.key).statements.iterdir())
    assert believed(trust) == [site.first.fingerprint, *made]
    assert failures(site.runs["one"].public, trust) == {} == failures(site.runs["two"].public, trust)


def test_a_report_of_the_second_in_which_its_key_is_revoked_counts_if_it_is_listed(site: Site, tmp_path: Path) -> None:
    site.run("stolen", site.first, kept=False, ended=NOW)
    done = ended(site, site.first.fingerprint)
    trust = site.trust(tmp_path / "trust", done.statement)
    assert failures(site.runs["one"].public, trust) == {}
    assert set(failures(site.runs["stolen"].public, trust)) == {"key standing"}


def test_a_coordinator_who_signs_and_revokes_in_one_second(site: Site, tmp_path: Path) -> None:
    """It keeps no ledger, so its word goes by dates alone: report, manifest and review of that second still count."""
    one, key = site.others["coordinator"], tmp_path / "coordinator.pem"
    one.save(key)
    public = Path(shutil.copytree(site.runs["one"].public, tmp_path / "public"))
    trust = site.trust(tmp_path / "trust")
    with at(MIDDLE):
        words = ["audit", "sign-off", public, "--round", "1", "--role", "Data steward", "--key", key]
        assert command(*words, "--trust", trust).exit_code == 0
    with at(LATE):
        words = ["keys", "revoke", one.fingerprint, "--signed-by", key, "--reason", "end of the project"]
        assert command(*words, "--output", trust).exit_code == 0
    assert failures(public, trust) == {}
    assert "A date is the signer's word" in command("audit", "verify", public, "--trust", trust).output
    (trust / "coordinator.in-use.pem").unlink()
    later = site.run("later", site.first, ended=NOW + timedelta(seconds=1))
    assert "coordinator's key" in failures(later.public, trust)["key standing"]


def test_what_an_older_version_signed_in_one_second_verifies(site: Site, tmp_path: Path) -> None:
    """It let a revocation begin with the running second, over what had been signed in it: the chain knows better."""
    new, signed = Identity.generate(), listed(site)
    trust = site.trust(tmp_path / "trust")
    put(trust, "rotation", make(site, site.first, new, signed=signed))
    put(trust, "revocation", end(new, site.first, NOW, successor=raw_of(new.private_key.public_key()), signed=signed))
    site.run("two", new, start=THE_HOUR_AFTER)
    site.run("stolen", site.first, kept=False, ended=NOW)
    assert failures(site.runs["one"].public, trust) == {} == failures(site.runs["two"].public, trust)
    assert set(failures(site.runs["stolen"].public, trust)) == {"key standing"}


def listed(site: Site) -> tuple[SignedRun, ...]:
    run = site.runs["one"]
    return (SignedRun(run_id=run.run_id, round=1, digest=str(run.head)),)


def test_a_whole_second_is_lost_where_no_list_tells_its_order(site: Site, tmp_path: Path) -> None:
    """A report and a manifest of the second with which a revocation begins: made later, or without a list."""
    for name, changes in {
        "later": {"moment": NOW + timedelta(seconds=5), "signed": listed(site)},
        "without": {"signed": None},
        "empty": {"signed": ()},
    }.items():
        trust = site.trust(tmp_path / name)
        put(trust, "revocation", end(site.first, site.first, NOW, **changes))
        wrong = failures(site.runs["one"].public, trust)
        assert set(wrong) == {"key standing"} and "manifest" in wrong["key standing"], name


@pytest.mark.parametrize("dated", [-3600, 0, 1])
def test_a_thief_who_rotates_in_the_second_of_the_revocation_is_not_followed(
    site: Site, tmp_path: Path, dated: int
) -> None:
    """The hospital has no other key to revoke with; the thief lets his own key follow, dated before, in or after it."""
    done = ended(site, site.first.fingerprint)
    thief = Identity.generate()
    forged = site.run("forged", thief, kept=False, start=THE_HOUR_AFTER)
    trust = site.trust(tmp_path / "trust", done.statement)
    put(trust, "forged", make(site, site.first, thief, moment=NOW + timedelta(seconds=dated)))
    put(trust, "mild", end(thief, site.first, NOW, successor=raw_of(thief.private_key.public_key())))
    assert believed(trust) == [site.first.fingerprint]
    assert "keys" in failures(forged.public, trust) and "keys" in failures(site.runs["one"].public, trust)


def test_a_revocation_that_cuts_off_the_new_key_says_so(site: Site) -> None:
    rotate(KeyPlace.of(site.key), EARLY)
    words = ["keys", "revoke", site.first.fingerprint, "--signed-by", site.key, "--reason", "laptop stolen"]
    with at(NOW + timedelta(seconds=9)):
        done = command(*words, "--since", f"{NOW:%Y-%m-%dT%H:%M:%SZ}")
        assert json.loads(command(*words, "--json").stdout)["leads_to_it"] is False  # the first one counts as well
    assert done.exit_code == 0
    assert f"needs your key in use, {Identity.load(site.key).fingerprint}, by another way" in done.stderr


def test_a_clock_that_was_set_back_revokes_nothing_by_mistake(site: Site) -> None:
    """Now would be before the rotation, and the new key cut off; a moment that is named is the signer's own word."""
    rotate(KeyPlace.of(site.key), LATE)
    place, back = KeyPlace.of(site.key), NOW - timedelta(milliseconds=1)
    with pytest.raises(InputError, match="before the last statement here"):
        revoke(place, site.first.fingerprint, None, back, "laptop stolen")
    assert len(list(place.statements.iterdir())) == 1
    assert revoke(place, site.first.fingerprint, None, EARLY, "laptop stolen").leads
    assert not revoke(place, site.first.fingerprint, NOW - timedelta(days=1), back, "laptop stolen").leads


@pytest.mark.parametrize("since", ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00", "2026-03-02T09:00:00"])
def test_a_moment_that_no_calendar_has_is_refused_in_a_sentence(site: Site, since: str) -> None:
    words = ["keys", "revoke", site.first.fingerprint, "--signed-by", site.key, "--reason", "x", "--since", since]
    refused = command(*words)
    assert code_of(refused) == 2 and "no moment with a time zone" in refused.output
