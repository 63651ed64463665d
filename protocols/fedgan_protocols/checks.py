"""The rules that clients, the server and the transcript's verifier apply alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from fedgan_protocols.errors import Code, ProtocolError
from fedgan_protocols.masking import check_public_key
from fedgan_protocols.messages import Advertisement, Consistency, Deal, Invitation, Message
from fedgan_protocols.parameters import SALT_BYTES, SHARE_BYTES, SessionParameters
from fedgan_protocols.primitives import digest, holders

OPENING_BYTES = SHARE_BYTES + SALT_BYTES
KEY, SEED = "key", "seed"


def sealed_digest(sealed: bytes | memoryview) -> bytes:
    return digest("sealed-share", sealed)


def shares_digest(openings: bytes | memoryview) -> bytes:
    """Digest of a Revelation's attachment; the salts inside keep it from being guessed."""
    return digest("revealed-shares", openings)


def require_enough(parameters: SessionParameters, members: Sequence[int], what: str, *, culprit: str = "") -> None:
    """At least t members; raises ProtocolError (too-few)."""
    if len(members) < parameters.threshold:
        raise ProtocolError(
            Code.TOO_FEW, f"{what}: {len(members)} members; the threshold is {parameters.threshold}", culprit=culprit
        )


def require_subset(inner: Sequence[int], outer: Sequence[int], what: str, *, culprit: str) -> None:
    """A set never grows; raises ProtocolError (set-grew)."""
    extra = sorted(set(inner) - set(outer))
    if extra:
        raise ProtocolError(Code.SET_GREW, f"{what} holds {len(extra)} members that had dropped out", culprit=culprit)


def check_terms(
    parameters: SessionParameters,
    body: Invitation | Advertisement,
    model_hashes: tuple[bytes, ...],
    *,
    culprit: str,
) -> None:
    """Policy, parameters and models are those that are held here; raises ProtocolError."""
    if body.policy_hash != parameters.policy_hash:
        raise ProtocolError(Code.POLICY_MISMATCH, f"{culprit} holds another policy", culprit=culprit)
    if body.parameters_hash != parameters.parameters_hash:
        raise ProtocolError(Code.PARAMETERS_MISMATCH, f"{culprit} holds other session parameters", culprit=culprit)
    if body.model_hashes != model_hashes:
        raise ProtocolError(Code.MODEL_MISMATCH, f"{culprit} names another model", culprit=culprit)


def check_advertisement(
    parameters: SessionParameters, message: Message, model_hashes: tuple[bytes, ...], *, culprit: str
) -> Advertisement:
    """One member's R0 message: terms, number of keys, canonical keys of full order, no key twice."""
    body = message.body_as(Advertisement)
    check_terms(parameters, body, model_hashes, culprit=culprit)
    if len(body.mask_keys) != parameters.sums:
        raise ProtocolError(Code.MALFORMED, f"{culprit}: one mask key per sum was expected", culprit=culprit)
    check_neighbours(parameters, message.sender, body, culprit=culprit)
    try:
        for key in (body.sealing_key, *body.mask_keys):
            check_public_key(key)
    except ProtocolError as error:
        raise ProtocolError(error.code, f"{culprit}: {error.message}", culprit=culprit) from None
    if len({body.sealing_key, *body.mask_keys}) != parameters.sums + 1:
        raise ProtocolError(Code.DUPLICATE_KEY, f"{culprit} advertises a key twice", culprit=culprit)
    return body


def check_unique_keys(
    parameters: SessionParameters,
    bodies: Mapping[int, Advertisement],
    *,
    culprit: str,
    known: Mapping[bytes, int] = MappingProxyType({}),
) -> None:
    """No two members advertise one key, nor one of `known` (key -> member); raises ProtocolError (duplicate-key)."""
    seen = dict(known)
    for member, body in bodies.items():
        for key in (body.sealing_key, *body.mask_keys):
            if seen.setdefault(key, member) != member:
                names = f"{parameters.name_of(seen[key])} and {parameters.name_of(member)}"
                raise ProtocolError(Code.DUPLICATE_KEY, f"{names} advertise the same key", culprit=culprit)


def check_neighbours(parameters: SessionParameters, member: int, body: Advertisement, *, culprit: str) -> None:
    """Nobody drawn in the complete graph; else `degree` others of the roster. Raises ProtocolError (malformed)."""
    expected = 0 if parameters.graph is None else parameters.graph.degree
    drawn = body.neighbours
    if len(drawn) != expected or member in drawn or (drawn and drawn[-1] > parameters.n):
        raise ProtocolError(
            Code.MALFORMED, f"{culprit}: {expected} neighbours of the roster were expected", culprit=culprit
        )


def holds(parameters: SessionParameters, body: Advertisement, member: int) -> bool:
    """Whether `member` of U1 holds shares of the member that advertised `body`."""
    return parameters.graph is None or member in body.neighbours


def holders_of(
    parameters: SessionParameters, body: Advertisement, u1: Sequence[int], present: frozenset[int] | None = None
) -> tuple[int, ...]:
    """Who in U1 (`present`, if that set is at hand) holds shares of the member that advertised `body`, ascending."""
    return holders(None if parameters.graph is None else body.neighbours, u1, present)


def check_deal(parameters: SessionParameters, body: Deal, dealer: int, holding: Sequence[int], *, culprit: str) -> None:
    """The number of commitments and sealed shares fits the dealer's holders; raises ProtocolError (malformed)."""
    each = parameters.sums * len(holding)
    found = (
        len(body.seed_commitments),
        len(body.key_share_commitments),
        len(body.seed_share_commitments),
        len(body.sealed_digests),
    )
    if found != (parameters.sums, each, each, len(holding) - (dealer in holding)):
        raise ProtocolError(Code.MALFORMED, f"{culprit}: commitments do not fit the members", culprit=culprit)


def committed(body: Deal, kind: str, j: int, holding: Sequence[int], holder: int) -> bytes:
    """The commitment to the share of `kind` of sum j that the dealer gave `holder`."""
    commitments = body.key_share_commitments if kind == KEY else body.seed_share_commitments
    return commitments[j * len(holding) + holding.index(holder)]


def place_among_sealed(holding: Sequence[int], dealer: int, holder: int) -> int:
    """Where the share sealed for `holder` stands in the dealer's attachment, which has none for the dealer itself."""
    place = holding.index(holder)
    return place - (dealer in holding and dealer < holder)


def check_consistency(message: Message, expected: Consistency, t3: bytes, *, culprit: str) -> None:
    """A Consistency message signs exactly this state; raises ProtocolError (inconsistent)."""
    if message.previous != t3 or message.body_as(Consistency) != expected:
        raise ProtocolError(
            Code.INCONSISTENT, "a member signed another set, model or transcript than this one", culprit=culprit
        )


def vector_of(parameters: SessionParameters, j: int, data: bytes | memoryview, *, culprit: str) -> np.ndarray:
    """uint32[d] or uint64[d], a read-only view of `data`; raises ProtocolError (malformed)."""
    if len(data) != parameters.vector_bytes(j):
        raise ProtocolError(
            Code.MALFORMED,
            f"a vector of {len(data)} bytes; {parameters.vector_bytes(j)} were expected",
            culprit=culprit,
        )
    return np.frombuffer(data, dtype=parameters.dtype)
