"""Which keys an auditor trusts, and where they came from.

Keys come from outside of the bundle: files named NAME.pub.pem, one key in each. The keys that a policy lists are
compared with them. A key that nobody vouched for outside still has to fit everywhere, but the result says that it
was not checked against an outside source. Beside the keys may be their holders' statements on rotations and
revocations (*.dsse.json, `key_statements`), which lead from a trusted key to the ones before and after it, and the
auditor's own list of revoked keys (revoked.txt).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from fedgan_audits import canonical_json
from fedgan_audits.errors import RecordInvalid
from fedgan_audits.facts import MAX_HOSPITALS, is_name
from fedgan_audits.signing import key_statements, public_keys
from fedgan_audits.signing.held_keys import Held, KeyHistory, Listed, Revoked
from fedgan_audits.signing.key_history import Finding, histories

COORDINATOR = "coordinator"
MAX_KEY_BYTES = 16_384
MAX_KEY_FILES = 20_000
MAX_LIST_BYTES = 2**20
REVOKED = "revoked.txt"
STATEMENT = ".dsse.json"
_UNSAFE = "a key of small order, or not in its one encoding: it identifies no signer"
_LINE = re.compile(r"(SHA256:[A-Za-z0-9+/]{43})\s+(\S+)(?:\s.*)?\Z")


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
    if not public_keys.is_safe_key(key):
        raise RecordInvalid(f"{what}: {_UNSAFE}", hint=hint)
    return key


def _name_of(path: Path) -> str:
    return path.name.removesuffix(".pem").removesuffix(".pub")


@dataclass(frozen=True)
class Trust:
    """What an auditor brings along: keys by name, what their holders state about them, and a list of revoked keys.

    `histories` are the keys of each member as far as the statements lead; `findings` what is wrong with a statement.
    """

    keys: Mapping[str, Ed25519PublicKey]
    histories: Mapping[str, KeyHistory]
    listed: tuple[Listed, ...] = ()
    statements: int = 0
    findings: tuple[Finding, ...] = ()

    @classmethod
    def of(
        cls,
        keys: Mapping[str, Ed25519PublicKey],
        statements: Sequence[key_statements.Signed] = (),
        listed: Sequence[Listed] = (),
        unreadable: Sequence[Finding] = (),
    ) -> Trust:
        """Keys alone, or with what goes with them."""
        anchors = {name: public_keys.raw_of(key) for name, key in keys.items()}
        found, findings = histories(anchors, statements, listed)
        return cls(keys, found, tuple(listed), len(statements) + len(unreadable), (*unreadable, *findings))


def load_trust(places: Sequence[Path]) -> Trust:
    """Keys by name from PEM files and folders of them, with the statements and the list that lie there.

    Raises RecordInvalid (exit code 2) for a place without keys, a key of another kind, one name with two keys, or a
    list that cannot be read. A statement that is not sound is a finding of the verification (exit code 5), no error.
    """
    keys: dict[str, Ed25519PublicKey] = {}
    statements: dict[str, key_statements.Signed] = {}
    listed: list[Listed] = []
    unreadable: list[Finding] = []
    for place in places:
        files = [place]
        if place.is_dir():
            files = sorted(place.glob("*.pub.pem")) or sorted(place.glob("*.pem"))
            _load_keys(place, files, keys)
            files = [*sorted(place.glob(f"*{STATEMENT}")), *place.glob(REVOKED)]
            if len(files) > MAX_KEY_FILES:
                raise RecordInvalid(f"{place}: more than {MAX_KEY_FILES} statements about keys")
        for file in files:
            if file.name.endswith(STATEMENT):
                try:
                    data = _bytes(file, key_statements.MAX_STATEMENT_BYTES)
                    statements.setdefault(hashlib.sha256(data).hexdigest(), key_statements.read(data, file.name))
                except canonical_json.EnvelopeError as error:
                    unreadable.append((file.name, str(error)))
                except (ValueError, OverflowError, TypeError, RecursionError) as error:
                    unreadable.append((file.name, f"cannot be read ({type(error).__name__})"))
            elif file.name == REVOKED:
                listed += read_revoked(_bytes(file, MAX_LIST_BYTES), file.name)
            else:
                _load_keys(place, [file], keys)
    if not keys:
        raise RecordInvalid(
            "statements about keys were given, and no key to start from; expected files named NAME.pub.pem",
            hint="Add the key that the hospital gave you, or the folder that holds it.",
        )
    return Trust.of(keys, tuple(statements.values()), listed, unreadable)


def _bytes(file: Path, limit: int) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(limit + 1)
    except OSError as error:
        raise RecordInvalid(f"{file}: cannot be read ({error.strerror})") from None


def read_revoked(data: bytes, file: str) -> list[Listed]:
    """An auditor's list: fingerprint, moment from which it is revoked (ISO 8601 with a zone), remark; # comments.

    A fraction of a second is rounded down, since what is held against the list is dated in whole seconds.

    Raises RecordInvalid that names the line where it is not that.
    """
    if len(data) > MAX_LIST_BYTES:
        raise RecordInvalid(f"{file}: larger than {MAX_LIST_BYTES} bytes, so that lines would be left unread")
    found = []
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = _LINE.match(text)
        try:
            moment = datetime.fromisoformat(match.group(2)) if match else None
            moment = None if moment is None or moment.tzinfo is None else moment.astimezone(UTC).replace(microsecond=0)
        except (ValueError, OverflowError):
            moment = None
        if match is None or moment is None:
            raise RecordInvalid(
                f"{file}, line {number}: expected a fingerprint and a moment, such as SHA256:... 2026-03-02T09:00:00Z",
                hint="`fedgan-secure keys fingerprint FILE` prints a key's fingerprint.",
            )
        found.append(Listed(match.group(1), moment, file))
    return found


def _load_keys(place: Path, files: Sequence[Path], found: dict[str, Ed25519PublicKey]) -> None:
    if not files or len(files) > MAX_KEY_FILES:
        raise RecordInvalid(
            f"{place}: {len(files)} keys found, expected files named NAME.pub.pem",
            hint="Put each hospital's public key into a file of its own, such as keys/a.pub.pem.",
        )
    for file in files:
        data = _bytes(file, MAX_KEY_BYTES)
        key = public_key(data, str(file))
        name = _name_of(file)
        if name in found and public_keys.fingerprint(found[name]) != public_keys.fingerprint(key):
            raise RecordInvalid(f"two different keys are given for {name}")
        found[name] = key


@dataclass(frozen=True)
class Roster:
    """Who must sign, with the keys to check: an outside key where one was given, else the policy's own."""

    keys: Mapping[str, Ed25519PublicKey]
    hospitals: tuple[str, ...]
    outside: frozenset[str]
    mismatched: tuple[str, ...]
    histories: Mapping[str, KeyHistory]
    """The keys of each member; of one whose key nobody vouched for outside, the policy's alone."""
    statements: bool = False
    """Whether statements about keys, or a list of revoked ones, were given at all."""

    def held(self, name: str) -> Held:
        """The key that a member takes part with in this run."""
        raw = self.raw[name].hex()
        return self.histories[name].get(raw) or Held(raw)

    def owner(self, keyid: str) -> tuple[str, Held] | None:
        """Whose key this is, earlier and later keys of the members included."""
        for name in self.keys:
            for held in (self.held(name), *self.histories[name].keys):
                if held.fingerprint == keyid:
                    return name, held
        return None

    @cached_property
    def fingerprints(self) -> Mapping[str, str]:
        """Fingerprints of the keys, by name."""
        return {name: public_keys.fingerprint(key) for name, key in self.keys.items()}

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
        key = Ed25519PublicKey.from_public_bytes(raw)
    except (TypeError, ValueError, UnsupportedAlgorithm):
        raise RecordInvalid(f"the public key of {what} is not 64 lowercase hexadecimal digits") from None
    if not public_keys.is_safe_key(key):
        raise RecordInvalid(f"the public key of {what}: {_UNSAFE}")
    return key


