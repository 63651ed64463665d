"""The server's machine: `step(state, event) -> (state, packets)`, one frozen dataclass per phase, no input or output.

A stage is open until `DeadlinePassed` closes it; replies are verified as they come, and one that is refused makes its
sender drop out, with the reason. Fewer than t left: ProtocolError, the round is aborted. The server is not trusted by
the clients with anything but availability: see docs/protocol.md.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from fedgan_protocols import checks
from fedgan_protocols.directory import write_deals, write_directory
from fedgan_protocols.errors import Code, ProtocolError
from fedgan_protocols.messages import (
    Advertisement,
    Consistency,
    Deal,
    Invitation,
    KeyDirectory,
    MaskedInput,
    MaskRequest,
    Message,
    Outcome,
    Receipt,
    Revelation,
    SurvivorList,
    UnmaskRequest,
    digests_of,
    extend,
    open_message,
    sign_message,
    signature_of,
    survivors_digest,
)
from fedgan_protocols.parameters import HASH_BYTES, SERVER, SessionParameters, sum_digest
from fedgan_protocols.primitives import join_packet, split_packet
from fedgan_protocols.server.states import (
    Asked,
    AwaitingModel,
    Collecting,
    CollectingAdvertisements,
    CollectingConsistency,
    CollectingInputs,
    CollectingReceipts,
    CollectingRevelations,
    CollectingShares,
    Context,
    DeadlinePassed,
    Drop,
    Event,
    Failure,
    Finished,
    Group,
    Lost,
    ModelKnown,
    Ready,
    Reply,
    Setup,
    Start,
    State,
    Topology,
)
from fedgan_protocols.server.unmasking import check_openings, rebuild, remove_masks
from fedgan_protocols.transitions import SERVER_TRANSITIONS, Stage

Packets: TypeAlias = tuple[tuple[int, bytes], ...]
"""(member id, packet) for everyone the next stage asks."""

_CODE = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


def step(state: State, event: Event) -> tuple[State, Packets]:
    """Answer one event; raises ProtocolError when the round must be aborted (the given state stays valid evidence)."""
    if isinstance(event, Reply):
        return (_accept(state, event), ()) if isinstance(state, Collecting) else (state, ())
    if isinstance(event, Lost):
        if isinstance(state, Collecting) and _is_awaited(state, event.member):
            return _dropped(state, event.member, _claim(state.context.parameters, event.failure)), ()
        return state, ()
    if isinstance(event, Start) and isinstance(state, Ready):
        new, packets = _invite(state)
    elif isinstance(event, ModelKnown):
        return _model_known(state, event)
    elif isinstance(event, DeadlinePassed) and isinstance(state, Collecting):
        for member in state.asked.members:
            if _is_awaited(state, member):
                silent = Failure(Code.NO_ANSWER.value, "no answer before the deadline")
                state = _dropped(state, member, silent)
        new, packets = _CLOSE[type(state)](state)
    else:
        raise ProtocolError(Code.OUT_OF_ORDER, f"{type(event).__name__} does not belong to phase {state.phase.value}")
    if new.phase not in SERVER_TRANSITIONS[state.phase]:
        raise AssertionError("a handler left the transition table")
    return new, packets


# --- replies


def _is_awaited(state: Collecting, member: int) -> bool:
    asked = state.asked
    return member in asked.members and member not in asked.replies and member not in state.context.drops


def _claim(parameters: SessionParameters, failure: Failure) -> Failure:
    """A failure as it is reported: a short code, a printable text, and a culprit that exists."""
    code = failure.code if _CODE.fullmatch(failure.code) else Code.NO_ANSWER.value
    message = "".join(letter for letter in failure.message[:300] if letter.isprintable())
    known = failure.culprit in ("server", *parameters.names)
    return Failure(code, message, failure.culprit if known else "")


def _dropped(state: Collecting, member: int, failure: Failure, *, verified: bool = False) -> Collecting:
    stage = state.asked.broadcast.stage.label
    drop = Drop(stage, failure.code, failure.message, failure.culprit, verified)
    context = replace(state.context, drops={**state.context.drops, member: drop})
    return replace(state, context=context)


def _accept(state: Collecting, event: Reply) -> Collecting:
    """Verify one reply. Late, second and unasked ones change nothing; a refused one drops its sender."""
    if not _is_awaited(state, event.member):
        return state
    parameters, stage = state.context.parameters, state.asked.broadcast.stage
    name = parameters.name_of(event.member)
    try:
        raw, attachment = split_packet(event.packet, parameters.reply_limit, parameters.message_limit)
        message = open_message(
            parameters, raw, stage=stage, sender=event.member, previous=_expected_previous(state), blame=name
        )
        state = _VERIFY[type(state)](state, message, attachment)
    except ProtocolError as error:
        return _dropped(state, event.member, Failure(error.code.value, error.message, name), verified=True)
    asked = replace(state.asked, replies={**state.asked.replies, event.member: message})
    return replace(state, asked=asked)


def _expected_previous(state: Collecting) -> bytes:
    if isinstance(state, CollectingAdvertisements):
        return state.t0
    if isinstance(state, CollectingShares):
        return state.t1
    if isinstance(state, CollectingInputs):
        return state.chain
    if isinstance(state, CollectingConsistency):
        return state.t3
    return state.t4 if isinstance(state, CollectingRevelations) else state.t6


def _refuse(code: Code, message: str, culprit: str) -> ProtocolError:
    return ProtocolError(code, message, culprit=culprit)


def _no_attachment(attachment: memoryview, name: str) -> None:
    if attachment:
        raise _refuse(Code.MALFORMED, "this message has no attachment", name)


def _verify_advertisement(state: Collecting, message: Message, attachment: memoryview) -> Collecting:
    assert isinstance(state, CollectingAdvertisements)  # noqa: S101 - fixed by the dispatch table
    parameters = state.context.parameters
    name = parameters.name_of(message.sender)
    _no_attachment(attachment, name)
    body = checks.check_advertisement(parameters, message, state.context.model_hashes, culprit=name)
    checks.check_unique_keys(parameters, {message.sender: body}, culprit=name, known=state.keys)
    own = dict.fromkeys((body.sealing_key, *body.mask_keys), message.sender)
    return replace(state, keys={**state.keys, **own})


def _verify_deal(state: Collecting, message: Message, attachment: memoryview) -> Collecting:
    assert isinstance(state, CollectingShares)  # noqa: S101
    parameters = state.context.parameters
    name = parameters.name_of(message.sender)
    body = message.body_as(Deal)
    checks.check_deal(parameters, body, message.sender, state.topology.holders[message.sender], culprit=name)
    size = parameters.sealed_bytes
    if len(attachment) != size * len(body.sealed_digests):
        raise _refuse(Code.MALFORMED, "one sealed share per other holder was expected", name)
    for place, expected in enumerate(body.sealed_digests):
        if checks.sealed_digest(attachment[place * size : (place + 1) * size]) != expected:
            raise _refuse(Code.SEALED_SHARE_ALTERED, f"{name} sent sealed shares that it did not sign", name)
    attachments = {**state.asked.attachments, message.sender: bytes(attachment)}
    return replace(state, asked=replace(state.asked, attachments=attachments))


def _verify_input(state: Collecting, message: Message, attachment: memoryview) -> Collecting:
    assert isinstance(state, CollectingInputs)  # noqa: S101
    context, body = state.context, message.body_as(MaskedInput)
    name = context.parameters.name_of(message.sender)
    if body.sum != state.j:
        raise _refuse(Code.OUT_OF_ORDER, f"sum {state.j} was expected", name)
    if body.model_hash != context.model_hashes[state.j]:
        raise _refuse(Code.MODEL_MISMATCH, f"{name} names another model", name)
    vector = checks.vector_of(context.parameters, state.j, attachment, culprit=name)
    if sum_digest(vector) != body.vector_digest:
        raise _refuse(Code.RESULT_MISMATCH, f"{name} sent another vector than it signed", name)
    return replace(state, total=state.total + vector)


def _verify_consistency(state: Collecting, message: Message, attachment: memoryview) -> Collecting:
    assert isinstance(state, CollectingConsistency)  # noqa: S101
    name = state.context.parameters.name_of(message.sender)
    _no_attachment(attachment, name)
    expected = Consistency(state.j, state.setup.t2, state.context.model_hashes[state.j], survivors_digest(state.u3))
    checks.check_consistency(message, expected, state.t3, culprit=name)
    return state


def _verify_revelation(state: Collecting, message: Message, attachment: memoryview) -> Collecting:
    assert isinstance(state, CollectingRevelations)  # noqa: S101
    parameters, setup = state.context.parameters, state.setup
    name, body = parameters.name_of(message.sender), message.body_as(Revelation)
    alive = frozenset(state.u3)
    dead = tuple(member for member in setup.u2 if member not in alive)
    if (body.sum, body.alive, body.dead) != (state.j, state.u3, dead):
        raise _refuse(Code.INCONSISTENT, f"{name} reveals shares for other sets", name)
    openings = bytes(attachment)
    if checks.shares_digest(openings) != body.shares_digest:
        raise _refuse(Code.MALFORMED, f"{name} sent other shares than it signed", name)
    check_openings(parameters, setup, state.j, alive, message.sender, openings)
    attachments = {**state.asked.attachments, message.sender: openings}
    return replace(state, asked=replace(state.asked, attachments=attachments))


def _verify_receipt(state: Collecting, message: Message, attachment: memoryview) -> Collecting:
    assert isinstance(state, CollectingReceipts)  # noqa: S101
    name = state.context.parameters.name_of(message.sender)
    _no_attachment(attachment, name)
    if message.body_as(Receipt).sum_digests != state.asked.broadcast.body_as(Outcome).sum_digests:
        raise _refuse(Code.RESULT_MISMATCH, f"{name} countersigns other sums", name)
    return state


# --- closing a stage


def _sign(context: Context, stage: Stage, previous: bytes, body: object) -> Message:
    return sign_message(context.identity, context.parameters, stage, SERVER, previous, body)


def _replies(asked: Asked) -> list[Message]:
    return [asked.replies[member] for member in sorted(asked.replies)]


def open_group(state: Collecting) -> Group:
    """The open stage as it would enter the transcript now."""
    j = getattr(state, "j", 0)
    replies = tuple((message.sender, message.raw) for message in _replies(state.asked))
    return Group(state.asked.broadcast.stage, j, state.asked.broadcast.raw, replies)


def _finish_group(state: Collecting) -> Context:
    return replace(state.context, groups=(*state.context.groups, open_group(state)))


def _enough(state: Collecting, what: str) -> tuple[int, ...]:
    members = tuple(sorted(state.asked.replies))
    parameters = state.context.parameters
    if len(members) < parameters.threshold:
        reasons = ", ".join(
            f"{parameters.name_of(member)}: {drop.code}" for member, drop in sorted(state.context.drops.items())
        )
        raise ProtocolError(
            Code.TOO_FEW,
            f"{what} has {len(members)} members; the threshold is {parameters.threshold} (dropped out: {reasons})",
            culprit=_culprit(state.context),
        )
    return members


def _culprit(context: Context) -> str:
    """The one party whose fault the server saw, or that more members blame than could collude; else nobody."""
    verified = {drop.culprit for drop in context.drops.values() if drop.verified}
    claims = Counter(drop.culprit for drop in context.drops.values() if drop.culprit and not drop.verified)
    blamed = verified | {name for name, count in claims.items() if count > context.parameters.colluders}
    return blamed.pop() if len(blamed) == 1 else ""


def _invite(state: Ready) -> tuple[State, Packets]:
    context = state.context
    parameters = context.parameters
    body = Invitation(parameters.parameters_hash, parameters.policy_hash, context.model_hashes)
    message = _sign(context, Stage.ADVERTISE_KEYS, parameters.parameters_hash, body)
    members = tuple(range(1, parameters.n + 1))
    t0 = extend("T0", parameters.parameters_hash, message.digest, [])
    packet = join_packet(message.raw)
    return CollectingAdvertisements(context, Asked(message, members), t0), tuple((m, packet) for m in members)


def _close_advertisements(state: Collecting) -> tuple[State, Packets]:
    assert isinstance(state, CollectingAdvertisements)  # noqa: S101
    u1, context, replies = _enough(state, "U1"), _finish_group(state), _replies(state.asked)
    t1 = extend("T1", state.t0, b"", digests_of(replies))
    message = _sign(context, Stage.SHARE_KEYS, t1, KeyDirectory(u1))
    adverts = {reply.sender: reply.body_as(Advertisement) for reply in replies}
    topology = Topology.of(context.parameters, adverts)
    raws = {reply.sender: reply.raw for reply in replies}
    digests = [reply.digest for reply in replies]
    packets = tuple(
        (member, join_packet(message.raw, write_directory(digests, peers, [raws[peer] for peer in peers])))
        for member, peers in topology.peers.items()
    )
    return CollectingShares(context, Asked(message, u1), t1, adverts, topology), packets


def _close_shares(state: Collecting) -> tuple[State, Packets]:
    assert isinstance(state, CollectingShares)  # noqa: S101
    u2, context, replies = _enough(state, "U2"), _finish_group(state), _replies(state.asked)
    size, topology = context.parameters.sealed_bytes, state.topology
    t2 = extend("T2", state.t1, state.asked.broadcast.digest, digests_of(replies))
    message = _sign(context, Stage.MASKED_INPUT, t2, MaskRequest(0, context.model_hashes[0], u2, (), b""))
    bodies = {reply.sender: reply.body_as(Deal) for reply in replies}
    setup = Setup(state.t1, t2, u2, state.adverts, bodies, topology)
    raws = {reply.sender: reply.raw for reply in replies}
    digests = [reply.digest for reply in replies]
    packets = []
    for member in u2:
        dealers = [dealer for dealer in setup.dealers(member) if dealer != member]
        sealed = []
        for dealer in dealers:
            at = checks.place_among_sealed(topology.holders[dealer], dealer, member) * size
            sealed.append(state.asked.attachments[dealer][at : at + size])
        deals = write_deals(digests, [raws[dealer] for dealer in dealers])
        packets.append((member, join_packet(message.raw, join_packet(deals, b"".join(sealed)))))
    return _collect_inputs(context, message, u2, setup, 0, t2), tuple(packets)


def _collect_inputs(
    context: Context, message: Message, members: tuple[int, ...], setup: Setup, j: int, chain: bytes
) -> CollectingInputs:
    total = np.zeros(context.parameters.lengths[j], dtype=context.parameters.dtype)
    return CollectingInputs(context, Asked(message, members), setup, j, chain, total)


def _close_inputs(state: Collecting) -> tuple[State, Packets]:
    assert isinstance(state, CollectingInputs)  # noqa: S101
    u3, context, j = _enough(state, "U3"), _finish_group(state), state.j
    digests = digests_of(_replies(state.asked))
    t3 = extend("T3", state.chain, state.asked.broadcast.digest, digests)
    message = _sign(context, Stage.CONSISTENCY_CHECK, t3, SurvivorList(j, context.model_hashes[j], u3))
    listed = b"".join(value for _, value in digests)
    proofs = {
        member: reply.body_as(MaskedInput).vector_digest + signature_of(reply.raw)
        for member, reply in state.asked.replies.items()
    }
    packets = []
    for member in u3:
        dealers = [dealer for dealer in state.setup.dealers(member) if dealer != member and dealer in proofs]
        attachment = join_packet(listed, b"".join(proofs[dealer] for dealer in dealers))
        packets.append((member, join_packet(message.raw, attachment)))
    new = CollectingConsistency(context, Asked(message, u3), state.setup, j, u3, t3, state.total)
    return new, tuple(packets)


def _close_consistency(state: Collecting) -> tuple[State, Packets]:
    assert isinstance(state, CollectingConsistency)  # noqa: S101
    u4, context, replies = _enough(state, "U4"), _finish_group(state), _replies(state.asked)
    signatures = [(reply.sender, signature_of(reply.raw)) for reply in replies]
    t4 = extend("T4", state.t3, state.asked.broadcast.digest, signatures)
    message = _sign(context, Stage.UNMASKING, t4, UnmaskRequest(state.j, u4))
    packet = join_packet(message.raw, b"".join(signature for _, signature in signatures))
    new = CollectingRevelations(context, Asked(message, u4), state.setup, state.j, state.u3, t4, state.total)
    return new, tuple((member, packet) for member in u4)


def _close_revelations(state: Collecting) -> tuple[State, Packets]:
    assert isinstance(state, CollectingRevelations)  # noqa: S101
    u5, j, setup, u3 = _enough(state, "U5"), state.j, state.setup, state.u3
    parameters, model_hash = state.context.parameters, state.context.model_hashes[j]
    alive = frozenset(u3)
    secrets = rebuild(parameters, setup, j, alive, state.asked.attachments)
    plain = remove_masks(parameters, setup, j, alive, model_hash, state.total, secrets, state.context.threads)
    context = _finish_group(state)
    context = replace(context, sums=(*context.sums, plain), survivors=(*context.survivors, u3))
    digests = digests_of(_replies(state.asked))
    chain = extend("T5", state.t4, state.asked.broadcast.digest, digests)
    waiting = AwaitingModel(context, setup, j, u5, tuple(value for _, value in digests), chain)
    if j + 1 == parameters.sums:
        return _publish(waiting)
    return _next_sum(waiting) if context.model_hashes[j + 1] else (waiting, ())


def _last_sum_attachment(state: AwaitingModel) -> bytes:
    last = state.context.sums[-1]
    return join_packet(b"".join(state.digests), last.data.cast("B"))


def _next_sum(state: AwaitingModel) -> tuple[State, Packets]:
    context, j = state.context, state.j + 1
    body = MaskRequest(j, context.model_hashes[j], state.setup.u2, state.u5, sum_digest(context.sums[-1]))
    message = _sign(context, Stage.MASKED_INPUT, state.chain, body)
    packet = join_packet(message.raw, _last_sum_attachment(state))
    new = _collect_inputs(context, message, state.u5, state.setup, j, state.chain)
    return new, tuple((member, packet) for member in state.u5)


def _model_known(state: State, event: ModelKnown) -> tuple[State, Packets]:
    context = state.context
    if not 0 <= event.j < context.parameters.sums or len(event.model_hash) != HASH_BYTES:
        raise _refuse(Code.BAD_INPUT, "a model hash is 32 bytes for one of the round's sums", "server")
    if context.model_hashes[event.j] not in (b"", event.model_hash):
        raise _refuse(Code.MODEL_MISMATCH, f"another model is bound to sum {event.j}", "server")
    if isinstance(state, Finished) or not isinstance(state, AwaitingModel) or event.j != state.j + 1:
        raise _refuse(Code.OUT_OF_ORDER, f"the model of sum {event.j} is bound after sum {event.j - 1}", "server")
    hashes = (*context.model_hashes[: event.j], event.model_hash, *context.model_hashes[event.j + 1 :])
    return _next_sum(replace(state, context=replace(context, model_hashes=hashes)))


def _publish(state: AwaitingModel) -> tuple[State, Packets]:
    context = state.context
    body = Outcome(state.u5, tuple(sum_digest(vector) for vector in context.sums))
    message = _sign(context, Stage.RECEIPT, state.chain, body)
    packet = join_packet(message.raw, _last_sum_attachment(state))
    t6 = extend("T6", state.chain, message.digest, [])
    new = CollectingReceipts(context, Asked(message, state.u5), state.j, t6)
    return new, tuple((member, packet) for member in state.u5)


def _close_receipts(state: Collecting) -> tuple[State, Packets]:
    return Finished(_finish_group(state), tuple(sorted(state.asked.replies))), ()


_VERIFY: Mapping[type, Callable[[Collecting, Message, memoryview], Collecting]] = {
    CollectingAdvertisements: _verify_advertisement,
    CollectingShares: _verify_deal,
    CollectingInputs: _verify_input,
    CollectingConsistency: _verify_consistency,
    CollectingRevelations: _verify_revelation,
    CollectingReceipts: _verify_receipt,
}
_CLOSE: Mapping[type, Callable[[Collecting], tuple[State, Packets]]] = {
    CollectingAdvertisements: _close_advertisements,
    CollectingShares: _close_shares,
    CollectingInputs: _close_inputs,
    CollectingConsistency: _close_consistency,
    CollectingRevelations: _close_revelations,
    CollectingReceipts: _close_receipts,
}
