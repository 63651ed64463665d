"""Long-lived identities: Ed25519 keys (RFC 8032), their files and the fingerprints that people compare.

A fingerprint is ``"SHA256:"`` followed by the standard base64 of SHA-256 over the raw 32-byte public key, without
padding: 43 characters, the same form that OpenSSH prints (over the raw key, not over OpenSSH's blob).
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedgan_protocols.errors import Code, ParameterError

Entropy: TypeAlias = Callable[[int], bytes]

_KEY_FILE_LIMIT = 16_384
_FIELD_PRIME = 2**255 - 19
_ORDER_EIGHT = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
SMALL_ORDER_Y = frozenset({0, 1, _FIELD_PRIME - 1, _ORDER_EIGHT, _FIELD_PRIME - _ORDER_EIGHT})
"""The y coordinates of the eight points of edwards25519 whose order divides 8."""


def is_safe_public_key(public_key: bytes) -> bool:
    """Whether raw bytes can be the Ed25519 key of one signer; that they are a point of the curve is not checked.

    Args: public_key: bytes of any length.

    False unless they are 32, encode a y below 2^255 - 19 (RFC 8032, 5.1.3: other encodings are second names of a key)
    and are no point of small order: under such a key one signature verifies for many messages (strong binding:
    Chalkias, Garillot and Nikolaenko, SSR 2020), and anybody can make it.
    """
    y = int.from_bytes(public_key, "little") & (2**255 - 1)
    return len(public_key) == 32 and y < _FIELD_PRIME and y not in SMALL_ORDER_Y


def public_pem(public_key: bytes) -> bytes:
    """SubjectPublicKeyInfo PEM of a raw 32-byte Ed25519 public key."""
    return Ed25519PublicKey.from_public_bytes(public_key).public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def fingerprint(public_key: bytes) -> str:
    """``SHA256:`` + unpadded standard base64 of SHA-256(raw public key, 32 bytes)."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(public_key).digest()).decode("ascii").rstrip("=")


def verify(public_key: bytes, data: bytes, signature: bytes) -> bool:
    """Whether `signature` (64 bytes) over `data` verifies under the raw Ed25519 `public_key` (RFC 8032, 5.1.7).

    Never under a key that is not canonical or of small order (`is_safe_public_key`).
    """
    if not is_safe_public_key(public_key):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


@dataclass(frozen=True)
class Identity:
    """An Ed25519 key pair. Its repr shows the fingerprint only."""

    private_key: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def generate(cls, entropy: Entropy = os.urandom) -> Identity:
        """A fresh identity from 32 bytes of `entropy`."""
        return cls(Ed25519PrivateKey.from_private_bytes(entropy(32)))

    @classmethod
    def load(cls, path: str | Path) -> Identity:
        """Read an unencrypted PKCS8 PEM; raises ParameterError when the file is not one or others may read it."""
        path = Path(path)
        data = _read(path)
        mode = path.stat().st_mode & 0o777
        if os.name == "posix" and mode & 0o077:
            raise ParameterError(
                Code.KEY_FILE,
                f"{path}: others may read this private key (mode {mode:04o}; 0600 was expected)",
                hint=f"run `chmod 600 {path}`, and make a new key if others may have read this one",
            )
        try:
            key = serialization.load_pem_private_key(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise _not_a_key(path, "private") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise _not_a_key(path, "private")
        return cls(key)

    @property
    def public_key(self) -> bytes:
        """The raw public key, 32 bytes."""
        return self.private_key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.public_key)

    def public_pem(self) -> bytes:
        return public_pem(self.public_key)

    def sign(self, data: bytes) -> bytes:
        """Ed25519 signature, 64 bytes (deterministic)."""
        return self.private_key.sign(data)

    def save(self, path: str | Path) -> None:
        """Write PKCS8 PEM with mode 0600, whole or not at all; never overwrites (ParameterError)."""
        path = Path(path)
        data = self.private_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_new(path, data, 0o600)

    def __repr__(self) -> str:
        return f"Identity({self.fingerprint})"


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Create `path` with `data`, durably and atomically; an existing file is refused (ParameterError)."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)  # fails when the name is taken, unlike a rename
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
        _sync_directory(path.parent)
    except FileExistsError:
        raise ParameterError(
            Code.KEY_FILE, f"{path} exists and is not overwritten", hint="choose another name or folder"
        ) from None
    except OSError as error:
        raise ParameterError(Code.KEY_FILE, f"{path} cannot be written: {error.strerror}") from None


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_KEY_FILE_LIMIT + 1)
    except OSError as error:
        raise ParameterError(Code.KEY_FILE, f"{path} cannot be read: {error.strerror}") from None
    if len(data) > _KEY_FILE_LIMIT:
        raise ParameterError(Code.KEY_FILE, f"{path} is too large for a key file")
    return data


def _not_a_key(path: Path, kind: str) -> ParameterError:
    return ParameterError(
        Code.KEY_FILE,
        f"{path} holds no Ed25519 {kind} key in unencrypted PEM",
        hint="make one with `fedgan-secure keys new NAME --output DIR`",
    )


def load_public_key(path: str | Path) -> bytes:
    """The raw public key (32 bytes) in a public or a private PEM file; raises ParameterError."""
    path = Path(path)
    data = _read(path)
    if b"PRIVATE KEY" in data:
        return Identity.load(path).public_key
    try:
        key = serialization.load_pem_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _not_a_key(path, "public") from None
    if not isinstance(key, Ed25519PublicKey):
        raise _not_a_key(path, "public")
    if not is_safe_public_key(key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)):
        raise ParameterError(
            Code.KEY_FILE,
            f"{path} holds an Ed25519 key of small order, or one that is not canonical: it identifies no signer",
            hint="ask its owner for a key that `fedgan-secure keys new` made",
        )
    return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
