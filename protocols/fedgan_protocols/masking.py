"""The masks: how seeds become keys, keys become streams, and streams are added to a vector.

The stream of a key is a fixed definition, so that chunks and threads change nothing: segment i (256 KiB, the last one
cut short) is AES-256 in counter mode (NIST SP 800-38A) whose counter block starts at ``nonce || 2``, the nonce being
the 96-bit big-endian i; words are little-endian. That is what AES-256-GCM computes over zeros, its tag dropped (SP
800-38D: the block for ``nonce || 1`` encrypts the tag), and the fastest form that the cryptography library offers. A
key is used for one stream only, so no (key, nonce) occurs twice.

Keys (HKDF-SHA256, RFC 5869)::

    pair seed = HKDF(ikm = X25519, salt = T1, info = [.., "mask", session, round, j, min id, max id, H(model_j)])
    key       = HKDF(ikm = seed, no salt,     info = [.., "stream", session, round, j, "pair" | "self"])
    seal key  = HKDF(ikm = X25519, salt = T1, info = [.., "seal", session, round, from, to])

Not constant-time beyond what the libraries offer; not post-quantum.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedgan_protocols.errors import Code, ProtocolError
from fedgan_protocols.parameters import SessionParameters
from fedgan_protocols.primitives import Item, encode

SEGMENT_BYTES = 256 * 1024
TAG_BYTES = 16
KEY_BYTES = 32
_FIELD_PRIME = 2**255 - 19
LOW_ORDER_POINTS = frozenset(
    {
        0,
        1,
        _FIELD_PRIME - 1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    }
)
"""Every canonical u-coordinate of order 1, 2, 4 or 8 on Curve25519 or its twist; a test derives them."""
_ZEROS = bytes(SEGMENT_BYTES)
_DOMAIN = "fedgan-secure/secure-aggregation/v1"
_SEAL_NONCE = bytes(12)


def derive(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """HKDF-SHA256 with 32 bytes of output."""
    return HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=salt or None, info=info).derive(secret)


def pair_seed(
    parameters: SessionParameters, shared: bytes, t1: bytes, j: int, u: int, v: int, model_hash: bytes
) -> bytes:
    """The 32-byte seed of sum j that members u and v share, with the model's hash bound in (Pasquini et al. 2021)."""
    members = (min(u, v), max(u, v))
    where: list[Item] = [_DOMAIN, "mask", parameters.session, parameters.round, j, *members, model_hash]
    return derive(shared, t1, encode(where))


def stream_key(parameters: SessionParameters, seed: bytes, j: int, label: str) -> bytes:
    """The AES-256 key of one stream; label is "pair" or "self"."""
    return derive(seed, b"", encode([_DOMAIN, "stream", parameters.session, parameters.round, j, label]))


def seal_key(parameters: SessionParameters, shared: bytes, t1: bytes, sender: int, receiver: int) -> bytes:
    """The key of the one message that `sender` seals for `receiver` in this round."""
    return derive(shared, t1, encode([_DOMAIN, "seal", parameters.session, parameters.round, sender, receiver]))


def seal(key: bytes, plaintext: bytes, sender: int, receiver: int) -> bytes:
    """AES-256-GCM under a key that is used once (so a constant nonce), with the id pair as associated data."""
    return AESGCM(key).encrypt(_SEAL_NONCE, plaintext, encode([sender, receiver]))


def unseal(key: bytes, sealed: bytes, sender: int, receiver: int) -> bytes:
    """The plaintext; raises cryptography's InvalidTag."""
    return AESGCM(key).decrypt(_SEAL_NONCE, sealed, encode([sender, receiver]))


