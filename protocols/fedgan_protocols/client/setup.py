"""The client's part of the key exchange: its peers' keys (R1), the shares it deals, the shares it is dealt (R2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag

from fedgan_protocols import checks, masking
from fedgan_protocols.checks import KEY, OPENING_BYTES, SEED
from fedgan_protocols.client.rules import open_request, require
from fedgan_protocols.client.states import Advertised, Secrets, Setup, Shared
from fedgan_protocols.directory import read_deals, read_directory
from fedgan_protocols.errors import Code, ProtocolError
from fedgan_protocols.messages import Advertisement, Deal, extend, message_digest, seed_commitment, share_commitment
from fedgan_protocols.parameters import SALT_BYTES
from fedgan_protocols.primitives import holders, shamir
from fedgan_protocols.transitions import Stage


def read_peers(
    state: Advertised, u1: tuple[int, ...], attachment: memoryview
) -> tuple[tuple[bytes, ...], dict[int, Advertisement]]:
    """The digests of U1's advertisements, and those of this member's peers: whom it drew, and who drew it."""
    context, parameters, me = state.context, state.context.parameters, state.context.member
    digests, peers, raws = read_directory(attachment, parameters.packet_limit)
    require(len(digests) == len(u1), Code.MALFORMED, "one digest per member of U1 was expected")
    own = digests[u1.index(me)]
    require(own == message_digest(state.own), Code.OWN_MESSAGE_ALTERED, "this member's own keys were altered")
    require(len(raws) == len(peers) and me not in peers, Code.MALFORMED, "one advertisement per peer was expected")
    checks.require_subset(peers, u1, "the peers", culprit="server")
    expected = holders(None if parameters.graph is None else state.neighbours, u1)
    absent = set(expected) - {me, *peers}
    require(not absent, Code.EXCLUDED, f"the server left out the keys of {len(absent)} of this member's peers")
    place = {member: index for index, member in enumerate(u1)}
    adverts = {}
    for member, raw in zip(peers, raws, strict=True):
        message = open_request(state, Stage.ADVERTISE_KEYS, raw, member, state.t0)
        require(
            message.digest == digests[place[member]],
            Code.TRANSCRIPT_MISMATCH,
            "the server sent two sets of keys of one member",
        )
        adverts[member] = checks.check_advertisement(parameters, message, context.model_hashes, culprit="server")
        drew_me = checks.holds(parameters, adverts[member], me)
        require(drew_me or member in expected, Code.MALFORMED, "the server sent the keys of somebody who is no peer")
    own_keys = {masking.public_of(state.sealing_key): me, **{masking.public_of(key): me for key in state.mask_keys}}
    checks.check_unique_keys(parameters, adverts, culprit="server", known=own_keys)
    return digests, adverts


@dataclass(frozen=True)
class Dealt:
    """A signed body's commitments, the seeds b_u they are about, the sealed shares, and this member's own openings."""

    body: Deal
    seeds: tuple[bytes, ...] = field(repr=False)
    sealed: bytes = field(repr=False)
    own_openings: bytes = field(repr=False)


def deal_shares(
    state: Advertised, u1: tuple[int, ...], adverts: Mapping[int, Advertisement], t1: bytes, entropy: bytes
) -> Dealt:
    """Draw a seed b_u per sum; share it and the mask key among the holders, commit to every share and seal them."""
    parameters, me = state.context.parameters, state.context.member
    holding = holders(None if parameters.graph is None else state.neighbours, u1)
    require(len(holding) >= parameters.share_threshold, Code.TOO_FEW, "too few of this member's neighbours are in U1")
    pool = shamir.EntropyPool(entropy)
    seeds = tuple(pool.take(32) for _ in range(parameters.sums))
    openings: dict[int, list[bytes]] = {member: [] for member in holding}
    commitments: dict[str, list[bytes]] = {KEY: [], SEED: []}
    for j in range(parameters.sums):
        for kind, secret in ((KEY, state.mask_keys[j]), (SEED, seeds[j])):
            shares = shamir.share(int.from_bytes(secret, "big"), parameters.share_threshold, holding, pool)
            for member in holding:
                opening = shamir.share_to_bytes(shares[member]) + pool.take(SALT_BYTES)
                openings[member].append(opening)
                commitments[kind].append(share_commitment(parameters, j, kind, me, member, opening))
    sealed = []
    agreement = masking.KeyAgreement(state.sealing_key)
    for member in holding:
        if member != me:
            shared = agreement.exchange(adverts[member].sealing_key)
            key = masking.seal_key(parameters, shared, t1, me, member)
            sealed.append(masking.seal(key, b"".join(openings[member]), me, member))
    body = Deal(
        tuple(seed_commitment(parameters, j, me, seed) for j, seed in enumerate(seeds)),
        tuple(commitments[KEY]),
        tuple(commitments[SEED]),
        tuple(checks.sealed_digest(one) for one in sealed),
    )
    return Dealt(body, seeds, b"".join(sealed), b"".join(openings.get(me, [])))


def complete_setup(state: Shared, u2: tuple[int, ...], first: bytes, second: memoryview) -> tuple[Setup, Secrets]:
    """Verify the deals of which this member holds shares, and open what was sealed for it."""
    parameters, me, u1 = state.context.parameters, state.context.member, state.u1
    checks.require_subset(u2, u1, "U2", culprit="server")
    require(me in u2, Code.EXCLUDED, "the server left this member out of U2")
    digests, raws = read_deals(first, parameters.packet_limit)
    require(len(digests) == len(u2), Code.MALFORMED, "one digest per member of U2 was expected")
    own = digests[u2.index(me)]
    require(own == message_digest(state.own), Code.OWN_MESSAGE_ALTERED, "this member's own deal was altered")
    dealers = [
        member for member in u2 if member in state.adverts and checks.holds(parameters, state.adverts[member], me)
    ]
    size = parameters.sealed_bytes
    require(len(raws) == len(dealers), Code.MALFORMED, "one deal per dealer of this member was expected")
    require(len(second) == size * len(dealers), Code.MALFORMED, "one sealed share per dealer was expected")
    openings = {me: state.own_openings} if state.own_openings else {}
    agreement, present = masking.KeyAgreement(state.sealing_key), frozenset(u1)
    place_in_u2 = {member: index for index, member in enumerate(u2)}
    for place, (dealer, raw) in enumerate(zip(dealers, raws, strict=True)):
        message = open_request(state, Stage.SHARE_KEYS, raw, dealer, state.t1)
        signed = digests[place_in_u2[dealer]]
        require(message.digest == signed, Code.TRANSCRIPT_MISMATCH, "the server sent two deals of one member")
        body = message.body_as(Deal)
        holding = checks.holders_of(parameters, state.adverts[dealer], u1, present)
        checks.check_deal(parameters, body, dealer, holding, culprit=parameters.name_of(dealer))
        sealed = bytes(second[place * size : (place + 1) * size])
        require(
            checks.sealed_digest(sealed) == body.sealed_digests[checks.place_among_sealed(holding, dealer, me)],
            Code.SEALED_SHARE_ALTERED,
            f"the sealed share of {parameters.name_of(dealer)} was altered on its way",
        )
        openings[dealer] = _unseal(state, agreement, dealer, sealed, body, holding)
    t2 = extend("T2", state.t1, state.broadcast, zip(u2, digests, strict=True))
    present = frozenset(u2)
    publics = {member: state.adverts[member].mask_keys for member in sorted(state.adverts) if member in present}
    ordered = {member: openings[member] for member in sorted(openings)}
    return Setup(state.t1, t2, publics, u2), Secrets(state.mask_keys, state.seeds, ordered)


def _unseal(
    state: Shared, agreement: masking.KeyAgreement, dealer: int, sealed: bytes, body: Deal, holding: tuple[int, ...]
) -> bytes:
    """The openings from one dealer, each checked against its commitment; a bad one blames the dealer, who signed it."""
    parameters, me = state.context.parameters, state.context.member
    name = parameters.name_of(dealer)
    shared = agreement.exchange(state.adverts[dealer].sealing_key)
    try:
        plain = masking.unseal(masking.seal_key(parameters, shared, state.t1, dealer, me), sealed, dealer, me)
    except InvalidTag:
        raise ProtocolError(Code.BAD_SHARE_DEALER, f"a share sealed by {name} does not open", culprit=name) from None
    for j in range(parameters.sums):
        for offset, kind in ((0, KEY), (1, SEED)):
            at = (2 * j + offset) * OPENING_BYTES
            opening = plain[at : at + OPENING_BYTES]
            expected = checks.committed(body, kind, j, holding, me)
            if share_commitment(parameters, j, kind, dealer, me, opening) != expected:
                raise ProtocolError(
                    Code.BAD_SHARE_DEALER, f"a share dealt by {name} misses its commitment", culprit=name
                )
    return plain
