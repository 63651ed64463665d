"""Secure aggregation as sans-I/O machines: everything that touches secrets or peers.

The protocol is specified in docs/protocol.md. Start with `ServerSession` and `ClientSession`.
"""

from fedgan_protocols.errors import Code, JournalError, ParameterError, ProtocolError
from fedgan_protocols.journal import Journal
from fedgan_protocols.parameters import (
    Member,
    PolicyFloors,
    SessionParameters,
    default_threshold,
    roster_hash,
    sum_digest,
)
from fedgan_protocols.primitives import (
    Entropy,
    FixedPoint,
    Identity,
    fingerprint,
    load_public_key,
    prove_headroom,
    public_pem,
    verify,
    widest_fraction_bits,
)
from fedgan_protocols.server import Drop, Failure
from fedgan_protocols.session import AggregateResult, ClientSession, Phase, ServerSession
from fedgan_protocols.transitions import Stage

__all__ = [
    "AggregateResult",
    "ClientSession",
    "Code",
    "Drop",
    "Entropy",
    "Failure",
    "FixedPoint",
    "Identity",
    "Journal",
    "JournalError",
    "Member",
    "ParameterError",
    "Phase",
    "PolicyFloors",
    "ProtocolError",
    "ServerSession",
    "SessionParameters",
    "Stage",
    "default_threshold",
    "fingerprint",
    "load_public_key",
    "prove_headroom",
    "public_pem",
    "roster_hash",
    "sum_digest",
    "verify",
    "widest_fraction_bits",
]
