"""Whether a run was signed with keys that counted when they signed: none retired before, none revoked by then.

A date is the signer's word, and whoever holds a stolen key can write any. So the order of things is held against what
the member listed from its ledger when the key ended: a report that is not in that list, or beyond it, came later. Only
where there is no such list are dates compared, and what rests on a date alone is said to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from fedgan_audits.facts import Verification
from fedgan_audits.signing import Held, Roster, SignedRun, Vouched

if TYPE_CHECKING:
    from fedgan_audits.facts import RunFacts


KEY_STANDING = "key standing"
_MANIFEST = "manifest.dsse.json"


@dataclass(frozen=True)
class SignedReport:
    """A report of the run with whose valid signatures it bears, and when it says that it ended."""

    round: int
    file: str
    digest: str
    ended: datetime
    signers: frozenset[str]


def check(
    result: Verification,
    roster: Roster,
    reports: Sequence[SignedReport],
    manifest_signers: frozenset[str],
    run: RunFacts | None,
) -> None:
    """Every member's key counted for every report that it signed, and for the manifest."""
    name, by_date_alone = KEY_STANDING, False
    for member in roster.keys:
        held = roster.held(member)
        who = f"{member}'s key {held.fingerprint}"
        own = [report for report in reports if member in report.signers]
        for file, moment in _too_early(held, own, run if member in manifest_signers else None):
            result.failed(name, f"signed with {who}, which {held.ended_by(moment)}", file)
        if held.retired is None and not held.revoked:
            continue
        refused = _by_date(held, own, run)
        for listed in held.lists:
            refused = {**_by_list(member, listed, own, reports, run), **refused}
        for file, text in refused.items():
            result.failed(name, f"signed with {who}, which {text}", file)
        if run is not None and member in manifest_signers and (held.revoked or not held.lists):
            why = held.ended_by(run.ended, _vouched(run, max((report.round for report in reports), default=0)))
            if why is not None:
                result.failed(name, f"signed with {who}, which {why}", _MANIFEST)
        if refused:
            continue
        by_date_alone |= _tell_end(result, held, member, len(own), member in manifest_signers)
    if not by_date_alone:
        result.conclude(name, "every key that signed here counted when it did, by the statements and lists given")


def _too_early(held: Held, own: Sequence[SignedReport], run: RunFacts | None) -> list[tuple[str, datetime]]:
    """What was signed before the key began: files with their moments; `run` where its manifest is signed with it."""
    if held.began is None:
        return []
    dated = [(report.file, report.ended) for report in own] + ([] if run is None else [(_MANIFEST, run.ended)])
    return [(file, moment) for file, moment in dated if moment < held.began.time]


def _tell_end(result: Verification, held: Held, member: str, reports: int, manifest: bool) -> bool:
    """Say of a key that ended what vouches for its signatures; returns whether nothing does but their dates."""
    start = f"{member}'s key {held.fingerprint} {_end(held)}"
    count = "1 report" if reports == 1 else f"{reports} reports"
    if held.lists:
        text = f"{start}; {count} here, among those that {member} had signed by its own list"
        result.passed(KEY_STANDING, text)
        return False
    if not reports and not manifest:
        return False
    result.skipped(
        KEY_STANDING,
        f"{start}; {count} here, dated before. A date is the signer's word: whoever held that key could"
        " write any. A head or a ledger of that time (--head, --ledger) shows what was there",
    )
    return True


def _end(held: Held) -> str:
    if held.revoked:
        first = min(held.revoked, key=lambda entry: entry.since)
        why = f": {first.reason}" if first.reason else ""
        return f"is revoked from {first.since:%Y-%m-%d %H:%M:%S} UTC on by {first.by}{why}"
    at = f" on {held.retired.time:%Y-%m-%d %H:%M:%S} UTC" if held.retired is not None else ""
    return f"was followed by another{at}"


def _by_date(held: Held, reports: Sequence[SignedReport], run: RunFacts | None) -> dict[str, str]:
    """File -> why its signature does not count by its date. A retirement with a list goes by the list alone."""
    found = {}
    for report in reports:
        late = held.revoked_by(report.ended, _vouched(run, report.round))
        listed = held.retired is not None and held.retired.signed is not None
        if late is None and held.retired is not None and not listed and report.ended > held.retired.time:
            late = f"was followed by another on {held.retired.time:%Y-%m-%d %H:%M:%S} UTC"
        if late is not None:
            found[report.file] = late
    return found


def _vouched(run: RunFacts | None, rounds: int) -> Vouched | None:
    return None if run is None else (run.run_id, rounds)


def _by_list(
    member: str,
    listed: Mapping[str, SignedRun],
    own: Sequence[SignedReport],
    reports: Sequence[SignedReport],
    run: RunFacts | None,
) -> dict[str, str]:
    """File -> why it is not among what the member had signed when the key ended."""
    if not own:
        return {}
    entry = listed.get(run.run_id) if run is not None else None
    if entry is None:
        text = f"had ended before: this run is not among those that {member} had signed by then"
        return {report.file: text for report in own}
    found = {
        report.file: f"had ended before: {member} had signed this run up to round {entry.round} by then"
        for report in own
        if report.round > entry.round
    }
    here = next((report for report in reports if report.round == entry.round), None)
    if here is None or here.digest != entry.digest:
        file = here.file if here is not None else _MANIFEST
        found.setdefault(file, f"had signed another report of round {entry.round} when it ended, which is not here")
    return found