def roster(policy: Any, trusted: Trust | None) -> Roster:
    """The roster of a policy, with keys from outside taking precedence; raises RecordInvalid for a malformed policy.

    A key of the policy that is an earlier or later key of the one from outside, by statements, is as good as that one.
    """
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
    prints = {name: public_keys.fingerprint(key) for name, key in listed.items()}
    if len(set(prints.values())) != len(prints):
        raise RecordInvalid("two members of the policy share a key")
    known = {name: history for name, history in (trusted.histories if trusted else {}).items() if name in listed}
    mismatched = tuple(name for name, history in known.items() if history.get(public_keys.raw_of(listed[name])) is None)
    others = {name: KeyHistory(name, (_alone(key, trusted),)) for name, key in listed.items() if name not in known}
    return Roster(
        keys={**listed, **{name: public_keys.public(known[name].newest.raw) for name in mismatched}},
        hospitals=tuple(name for name in listed if name != COORDINATOR),
        outside=frozenset(known),
        mismatched=mismatched,
        histories={**known, **others},
        statements=trusted is not None and bool(trusted.statements or trusted.listed),
    )


def _alone(key: Ed25519PublicKey, trusted: Trust | None) -> Held:
    """A key that no statement is about; the auditor's list may name it all the same."""
    raw, print_ = public_keys.raw_of(key), public_keys.fingerprint(key)
    lines = [line for line in (trusted.listed if trusted else ()) if line.fingerprint == print_]
    return Held(raw, revoked=tuple(Revoked(line.since, f"your own list {line.file}", "", None, True) for line in lines))
