"""The two secrets of a site, made on first use: its identity and the key of its pseudonyms."""

from __future__ import annotations

import secrets
from pathlib import Path

from fedgan_protocols.primitives import Identity
from fedgan_secure.privacy import Entropy
from fedgan_secure.storage import write_bytes


def load_identity(path: Path, entropy: Entropy) -> Identity:
    """The identity kept at `path`, made on first use."""
    if path.exists():
        return Identity.load(path)
    identity = Identity.generate(entropy)
    identity.save(path)
    return identity


def load_secret(path: Path) -> bytes:
    """The site's 32-byte key for pseudonyms, made on first use."""
    if not path.exists():
        write_bytes(path, secrets.token_bytes(32), private=True)
    return path.read_bytes()
