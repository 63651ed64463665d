"""The client's machine: `step(state, event) -> (state, packets)`, one frozen dataclass per phase, no input or output.

The phases are in states.py, their order in transitions.py. Every refusal raises ProtocolError, leaves the given
state as it was and releases nothing; whoever drives the machine then forgets the state (`ClientSession` does). The same
request, byte for byte, is answered with the same bytes; a different one is refused.

Guarantees and their adversary: docs/protocol.md. Sources: Bonawitz et al. 2017 (CCS), the actively secure variant;
Pasquini et al. 2021 for the model's hash in the seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from fedgan_protocols import checks, masking
from fedgan_protocols.checks import OPENING_BYTES
from fedgan_protocols.client.rules import members_of, open_request, require, sign_reply
from fedgan_protocols.client.setup import complete_setup, deal_shares, read_peers
from fedgan_protocols.client.states import (
    Advertised,
    Context,
    DeadlinePassed,
    Event,
    Exchange,
    Finished,
    Invited,
    Masked,
    Received,
    Revealed,
    Secrets,
    Setup,
    Shared,
    Signed,
    State,
)
from fedgan_protocols.errors import Code, ProtocolError
from fedgan_protocols.messages import (
    SIGNATURE_BYTES,
    Advertisement,
    Consistency,
    Invitation,
    KeyDirectory,
    MaskedInput,
    MaskRequest,
    Outcome,
    Receipt,
    Revelation,
    Statement,
    SurvivorList,
    UnmaskRequest,
    extend,
    message_digest,
    message_size,
    signature_of,
    survivors_digest,
    unpack,
    unpack_hashes,
)
from fedgan_protocols.parameters import HASH_BYTES, SALT_BYTES, SERVER, SessionParameters, sum_digest
from fedgan_protocols.primitives import (
    Packet,
    PacketBuffer,
    digest,
    draw,
    draw_bytes,
    join_packet,
    shamir,
    split_packet,
)
from fedgan_protocols.transitions import Stage, client_target


def entropy_needed(state: State) -> int:
    """Random bytes that the next step may use."""
    parameters = state.context.parameters
    if isinstance(state, Signed):
        return 0 if parameters.graph is None else draw_bytes(parameters.signatures_checked)
    if isinstance(state, Invited):
        drawn = 0 if parameters.graph is None else draw_bytes(parameters.graph.degree)
        return 32 * (1 + parameters.sums) + drawn
    if isinstance(state, Advertised):
        salts = 2 * SALT_BYTES * parameters.most_holders
        return parameters.sums * (32 + salts) + shamir.coefficient_bytes(
            parameters.share_threshold, 2 * parameters.sums
        )
    return 0


def step(state: State, event: Event) -> tuple[State, tuple[Packet, ...]]:
    """Answer one event; raises ProtocolError, after which the state must not be used again."""
    if isinstance(event, DeadlinePassed):
        raise ProtocolError(Code.DEADLINE, f"the deadline passed in phase {state.phase.value}")
    last, request = state.last, digest("request", event.packet)
    if last is not None and last.stage is event.stage:
        if last.request == request:
            return state, (last.reply,)
        raise ProtocolError(
            Code.CONFLICTING, f"a second, different request of stage {event.stage.label}", culprit="server"
        )
    target = client_target(state.phase, event.stage)
    message, attachment = split_packet(event.packet, state.context.parameters.packet_limit)
    try:
        new = _HANDLERS[event.stage](state, event, message, attachment, request)
    except ProtocolError as error:
        if error.culprit:
            raise
        raise ProtocolError(error.code, error.message, culprit="server", hint=error.hint) from None
    if new.phase is not target or new.last is None:
        raise AssertionError("a handler left the transition table")
    return new, (new.last.reply,)


def _advertise(state: State, event: Received, raw: bytes, attachment: memoryview, request: bytes) -> State:
    """R0: compare the invitation with what is held here; answer with fresh keys."""
    assert isinstance(state, Invited)  # noqa: S101 - fixed by the transition table
    context, parameters = state.context, state.context.parameters
    invitation = open_request(state, Stage.ADVERTISE_KEYS, raw, SERVER, parameters.parameters_hash)
    checks.check_terms(parameters, invitation.body_as(Invitation), context.model_hashes, culprit="server")
    require(not attachment, Code.MALFORMED, "an invitation has no attachment")
    pool = shamir.EntropyPool(event.entropy)
    sealing_key = pool.take(32)
    mask_keys = tuple(pool.take(32) for _ in range(parameters.sums))
    neighbours: tuple[int, ...] = ()
    if parameters.graph is not None:
        others = [member for member in range(1, parameters.n + 1) if member != context.member]
        neighbours = draw(others, parameters.graph.degree, pool)
    t0 = extend("T0", parameters.parameters_hash, invitation.digest, [])
    body = Advertisement(
        parameters.parameters_hash,
        parameters.policy_hash,
        context.model_hashes,
        masking.public_of(sealing_key),
        tuple(masking.public_of(key) for key in mask_keys),
        neighbours,
    )
    own = sign_reply(context, Stage.ADVERTISE_KEYS, t0, body).raw
    last = Exchange(Stage.ADVERTISE_KEYS, request, join_packet(own))
    return Advertised(context, last, t0, own, neighbours, sealing_key, mask_keys)


def _share(state: State, event: Received, raw: bytes, attachment: memoryview, request: bytes) -> State:
    """R1: verify the peers' keys; deal shares of every mask key and every seed b_u to the holders."""
    assert isinstance(state, Advertised)  # noqa: S101
    context, parameters, me = state.context, state.context.parameters, state.context.member
    directory = open_request(state, Stage.SHARE_KEYS, raw, SERVER, None)
    u1 = members_of(parameters, directory.body_as(KeyDirectory).members, "U1")
    require(me in u1, Code.EXCLUDED, "the server left this member out of U1")
    digests, adverts = read_peers(state, u1, attachment)
    t1 = extend("T1", state.t0, b"", zip(u1, digests, strict=True))
    require(directory.previous == t1, Code.TRANSCRIPT_MISMATCH, "the server signed another U1 than it sent")

    dealt = deal_shares(state, u1, adverts, t1, event.entropy)
    own = sign_reply(context, Stage.SHARE_KEYS, t1, dealt.body).raw
    return Shared(
        context,
        Exchange(Stage.SHARE_KEYS, request, join_packet(own, dealt.sealed)),
        t1,
        directory.digest,
        u1,
        adverts,
        own,
        state.sealing_key,
        state.mask_keys,
        dealt.seeds,
        dealt.own_openings,
    )


