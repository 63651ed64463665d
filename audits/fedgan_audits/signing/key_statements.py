"""Statements about keys: that one key follows another, and that a key is revoked from a moment on.

Both are in-toto statements in DSSE envelopes, as everything that is signed here. A rotation is signed by the old key,
which names its successor, and by the new one, which accepts. A revocation is signed by the key itself or by a later key
of the same member; who may revoke is judged in `key_history`, when all statements are known.

Times are claims of the signer. So a statement also lists, from the signer's ledger, the newest report of every run that
the member had signed by then: a report with a retired or revoked key that is not in that list came later, whatever its
date says. A coordinator keeps no ledger; its statements carry no list, and then only dates can be compared.

Times are whole seconds, and a script does more than one thing in a second. So a revocation "from now on" begins with
the next second, and where two times are equal, the statements' own chain says what came first (`held_keys`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from fedgan_audits import canonical_json
from fedgan_audits.canonical_json import EnvelopeError
from fedgan_audits.errors import RecordInvalid
from fedgan_audits.facts import Digest, Facts, Label, Name, Positive, Text, Time, as_tuple
from fedgan_audits.signing import envelope, public_keys
from fedgan_audits.signing.public_keys import public, public_pem, raw_of

ROTATION_TYPE = "urn:fedgan-secure:audit:key-rotation:0"
REVOCATION_TYPE = "urn:fedgan-secure:audit:key-revocation:0"
MAX_RUNS = 10_000
MAX_STATEMENT_BYTES = 8 * 2**20

RawKey = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""An Ed25519 public key: its 32 bytes in hexadecimal."""


class SignedRun(Facts):
    """The newest report of a run that a member had signed: its round and the digest of its payload."""

    run_id: Name
    round: Positive
    digest: Digest


SignedRuns = Annotated[tuple[SignedRun, ...], BeforeValidator(as_tuple), Field(max_length=MAX_RUNS)]


class Rotation(Facts):
    """That `new_key` follows `old_key`. `previous` is the digest of the member's rotation before this one."""

    schema_version: Literal["0"]
    name: Name
    sequence: Positive
    previous: Digest | None
    old_key: RawKey
    new_key: RawKey
    time: Time
    signed: SignedRuns | None
    ledger_head: Digest | None
    remarks: Text

    @model_validator(mode="after")
    def _consistent(self) -> Rotation:
        if self.old_key == self.new_key:
            raise ValueError("a key cannot follow itself")
        if (self.sequence == 1) != (self.previous is None):
            raise ValueError("the first rotation has no previous one, and every later one has")
        return self


class Revocation(Facts):
    """That signatures of `key` count for nothing from `since` on. `successor` is the key that followed it, if any."""

    schema_version: Literal["0"]
    name: Name
    key: RawKey
    since: Time
    successor: RawKey | None
    time: Time
    signed: SignedRuns | None
    ledger_head: Digest | None
    reason: Label


@dataclass(frozen=True)
class Signed:
    """A statement as it was read: the file it came from, its digest and envelope; no signature is verified yet."""

    file: str
    statement: Rotation | Revocation
    digest: str
    envelope: envelope.Envelope

    def signed_by(self, raw: str) -> bool:
        """Whether the key with these raw bytes (hexadecimal) made one of the signatures, and it is valid."""
        key = public(raw)
        sig = self.envelope.signatures.get(public_keys.fingerprint(key))
        return sig is not None and envelope.verify(self.envelope.payload, sig, key)


def fingerprint(raw: str) -> str:
    """The fingerprint of the key with these 32 bytes, given in hexadecimal."""
    return public_keys.fingerprint(public(raw))


