"""Check the sign-offs of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fedgan_audits.bundle import Bundle
from fedgan_audits.errors import AuditError
from fedgan_audits.facts import Verification, stem_of
from fedgan_audits.publishing import FOLDER, SIGN_OFFS, Signed, file_of, listed, read
from fedgan_audits.signing import Roster, envelope, public


def check(
    result: Verification,
    bundle: Bundle,
    files: Mapping[str, tuple[int, str]],
    roster: Roster | None,
    chain: Sequence[str],
    run_id: str | None,
) -> None:
    """Every file below `sign-offs/` is a sign-off by a known key, of a report that is here, after the one before it."""
    here = [path for path in files if path.startswith(FOLDER)]
    names = listed(here)
    for path in sorted(set(here) - set(names)):
        result.failed(SIGN_OFFS, "no sign-off by its name, and listed in no manifest that could vouch for it", path)
    previous: Signed | None = None
    rounds: set[int] = set()
    ended = 0
    for place, file in enumerate(names, start=1):
        try:
            signed = read(bundle, file)
        except AuditError as error:
            result.failed(SIGN_OFFS, str(error), file)
            continue
        for text in _objections(signed, previous, place, files, roster, chain, run_id):
            result.failed(SIGN_OFFS, text, file)
        found = roster.owner(next(iter(signed.envelope.signatures))) if roster else None
        ended += found is not None and (found[1].retired is not None or bool(found[1].revoked))
        previous = signed
        rounds.add(signed.statement.round)
    if names:
        without = len(chain) - len(rounds & set(range(1, len(chain) + 1)))
        text = "every round" if not without else f"{len(rounds)} of {len(chain)} rounds"
        result.conclude(SIGN_OFFS, f"{len(names)} in order, each by a key of this run: {text} reviewed")
    if ended and not result.has_failed(SIGN_OFFS):
        result.skipped(
            SIGN_OFFS,
            f"{ended} with keys that have ended since: that they were signed before rests on their dates alone",
        )


def _objections(
    signed: Signed,
    previous: Signed | None,
    place: int,
    files: Mapping[str, tuple[int, str]],
    roster: Roster | None,
    chain: Sequence[str],
    run_id: str | None,
) -> Iterator[str]:
    statement = signed.statement
    if (why := _wrong_signature(signed, roster)) is not None:
        yield why
    if signed.file != file_of(statement.sequence) or statement.sequence != place:
        yield f"is number {statement.sequence} where number {place} is due: a gap, a repetition or another name"
    if statement.previous != (previous.digest if previous else None):
        yield "does not follow from the sign-off before it"
    if statement.run_id != run_id:
        yield "belongs to another run"
    if statement.round > len(chain) or chain[statement.round - 1] != statement.report:
        yield f"names another report of round {statement.round} than the one that is here"
    if statement.head not in chain:
        yield "its signer held a newer report that is not here: rounds were withheld or rewritten"
    report = f"reports/{stem_of(statement.round)}.dsse.json"
    if dict(signed.subjects) != {report: files.get(report, (0, ""))[1]}:
        yield f"vouches for another file than {report} as it is"


def _wrong_signature(signed: Signed, roster: Roster | None) -> str | None:
    """Why a sign-off's signature does not count, or None."""
    signer, signatures = signed.statement.signer, signed.envelope.signatures
    if roster is None or signer not in roster.keys:
        return f"is signed by {signer}, who is nobody in this run"
    keyid = next(iter(signatures))
    found = roster.owner(keyid) if len(signatures) == 1 else None
    if found is None or found[0] != signer:
        return f"is not signed with the key of {signer} alone"
    if not envelope.verify(signed.envelope.payload, signatures[keyid], public(found[1].raw)):
        return f"the signature of {signer} is not valid"
    if (why := found[1].ended_by(signed.statement.time)) is not None:
        return f"is signed with {signer}'s key {keyid}, which {why}"
    return None