def _mask(state: State, event: Received, raw: bytes, attachment: memoryview, request: bytes) -> State:
    """R2: check the last stage, then mask the vector once and forget it."""
    context, parameters = state.context, state.context.parameters
    message = open_request(state, Stage.MASKED_INPUT, raw, SERVER, None)
    body = message.body_as(MaskRequest)
    u2 = members_of(parameters, body.members, "U2")
    first, second = split_packet(attachment, parameters.packet_limit)
    received: tuple[np.ndarray, ...]
    if isinstance(state, Shared):
        j, received = 0, ()
        require(not body.responders and not body.last_sum_digest, Code.MALFORMED, "no sum precedes the first")
        setup, secrets = complete_setup(state, u2, first, second)
        chain = setup.t2
    else:
        assert isinstance(state, Revealed)  # noqa: S101
        j, setup, secrets = state.j + 1, state.setup, state.secrets
        require(j < parameters.sums and u2 == setup.u2, Code.SET_GREW, "U2 changed between sums")
        chain, total = _last_sum(state, body.responders, body.last_sum_digest, first, second)
        received = (*state.received, total)
    require(body.sum == j, Code.OUT_OF_ORDER, f"sum {j} was expected")
    require(message.previous == chain, Code.TRANSCRIPT_MISMATCH, "the server signed another transcript than it sent")
    model_hash = context.model_hashes[j] or event.model_hash or b""
    require(len(model_hash) == HASH_BYTES, Code.NO_INPUT, f"the model of sum {j} is not known here")
    require(body.model_hash == model_hash, Code.MODEL_MISMATCH, f"the server names another model for sum {j}")
    if event.model_hash is not None and event.model_hash != model_hash:
        raise ProtocolError(Code.MODEL_MISMATCH, f"two models were given here for sum {j}")

    reply_body = MaskedInput(j, model_hash, bytes(HASH_BYTES))
    size = message_size(parameters, Stage.MASKED_INPUT, context.member, chain, reply_body)
    packet = PacketBuffer(size, parameters.vector_bytes(j))
    masked = np.frombuffer(packet.attachment, dtype=parameters.dtype)
    _write_masked(masked, context, setup, secrets, j, model_hash, event.vector)
    own = sign_reply(context, Stage.MASKED_INPUT, chain, MaskedInput(j, model_hash, sum_digest(masked)))
    return Masked(
        context,
        Exchange(Stage.MASKED_INPUT, request, packet.close(own.raw)),
        setup,
        Secrets(secrets.mask_keys[1:], secrets.seeds[1:], secrets.openings),
        j,
        model_hash,
        chain,
        message.digest,
        own.digest,
        received,
    )


