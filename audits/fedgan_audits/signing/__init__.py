"""Signatures and the keys behind them: DSSE envelopes, rotation, revocation, and whom an auditor trusts."""

from fedgan_audits.signing import envelope, key_statements, public_keys
from fedgan_audits.signing.envelope import Signature, parse
from fedgan_audits.signing.held_keys import Held, KeyHistory, Vouched
from fedgan_audits.signing.key_history import histories
from fedgan_audits.signing.key_statements import Revocation, Rotation, Signed, SignedRun
from fedgan_audits.signing.public_keys import public
from fedgan_audits.signing.trust import COORDINATOR, Roster, Trust, load_trust, public_key, roster

__all__ = [
    "COORDINATOR",
    "Held",
    "KeyHistory",
    "Revocation",
    "Roster",
    "Rotation",
    "Signature",
    "Signed",
    "SignedRun",
    "Trust",
    "Vouched",
    "envelope",
    "histories",
    "key_statements",
    "load_trust",
    "parse",
    "public",
    "public_key",
    "public_keys",
    "roster",
]
