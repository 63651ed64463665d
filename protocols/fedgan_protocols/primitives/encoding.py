"""Canonical CBOR, restricted: unsigned integers below 2^64, byte strings, text and arrays of these.

Rules (RFC 8949, section 4.2.1, further restricted):

* no maps, tags, floats, negative numbers, simple values or indefinite lengths;
* every length and integer in its shortest form; nothing after the item;
* size, depth and the number of items are bounded *before* anything is allocated.

`decode` walks the structure itself, then lets cbor2 decode, encodes again and compares the bytes: cbor2 alone accepts
non-minimal integers and indefinite lengths. So every value has exactly one encoding and every accepted byte string has
exactly one meaning.

A *packet* is what travels: the array ``[message, attachment]`` of two byte strings. The message is signed; the
attachment is not, but the message (or an earlier signed message) carries its digest. Packets are split without copying.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeAlias

import cbor2

from fedgan_protocols.errors import Code, ProtocolError

Item: TypeAlias = "int | bytes | str | Sequence[Item]"
Packet: TypeAlias = "bytes | memoryview"

MAX_DEPTH = 6
MAX_ITEMS = 4_000_000
_UINT, _BYTES, _TEXT, _ARRAY = 0, 2, 3, 4
_ARGUMENT_BYTES = {24: 1, 25: 2, 26: 4, 27: 8}
_SMALLEST = {24: 24, 25: 1 << 8, 26: 1 << 16, 27: 1 << 32}


def malformed(what: str) -> ProtocolError:
    """The error for bytes that are not what they should be."""
    return ProtocolError(Code.MALFORMED, f"malformed message: {what}")


def _head(data: bytes | memoryview, at: int) -> tuple[int, int, int]:
    """Major type, argument and offset after one minimal head at `at`."""
    if at >= len(data):
        raise malformed("it ends early")
    first = data[at]
    major, short = first >> 5, first & 31
    if short < 24:
        return major, short, at + 1
    width = _ARGUMENT_BYTES.get(short)
    if width is None:
        raise malformed("indefinite or reserved length")
    if at + 1 + width > len(data):
        raise malformed("it ends early")
    argument = int.from_bytes(data[at + 1 : at + 1 + width], "big")
    if argument < _SMALLEST[short]:
        raise malformed("a number is not in its shortest form")
    return major, argument, at + 1 + width


def _walk(data: bytes, max_depth: int) -> None:
    """Check the whole structure without building it."""
    at, items = 0, 0
    open_arrays: list[int] = [1]
    while open_arrays:
        if open_arrays[-1] == 0:
            open_arrays.pop()
            continue
        open_arrays[-1] -= 1
        items += 1
        if items > MAX_ITEMS:
            raise ProtocolError(Code.TOO_LARGE, f"a message holds more than {MAX_ITEMS} items")
        major, argument, at = _head(data, at)
        if major in (_BYTES, _TEXT, _ARRAY) and argument > len(data) - at:
            raise malformed(f"{'an array' if major == _ARRAY else 'a string'} is longer than the message")
        if major in (_BYTES, _TEXT):
            at += argument
        elif major == _ARRAY:
            if len(open_arrays) > max_depth:
                raise ProtocolError(Code.TOO_LARGE, f"a message is nested deeper than {max_depth}")
            open_arrays.append(argument)
        elif major != _UINT:
            raise malformed(f"CBOR major type {major} is not used in this protocol")
    if at != len(data):
        raise malformed("bytes follow the message")


def encode(item: Item) -> bytes:
    """The one encoding of `item` (nested lists or tuples of unsigned integers < 2^64, bytes and text)."""
    return cbor2.dumps(item)


def decode(data: bytes, limit: int, *, max_depth: int = MAX_DEPTH) -> Item:
    """Decode untrusted bytes of at most `limit` bytes; raises ProtocolError (malformed, too-large)."""
    if len(data) > limit:
        raise ProtocolError(Code.TOO_LARGE, f"a message of {len(data)} bytes; at most {limit} were expected")
    _walk(data, max_depth)
    try:
        item: Item = cbor2.loads(data)
        same = cbor2.dumps(item) == data
    except (cbor2.CBORError, ValueError, TypeError, OverflowError) as error:
        raise malformed("it is not CBOR") from error
    if not same:
        raise malformed("its encoding is not canonical")
    return item


def _argument(major: int, value: int) -> bytes:
    if value < 24:
        return bytes([major << 5 | value])
    for short, width in _ARGUMENT_BYTES.items():
        if value < 1 << (8 * width):
            return bytes([major << 5 | short]) + value.to_bytes(width, "big")
    raise ValueError("a length of 2^64 or more")


def join_packet(message: bytes, attachment: bytes | memoryview = b"") -> bytes:
    """The packet ``[message, attachment]``."""
    return b"".join((b"\x82", _argument(_BYTES, len(message)), message, _argument(_BYTES, len(attachment)), attachment))


class PacketBuffer:
    """A packet whose attachment is written in place, so that a masked vector is never copied.

    `attachment`: the writable room, on a boundary of 16 bytes; `close` puts the message in front of it.
    """

    def __init__(self, message_bytes: int, attachment_bytes: int) -> None:
        heads = 1 + len(_argument(_BYTES, message_bytes)) + len(_argument(_BYTES, attachment_bytes))
        front = heads + message_bytes
        self._start, self._front = -front % 16, -front % 16 + front
        self._message_bytes = message_bytes
        self._data = memoryview(bytearray(self._front + attachment_bytes))
        self.attachment = self._data[self._front :]

    def close(self, message: bytes) -> memoryview:
        """The packet, read-only; `message` has the length that was said."""
        if len(message) != self._message_bytes:
            raise ValueError(f"a message of {len(message)} bytes; room was made for {self._message_bytes}")
        self._data[self._start : self._front] = b"".join(
            (b"\x82", _argument(_BYTES, len(message)), message, _argument(_BYTES, len(self.attachment)))
        )
        return self._data[self._start :].toreadonly()


def split_packet(packet: bytes | memoryview, limit: int, message_limit: int | None = None) -> tuple[bytes, memoryview]:
    """Message (copied) and attachment (a view, not copied) of an untrusted packet of at most `limit` bytes.

    `message_limit`: bytes of the message alone, refused before it is copied.
    """
    if not isinstance(packet, bytes | memoryview):
        raise malformed("a packet is not bytes")
    if len(packet) > limit:
        raise ProtocolError(Code.TOO_LARGE, f"a packet of {len(packet)} bytes; at most {limit} were expected")
    view = memoryview(packet)
    if view[:1] != b"\x82":
        raise malformed("a packet is an array of two byte strings")
    parts: list[memoryview] = []
    at = 1
    for _ in range(2):
        major, length, at = _head(view, at)
        if major != _BYTES or length > len(view) - at:
            raise malformed("a packet is an array of two byte strings")
        if message_limit is not None and not parts and length > message_limit:
            raise ProtocolError(Code.TOO_LARGE, f"a message of {length} bytes; at most {message_limit} were expected")
        parts.append(view[at : at + length])
        at += length
    if at != len(view):
        raise malformed("bytes follow the packet")
    return bytes(parts[0]), parts[1]


def encode_strings(strings: Sequence[bytes]) -> bytes:
    """An array of byte strings."""
    return cbor2.dumps(list(strings))


def decode_strings(data: bytes | memoryview, limit: int, size: int | None = None) -> tuple[bytes, ...]:
    """An untrusted array of byte strings, each of `size` bytes where given; raises ProtocolError."""
    items = decode(bytes(data), limit, max_depth=1)
    if not isinstance(items, list) or not all(isinstance(item, bytes) for item in items):
        raise malformed("an array of byte strings was expected")
    if size is not None and any(len(item) != size for item in items):
        raise malformed(f"byte strings of {size} bytes were expected")
    return tuple(items)


def digest(label: str, *parts: bytes | memoryview) -> bytes:
    """SHA-256 over a label and parts, each preceded by its length: no two inputs collide by concatenation."""
    state = hashlib.sha256()
    name = b"fedgan-secure/secure-aggregation/v1/" + label.encode()
    for part in (name, *parts):
        state.update(len(part).to_bytes(8, "big"))
        state.update(part)
    return state.digest()