def _write_masked(
    masked: np.ndarray,
    context: Context,
    setup: Setup,
    secrets: Secrets,
    j: int,
    model_hash: bytes,
    vector: np.ndarray | None,
) -> None:
    """y = x + PRG(b_u) + sum over peers v > u of PRG(s_uv) - sum over peers v < u of PRG(s_uv)."""
    parameters, me = context.parameters, context.member
    if vector is None:
        raise ProtocolError(Code.NO_INPUT, f"no vector was provided for sum {j}", culprit=parameters.name_of(me))
    if vector.shape != (parameters.lengths[j],) or vector.dtype != parameters.dtype:
        raise ProtocolError(
            Code.BAD_INPUT,
            f"a vector of {vector.dtype}{list(vector.shape)}; {parameters.dtype}[{parameters.lengths[j]}] was expected",
            culprit=parameters.name_of(me),
        )
    terms = [(masking.stream_key(parameters, secrets.seeds[0], j, "self"), 1)]
    agreement = masking.KeyAgreement(secrets.mask_keys[0])
    for peer, publics in setup.mask_publics.items():
        shared = agreement.exchange(publics[j])
        seed = masking.pair_seed(parameters, shared, setup.t1, j, me, peer, model_hash)
        terms.append((masking.stream_key(parameters, seed, j, "pair"), 1 if me < peer else -1))
    masked[:] = vector
    masking.add_streams(masked, terms, threads=context.threads)


def _last_sum(
    state: Revealed, responders: Sequence[int], expected: bytes, first: bytes, second: memoryview
) -> tuple[bytes, np.ndarray]:
    """Check what ended sum j: the chain over U5's Revelations, this member's own among them, and H(sum)."""
    parameters, me = state.context.parameters, state.context.member
    u5 = members_of(parameters, responders, "U5")
    checks.require_subset(u5, state.u3, "U5", culprit="server")
    digests = unpack_hashes(first)
    require(len(digests) == len(u5), Code.MALFORMED, "one digest per member of U5 was expected")
    require(me in u5, Code.EXCLUDED, "the server left this member out of U5")
    require(digests[u5.index(me)] == state.own_digest, Code.OWN_MESSAGE_ALTERED, "this member's own R4 was altered")
    total = checks.vector_of(parameters, state.j, bytes(second), culprit="server")
    require(sum_digest(total) == expected, Code.RESULT_MISMATCH, "the sum received is not the sum that was signed")
    return extend("T5", state.t4, state.broadcast, zip(u5, digests, strict=True)), total


