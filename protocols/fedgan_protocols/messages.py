"""The signed messages of a round: their fields, their one encoding, their signatures and the transcript chain.

A signed message is the CBOR array ``[content, signature]``; content is the encoding of::

    [domain, version, session, round, stage, sender, roster hash, previous transcript hash, body]

and the signature is Ed25519 over ``b"fedgan-secure/secure-aggregation/v1/signature" || 0x00 || content``. Bodies are
fixed arrays; their types are the dataclasses below, in field order. Server broadcasts (sender 0) are signed likewise.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any, TypeVar

from fedgan_protocols.errors import Code, ProtocolError
from fedgan_protocols.parameters import HASH_BYTES, ID_BYTES, SERVER, SessionParameters
from fedgan_protocols.primitives import Identity, Item, decode, digest, encode, join_packet, malformed, verify
from fedgan_protocols.transitions import Stage

DOMAIN = "fedgan-secure/secure-aggregation"
VERSION = 1
SIGNATURE_BYTES = 64
CLOSING_BYTES_A_MEMBER = 160
"""Room in a closing for one drop-out: two numbers, a code and a name of at most 64 bytes each, a flag."""
_SIGNATURE_CONTEXT = b"fedgan-secure/secure-aggregation/v1/signature\x00"


def _uint(item: Any) -> int:
    if type(item) is not int or not 0 <= item < 1 << 32:
        raise malformed("an integer below 2^32 was expected")
    return item


def _hash(item: Any) -> bytes:
    if not isinstance(item, bytes) or len(item) != HASH_BYTES:
        raise malformed(f"{HASH_BYTES} bytes were expected")
    return item


def _hash_or_empty(item: Any) -> bytes:
    return b"" if item == b"" and isinstance(item, bytes) else _hash(item)


def _text(item: Any) -> str:
    if not isinstance(item, str) or len(item) > 64:
        raise malformed("a short text was expected")
    return item


def _list_of(check: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    def checked(item: Any) -> tuple[Any, ...]:
        if not isinstance(item, list):
            raise malformed("an array was expected")
        return tuple(check(part) for part in item)

    return checked


def unpack_ids(item: Any) -> tuple[int, ...]:
    """A set of members from its encoding: ids of 2 bytes, big-endian, ascending; raises ProtocolError."""
    if not isinstance(item, bytes) or len(item) % ID_BYTES:
        raise malformed("a set of ids is a byte string of 2 bytes each")
    ids = struct.unpack(f">{len(item) // ID_BYTES}H", item)
    if SERVER in ids or any(a >= b for a, b in pairwise(ids)):
        raise ProtocolError(Code.DUPLICATE_MEMBER, "ids are ascending, each once, and none is the server's")
    return ids


def pack_ids(ids: Iterable[int]) -> bytes:
    """The encoding of a set of members."""
    return b"".join(member.to_bytes(ID_BYTES, "big") for member in ids)


def unpack_hashes(item: Any) -> tuple[bytes, ...]:
    """Digests from one byte string that holds them one after another; raises ProtocolError."""
    return unpack(item, HASH_BYTES)


def unpack(item: Any, size: int) -> tuple[bytes, ...]:
    """Byte strings of `size` bytes from one that holds them one after another; raises ProtocolError."""
    if not isinstance(item, bytes | memoryview) or len(item) % size:
        raise malformed(f"a byte string of {size} bytes each was expected")
    data = bytes(item)
    return tuple(data[at : at + size] for at in range(0, len(data), size))


def _drop(item: Any) -> tuple[int, int, str, str, int]:
    if not isinstance(item, list) or len(item) != 5:
        raise malformed("a drop-out is [id, stage, code, culprit, verified]")
    return _uint(item[0]), _uint(item[1]), _text(item[2]), _text(item[3]), _uint(item[4])


def _field(check: Callable[[Any], Any], write: Callable[[Any], Any] | None = None) -> Any:
    return field(metadata={"check": check, "write": write or _plain})


def _plain(value: Any) -> Item:
    return [_plain(part) for part in value] if isinstance(value, tuple) else value


def _ids() -> Any:
    return _field(unpack_ids, pack_ids)


def _hashes() -> Any:
    return _field(unpack_hashes, b"".join)


@dataclass(frozen=True)
class Invitation:
    """Server, R0: what this round is; clients compare it with what they hold themselves."""

    parameters_hash: bytes = _field(_hash)
    policy_hash: bytes = _field(_hash)
    model_hashes: tuple[bytes, ...] = _field(_list_of(_hash_or_empty))


@dataclass(frozen=True)
class Advertisement:
    """Client, R0: fresh X25519 keys, one for sealing and one per sum for masks; in a sparse graph whom it drew."""

    parameters_hash: bytes = _field(_hash)
    policy_hash: bytes = _field(_hash)
    model_hashes: tuple[bytes, ...] = _field(_list_of(_hash_or_empty))
    sealing_key: bytes = _field(_hash)
    mask_keys: tuple[bytes, ...] = _hashes()
    neighbours: tuple[int, ...] = _ids()


@dataclass(frozen=True)
class KeyDirectory:
    """Server, R1: U1. Attachment: [digests of U1's Advertisements, the receiver's peers, their Advertisements]."""

    members: tuple[int, ...] = _ids()


@dataclass(frozen=True)
class Deal:
    """Client, R1: commitments. Attachment: the sealed shares for the holders without the sender, in order of id.

    The holders are U1, or in a sparse graph the sender's neighbours in U1. Per sum j: a commitment to b_u; and, for
    every holder in order of id, commitments to the share of the mask key and of b_u (index j * |holders| + position).
    `sealed_digests`: one per sealed share, in the attachment's order.
    """

    seed_commitments: tuple[bytes, ...] = _hashes()
    key_share_commitments: tuple[bytes, ...] = _hashes()
    seed_share_commitments: tuple[bytes, ...] = _hashes()
    sealed_digests: tuple[bytes, ...] = _hashes()


@dataclass(frozen=True)
class MaskRequest:
    """Server, R2 of sum j: U2, and for j > 0 what ended the last sum (its U5 and H(sum), else empty).

    Attachment for j = 0: packet [[digests of U2's Deals, the Deals of which the receiver holds shares], the shares
    sealed for it]; for j > 0: packet [digests of the Revelations of U5, the last sum].
    """

    sum: int = _field(_uint)
    model_hash: bytes = _field(_hash)
    members: tuple[int, ...] = _ids()
    responders: tuple[int, ...] = _ids()
    last_sum_digest: bytes = _field(_hash_or_empty)


@dataclass(frozen=True)
class MaskedInput:
    """Client, R2 of sum j: H(y). Attachment: y, little-endian words."""

    sum: int = _field(_uint)
    model_hash: bytes = _field(_hash)
    vector_digest: bytes = _field(_hash)


@dataclass(frozen=True)
class SurvivorList:
    """Server, R3 of sum j: U3.

    Attachment: packet [digests of U3's MaskedInputs, vector digest and signature of each dealer of the receiver in U3].
    """

    sum: int = _field(_uint)
    model_hash: bytes = _field(_hash)
    members: tuple[int, ...] = _ids()


@dataclass(frozen=True)
class Consistency:
    """Client, R3 of sum j: the one set it will unmask (its header's previous hash binds U3's MaskedInputs too)."""

    sum: int = _field(_uint)
    t2: bytes = _field(_hash)
    model_hash: bytes = _field(_hash)
    survivors_digest: bytes = _field(_hash)


@dataclass(frozen=True)
class UnmaskRequest:
    """Server, R4 of sum j: U4. Attachment: the signatures of U4's Consistency messages, which are all the same but for
    their senders."""

    sum: int = _field(_uint)
    members: tuple[int, ...] = _ids()


@dataclass(frozen=True)
class Revelation:
    """Client, R4 of sum j: which share it gives of whom, and the digest of the attachment that holds them.

    Attachment: for every dealer in U2 of whom the sender holds shares, in order of id, share (33 bytes) and salt (32):
    of b_u for `alive`, of the mask key for `dead`.
    """

    sum: int = _field(_uint)
    alive: tuple[int, ...] = _ids()
    dead: tuple[int, ...] = _ids()
    shares_digest: bytes = _field(_hash)


@dataclass(frozen=True)
class Outcome:
    """Server, R5: U5 of the last sum and H(sum) of every sum. Attachment: packet [digests of Revelations, last sum]."""

    responders: tuple[int, ...] = _ids()
    sum_digests: tuple[bytes, ...] = _field(_list_of(_hash))


@dataclass(frozen=True)
class Receipt:
    """Client, R5: the client found itself in U3 of every sum and these digests on the vectors that it received."""

    sum_digests: tuple[bytes, ...] = _field(_list_of(_hash))


@dataclass(frozen=True)
class Closing:
    """Server, last message of a transcript: how the round ended, and who stopped when and why."""

    complete: int = _field(_uint)
    code: str = _field(_text)
    culprit: str = _field(_text)
    drops: tuple[tuple[int, int, str, str, int], ...] = _field(_list_of(_drop))


BODIES: dict[tuple[Stage, bool], type] = {
    (Stage.ADVERTISE_KEYS, True): Invitation,
    (Stage.ADVERTISE_KEYS, False): Advertisement,
    (Stage.SHARE_KEYS, True): KeyDirectory,
    (Stage.SHARE_KEYS, False): Deal,
    (Stage.MASKED_INPUT, True): MaskRequest,
    (Stage.MASKED_INPUT, False): MaskedInput,
    (Stage.CONSISTENCY_CHECK, True): SurvivorList,
    (Stage.CONSISTENCY_CHECK, False): Consistency,
    (Stage.UNMASKING, True): UnmaskRequest,
    (Stage.UNMASKING, False): Revelation,
    (Stage.RECEIPT, True): Outcome,
    (Stage.RECEIPT, False): Receipt,
    (Stage.CLOSING, True): Closing,
}
"""The body of every stage, for the server (True) and for clients (False)."""

BodyT = TypeVar("BodyT")


@dataclass(frozen=True)
class Message:
    """A message whose signature was verified, or that was just signed; `raw` is its one encoding."""

    stage: Stage
    sender: int
    previous: bytes
    body: Any
    raw: bytes = field(repr=False)

    @property
    def digest(self) -> bytes:
        return message_digest(self.raw)

    def body_as(self, kind: type[BodyT]) -> BodyT:
        """The body, whose type the stage and sender have fixed."""
        if not isinstance(self.body, kind):
            raise malformed("its body belongs to another stage")
        return self.body


def _content(parameters: SessionParameters, stage: Stage, sender: int, previous: bytes, body: Any) -> bytes:
    before, after = _around_sender(parameters, stage, previous, body)
    return before + encode(sender) + after


def _around_sender(parameters: SessionParameters, stage: Stage, previous: bytes, body: Any) -> tuple[bytes, bytes]:
    """The content of a message before and after its sender, so that one statement of many is encoded once."""
    written = [part.metadata["write"](getattr(body, part.name)) for part in fields(body)]
    items: list[Item] = [DOMAIN, VERSION, parameters.session, parameters.round, int(stage)]
    return (
        b"\x89" + b"".join(encode(item) for item in items),
        b"".join(encode(item) for item in (parameters.roster_hash, previous, written)),
    )


def sign_message(
    identity: Identity, parameters: SessionParameters, stage: Stage, sender: int, previous: bytes, body: Any
) -> Message:
    """Sign one body as `sender`."""
    if type(body) is not BODIES[stage, sender == SERVER]:
        raise TypeError(f"{type(body).__name__} is not the body of {stage.label} from this sender")
    content = _content(parameters, stage, sender, previous, body)
    raw = encode([content, identity.sign(_SIGNATURE_CONTEXT + content)])
    return Message(stage, sender, previous, body, raw)


def open_message(
    parameters: SessionParameters,
    raw: bytes,
    *,
    stage: Stage,
    sender: int,
    previous: bytes | None,
    blame: str,
) -> Message:
    """Decode and verify one untrusted message that must be `sender`'s, of `stage`, after transcript hash `previous`.

    `blame` is the party that handed it over: nobody else can be named before the signature has been verified.
    `previous` None leaves that comparison to the caller. Raises ProtocolError.
    """
    try:
        return _open(parameters, raw, stage, sender, previous)
    except ProtocolError as error:
        if error.culprit:
            raise
        raise ProtocolError(error.code, error.message, culprit=blame) from None


def _open(parameters: SessionParameters, raw: bytes, stage: Stage, sender: int, previous: bytes | None) -> Message:
    limit = parameters.message_limit + (CLOSING_BYTES_A_MEMBER * parameters.n if stage is Stage.CLOSING else 0)
    content, signature, items = _parts(raw, limit)
    domain, version, session, round_, stage_, sender_, roster, previous_, body = items
    if domain != DOMAIN or _uint(version) != VERSION:
        raise ProtocolError(Code.MALFORMED, f"a message of another protocol or version; expected version {VERSION}")
    if _hash(session) != parameters.session or _uint(round_) != parameters.round:
        raise ProtocolError(Code.WRONG_SESSION, "a message of another session or round")
    if _hash(roster) != parameters.roster_hash:
        raise ProtocolError(Code.WRONG_ROSTER, "a message under another roster")
    if _uint(sender_) != sender:
        raise ProtocolError(Code.WRONG_SENDER, f"a message that is not from {parameters.name_of(sender)}")
    if not verify(parameters.key_of(sender), _SIGNATURE_CONTEXT + content, signature):
        raise ProtocolError(Code.BAD_SIGNATURE, f"the signature of {parameters.name_of(sender)} does not verify")
    if _uint(stage_) != stage:
        raise ProtocolError(Code.OUT_OF_ORDER, f"a message that is not of stage {stage.label}")
    if previous is not None and _hash(previous_) != previous:
        raise ProtocolError(Code.TRANSCRIPT_MISMATCH, "a message that follows another transcript than this one")
    return Message(stage, sender, _hash(previous_), _body(stage, body, from_server=sender == SERVER), raw)


def _parts(raw: bytes, limit: int) -> tuple[bytes, bytes, list[Any]]:
    """Content, signature, and the nine fields of the content; nothing is verified."""
    outer = decode(raw, limit, max_depth=1)
    if not isinstance(outer, list) or len(outer) != 2 or not all(isinstance(part, bytes) for part in outer):
        raise malformed("it is not [content, signature]")
    content, signature = outer
    if len(signature) != SIGNATURE_BYTES:
        raise malformed("a signature has 64 bytes")
    items = decode(content, limit)
    if not isinstance(items, list) or len(items) != 9:
        raise malformed("its content does not have nine fields")
    return content, signature, items


def _body(stage: Stage, body: Any, *, from_server: bool) -> Any:
    kind = BODIES.get((stage, from_server))
    if kind is None:
        raise malformed("clients send no message of this stage")
    slots = fields(kind)
    if not isinstance(body, list) or len(body) != len(slots):
        raise malformed(f"the body of {stage.label} has {len(slots)} fields")
    return kind(*(slot.metadata["check"](item) for slot, item in zip(slots, body, strict=True)))


def message_size(parameters: SessionParameters, stage: Stage, sender: int, previous: bytes, body: Any) -> int:
    """The length in bytes of the signed message, which depends on the lengths of the body's fields alone."""
    return len(join_packet(_content(parameters, stage, sender, previous, body), bytes(SIGNATURE_BYTES)))


class Statement:
    """One body that many members sign alike: their messages are rebuilt from the signatures alone."""

    def __init__(self, parameters: SessionParameters, stage: Stage, previous: bytes, body: Any) -> None:
        self._parameters = parameters
        self._before, self._after = _around_sender(parameters, stage, previous, body)

    def raw(self, sender: int, signature: bytes) -> bytes:
        """The signed message of `sender`, to the byte; nothing is verified."""
        return join_packet(self._content(sender), signature)  # [content, signature] has the form of a packet

    def verify(self, sender: int, signature: bytes, *, blame: str) -> None:
        """Raise ProtocolError (bad-signature) unless `sender` signed this statement."""
        if not verify(self._parameters.key_of(sender), _SIGNATURE_CONTEXT + self._content(sender), signature):
            name = self._parameters.name_of(sender)
            raise ProtocolError(
                Code.BAD_SIGNATURE, f"the signature of {name} under this statement does not verify", culprit=blame
            )

    def _content(self, sender: int) -> bytes:
        return self._before + encode(sender) + self._after


def signature_of(raw: bytes) -> bytes:
    """The signature at the end of a signed message."""
    return raw[-SIGNATURE_BYTES:]


def message_digest(raw: bytes) -> bytes:
    """The digest of a signed message, 32 bytes."""
    return digest("message", raw)


def survivors_digest(members: Sequence[int]) -> bytes:
    """The digest of a set of members, 32 bytes."""
    return digest("survivors", pack_ids(members))


def extend(label: str, previous: bytes, broadcast: bytes, replies: Iterable[tuple[int, bytes]]) -> bytes:
    """The next transcript hash: H(label, previous, broadcast digest, (id, digest) of every reply in order of id).

    In T4 a signature of R3 stands for the digest: what it signs is the same for all and in the chain already.
    """
    joined = b"".join(member.to_bytes(4, "big") + value for member, value in replies)
    return digest(f"chain/{label}", previous, broadcast, joined)


def digests_of(messages: Sequence[Message]) -> list[tuple[int, bytes]]:
    """(sender, digest) of each message, in order of sender."""
    return sorted((message.sender, message.digest) for message in messages)


def share_commitment(
    parameters: SessionParameters, j: int, kind: str, dealer: int, holder: int, opening: bytes
) -> bytes:
    """Commitment to an opening = share (33 bytes) || salt (32 bytes); kind is "key" or "seed"."""
    where = encode([parameters.session, parameters.round, j, kind, dealer, holder])
    return digest("share-commitment", where, opening)


def seed_commitment(parameters: SessionParameters, j: int, dealer: int, seed: bytes) -> bytes:
    """Commitment to a self-mask seed b_u (32 uniform bytes: no salt); its label keeps it apart from the key."""
    return digest("seed-commitment", encode([parameters.session, parameters.round, j, dealer]), seed)
