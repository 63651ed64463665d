"""How packets are bent: blindly, by structure, and by structure with a signature that is right.

A packet is ``[message, attachment]``, a message ``[content, signature]``, both arrays of two byte strings; contents
and most attachments are CBOR. Whatever can be taken apart is taken apart, changed in one place, put together again and,
as a malicious member or server would, signed with the real key. Digests of attachments in a body are carried over.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import cbor2
import numpy as np
from tests.protocols.fuzz.choices import Choices

from fedgan_protocols import Identity, checks, sum_digest

SIGNED = b"fedgan-secure/secure-aggregation/v1/signature\x00"
ODD_NUMBERS = (0, 1, 2, 23, 24, 255, 256, 65535, 65536, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1, 2**64, -1)
ODD_ITEMS: tuple[Any, ...] = (
    b"",
    "",
    "server",
    [],
    [[]],
    {},
    {1: 2},
    1.5,
    float("nan"),
    None,
    True,
    b"\x00" * 32,
    "h1",
    2**70,
)
LARGEST = 4 << 20
"""Bytes that repeating a list may lead to: repeated in a repetition it would fill the fuzzer's own memory."""
SMALL_ORDER = (bytes(32), b"\x01" + bytes(31), b"\xff" * 32, (2**255 - 20).to_bytes(32, "little"))


@dataclass
class Pool:
    """Byte strings seen elsewhere, to be put where they do not belong, and who can sign for whom."""

    identities: Mapping[int, Identity] = field(repr=False)
    seen: list[bytes] = field(default_factory=list, repr=False)

    def take(self, choices: Choices) -> bytes:
        return self.seen[choices.below(len(self.seen))] if self.seen else b""


def bend_bytes(data: bytes, choices: Choices, pool: Pool) -> bytes:
    """One blind change of a byte string."""
    kind, size = choices.below(9), max(1, len(data))
    at = choices.below(size)
    length = 1 + choices.below(min(size, 200))
    if kind == 0:
        return data[:at] + bytes([data[at] ^ 1 << choices.below(8)]) + data[at + 1 :] if data else b"\x00"
    if kind == 1:
        return data[:at]
    if kind == 2:
        return data + choices.bytes(choices.below(70))
    if kind == 3:
        return data[:at] + data[at + length :]
    if kind == 4:
        return data[:at] + data[at : at + length] + data[at:]
    if kind == 5:
        return data[:at] + choices.bytes(min(length, 8)) + data[at + min(length, 8) :]
    if kind == 6:
        other = pool.take(choices)
        return data[:at] + other[choices.below(max(1, len(other))) :][:length] + data[at + length :]
    if kind == 7:
        return pool.take(choices)
    return data + bytes([choices.below(256)]) * choices.pick((1, 31, 4096, 70_000, 1_000_000))


def bend_item(item: Any, choices: Choices, pool: Pool, depth: int = 0) -> Any:
    """One change somewhere in a decoded structure."""
    if isinstance(item, list) and item and depth < 6 and not choices.one_in(6):
        place = choices.below(len(item))
        return [*item[:place], bend_item(item[place], choices, pool, depth + 1), *item[place + 1 :]]
    if isinstance(item, list):
        return _bend_list(item, choices, pool)
    if choices.one_in(8):
        return choices.pick(ODD_ITEMS)
    if isinstance(item, int):
        return choices.pick((item + 1, item - 1, choices.pick(ODD_NUMBERS), choices.below(8)))
    if isinstance(item, bytes):
        special = choices.below(4)
        if special == 0:
            return choices.pick(SMALL_ORDER)
        if special == 1 and len(item) % 2 == 0:
            return _bend_words(item, choices)
        return bend_bytes(item, choices, pool)
    if isinstance(item, str):
        return choices.pick((item + "x", item[:-1], "x" * 65, "\x00", "ä", "server"))
    return choices.pick(ODD_ITEMS)


def _bend_words(data: bytes, choices: Choices) -> bytes:
    """Ids and digests are packed side by side: leave one out, repeat one, swap two, or add one."""
    width = choices.pick((2, 32, 64)) if len(data) % 32 == 0 else 2
    words = [data[at : at + width] for at in range(0, len(data), width)]
    return b"".join(_bend_list(words, choices, None, choices.bytes(width)))