def _consistency(state: State, event: Received, raw: bytes, attachment: memoryview, request: bytes) -> State:
    """R3: sign the one U3 that this member is going to unmask."""
    assert isinstance(state, Masked)  # noqa: S101
    context, parameters, me = state.context, state.context.parameters, state.context.member
    message = open_request(state, Stage.CONSISTENCY_CHECK, raw, SERVER, None)
    body = message.body_as(SurvivorList)
    require(body.sum == state.j, Code.OUT_OF_ORDER, f"sum {state.j} was expected")
    require(body.model_hash == state.model_hash, Code.MODEL_MISMATCH, "the server names another model")
    u3 = members_of(parameters, body.members, "U3")
    checks.require_subset(u3, state.setup.u2, "U3", culprit="server")
    require(me in u3, Code.DECLARED_DEAD, "the server declares this member dead")
    first, second = split_packet(attachment, parameters.packet_limit)
    digests = unpack_hashes(first)
    require(len(digests) == len(u3), Code.MALFORMED, "one digest per member of U3 was expected")
    require(digests[u3.index(me)] == state.own_digest, Code.OWN_MESSAGE_ALTERED, "this member's own R2 was altered")
    _check_dealers_inputs(state, dict(zip(u3, digests, strict=True)), second)
    t3 = extend("T3", state.chain, state.broadcast, zip(u3, digests, strict=True))
    require(message.previous == t3, Code.TRANSCRIPT_MISMATCH, "the server signed another U3 than it sent")
    statement = Consistency(state.j, state.setup.t2, state.model_hash, survivors_digest(u3))
    own = sign_reply(context, Stage.CONSISTENCY_CHECK, t3, statement).raw
    return Signed(
        context,
        Exchange(Stage.CONSISTENCY_CHECK, request, join_packet(own)),
        state.setup,
        state.secrets,
        state.j,
        u3,
        t3,
        message.digest,
        statement,
        own,
        state.received,
    )


def _check_dealers_inputs(state: Masked, digests: Mapping[int, bytes], proofs: memoryview) -> None:
    """Every survivor whose seed this member would reveal masked after the same transcript, so for the same U2 and keys.

    Without this a server could show one member a U2 without its peers, and unmask it with everybody else's help.
    """
    parameters, me = state.context.parameters, state.context.member
    dealers = [member for member in state.secrets.openings if member in digests and member != me]
    rows = unpack(proofs, HASH_BYTES + SIGNATURE_BYTES)
    require(len(rows) == len(dealers), Code.MALFORMED, "one proof per surviving dealer was expected")
    for dealer, row in zip(dealers, rows, strict=True):
        body = MaskedInput(state.j, state.model_hash, row[:HASH_BYTES])
        statement = Statement(parameters, Stage.MASKED_INPUT, state.chain, body)
        statement.verify(dealer, row[HASH_BYTES:], blame="server")
        same = message_digest(statement.raw(dealer, row[HASH_BYTES:])) == digests[dealer]
        require(same, Code.TRANSCRIPT_MISMATCH, "the server proves another masked input than it listed")


