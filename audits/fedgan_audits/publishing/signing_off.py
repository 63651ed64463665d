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

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from fedgan_audits import canonical_json
from fedgan_audits.bundle import Bundle, write_atomic
from fedgan_audits.errors import AuditError, RecordInvalid
from fedgan_audits.facts import FIRST_NOTE, SIGN_OFF_TYPE, SignOff, stem_of
from fedgan_audits.signing import Roster, envelope, public_keys

SIGN_OFFS = "sign-offs"
FOLDER = "sign-offs/"

_FILE = re.compile(r"sign-offs/sign-off-([0-9]{4,9})\.dsse\.json\Z")


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
        raise canonical_json.EnvelopeError(f"schema: {where}: {first['msg'][:200]}") from None
    if not canonical_json.same(statement.model_dump(mode="json"), predicate):
        raise canonical_json.EnvelopeError("schema: a value is not in the form that this version writes")
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
    keyid = public_keys.fingerprint(key.public_key())
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
