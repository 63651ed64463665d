"""The attachments of R1 and R2 that hand a member what it needs of the others: digests of all, messages of its own few.

The digests let every member compute the same transcript chain; the messages are those of its peers (R1) and of the
dealers whose shares it holds (R2), which in the complete graph are everybody.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fedgan_protocols.messages import pack_ids, unpack_hashes, unpack_ids
from fedgan_protocols.primitives import decode, encode, malformed

_DEPTH = 2


def write_directory(digests: Iterable[bytes], peers: Sequence[int], raws: Sequence[bytes]) -> bytes:
    """``[digests of U1's Advertisements, ids of the receiver's peers, [their Advertisements]]``."""
    return encode([b"".join(digests), pack_ids(peers), list(raws)])


def read_directory(
    data: bytes | memoryview, limit: int
) -> tuple[tuple[bytes, ...], tuple[int, ...], tuple[bytes, ...]]:
    """Untrusted digests, peers and messages; raises ProtocolError (malformed, too-large, duplicate-member)."""
    items = decode(bytes(data), limit, max_depth=_DEPTH)
    if not isinstance(items, list) or len(items) != 3:
        raise malformed("a directory is [digests, peers, messages]")
    return unpack_hashes(items[0]), unpack_ids(items[1]), _messages(items[2])


def write_deals(digests: Iterable[bytes], raws: Sequence[bytes]) -> bytes:
    """``[digests of U2's Deals, [the Deals of which the receiver holds shares]]``."""
    return encode([b"".join(digests), list(raws)])


def read_deals(data: bytes | memoryview, limit: int) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """Untrusted digests and messages; raises ProtocolError (malformed, too-large)."""
    items = decode(bytes(data), limit, max_depth=_DEPTH)
    if not isinstance(items, list) or len(items) != 2:
        raise malformed("deals are [digests, messages]")
    return unpack_hashes(items[0]), _messages(items[1])


def _messages(items: object) -> tuple[bytes, ...]:
    if not isinstance(items, list) or not all(isinstance(item, bytes) for item in items):
        raise malformed("messages are byte strings")
    return tuple(items)
