"""What a client has released, on disk before it is released.

Append-only. After an 8-byte magic, records of::

    length (4 bytes, big-endian) || CRC-32 of the length (4) || body || SHA-256(previous hash || body) (32)

The hashes form a chain. `record` returns only after fsync. A torn tail (a record cut short, or blocks that were never
written and read as zeros) belongs to a message that was never released: it is cut off when the journal is opened, and
counted in `torn_bytes`. Anything else that does not verify is damage: JournalError, and nothing more is released.

For one (session, round, stage, sum) only one reply exists: other bytes are refused. A restarted client that is asked
the same question again gives the identical reply, or, when the reply was too large to keep, aborts.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from fedgan_protocols.errors import Code, JournalError, ProtocolError
from fedgan_protocols.primitives import Packet, decode, digest, encode
from fedgan_protocols.transitions import Stage

MAGIC = b"FGSJRNL1"
LARGEST_KEPT_REPLY = 1 << 20
"""Replies above this size (masked vectors) are kept by digest only."""
_HEADER = 8
_HASH = 32
_BODY_LIMIT = LARGEST_KEPT_REPLY + 4096


@dataclass(frozen=True)
class Released:
    """One reply that may have left: where it belongs, what it answered, its digest, and itself unless too large."""

    session: bytes
    round: int
    stage: Stage
    sum: int
    request: bytes
    reply_digest: bytes
    reply: bytes = field(repr=False)


def _error(message: str, hint: str = "") -> JournalError:
    return JournalError(Code.JOURNAL, message, hint=hint)


class Journal:
    """One hospital's journal over all its rounds; one process at a time holds it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.torn_bytes = 0
        self._lock = threading.Lock()
        self._entries: dict[tuple[bytes, int, Stage, int], Released] = {}
        self._chain = hashlib.sha256(MAGIC).digest()
        try:
            self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _error(f"{self.path} cannot be opened: {error.strerror}") from None
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._end = self._read()
        except BlockingIOError:
            os.close(self._handle)
            raise _error(f"{self.path} is held by another process", "stop the other process first") from None
        except BaseException:
            os.close(self._handle)
            raise
        self._closed = False

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; further use is refused."""
        if not self._closed:
            self._closed = True
            os.close(self._handle)

    def find(self, session: bytes, round_: int, stage: Stage, j: int) -> Released | None:
        """What was released for this place, if anything."""
        return self._entries.get((session, round_, stage, j))

    def rounds(self, session: bytes, round_: int) -> tuple[Released, ...]:
        """Everything released in one round of one session."""
        return tuple(one for key, one in self._entries.items() if key[:2] == (session, round_))

    def record(self, session: bytes, round_: int, stage: Stage, j: int, request: bytes, reply: Packet) -> None:
        """Make a reply durable before it is released; raises JournalError for a second, different one.

        `request` is the digest (32 bytes) of the request that it answers.
        """
        with self._lock:
            self._record(session, round_, stage, j, request, reply)

    def _record(self, session: bytes, round_: int, stage: Stage, j: int, request: bytes, reply: Packet) -> None:
        if self._closed:
            raise _error(f"{self.path} is closed")
        reply_digest = digest("journal-reply", reply)
        known = self.find(session, round_, stage, j)
        if known is not None:
            if known.reply_digest != reply_digest:
                raise _error(f"another reply was already released in round {round_}, stage {stage.label}")
            return
        kept = bytes(reply) if len(reply) <= LARGEST_KEPT_REPLY else b""
        body = encode([session, round_, int(stage), j, request, reply_digest, kept])
        length = len(body).to_bytes(4, "big")
        chain = hashlib.sha256(self._chain + body).digest()
        self._append(length + zlib.crc32(length).to_bytes(4, "big") + body + chain)
        self._chain = chain
        self._entries[session, round_, stage, j] = Released(session, round_, stage, j, request, reply_digest, kept)

    def _append(self, frame: bytes) -> None:
        try:
            written = 0
            while written < len(frame):
                written += os.pwrite(self._handle, frame[written:], self._end + written)
            os.fsync(self._handle)
        except OSError as error:
            self.close()
            raise _error(
                f"{self.path} cannot be written: {error.strerror}", "free space on the disk; the round is spent"
            ) from None
        self._end += len(frame)

    def _read(self) -> int:
        """Verify the whole file, cut off a torn tail, and return where the next record goes."""
        size = os.fstat(self._handle).st_size
        data = bytearray()
        while len(data) < size:
            part = os.pread(self._handle, min(1 << 24, size - len(data)), len(data))
            if not part:
                break
            data += part
        if len(data) < len(MAGIC):
            if not MAGIC.startswith(bytes(data)) and any(data):
                raise _error(f"{self.path} is not a journal")
            return self._begin(len(data))
        if data[: len(MAGIC)] != MAGIC:
            if not any(data):
                return self._begin(len(data))
            raise _error(f"{self.path} is not a journal")
        at = len(MAGIC)
        while at < len(data):
            after = self._read_record(data, at)
            if after is None:
                self.torn_bytes = len(data) - at
                os.ftruncate(self._handle, at)
                os.fsync(self._handle)
                break
            at = after
        return at

    def _begin(self, leftover: int) -> int:
        self.torn_bytes = leftover
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, MAGIC, 0)
        os.fsync(self._handle)
        directory = os.open(self.path.resolve().parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return len(MAGIC)

    def _read_record(self, data: bytearray, at: int) -> int | None:
        """The offset after one record, or None when the tail is torn from here."""
        header = bytes(data[at : at + _HEADER])
        if len(header) < _HEADER or not any(data[at:]):
            return None
        length = int.from_bytes(header[:4], "big")
        if zlib.crc32(header[:4]).to_bytes(4, "big") != header[4:] or length > _BODY_LIMIT:
            raise self._damaged(at)
        start, end = at + _HEADER, at + _HEADER + length + _HASH
        body, found = bytes(data[start : start + length]), bytes(data[start + length : end])
        chain = hashlib.sha256(self._chain + body).digest()
        if end > len(data):
            return None
        if found != chain:
            # the last frame, whose end was never written: blocks that read as zeros
            if end == len(data) and not any(data[end - _HASH :]):
                return None
            raise self._damaged(at)
        self._enter(body, at)
        self._chain = chain
        return end

    def _enter(self, body: bytes, at: int) -> None:
        try:
            items: Any = decode(body, _BODY_LIMIT)
            session, round_, stage, j, request, reply_digest, reply = items
            key = (session, round_, Stage(stage), j)
        except (ProtocolError, ValueError, TypeError):
            raise self._damaged(at) from None
        strings, numbers = (session, request, reply_digest, reply), (round_, stage, j)
        if not all(isinstance(one, bytes) for one in strings) or not all(type(one) is int for one in numbers):
            raise self._damaged(at)
        self._entries[key] = Released(*key, request, reply_digest, reply)

    def _damaged(self, at: int) -> JournalError:
        return _error(
            f"{self.path} is damaged at byte {at}",
            "keep the file for inspection and start the next round with a new journal; the damaged round is spent",
        )