def read(data: bytes, file: str) -> Signed:
    """One statement; raises EnvelopeError where it is none, or not in the form that this version writes."""
    parsed = envelope.parse(data, limit=MAX_STATEMENT_BYTES)
    value = canonical_json.parse_canonical(parsed.payload)
    kind = value.get("predicateType") if isinstance(value, dict) else None
    forms: Mapping[Any, type[Rotation] | type[Revocation]] = {ROTATION_TYPE: Rotation, REVOCATION_TYPE: Revocation}
    if not isinstance(kind, str) or kind not in forms:
        ours = isinstance(kind, str) and kind.rpartition(":")[0] in {form.rpartition(":")[0] for form in forms}
        raise EnvelopeError(
            "a statement about keys of another version: verify with a newer fedgan-secure"
            if ours
            else "no statement about keys; expected a rotation or a revocation, as made by `fedgan-secure keys`"
        )
    subjects, predicate = envelope.read_statement(parsed.payload, kind)
    try:
        statement = forms[kind].model_validate(predicate)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:120]
        raise EnvelopeError(f"schema: {where or 'the statement'}: {first['msg'][:200]}") from None
    if not canonical_json.same(statement.model_dump(mode="json"), predicate):
        raise EnvelopeError("schema: a value is not in the form that this version writes")
    if subjects != _subject(statement):
        raise EnvelopeError("its subject is not the key that it is about")
    return Signed(file, statement, hashlib.sha256(parsed.payload).hexdigest(), parsed)


def _subject(statement: Rotation | Revocation) -> dict[str, str]:
    raw = statement.new_key if isinstance(statement, Rotation) else statement.key
    return {f"{statement.name}.pub.pem": hashlib.sha256(public_pem(public(raw))).hexdigest()}


def _assembled(statement: Rotation | Revocation, kind: str, keys: Sequence[Ed25519PrivateKey]) -> bytes:
    payload = envelope.statement(_subject(statement), kind, statement.model_dump(mode="json"))
    return envelope.assemble(payload, [envelope.sign(payload, key, statement.name) for key in keys])


def next_second(moment: datetime) -> datetime:
    """Return the first whole second after `moment`.

    A key that is revoked at `moment` counts for nothing from then on. Reports and statements are dated in whole
    seconds, rounded down: a revocation that began with the second of `moment` would take what was signed earlier in it.
    """
    return moment.replace(microsecond=0) + timedelta(seconds=1)


def rotation(
    name: str,
    old: Ed25519PrivateKey,
    new: Ed25519PrivateKey,
    *,
    moment: datetime,
    before: Signed | None,
    signed: Sequence[SignedRun] | None,
    ledger_head: str | None,
    remarks: str = "",
) -> bytes:
    """The envelope of a rotation, signed by both keys; `before` is the member's rotation before it.

    Raises RecordInvalid where the clock says that it comes before `before`, or a text cannot be printed.
    """
    last = before.statement if before is not None else None
    if isinstance(last, Rotation) and moment < last.time:
        raise RecordInvalid(
            f"the clock says {moment:%Y-%m-%d %H:%M:%S} UTC, before the last rotation ({last.time:%Y-%m-%d %H:%M:%S})",
            hint="Set the clock, then rotate again.",
        )
    return _assembled(
        _valid(
            Rotation,
            name=name,
            sequence=last.sequence + 1 if isinstance(last, Rotation) else 1,
            previous=before.digest if before is not None else None,
            old_key=raw_of(old.public_key()),
            new_key=raw_of(new.public_key()),
            time=moment,
            signed=signed,
            ledger_head=ledger_head,
            remarks=remarks,
        ),
        ROTATION_TYPE,
        (old, new),
    )


def revocation(
    name: str,
    raw: str,
    signer: Ed25519PrivateKey,
    *,
    since: datetime,
    moment: datetime,
    successor: str | None,
    signed: Sequence[SignedRun] | None,
    ledger_head: str | None,
    reason: str,
) -> bytes:
    """The envelope of a revocation of the key `raw`; raises RecordInvalid for a time to come or an unfit text."""
    if since > next_second(moment):
        raise RecordInvalid(
            f"the revocation would begin at {since:%Y-%m-%d %H:%M:%S} UTC, which is to come",
            hint="Give the moment from which the key may have been in other hands.",
        )
    return _assembled(
        _valid(
            Revocation,
            name=name,
            key=raw,
            since=since,
            successor=successor,
            time=moment,
            signed=signed,
            ledger_head=ledger_head,
            reason=reason,
        ),
        REVOCATION_TYPE,
        (signer,),
    )


def _valid(form: type[Any], **values: Any) -> Any:
    try:
        return form(schema_version="0", **values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RecordInvalid(f"{where}: {first['msg']}", hint="Give a short text without control characters.") from None
