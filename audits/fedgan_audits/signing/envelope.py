"""Signed envelopes: in-toto statements in DSSE, Ed25519, several signatures.

Specification: DSSE v1 (secure-systems-lab), protocol section "Signature definition": the bytes that are signed are
``PAE(type, body) = "DSSEv1" SP len(type) SP type SP len(body) SP body``, so that a payload can never be read as
another type. Ed25519 is RFC 8032, through the `cryptography` package.

Rules beyond the specification: an envelope's bytes must equal their own canonical serialisation (RFC 8785, strict
base64). Without that rule base64 padding bits, white space and unsigned fields could be changed unseen. Signatures
are sorted by key id, and a key signs once. Parsing is bounded in bytes and in values, so that a small file cannot
grow into gigabytes of empty lists, and nesting beyond Python's own limit is an error like any other.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedgan_audits.canonical_json import MAX_ENVELOPE_BYTES, EnvelopeError, canonical, parse_canonical
from fedgan_audits.signing.public_keys import fingerprint, is_safe_key

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
MAX_SIGNATURES = 10_001


@dataclass(frozen=True)
class Signature:
    """One Ed25519 signature (64 bytes) and whose it is: `keyid` is the key's fingerprint."""

    name: str
    keyid: str
    sig: bytes


@dataclass(frozen=True)
class Envelope:
    """A parsed envelope: the payload's bytes and the signatures by key id. Nothing in it is verified yet."""

    payload: bytes
    signatures: Mapping[str, bytes]


def pae(payload: bytes, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """The pre-authentication encoding of DSSE v1: the bytes that are signed."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def sign(payload: bytes, private_key: Ed25519PrivateKey, name: str) -> Signature:
    """Sign `payload` (not its digest) as `name`."""
    return Signature(name, fingerprint(private_key.public_key()), private_key.sign(pae(payload)))


def verify(payload: bytes, sig: bytes, public_key: Ed25519PublicKey) -> bool:
    """Whether `sig` is a valid signature of `payload` by `public_key`; never under a key that `is_safe_key` refuses."""
    if not is_safe_key(public_key):
        return False
    try:
        public_key.verify(sig, pae(payload))
    except InvalidSignature:
        return False
    return True


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _unb64(text: Any, what: str) -> bytes:
    if not isinstance(text, str):
        raise EnvelopeError(f"{what} is not text")
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise EnvelopeError(f"{what} is not base64") from None
    if _b64(data) != text:
        raise EnvelopeError(f"{what} is not canonical base64: unused bits or padding were changed")
    return data


def assemble(payload: bytes, signatures: Iterable[Signature]) -> bytes:
    """The envelope's canonical bytes; at least one signature, one per key."""
    by_key = {signature.keyid: signature for signature in signatures}
    if not by_key:
        raise EnvelopeError("an envelope needs at least one signature")
    return canonical(
        {
            "payload": _b64(payload),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"keyid": keyid, "sig": _b64(by_key[keyid].sig)} for keyid in sorted(by_key)],
        }
    )


def parse(data: bytes, *, limit: int = MAX_ENVELOPE_BYTES) -> Envelope:
    """Read an envelope without trusting it: format, canonical form and bounds; no signature is verified here."""
    value = parse_canonical(data, limit=limit)
    if not isinstance(value, dict) or set(value) != {"payload", "payloadType", "signatures"}:
        raise EnvelopeError("expected an object with payload, payloadType and signatures alone")
    if value["payloadType"] != PAYLOAD_TYPE:
        raise EnvelopeError(f"expected the payload type {PAYLOAD_TYPE}")
    listed = value["signatures"]
    if not isinstance(listed, list) or not 1 <= len(listed) <= MAX_SIGNATURES:
        raise EnvelopeError(f"expected 1 to {MAX_SIGNATURES} signatures")
    signatures: dict[str, bytes] = {}
    for entry in listed:
        if not isinstance(entry, dict) or set(entry) != {"keyid", "sig"} or not isinstance(entry["keyid"], str):
            raise EnvelopeError("a signature needs keyid and sig alone")
        sig = _unb64(entry["sig"], "a signature")
        if len(sig) != 64:
            raise EnvelopeError(f"an Ed25519 signature has 64 bytes, found {len(sig)}")
        if entry["keyid"] in signatures:
            raise EnvelopeError("a key signed twice")
        signatures[entry["keyid"]] = sig
    if list(signatures) != sorted(signatures):
        raise EnvelopeError("signatures must be sorted by key id")
    return Envelope(_unb64(value["payload"], "the payload"), signatures)


def statement(subjects: Mapping[str, str], predicate_type: str, predicate: Any) -> bytes:
    """Canonical bytes of an in-toto Statement v1; `subjects` maps paths to SHA-256 digests."""
    return canonical(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": name, "digest": {"sha256": subjects[name]}} for name in sorted(subjects)],
            "predicateType": predicate_type,
            "predicate": predicate,
        }
    )


def read_statement(payload: bytes, predicate_type: str) -> tuple[dict[str, str], Any]:
    """Subjects (path -> SHA-256) and predicate of a canonical in-toto Statement v1 of the given type."""
    subjects, predicate, _ = read_versioned(payload, predicate_type)
    return subjects, predicate


def read_versioned(payload: bytes, predicate_type: str, older: Collection[str] = ()) -> tuple[dict[str, str], Any, str]:
    """As :func:`read_statement`, and the version that the predicate's type ends with: the one given, or one of `older`.

    A statement of the right kind and of another version is refused with what to do about it.
    """
    value = parse_canonical(payload)
    if not isinstance(value, dict) or set(value) != {"_type", "subject", "predicateType", "predicate"}:
        raise EnvelopeError("the payload is not an in-toto statement")
    if value["_type"] != STATEMENT_TYPE:
        raise EnvelopeError(f"expected a statement of type {STATEMENT_TYPE}")
    kind, _, version = str(value["predicateType"])[:80].rpartition(":")
    ours, _, reads = predicate_type.rpartition(":")
    known = (*older, reads)
    if kind == ours and version.isdecimal() and version not in known:
        newer = reads.isdecimal() and int(version) > int(reads)
        raise EnvelopeError(
            f"schema: version {version}, and this fedgan-secure reads version {', '.join(known)}: "
            + ("verify with a newer one" if newer else "there is no such version; the file was not made by it"),
            hint="Install the fedgan-secure that made the run, or a newer one, and verify again." if newer else None,
        )
    if value["predicateType"] not in {f"{ours}:{each}" for each in known}:
        raise EnvelopeError(f"expected a predicate of type {predicate_type}, found {str(value['predicateType'])[:80]}")
    subjects: dict[str, str] = {}
    listed = value["subject"] if isinstance(value["subject"], list) else []
    for entry in listed:
        match entry:
            case {"name": str(name), "digest": {"sha256": str(digest)}} if name not in subjects:
                subjects[name] = digest
            case _:
                raise EnvelopeError("a subject needs one name and one SHA-256 digest")
    if not subjects or list(subjects) != sorted(subjects):
        raise EnvelopeError("subjects must be there and sorted by name")
    return subjects, value["predicate"], version