def _bend_list(items: list[Any], choices: Choices, pool: Pool | None, new: Any = None) -> list[Any]:
    kind, place, other = choices.below(6), choices.below(max(1, len(items))), choices.below(max(1, len(items)))
    if kind == 0 and items:
        return items[:place] + items[place + 1 :]
    if kind == 1 and items:
        return [*items[:place], items[other], *items[place:]]
    if kind == 2 and items:
        swapped = list(items)
        swapped[place], swapped[other] = swapped[other], swapped[place]
        return swapped
    if kind == 3 and items:
        changed = list(items)
        changed[place] = items[other]
        return changed
    if kind == 4 and pool is not None:
        times = choices.pick((2, 40, 500))
        return items * max(1, min(times, LARGEST // max(1, len(cbor2.dumps(items)))))
    return [*items, new if pool is None else choices.pick(ODD_ITEMS)]


def _encode(item: Any, canonical: bool) -> bytes:
    return cbor2.dumps(item, canonical=canonical)


def read_pair(data: bytes) -> tuple[bytes, bytes] | None:
    """Both halves of an array of two byte strings, or None."""
    if data[:1] != b"\x82":
        return None
    item = read(data)
    if isinstance(item, list) and len(item) == 2 and all(isinstance(part, bytes) for part in item):
        return item[0], item[1]
    return None


def read(data: bytes) -> Any:
    """The decoded structure, or None when it is not one."""
    try:
        item = cbor2.loads(data)
    except Exception:  # noqa: BLE001 - whatever cannot be decoded is bent as bytes
        return None
    return item if isinstance(item, list) else None


def bend_message(raw: bytes, choices: Choices, pool: Pool, carry: Mapping[bytes, bytes] | None = None) -> bytes:
    """Change a signed message; mostly it is signed again by the one who is said to send it.

    `carry`: digests in the body that change with the attachment; with it the message is otherwise left alone.
    """
    pair = read_pair(raw)
    items = read(pair[0]) if pair else None
    if pair is None or items is None or (not carry and choices.one_in(8)):
        return bend_bytes(raw, choices, pool)
    if carry:
        changed = _carried(items, carry)
    elif len(items) == 9 and not choices.one_in(4):
        changed = [*items[:8], bend_item(items[8], choices, pool)]
    else:
        changed = bend_item(items, choices, pool)
    content = _encode(changed, canonical=not choices.one_in(16))
    sender = items[5] if len(items) == 9 and isinstance(items[5], int) else 0
    signer = pool.identities.get(sender)
    signature = pair[1]
    if signer is not None and (carry or not choices.one_in(8)):
        signature = signer.sign(SIGNED + content)
    elif choices.one_in(2):
        signature = bend_bytes(signature, choices, pool)
    return _encode([content, signature], canonical=False)


def _carried(item: Any, carry: Mapping[bytes, bytes]) -> Any:
    if isinstance(item, list):
        return [_carried(part, carry) for part in item]
    if isinstance(item, bytes):
        for old, new in carry.items():
            item = item.replace(old, new)
    return item


def _digests(attachment: bytes, size: int) -> list[bytes]:
    """Every digest of an attachment that a body may carry: of shares, of a vector, of each sealed share."""
    found = [checks.shares_digest(attachment)]
    for dtype in ("<u4", "<u8"):
        if len(attachment) % np.dtype(dtype).itemsize == 0:
            found.append(sum_digest(np.frombuffer(attachment, dtype=dtype)))
    found += [checks.sealed_digest(attachment[at : at + size]) for at in range(0, len(attachment), size)]
    return found


def bend_attachment(attachment: bytes, choices: Choices, pool: Pool, depth: int = 0) -> bytes:
    """Change an attachment: a packet or a message in it (signed again by its sender), its structure or its bytes."""
    pair = read_pair(attachment)
    if pair is not None and depth < 3 and not choices.one_in(8):
        if read(pair[0]) is not None and len(read(pair[0])) == 9:
            return bend_message(attachment, choices, pool)
        first, second = pair
        if choices.below(2):
            return _encode([first, bend_attachment(second, choices, pool, depth + 1)], canonical=False)
        return _encode([bend_attachment(first, choices, pool, depth + 1), second], canonical=False)
    items = read(attachment)
    if items is not None and items and not choices.one_in(8):
        place = choices.below(len(items))
        inner = items[place]
        if isinstance(inner, list) and inner and all(isinstance(one, bytes) for one in inner) and choices.below(4):
            where = choices.below(len(inner))
            bent = [*inner[:where], bend_attachment(inner[where], choices, pool, depth + 1), *inner[where + 1 :]]
            return _encode([*items[:place], bent, *items[place + 1 :]], canonical=False)
        return _encode(bend_item(items, choices, pool), canonical=not choices.one_in(16))
    if choices.below(3) == 0 and len(attachment) % 2 == 0 and attachment:
        return _bend_words(attachment, choices)
    return bend_bytes(attachment, choices, pool)


def bend_packet(packet: bytes, choices: Choices, pool: Pool, sealed_bytes: int) -> bytes:
    """Change one packet in one of the ways above."""
    pair = read_pair(packet)
    kind = choices.below(8)
    if pair is None or kind == 0:
        return bend_bytes(packet, choices, pool)
    if kind == 1:
        return pool.take(choices)
    message, attachment = pair
    if kind <= 4 or not attachment:
        return _encode([bend_message(message, choices, pool), attachment], canonical=False)
    bent = bend_attachment(attachment, choices, pool)
    if kind <= 6:
        before, after = _digests(attachment, sealed_bytes), _digests(bent, sealed_bytes)
        carry = {old: new for old, new in zip(before, after, strict=False) if old != new and old in message}
        if carry:
            message = bend_message(message, choices, pool, carry)
    return _encode([message, bent], canonical=False)


def rechained_journal(data: bytes, choices: Choices, pool: Pool) -> bytes:
    """A journal whose record bodies are bent and whose checksums and hashes are right again."""
    magic, at, bodies = data[:8], 8, []
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        bodies.append(data[at + 8 : at + 8 + length])
        at += 8 + length + 32
    place = choices.below(max(1, len(bodies)))
    items = read(bodies[place]) if bodies else None
    if items is not None:
        bodies[place] = _encode(bend_item(items, choices, pool), canonical=True)
    chain, out = hashlib.sha256(magic).digest(), magic
    for body in bodies:
        chain = hashlib.sha256(chain + body).digest()
        length_bytes = len(body).to_bytes(4, "big")
        out += length_bytes + zlib.crc32(length_bytes).to_bytes(4, "big") + body + chain
    return out
