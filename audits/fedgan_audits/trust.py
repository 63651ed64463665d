"""Which keys an auditor trusts, and where they came from.

Keys come from outside of the bundle: files named NAME.pub.pem, one key in each. The keys that a policy lists are
compared with them. A key that nobody vouched for outside still has to fit everywhere, but the result says that it
was not checked against an outside source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from fedgan_audits import envelope
from fedgan_audits.errors import RecordInvalid
from fedgan_audits.records import MAX_HOSPITALS, is_name

COORDINATOR = "coordinator"
MAX_KEY_BYTES = 16_384
MAX_KEY_FILES = 20_000


def public_key(data: bytes, what: str) -> Ed25519PublicKey:
    """The Ed25519 public key in a PEM file; raises RecordInvalid that names `what` for anything else."""
    hint = "Give the public key that the hospital sent you, as made by `fedgan-secure keys new` (NAME.pub.pem)."
    if len(data) > MAX_KEY_BYTES:
        raise RecordInvalid(f"{what}: larger than a key; expected one public key in PEM", hint=hint)
    if b"PRIVATE KEY" in data:
        raise RecordInvalid(f"{what}: a private key; expected a public one", hint=hint)
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise RecordInvalid(f"{what}: not a public key in PEM", hint=hint) from None
    if not isinstance(key, Ed25519PublicKey):
        raise RecordInvalid(f"{what}: a key of another kind; expected Ed25519", hint=hint)
    return key


def _name_of(path: Path) -> str:
    return path.name.removesuffix(".pem").removesuffix(".pub")


def load_trust(places: Sequence[Path]) -> dict[str, Ed25519PublicKey]:
    """Keys by name from PEM files and from folders of them.

    Raises RecordInvalid (exit code 2) for a place without keys, a key of another kind, or one name with two keys.
    """
    found: dict[str, Ed25519PublicKey] = {}
    for place in places:
        files = [place]
        if place.is_dir():
            files = sorted(place.glob("*.pub.pem")) or sorted(place.glob("*.pem"))
        if not files or len(files) > MAX_KEY_FILES:
            raise RecordInvalid(
                f"{place}: {len(files)} keys found, expected files named NAME.pub.pem",
                hint="Put each hospital's public key into a file of its own, such as keys/a.pub.pem.",
            )
        for file in files:
            try:
                with file.open("rb") as opened:
                    data = opened.read(MAX_KEY_BYTES + 1)
            except OSError as error:
                raise RecordInvalid(f"{file}: cannot be read ({error.strerror})") from None
            key = public_key(data, str(file))
            name = _name_of(file)
            if name in found and envelope.fingerprint(found[name]) != envelope.fingerprint(key):
                raise RecordInvalid(f"two different keys are given for {name}")
            found[name] = key
    return found


@dataclass(frozen=True)
class Roster:
    """Who must sign, with the keys to check: an outside key where one was given, else the policy's own."""

    keys: Mapping[str, Ed25519PublicKey]
    hospitals: tuple[str, ...]
    outside: frozenset[str]
    mismatched: tuple[str, ...]

    @cached_property
    def fingerprints(self) -> Mapping[str, str]:
        """Fingerprints of the keys, by name."""
        return {name: envelope.fingerprint(key) for name, key in self.keys.items()}

    @cached_property
    def by_keyid(self) -> Mapping[str, str]:
        """Names by key id."""
        return {keyid: name for name, keyid in self.fingerprints.items()}

    @cached_property
    def raw(self) -> Mapping[str, bytes]:
        """The keys' 32 bytes, by name."""
        encoding = (serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        return {name: key.public_bytes(*encoding) for name, key in self.keys.items()}


def _raw_key(text: Any, what: str) -> Ed25519PublicKey:
    try:
        raw = bytes.fromhex(text)
        if raw.hex() != text:
            raise ValueError
        return Ed25519PublicKey.from_public_bytes(raw)
    except (TypeError, ValueError, UnsupportedAlgorithm):
        raise RecordInvalid(f"the public key of {what} is not 64 lowercase hexadecimal digits") from None


def roster(policy: Any, trusted: Mapping[str, Ed25519PublicKey] | None) -> Roster:
    """The roster of a policy, with keys from outside taking precedence; raises RecordInvalid for a malformed policy."""
    match policy:
        case {"coordinator": {"public_key": coordinator}, "hospitals": [_, *_] as hospitals}:
            if len(hospitals) > MAX_HOSPITALS:
                raise RecordInvalid(f"the policy names {len(hospitals)} hospitals, expected at most {MAX_HOSPITALS}")
        case _:
            raise RecordInvalid("the policy names no coordinator or no hospitals")
    listed = {COORDINATOR: _raw_key(coordinator, COORDINATOR)}
    for entry in hospitals:
        match entry:
            case {"name": str(name), "public_key": key} if name not in listed and is_name(name):
                listed[name] = _raw_key(key, name)
            case _:
                raise RecordInvalid("a hospital of the policy lacks a plain name of its own or a public key")
    prints = {name: envelope.fingerprint(key) for name, key in listed.items()}
    if len(set(prints.values())) != len(prints):
        raise RecordInvalid("two members of the policy share a key")
    outside = {name: key for name, key in (trusted or {}).items() if name in listed}
    return Roster(
        keys={**listed, **outside},
        hospitals=tuple(name for name in listed if name != COORDINATOR),
        outside=frozenset(outside),
        mismatched=tuple(name for name, key in outside.items() if envelope.fingerprint(key) != prints[name]),
    )
