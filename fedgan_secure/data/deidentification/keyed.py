"""Names that only the hospital can make: pseudonyms, UIDs and file names, by HMAC-SHA256 under its own secret."""

from __future__ import annotations

import hashlib
import hmac
import uuid
from dataclasses import dataclass, field

from pydicom.uid import UID_dictionary

from fedgan_secure.data.patients import MINIMUM_SECRET_BYTES, pseudonym


def is_registered(uid: str) -> bool:
    """Whether the standard itself names this UID (PS3.6 Annex A): a class, a syntax or a well-known object."""
    return uid in UID_dictionary


@dataclass(frozen=True)
class Keys:
    """The hospital's secret (at least 16 bytes), never printed. The same secret gives the same names in every file."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) < MINIMUM_SECRET_BYTES:
            raise ValueError(f"the secret has {len(self.secret)} bytes; at least {MINIMUM_SECRET_BYTES} are needed")

    def _digest(self, purpose: bytes, text: str) -> bytes:
        message = b"fedgan-secure/" + purpose + b"/1\0" + text.encode("utf-8", "surrogateescape")
        return hmac.new(self.secret, message, hashlib.sha256).digest()

    def uid(self, old: str) -> str:
        """A UID under 2.25 (DICOM PS3.5 B.2) from 122 bits of the HMAC of the old one, as a UUID of version 8.

        UIDs that the standard itself names are kept.
        """
        old = old.strip(" \0")
        if not old or is_registered(old):
            return old
        value = int.from_bytes(self._digest(b"uid", old)[:16], "big")
        value = value & ~(0xF << 76) | 0x8 << 76
        value = value & ~(0x3 << 62) | 0x2 << 62
        return f"2.25.{uuid.UUID(int=value).int}"

    def patient(self, identifier: str) -> str:
        """The same pseudonym that the loaders make of this identifier: 32 hexadecimal digits."""
        return pseudonym(self.secret, identifier)

    def file(self, path: str) -> str:
        """A name for a file without UID: 32 hexadecimal digits."""
        return self._digest(b"file", path).hex()[:32]

    def fingerprint(self) -> str:
        """Tells whether two runs used one secret, without telling anything of it."""
        return self._digest(b"fingerprint", "").hex()[:16]
