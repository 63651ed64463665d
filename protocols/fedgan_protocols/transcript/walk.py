"""Following a round from message to message, as its members did, and what that proves."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fedgan_protocols import checks
from fedgan_protocols.errors import Code, ProtocolError
from fedgan_protocols.messages import (
    Advertisement,
    Closing,
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
    signature_of,
    survivors_digest,
)
from fedgan_protocols.parameters import SERVER, SessionParameters, graph_items
from fedgan_protocols.primitives import malformed
from fedgan_protocols.server import Drop, Group
from fedgan_protocols.transitions import Stage


@dataclass(frozen=True)
class SumFacts:
    """One sum: its model, U3, U4 and U5 by name, and H(sum) (empty when the sum was not reached)."""

    model_hash: bytes
    survivors: tuple[str, ...] = ()
    signed: tuple[str, ...] = ()
    revealed: tuple[str, ...] = ()
    digest: bytes = b""


@dataclass(frozen=True)
class TranscriptFacts:
    """What a checked transcript proves. `dropped` is the server's signed statement, not the member's."""

    session: bytes
    round: int
    names: tuple[str, ...]
    threshold: int
    ring_bits: int
    lengths: tuple[int, ...]
    policy_hash: bytes
    graph: tuple[int, ...]
    roster_hash: bytes
    colluders: int
    advertised: tuple[str, ...]
    shared: tuple[str, ...]
    sums: tuple[SumFacts, ...]
    receipts: tuple[str, ...]
    dropped: dict[str, Drop]
    stage: str
    complete: bool
    abort_code: str
    abort_culprit: str
    digest: bytes


@dataclass
class Walk:
    """Follows a round from message to message, as its members did."""

    parameters: SessionParameters
    chain: bytes = b""
    stage: Stage | None = None
    j: int = 0
    ended: bool = False
    asked: tuple[int, ...] = ()
    answered: tuple[int, ...] = ()
    broadcast: Message | None = None
    replies: list[Message] = field(default_factory=list)
    models: tuple[bytes, ...] = ()
    adverts: dict[int, Advertisement] = field(default_factory=dict)
    u1: tuple[int, ...] = ()
    u2: tuple[int, ...] = ()
    u3: tuple[int, ...] = ()
    t2: bytes = b""
    sums: list[dict[str, Any]] = field(default_factory=list)
    receipts: tuple[int, ...] = ()

    def add(self, group: Group, *, is_last: bool) -> None:
        """Verify one broadcast and its replies, both against everything before them."""
        handler = {
            Stage.ADVERTISE_KEYS: self._advertise,
            Stage.SHARE_KEYS: self._share,
            Stage.MASKED_INPUT: self._mask,
            Stage.CONSISTENCY_CHECK: self._consistency,
            Stage.UNMASKING: self._unmask,
            Stage.RECEIPT: self._receipt,
        }.get(group.stage)
        if handler is None or (self.stage, group.stage) not in _FOLLOWS:
            raise ProtocolError(Code.OUT_OF_ORDER, f"stage {group.stage.label} does not follow here")
        if self.stage is not None:
            checks.require_enough(self.parameters, self.answered, f"the set after {self.stage.label}")
        previous_stage, self.stage = self.stage, group.stage
        handler(group, previous_stage)
        if any(a >= b for (a, _), (b, _) in zip(group.replies, group.replies[1:], strict=False)):
            raise ProtocolError(Code.DUPLICATE_MEMBER, "replies are not in ascending order of id")
        self.answered = tuple(member for member, _ in group.replies)
        checks.require_subset(self.answered, self.asked, f"stage {group.stage.label}", culprit="server")
        self._verify_replies()
        self.ended = group.stage is Stage.RECEIPT and is_last

    def _open(self, group: Group, kind: type, previous: bytes) -> Any:
        if group.j != self.j:
            raise ProtocolError(Code.OUT_OF_ORDER, f"sum {self.j} was expected")
        self.broadcast = open_message(
            self.parameters, group.broadcast, stage=group.stage, sender=SERVER, previous=previous, blame="server"
        )
        self.previous_replies = self.replies
        return self.broadcast.body_as(kind)

    def _read_replies(self, group: Group, previous: bytes) -> None:
        self.replies = []
        for member, raw in group.replies:
            if not 1 <= member <= self.parameters.n:
                raise malformed("a reply of a stranger")
            name = self.parameters.name_of(member)
            message = open_message(
                self.parameters, raw, stage=group.stage, sender=member, previous=previous, blame=name
            )
            self.replies.append(message)

    def _require_set(self, members: tuple[int, ...], what: str) -> None:
        if members != self.answered:
            raise ProtocolError(Code.SET_GREW, f"{what} is not the set of those who answered", culprit="server")

    def _advertise(self, group: Group, _: Stage | None) -> None:
        start = self.parameters.parameters_hash
        body = self._open(group, Invitation, start)
        if (body.parameters_hash, body.policy_hash, len(body.model_hashes)) != (
            start,
            self.parameters.policy_hash,
            self.parameters.sums,
        ):
            raise ProtocolError(Code.PARAMETERS_MISMATCH, "the invitation names other terms", culprit="server")
        self.models = body.model_hashes
        self.asked = tuple(range(1, self.parameters.n + 1))
        self.chain = extend("T0", start, self._broadcast_digest(), [])
        self._read_replies(group, self.chain)

    def _share(self, group: Group, _: Stage | None) -> None:
        self.chain = extend("T1", self.chain, b"", digests_of(self.replies))
        body = self._open(group, KeyDirectory, self.chain)
        self._require_set(body.members, "U1")
        self.asked = self.u1 = body.members
        self._read_replies(group, self.chain)

    def _mask(self, group: Group, before: Stage | None) -> None:
        if before is Stage.SHARE_KEYS:
            self.t2 = self.chain = self._closed_chain("T2")
            responders: tuple[int, ...] = ()
            last: bytes | None = b""
        else:
            self.j += 1
            self.chain = self._closed_chain("T5")
            responders, last = self.answered, None
        if self.j >= self.parameters.sums:
            raise ProtocolError(Code.OUT_OF_ORDER, "more sums than the parameters hold")
        body = self._open(group, MaskRequest, self.chain)
        if body.responders != responders or (last is not None and body.last_sum_digest != last) or body.sum != self.j:
            raise ProtocolError(Code.INCONSISTENT, "a request does not fit the sum before it", culprit="server")
        if before is Stage.SHARE_KEYS:
            self._require_set(body.members, "U2")
            self.u2 = self.asked = body.members
        else:
            self._end_sum(body.last_sum_digest)
            if body.members != self.u2:
                raise ProtocolError(Code.SET_GREW, "U2 changed between sums", culprit="server")
            self.asked = responders
        if self.models[self.j] not in (b"", body.model_hash):
            raise ProtocolError(Code.MODEL_MISMATCH, "another model than at the start", culprit="server")
        self.sums.append({"model_hash": body.model_hash})
        self._read_replies(group, self.chain)

    def _consistency(self, group: Group, _: Stage | None) -> None:
        self.chain = self._closed_chain("T3")
        body = self._open(group, SurvivorList, self.chain)
        self._require_set(body.members, "U3")
        self._require_sum(body)
        self.u3 = self.asked = body.members
        self.sums[self.j]["survivors"] = self._names(self.u3)
        self._read_replies(group, self.chain)

    def _unmask(self, group: Group, _: Stage | None) -> None:
        signatures = [(message.sender, signature_of(message.raw)) for message in self.replies]
        self.chain = extend("T4", self.chain, self._broadcast_digest(), signatures)
        body = self._open(group, UnmaskRequest, self.chain)
        self._require_set(body.members, "U4")
        if body.sum != self.j:
            raise ProtocolError(Code.OUT_OF_ORDER, f"sum {self.j} was expected", culprit="server")
        self.asked = body.members
        self.sums[self.j]["signed"] = self._names(self.asked)
        self._read_replies(group, self.chain)

    def _receipt(self, group: Group, _: Stage | None) -> None:
        self.chain = self._closed_chain("T5")
        body = self._open(group, Outcome, self.chain)
        self._require_set(body.responders, "U5")
        if len(body.sum_digests) != self.parameters.sums or self.j != self.parameters.sums - 1:
            raise ProtocolError(Code.OUT_OF_ORDER, "sums are missing", culprit="server")
        self._end_sum(body.sum_digests[-1])
        if tuple(one["digest"] for one in self.sums) != body.sum_digests:
            raise ProtocolError(Code.RESULT_MISMATCH, "the digest of an earlier sum changed", culprit="server")
        self.asked = body.responders
        self.chain = extend("T6", self.chain, self._broadcast_digest(), [])
        self._read_replies(group, self.chain)

    def _verify_replies(self) -> None:
        """What each client's message must say, given the broadcasts."""
        parameters = self.parameters
        for message in self.replies:
            name, body = parameters.name_of(message.sender), message.body
            if isinstance(body, Advertisement):
                self.adverts[message.sender] = checks.check_advertisement(
                    parameters, message, self.models, culprit=name
                )
            elif isinstance(body, Deal):
                holding = checks.holders_of(parameters, self.adverts[message.sender], self.u1)
                checks.check_deal(parameters, body, message.sender, holding, culprit=name)
            elif isinstance(body, MaskedInput):
                if (body.sum, body.model_hash) != (self.j, self.sums[self.j]["model_hash"]):
                    raise ProtocolError(Code.MODEL_MISMATCH, f"{name} masked for another model", culprit=name)
            elif isinstance(body, Consistency):
                statement = Consistency(self.j, self.t2, self.sums[self.j]["model_hash"], survivors_digest(self.u3))
                checks.check_consistency(message, statement, self.chain, culprit=name)
            elif isinstance(body, Revelation):
                self._check_revelation(body, name)
            elif isinstance(body, Receipt) and body.sum_digests != tuple(one["digest"] for one in self.sums):
                raise ProtocolError(Code.RESULT_MISMATCH, f"{name} countersigned other sums", culprit=name)
        checks.check_unique_keys(parameters, self.adverts, culprit="server")
        if self.stage is Stage.RECEIPT:
            self.receipts = self.answered

    def _check_revelation(self, body: Revelation, name: str) -> None:
        alive = frozenset(self.u3)
        dead = tuple(member for member in self.u2 if member not in alive)
        if (body.sum, body.alive, body.dead) != (self.j, self.u3, dead):
            raise ProtocolError(Code.INCONSISTENT, f"{name} revealed shares for other sets", culprit=name)

    def _broadcast_digest(self) -> bytes:
        assert self.broadcast is not None  # noqa: S101 - every group has opened one
        return self.broadcast.digest

    def _closed_chain(self, label: str) -> bytes:
        return extend(label, self.chain, self._broadcast_digest(), digests_of(self.replies))

    def _require_sum(self, body: SurvivorList) -> None:
        if (body.sum, body.model_hash) != (self.j, self.sums[self.j]["model_hash"]):
            raise ProtocolError(Code.MODEL_MISMATCH, "another sum or model than the one requested", culprit="server")

    def _end_sum(self, sum_digest: bytes) -> None:
        if not sum_digest:
            raise ProtocolError(Code.RESULT_MISMATCH, "the digest of a sum is missing", culprit="server")
        self.sums[-1]["revealed"], self.sums[-1]["digest"] = self._names(self.answered), sum_digest

    def _names(self, members: Sequence[int]) -> tuple[str, ...]:
        return tuple(self.parameters.name_of(member) for member in members)

    def facts(self, closing: Closing, data: bytes) -> TranscriptFacts:
        parameters = self.parameters
        if any(not 1 <= member <= parameters.n or stage > Stage.RECEIPT for member, stage, _, _, _ in closing.drops):
            raise malformed("its closing names a stranger")
        return TranscriptFacts(
            parameters.session,
            parameters.round,
            parameters.names,
            parameters.threshold,
            parameters.ring_bits,
            parameters.lengths,
            parameters.policy_hash,
            tuple(graph_items(parameters.graph)),
            parameters.roster_hash,
            parameters.colluders,
            self._names(self.u1),
            self._names(self.u2),
            tuple(SumFacts(**one) for one in self.sums),
            self._names(self.receipts),
            {
                parameters.name_of(member): Drop(Stage(stage).label, code, "", culprit, bool(verified))
                for member, stage, code, culprit, verified in closing.drops
            },
            self.stage.label if self.stage is not None else "",
            bool(closing.complete),
            closing.code,
            closing.culprit,
            hashlib.sha256(data).digest(),
        )


_FOLLOWS: frozenset[tuple[Stage | None, Stage]] = frozenset(
    {
        (None, Stage.ADVERTISE_KEYS),
        (Stage.ADVERTISE_KEYS, Stage.SHARE_KEYS),
        (Stage.SHARE_KEYS, Stage.MASKED_INPUT),
        (Stage.MASKED_INPUT, Stage.CONSISTENCY_CHECK),
        (Stage.CONSISTENCY_CHECK, Stage.UNMASKING),
        (Stage.UNMASKING, Stage.MASKED_INPUT),
        (Stage.UNMASKING, Stage.RECEIPT),
    }
)
