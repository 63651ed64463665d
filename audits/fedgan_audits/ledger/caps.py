"""A hospital's cap on the epsilon of its whole ledger: the smallest that was ever held there, until it signs a raise.

Every reservation and refusal records the cap that it was held against, so the ledger knows the smallest one. A setting
that is left out or raised later changes nothing; a lower one counts from the next reservation on. A raise is an entry
that the hospital's own key signed, at its place in the chain. The chain does not show whose key that was: `audit verify
--ledger` compares it with the key that the reports name.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedgan_audits import canonical_json
from fedgan_audits.errors import RecordInvalid
from fedgan_audits.signing import envelope, public_keys

if TYPE_CHECKING:
    from fedgan_audits.ledger.entries import LedgerEntry


RAISED = "cap_raised"
_STATEMENT = "fedgan-secure/cap-raise/1"
_HELD = frozenset({"reserved", "refused"})
LONGEST_REASON = 500


def smallest(*caps: float | None) -> float | None:
    """Return the smallest of the caps that are there, or None where there is none."""
    return min((cap for cap in caps if cap is not None), default=None)


def check_cap(cap: float | None) -> None:
    """Raise RecordInvalid unless `cap` is None or a finite number above 0."""
    if cap is not None and not (type(cap) in (int, float) and cap > 0 and math.isfinite(cap)):
        raise RecordInvalid(f"the hospital's epsilon cap is {cap}, but a finite number above 0 is expected")


def standing_cap(entries: Iterable[LedgerEntry]) -> float | None:
    """Return the cap that a ledger holds its hospital to, or None where none was ever recorded or it was lifted."""
    cap: float | None = None
    for entry in entries:
        found = entry.facts.get("cap")
        if entry.kind in _HELD and isinstance(found, int | float):
            cap = smallest(cap, float(found))
        elif entry.kind == RAISED and signer_of(entry) is not None:
            cap = None if found is None else float(found)
    return cap


def signer_of(entry: LedgerEntry) -> str | None:
    """Return the fingerprint of the key that validly signed a raise, or None where its signature is not valid."""
    try:
        raw = bytes.fromhex(entry.facts["key"])
        key = Ed25519PublicKey.from_public_bytes(raw)
        payload = _statement(entry.hospital, entry.previous, entry.facts)
        valid = envelope.verify(payload, base64.b64decode(entry.facts["signature"], validate=True), key)
        check_cap(entry.facts["cap"])
    except (KeyError, ValueError, TypeError, RecordInvalid, canonical_json.EnvelopeError):
        return None
    return public_keys.fingerprint(key) if valid else None


def raise_facts(
    hospital: str, previous: str, before: float | None, cap: float | None, reason: str, key: Ed25519PrivateKey
) -> dict[str, Any]:
    """Return the facts of a signed raise of a cap.

    Args:
        hospital: whose ledger it is.
        previous: the digest of the ledger's last entry, which the raise follows.
        before: the cap that stands.
        cap: the new one; None lifts it.
        reason: why, for those who read the ledger.
        key: the hospital's own.

    Raises:
        RecordInvalid: no cap stands, the new one is not higher, or the reason is empty or too long.
    """
    check_cap(cap)
    if before is None:
        raise RecordInvalid(f"the ledger of hospital {hospital} holds no cap, so there is none to raise")
    if cap is not None and cap <= before:
        raise RecordInvalid(
            f"the cap that stands is {before:g}, and {cap:g} does not raise it",
            hint="A lower cap needs no signature: set it in hospital.toml, or give --epsilon-cap.",
        )
    if not 1 <= len(reason.strip()) <= LONGEST_REASON or not reason.isprintable():
        raise RecordInvalid(f"the reason for a raise has 1 to {LONGEST_REASON} printable characters")
    public = key.public_key()
    facts = {"cap": cap, "before": before, "reason": reason.strip(), "key": public.public_bytes_raw().hex()}
    signature = envelope.sign(_statement(hospital, previous, facts), key, hospital)
    return {**facts, "signature": base64.b64encode(signature.sig).decode("ascii")}


def _statement(hospital: str, previous: str, facts: dict[str, Any]) -> bytes:
    said = {name: facts[name] for name in ("cap", "before", "reason", "key")}
    return canonical_json.canonical({"statement": _STATEMENT, "hospital": hospital, "previous": previous, **said})
