"""Sign-offs: that somebody in a named role reviewed a round's report (45 CFR 164.308(a)(1)(ii)(D)).

A review comes after the report that is reviewed, so it cannot stand in it. It is a signed statement of its own below
`public/sign-offs/`, by the key of a hospital or of the coordinator: it names the report, the newest report that the
reviewer had, and the sign-off before it. Sign-offs so form a chain beside the chain of reports, and the next manifest
of a run that goes on lists them. Of a finished run, only the newest sign-offs could be taken away unseen.

What it shows is that the holder of that key said so. Who sat at the keyboard, and what they looked at, it does not.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, ValidationError

from fedgan_audits import envelope
from fedgan_audits.bundle import write_atomic
from fedgan_audits.checks import Verification
from fedgan_audits.errors import AuditError, RecordInvalid
from fedgan_audits.key_statements import public
from fedgan_audits.reading import Bundle
from fedgan_audits.records import Digest, Facts, Label, Name, Positive, Text, Time
from fedgan_audits.report import stem_of
from fedgan_audits.sections import FIRST_NOTE
from fedgan_audits.trust import Roster

SIGN_OFFS = "sign-offs"
FOLDER = "sign-offs/"
SIGN_OFF_TYPE = "urn:fedgan-secure:audit:sign-off:0"

_FILE = re.compile(r"sign-offs/sign-off-([0-9]{4,9})\.dsse\.json\Z")
_ROLE = Annotated[
    str, Field(min_length=2, max_length=100, pattern=r"^[^\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]+$")
]


class SignOff(Facts):
    """The predicate of a sign-off. `report` and `head` are digests of reports' payloads, `previous` of a sign-off's."""

    schema_version: Literal["0"]
    schema_note: Text
    sequence: Positive
    previous: Digest | None
    run_id: Name
    round: Positive
    report: Digest
    head: Digest
    signer: Name
    role: _ROLE
    person: Label | None
    remarks: Text
    time: Time


@dataclass(frozen=True)
class Signed:
    """A sign-off as it was read: its file, statement, digest and envelope; nothing is verified yet."""

    file: str
    statement: SignOff
    subjects: Mapping[str, str]
    digest: str
    envelope: envelope.Envelope


def file_of(sequence: int) -> str:
    """Where the sign-off of that number is, below `public/`."""
    return f"{FOLDER}sign-off-{sequence:04d}.dsse.json"


def listed(files: Sequence[str]) -> list[str]:
    """The files of `files` that are sign-offs by their names, in order."""
    found = {path: int(match.group(1)) for path in files if (match := _FILE.match(path))}
    return sorted(found, key=lambda path: found[path])


def read(bundle: Bundle, file: str) -> Signed:
    """One sign-off; raises EnvelopeError or UnreadableFileError where it is none."""
    parsed = envelope.parse(bundle.read(file, 2**20))
    subjects, predicate = envelope.read_statement(parsed.payload, SIGN_OFF_TYPE)
    try:
        statement = SignOff.model_validate(predicate)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:120]
        raise envelope.EnvelopeError(f"schema: {where}: {first['msg'][:200]}") from None
    if not envelope.same(statement.model_dump(mode="json"), predicate):
        raise envelope.EnvelopeError("schema: a value is not in the form that this version writes")
    return Signed(file, statement, subjects, hashlib.sha256(parsed.payload).hexdigest(), parsed)


def read_all(public: Path) -> Iterator[SignOff]:
    """The sign-offs of a run in order; signatures are not verified here."""
    bundle = Bundle(public)
    files = [path for path, problem in bundle.walk() if problem is None and path.startswith(FOLDER)]
    for file in listed(files):
        yield read(bundle, file).statement


def readable(bundle: Bundle, files: Sequence[str]) -> list[SignOff]:
    """The sign-offs among `files` in order, for the roll-up page; what cannot be read is for :func:`check` to name."""
    found = []
    for file in listed(files):
        with suppress(AuditError):
            found.append(read(bundle, file).statement)
    return found


def sign_off(
    public: Path,
    *,
    roster: Roster,
    key: Ed25519PrivateKey,
    chain: Sequence[str],
    run_id: str,
    round_number: int,
    role: str,
    person: str | None,
    remarks: str,
    moment: datetime,
) -> SignOff:
    """Write the next sign-off; `chain` are the digests of all reports, oldest first, already verified.

    Raises RecordInvalid for a key of nobody in this run, a round without a report, a role or text that cannot be
    printed, and where the same signer signed the same round off in the same role before.
    """
    keyid = envelope.fingerprint(key.public_key())
    found = roster.owner(keyid)
    if found is None:
        raise RecordInvalid(
            f"the key {keyid} belongs to nobody in this run; expected that of a hospital or of the coordinator",
            hint="Give the identity that the hospital takes part with, such as site/NAME/identity.pem; of a key that "
            "followed it, also --trust with the statement of the rotation.",
        )
    signer, held = found
    if (why := held.ended_by(moment)) is not None:
        raise RecordInvalid(f"the key {keyid} of {signer} {why}", hint="Sign with the key that is in use now.")
    if not 1 <= round_number <= len(chain):
        raise RecordInvalid(
            f"there is no report of round {round_number}; there are {len(chain)}",
            hint="See `fedgan-secure audit show`.",
        )
    bundle = Bundle(public)
    files = [path for path, problem in bundle.walk() if problem is None and path.startswith(FOLDER)]
    before = [read(bundle, file) for file in listed(files)]
    for entry in before:
        done = entry.statement
        if (done.round, done.signer, done.role) == (round_number, signer, role):
            raise RecordInvalid(
                f"round {round_number} was signed off by {signer} as {role} before ({entry.file})",
                hint="A sign-off is not repeated; another role, or another hospital, may add its own.",
            )
    report = f"reports/{stem_of(round_number)}.dsse.json"
    try:
        statement = SignOff(
            schema_version="0",
            schema_note=FIRST_NOTE,
            sequence=len(before) + 1,
            previous=before[-1].digest if before else None,
            run_id=run_id,
            round=round_number,
            report=chain[round_number - 1],
            head=chain[-1],
            signer=signer,
            role=role,
            person=person,
            remarks=remarks,
            time=moment,
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise RecordInvalid(
            f"{first['loc'][0]}: {first['msg']}", hint="Give a short text without control characters."
        ) from None
    payload = envelope.statement({report: bundle.digest(report)[1]}, SIGN_OFF_TYPE, statement.model_dump(mode="json"))
    write_atomic(
        public / file_of(statement.sequence), envelope.assemble(payload, [envelope.sign(payload, key, signer)])
    )
    return statement


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
    if roster is None or statement.signer not in roster.keys:
        yield f"is signed by {statement.signer}, who is nobody in this run"
    else:
        keyid = next(iter(signed.envelope.signatures))
        found = roster.owner(keyid) if len(signed.envelope.signatures) == 1 else None
        if found is None or found[0] != statement.signer:
            yield f"is not signed with the key of {statement.signer} alone"
        elif not envelope.verify(signed.envelope.payload, signed.envelope.signatures[keyid], public(found[1].raw)):
            yield f"the signature of {statement.signer} is not valid"
        elif (why := found[1].ended_by(statement.time)) is not None:
            yield f"is signed with {statement.signer}'s key {keyid}, which {why}"
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
