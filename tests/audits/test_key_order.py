"""What came first among statements of one second: the chain says it, and no thief can write it otherwise."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from fedgan_audits.errors import RecordInvalid
from fedgan_audits.facts.checks import Verification
from fedgan_audits.facts.run import RunFacts
from fedgan_audits.signing import key_statements
from fedgan_audits.signing.held_keys import Held, KeyHistory, Listed
from fedgan_audits.signing.key_history import histories
from fedgan_audits.signing.key_statements import Signed, SignedRun, next_second
from fedgan_audits.signing.public_keys import raw_of
from fedgan_audits.signing.trust import Trust, read_revoked, roster
from fedgan_audits.verification.keys_in_use import SignedReport, check

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "key-statements-in-one-second.json").read_text())
MOMENT = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
WHO = "north"
RUN = SignedRun(run_id="run-1", round=2, digest="ab" * 32)
KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in range(1, 6)]
RAWS = [raw_of(key.public_key()) for key in KEYS]


def rotations(count: int, moments: Sequence[datetime] = ()) -> list[Signed]:
    """`count` rotations from the first key on, all in one second unless `moments` says otherwise."""
    found: list[Signed] = []
    for place in range(count):
        data = key_statements.rotation(
            WHO, KEYS[place], KEYS[place + 1], moment=moments[place] if moments else MOMENT,
            before=found[-1] if found else None, signed=(RUN,), ledger_head=None,
        )  # fmt: skip
        found.append(key_statements.read(data, f"rotation-{place + 1}"))
    return found


def revocation(place: int, signer: int, since: datetime, made: datetime = MOMENT, **changes: Any) -> Signed:
    """That the key number `place` is revoked; it names the next key unless `successor` says otherwise."""
    values = {"successor": RAWS[place + 1], "signed": (RUN,), **changes}
    data = key_statements.revocation(
        WHO, RAWS[place], KEYS[signer], since=since, moment=made, ledger_head=None, reason="stolen", **values
    )
    return key_statements.read(data, "revocation")


def seen(statements: Sequence[Signed], listed: Sequence[Listed] = ()) -> KeyHistory:
    """What whoever trusts the first key believes."""
    return histories({WHO: RAWS[0]}, statements, listed)[0][WHO]


def believed(statements: Sequence[Signed], listed: Sequence[Listed] = ()) -> int:
    """How many keys whoever trusts the first one believes to be the member's."""
    return len(seen(statements, listed).keys)


def first(*statements: Signed) -> Held:
    return seen(statements).keys[0]


def test_statements_of_older_versions_are_read_and_written_to_the_byte() -> None:
    kept = {name: key_statements.read(text.encode(), name) for name, text in VECTORS["files"].items()}
    one = key_statements.rotation(
        WHO, KEYS[0], KEYS[1], moment=MOMENT, before=None, signed=(RUN,), ledger_head="cd" * 32, remarks="yearly"
    )
    two = key_statements.rotation(
        WHO, KEYS[1], KEYS[2], moment=MOMENT, before=key_statements.read(one, ""), signed=(RUN,), ledger_head="ef" * 32
    )
    end = key_statements.revocation(
        WHO, RAWS[0], KEYS[2], since=MOMENT, moment=MOMENT, successor=RAWS[1], signed=(RUN,), ledger_head="01" * 32,
        reason="laptop stolen",
    )  # fmt: skip
    assert [text.encode() for text in VECTORS["files"].values()] == [one, two, end]
    assert all(kept[name].statement.time == MOMENT for name in kept)


def test_a_line_of_one_second_that_an_older_version_revoked_is_followed() -> None:
    """It dated the revocation down to the second of the rotations, and so cut off the keys that replaced the old."""
    statements = [key_statements.read(text.encode(), name) for name, text in VECTORS["files"].items()]
    found, findings = histories({WHO: RAWS[0]}, statements, ())
    assert [held.raw for held in found[WHO].keys] == RAWS[:3] and findings == []