def _unmask(state: State, event: Received, raw: bytes, attachment: memoryview, request: bytes) -> State:
    """R4: with at least t matching signatures, give one share per peer; who is dead is U2 without U3, computed here."""
    assert isinstance(state, Signed)  # noqa: S101
    context, parameters, me = state.context, state.context.parameters, state.context.member
    message = open_request(state, Stage.UNMASKING, raw, SERVER, None)
    body = message.body_as(UnmaskRequest)
    require(body.sum == state.j, Code.OUT_OF_ORDER, f"sum {state.j} was expected")
    u4 = members_of(parameters, body.members, "U4")
    checks.require_subset(u4, state.u3, "U4", culprit="server")
    signatures = unpack(attachment, SIGNATURE_BYTES)
    require(len(signatures) == len(u4), Code.MALFORMED, "one signature per member of U4 was expected")
    require(me in u4, Code.EXCLUDED, "the server left this member's signature out")
    own = signature_of(state.own)
    require(signatures[u4.index(me)] == own, Code.OWN_MESSAGE_ALTERED, "this member's own signature was altered")
    statement = Statement(parameters, Stage.CONSISTENCY_CHECK, state.t3, state.statement)
    for place in _drawn_places(parameters, len(u4), event.entropy):
        statement.verify(u4[place], signatures[place], blame="server")
    t4 = extend("T4", state.t3, state.broadcast, zip(u4, signatures, strict=True))
    require(message.previous == t4, Code.TRANSCRIPT_MISMATCH, "the server signed another U4 than it sent")
    alive = frozenset(state.u3)
    dead = tuple(member for member in state.setup.u2 if member not in alive)
    openings = b"".join(
        opening[OPENING_BYTES : 2 * OPENING_BYTES] if member in alive else opening[:OPENING_BYTES]
        for member, opening in state.secrets.openings.items()
    )
    revelation = Revelation(state.j, state.u3, dead, checks.shares_digest(openings))
    revealed = sign_reply(context, Stage.UNMASKING, t4, revelation)
    later = {member: opening[2 * OPENING_BYTES :] for member, opening in state.secrets.openings.items()}
    return Revealed(
        context,
        Exchange(Stage.UNMASKING, request, join_packet(revealed.raw, openings)),
        state.setup,
        Secrets(state.secrets.mask_keys, state.secrets.seeds, later),
        state.j,
        state.u3,
        t4,
        message.digest,
        revealed.digest,
        state.received,
    )


def _drawn_places(parameters: SessionParameters, shown: int, entropy: bytes) -> Sequence[int]:
    """Which of the signatures shown this member verifies: all, or in a sparse graph those that it draws."""
    if parameters.graph is None:
        return range(shown)
    return draw(range(shown), min(shown, parameters.signatures_checked), shamir.EntropyPool(entropy))


def _receipt(state: State, event: Received, raw: bytes, attachment: memoryview, request: bytes) -> State:
    """R5: countersign what was received. That does not prove that the server added correctly."""
    assert isinstance(state, Revealed)  # noqa: S101
    context, parameters = state.context, state.context.parameters
    message = open_request(state, Stage.RECEIPT, raw, SERVER, None)
    body = message.body_as(Outcome)
    require(state.j == parameters.sums - 1, Code.OUT_OF_ORDER, "sums are missing")
    require(len(body.sum_digests) == parameters.sums, Code.MALFORMED, "one digest per sum was expected")
    first, second = split_packet(attachment, parameters.packet_limit)
    chain, total = _last_sum(state, body.responders, body.sum_digests[-1], first, second)
    require(message.previous == chain, Code.TRANSCRIPT_MISMATCH, "the server signed another outcome than it sent")
    received = (*state.received, total)
    digests = tuple(sum_digest(vector) for vector in received)
    require(digests == body.sum_digests, Code.RESULT_MISMATCH, "the server changed the digest of an earlier sum")
    own = sign_reply(context, Stage.RECEIPT, extend("T6", chain, message.digest, []), Receipt(digests)).raw
    return Finished(context, Exchange(Stage.RECEIPT, request, join_packet(own)), received)


_HANDLERS: dict[Stage, Callable[[State, Received, bytes, memoryview, bytes], State]] = {
    Stage.ADVERTISE_KEYS: _advertise,
    Stage.SHARE_KEYS: _share,
    Stage.MASKED_INPUT: _mask,
    Stage.CONSISTENCY_CHECK: _consistency,
    Stage.UNMASKING: _unmask,
    Stage.RECEIPT: _receipt,
}
