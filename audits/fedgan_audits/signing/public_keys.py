"""Ed25519 public keys: their forms, fingerprints, and those that no honest signer has."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedgan_audits.bundle import write_atomic


def public_pem(key: Ed25519PublicKey) -> bytes:
    """A public key in PEM (SubjectPublicKeyInfo, RFC 8410), as OpenSSL reads it."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def publish_trust(public: Path, keys: Mapping[str, Ed25519PublicKey]) -> None:
    """Write every public key to `trust/NAME.pub.pem`, one key in a file: OpenSSL reads only the first of several."""
    for name, key in keys.items():
        write_atomic(public / "trust" / f"{name}.pub.pem", public_pem(key))


_FIELD_PRIME = 2**255 - 19


_ORDER_EIGHT = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7


_SMALL_ORDER_Y = frozenset({0, 1, _FIELD_PRIME - 1, _ORDER_EIGHT, _FIELD_PRIME - _ORDER_EIGHT})


def fingerprint(public_key: Ed25519PublicKey) -> str:
    """`SHA256:` and the unpadded base64 of SHA-256 over the key's 32 raw bytes (RFC 8032, section 5.1.5)."""
    raw = public_key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return "SHA256:" + base64.b64encode(hashlib.sha256(raw).digest()).decode("ascii").rstrip("=")


def is_safe_key(public_key: Ed25519PublicKey) -> bool:
    """Whether the key's y is below 2^255 - 19 and the point is not of small order (RFC 8032, sections 5.1 and 5.1.3).

    Under a key of small order one signature verifies for many payloads (strong binding: Chalkias, Garillot and
    Nikolaenko, SSR 2020); an encoding that is not reduced is a second name of a key, with another fingerprint.
    """
    raw = public_key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    y = int.from_bytes(raw, "little") & (2**255 - 1)
    return y < _FIELD_PRIME and y not in _SMALL_ORDER_Y


def raw_of(key: Ed25519PublicKey) -> str:
    """The 32 bytes of a public key in hexadecimal."""
    return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw).hex()


def public(raw: str) -> Ed25519PublicKey:
    """The public key with these 32 bytes, given in hexadecimal."""
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(raw))