def check_public_key(public_key: bytes) -> None:
    """Refuse an X25519 key that is not 32 bytes, not canonical (RFC 7748, 5: not reduced), or of low order.

    Non-canonical encodings would be second names for a key, so uniqueness could be evaded. Raises ProtocolError.
    """
    point = int.from_bytes(public_key, "little")
    if len(public_key) != 32 or point >= _FIELD_PRIME:
        raise ProtocolError(Code.BAD_KEY, "an X25519 public key is not 32 canonical bytes")
    if point in LOW_ORDER_POINTS:
        raise ProtocolError(Code.BAD_KEY, "an X25519 public key has low order")


class KeyAgreement:
    """X25519 (RFC 7748) with one private key of 32 bytes, which is expanded once."""

    def __init__(self, private_key: bytes) -> None:
        self._key = X25519PrivateKey.from_private_bytes(private_key)

    def exchange(self, public_key: bytes) -> bytes:
        """32 bytes; a low-order point, which makes the result all zero, is refused (ProtocolError)."""
        try:
            return self._key.exchange(X25519PublicKey.from_public_bytes(public_key))
        except ValueError:
            raise ProtocolError(Code.BAD_KEY, "an X25519 public key has low order") from None

    def __repr__(self) -> str:
        return "KeyAgreement()"


def exchange(private_key: bytes, public_key: bytes) -> bytes:
    """One X25519 exchange; see `KeyAgreement`."""
    return KeyAgreement(private_key).exchange(public_key)


def public_of(private_key: bytes) -> bytes:
    """The X25519 public key (32 bytes) of a private one."""
    return X25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()


def segment(cipher: AESGCM, index: int, size: int, out: memoryview) -> None:
    """Write `size` <= 256 KiB keystream bytes of segment `index` to the front of `out` (size + 16 bytes long)."""
    zeros = _ZEROS if size == SEGMENT_BYTES else memoryview(_ZEROS)[:size]
    cipher.encrypt_into(index.to_bytes(12, "big"), zeros, None, out)


Term = tuple[bytes, int]
"""A stream key and its sign, +1 or -1."""


def add_streams(vector: np.ndarray, terms: Iterable[Term], *, threads: int = 1) -> None:
    """Add the streams of `terms` to `vector` (uint32[d] or uint64[d], contiguous) modulo 2^32 or 2^64, in place.

    Works a segment at a time, all streams over one segment, so that the segment stays in cache. The result does not
    depend on `threads`.
    """
    ciphers = [(AESGCM(key), sign) for key, sign in terms]
    if any(sign not in (1, -1) for _, sign in ciphers):
        raise ValueError("a mask's sign is +1 or -1")
    if vector.dtype.kind != "u" or vector.dtype.itemsize not in (4, 8) or not vector.flags.c_contiguous:
        raise ValueError("masks are added to a contiguous uint32 or uint64 vector")
    words = SEGMENT_BYTES // vector.dtype.itemsize
    segments = -(-vector.size // words)
    workers = max(1, min(threads, segments))
    if workers == 1:
        _add_segments(vector, ciphers, range(segments))
        return
    with ThreadPoolExecutor(workers) as pool:
        bounds = [segments * k // workers for k in range(workers + 1)]
        jobs = [pool.submit(_add_segments, vector, ciphers, range(start, stop)) for start, stop in pairwise(bounds)]
        for job in jobs:
            job.result()


def _add_segments(vector: np.ndarray, ciphers: Sequence[tuple[AESGCM, int]], indices: range) -> None:
    width = vector.dtype.itemsize
    words = SEGMENT_BYTES // width
    buffer = np.empty(SEGMENT_BYTES + TAG_BYTES, dtype=np.uint8)
    little = np.dtype(f"<u{width}")
    for index in indices:
        part = vector[index * words : (index + 1) * words]
        size = part.size * width
        out = buffer[: size + TAG_BYTES].data
        stream = buffer[:size].view(little)
        for cipher, sign in ciphers:
            segment(cipher, index, size, out)
            if sign > 0:
                np.add(part, stream, out=part)
            else:
                np.subtract(part, stream, out=part)