@pytest.mark.parametrize("place", [0, 1, 2])
def test_any_key_of_a_line_made_in_one_second_can_be_revoked_in_it(place: int) -> None:
    assert believed([*rotations(3), revocation(place, 3, MOMENT)]) == 4
    assert believed([*rotations(3), revocation(place, 3, next_second(MOMENT))]) == 4


def test_a_key_that_was_stolen_when_the_second_began_names_no_successor() -> None:
    """Made later, the revocation dates the theft back to the second of the rotation, which may so be the thief's."""
    later = MOMENT + 60 * SECOND
    assert believed([*rotations(1), revocation(0, 1, MOMENT, later)]) == 1
    assert believed([*rotations(1), revocation(0, 1, MOMENT - SECOND)]) == 1
    assert believed([*rotations(1), revocation(0, 1, MOMENT + SECOND, later)]) == 2


@pytest.mark.parametrize("dated", [-3600, -1, 0, 1, 3600])
@pytest.mark.parametrize("since", [MOMENT, next_second(MOMENT)])
def test_a_rotation_that_the_revocation_does_not_know_came_after_it(dated: int, since: datetime) -> None:
    """The key is revoked by itself and has no successor; then a thief lets his own key follow, with any date."""
    forged = rotations(1, [MOMENT + dated * SECOND])
    assert believed([*forged, revocation(0, 0, since, successor=None)]) == 1
    assert believed([*forged, revocation(0, 0, since, successor=RAWS[4])]) == 1


def test_a_mild_statement_of_a_thief_takes_nothing_back() -> None:
    """The thief of the first key lets his own follow, and revokes it in the same second as if all were in order."""
    mild = [revocation(0, signer, MOMENT) for signer in (0, 1)]
    hard = revocation(0, 0, MOMENT, successor=None)
    assert believed([*rotations(1), *mild]) == 2
    assert believed([*rotations(1), *mild, hard]) == believed([hard, *mild, *rotations(1)]) == 1
    held = first(*mild, hard)
    assert held.ended_by(MOMENT - SECOND) is None
    report = ("run-1", 2)
    unlisted = revocation(0, 0, MOMENT, signed=())
    assert first(*rotations(1), mild[0]).revoked_by(MOMENT, report) is None
    assert first(*rotations(1), mild[0], unlisted).revoked_by(MOMENT, report) is not None
    assert first(*rotations(1), unlisted, mild[0]).revoked_by(MOMENT, report) is not None


def test_the_auditors_list_takes_the_whole_second() -> None:
    held = first(*rotations(1))
    line = Listed(held.fingerprint, MOMENT, "revoked.txt")
    assert believed(rotations(1), [line]) == 1
    assert believed(rotations(1), [Listed(held.fingerprint, MOMENT + 3600 * SECOND, "revoked.txt")]) == 1
    named = seen([*rotations(1), revocation(0, 1, MOMENT)], [line]).keys[0]
    assert named.revoked_by(MOMENT, ("run-1", 2)) is not None
    text = f"{held.fingerprint} 2026-03-02T09:00:00.900Z stolen\n"
    assert read_revoked(text.encode(), "revoked.txt") == [line]


@pytest.mark.parametrize(
    ("since", "made", "signed", "moment", "report", "ends"),
    [
        (MOMENT, MOMENT, (RUN,), MOMENT, ("run-1", 2), False),
        (MOMENT, MOMENT, (RUN,), MOMENT, ("run-1", 1), False),
        (MOMENT, MOMENT, (RUN,), MOMENT, ("run-1", 3), True),
        (MOMENT, MOMENT, (RUN,), MOMENT, ("run-2", 1), True),
        (MOMENT, MOMENT, (RUN,), MOMENT, None, True),
        (MOMENT, MOMENT, (), MOMENT, ("run-1", 2), True),
        (MOMENT, MOMENT, None, MOMENT, ("run-1", 2), True),
        (MOMENT, MOMENT + SECOND, (RUN,), MOMENT, ("run-1", 2), True),
        (MOMENT, MOMENT, (RUN,), MOMENT + SECOND, ("run-1", 2), True),
        (MOMENT, MOMENT, (RUN,), MOMENT - SECOND, ("run-9", 9), False),
        (next_second(MOMENT), MOMENT, None, MOMENT, None, False),
        (next_second(MOMENT), MOMENT, (RUN,), next_second(MOMENT), ("run-1", 2), True),
    ],
)
def test_which_reports_of_the_second_count(
    since: datetime, made: datetime, signed: Any, moment: datetime, report: tuple[str, int] | None, ends: bool
) -> None:
    """In the second in which a revocation was made and begins its list decides; in any other, and without, the date."""
    held = first(revocation(0, 0, since, made, signed=signed, successor=None))
    assert (held.ended_by(moment, report) is not None) == ends


def test_a_revocation_begins_after_what_was_signed_in_the_running_second() -> None:
    assert next_second(MOMENT) == next_second(MOMENT + timedelta(microseconds=999_999)) == MOMENT + SECOND
    early, late = MOMENT + timedelta(milliseconds=1), MOMENT + timedelta(milliseconds=999)
    assert revocation(0, 0, next_second(early), late).statement.time == MOMENT
    with pytest.raises(RecordInvalid, match="to come"):
        revocation(0, 0, next_second(MOMENT) + SECOND, late)


@pytest.mark.parametrize(("rounds", "wrong"), [(2, set()), (3, {"manifest.dsse.json"})])
def test_a_manifest_of_the_second_counts_if_its_newest_report_is_listed(rounds: int, wrong: set[str]) -> None:
    """North signed no report after the second round: of the third there is its signature on the manifest alone."""
    hospitals = [{"name": WHO, "public_key": RAWS[0]}, {"name": "south", "public_key": RAWS[3]}]
    trusted = Trust.of({WHO: KEYS[0].public_key()}, [revocation(0, 0, MOMENT, successor=None)])
    listed = roster({"coordinator": {"public_key": RAWS[4]}, "hospitals": hospitals}, trusted)
    reports = [
        SignedReport(number, f"{number}", RUN.digest, MOMENT, frozenset({"south"} | ({WHO} if number < 3 else set())))
        for number in range(1, rounds + 1)
    ]
    facts = RunFacts(
        run_id="run-1", outcome="running", reason="rounds are left", rounds_scheduled=4, policy_sha256="0" * 64,
        started=MOMENT, ended=MOMENT,
    )  # fmt: skip
    result = Verification()
    check(result, listed, reports, frozenset({WHO}), facts)
    assert {entry.file for entry in result.checks if entry.outcome == "FAIL"} == wrong


SECONDS = st.integers(-2, 2).map(lambda seconds: MOMENT + seconds * SECOND)
REVOCATIONS = st.builds(
    lambda place, later, back, made, successor, listed: revocation(
        place, min(place + later, 4), made - back * SECOND, made,
        successor=None if successor is None else RAWS[successor], signed=(RUN,) if listed else None,
    ),
    st.integers(0, 3), st.integers(0, 4), st.integers(-1, 2), SECONDS,
    st.one_of(st.none(), st.integers(0, 4)), st.booleans(),
)  # fmt: skip


@given(st.lists(SECONDS, min_size=4, max_size=4), st.lists(REVOCATIONS, max_size=3), REVOCATIONS, SECONDS)
def test_a_further_revocation_never_makes_anything_count_again(
    moments: list[datetime], revoked: list[Signed], one_more: Signed, moment: datetime
) -> None:
    """Whoever signs it: no statement takes back what another one says."""
    line = rotations(4, sorted(moments))
    before, after = seen([*line, *revoked]), seen([*line, *revoked, one_more])
    assert [held.raw for held in after.keys] == [held.raw for held in before.keys][: len(after.keys)]
    for old, new in zip(before.keys, after.keys, strict=False):
        for report in (None, ("run-1", 2), ("run-1", 3)):
            assert old.ended_by(moment, report) is None or new.ended_by(moment, report) is not None
