"""A site's key is followed by a new one, or revoked: the statement, the ledger's entry, and the key file itself.

The order survives a crash at any point. The new key is written beside the old one, then the statement, then the
ledger's entry, and last the new key takes the old one's place. A command that is given again goes on where the last one
ended: a second statement that names another successor would be a fork, which nobody who verifies would follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from fedgan_audits.bundle import write_atomic
from fedgan_audits.errors import AuditError
from fedgan_audits.ledger import Ledger
from fedgan_audits.signing import KeyHistory, Revocation, Rotation, Signed, SignedRun, histories, key_statements
from fedgan_protocols.primitives import Identity
from fedgan_secure.errors import InputError
from fedgan_secure.storage import sole_owner

ROTATED = "key_rotated"
REVOKED = "key_revoked"


@dataclass(frozen=True)
class KeyPlace:
    """Where a member keeps its key, its ledger (a hospital's alone) and its statements."""

    key: Path
    name: str
    ledger: Path | None

    @property
    def statements(self) -> Path:
        return self.key.parent / "keys"

    @property
    def lock(self) -> Path:
        """Held while the key is followed or revoked: two successors at once would be a fork."""
        return self.key.with_name(f".{self.key.name}.lock")

    @property
    def following(self) -> Path:
        """The new key until it takes the old one's place."""
        return self.key.with_name(f".{self.key.name}.next")

    @classmethod
    def of(cls, key: Path, name: str | None = None, ledger: Path | None = None) -> KeyPlace:
        """The name is the site's folder or the file's own stem; the ledger the one beside the key, if there is one."""
        told = key.resolve().parent.name if key.name == "identity.pem" else key.stem
        beside = key.parent / "ledger.sqlite"
        return cls(key, name or told, ledger or (beside if beside.exists() else None))

    def read(self) -> list[Signed]:
        """The statements of this member that are kept beside its key, in the order of their file names."""
        found = []
        for file in sorted(self.statements.glob("*.dsse.json")):
            try:
                signed = key_statements.read(file.read_bytes(), file.name)
            except (AuditError, OSError) as error:
                raise InputError(
                    f"{file}: {error}", hint="restore it from a backup; others hold copies of it"
                ) from error
            if signed.statement.name != self.name:
                raise InputError(
                    f"{file} is about {signed.statement.name}, expected {self.name}",
                    hint="give --name, or move the statements of others elsewhere",
                )
            found.append(signed)
        return found


@dataclass(frozen=True)
class Done:
    """What was written: the statement's file, the fingerprints of the key it is about and of the one in use now.

    `since` is when a revocation begins. `leads` is False where whoever trusts the key that the statement is about is
    not led by it to the key in use.
    """

    statement: Path
    key: str
    in_use: str
    public_pem: bytes
    signed: int | None
    since: datetime | None = None
    leads: bool = True


def rotate(place: KeyPlace, moment: datetime, remarks: str = "") -> Done:
    """Let a new key follow the one at `place`, which is destroyed.

    Raises InputError for a key that is revoked or was followed already and whose new key is gone, for statements
    beside it that are not sound, and where another process is at work on it; what the ledger raises where it cannot be
    read or written.
    """
    with sole_owner(place.lock, f"the key {place.key}"):
        return _rotate(place, moment, remarks)


def _rotate(place: KeyPlace, moment: datetime, remarks: str) -> Done:
    old = Identity.load(place.key)
    raw = old.public_key.hex()
    statements = place.read()
    before = _newest(place, statements)
    mine = next((signed for signed in statements if _rotation(signed, "old_key") == raw), None)
    if mine is None:
        _refuse_revoked(place, statements, raw)
        if before is not None and _rotation(before, "new_key") != raw:
            raise InputError(
                f"{before.file} says that another key than {old.fingerprint} is in use",
                hint="restore the identity that goes with the statements in keys/",
            )
        new = Identity.load(place.following) if place.following.exists() else _fresh(place)
        runs, head = _ledger(place)
        data = key_statements.rotation(
            place.name, old.private_key, new.private_key, moment=moment, before=before, signed=runs, ledger_head=head,
            remarks=remarks,
        )  # fmt: skip
        mine = key_statements.read(data, "")
        number = mine.statement.sequence if isinstance(mine.statement, Rotation) else 0
        file = write_atomic(place.statements / f"{place.name}.rotation-{number:04d}.dsse.json", data)
        mine = key_statements.read(data, file.name)
    if not place.following.exists():
        raise InputError(
            f"{place.key} was followed by another key already ({mine.file}), and that key is not here",
            hint="restore identity.pem from a backup made after the rotation",
        )
    new = Identity.load(place.following)
    if new.public_key.hex() != _rotation(mine, "new_key"):
        raise InputError(f"{place.following} is not the key that {mine.file} names", hint="restore it from a backup")
    _note(place, ROTATED, mine)
    place.following.replace(place.key)
    signed = mine.statement.signed
    return Done(
        place.statements / mine.file, old.fingerprint, new.fingerprint, new.public_pem(),
        None if signed is None else len(signed),
    )  # fmt: skip


def revoke(place: KeyPlace, fingerprint: str, since: datetime | None, moment: datetime, reason: str) -> Done:
    """Revoke one of the member's keys, by its fingerprint, with the key at `place`: that key itself or a later one.

    Without `since` it begins now, at `moment`: what was signed in the second of `moment` still counts.

    Raises InputError for a key that is none of the member's up to the one at `place`, without `since` for a clock that
    is behind the statements there, and where another process is at work on the key.
    """
    with sole_owner(place.lock, f"the key {place.key}"):
        return _revoke(place, fingerprint, since, moment, reason)


def _revoke(place: KeyPlace, fingerprint: str, since: datetime | None, moment: datetime, reason: str) -> Done:
    own = Identity.load(place.key)
    statements = place.read()
    history = _history(place, own.public_key.hex(), statements)
    raws = [held.raw for held in history.keys]
    chosen = next((raw for raw in raws if key_statements.fingerprint(raw) == fingerprint), None)
    if chosen is None:
        raise InputError(
            f"{fingerprint} is neither the key in {place.key} nor one that it followed ({len(raws)} known)",
            hint="`fedgan-secure keys fingerprint` prints a key's fingerprint; the statements are in keys/",
        )
    begins = since if since is not None else _now(moment, statements)
    position = raws.index(chosen)
    runs, head = _ledger(place)
    data = key_statements.revocation(
        place.name, chosen, own.private_key, since=begins, moment=moment,
        successor=raws[position + 1] if position + 1 < len(raws) else None,
        signed=runs if position + 1 == len(raws) else _runs_of(history, position), ledger_head=head, reason=reason,
    )  # fmt: skip
    count = sum(isinstance(signed.statement, Revocation) for signed in statements)
    file = write_atomic(place.statements / f"{place.name}.revocation-{count + 1:04d}.dsse.json", data)
    made = key_statements.read(data, file.name)
    _note(place, REVOKED, made)
    seen, _ = histories({place.name: chosen}, [*statements, made], ())
    return Done(
        file, fingerprint, own.fingerprint, own.public_pem(), None if runs is None else len(runs), begins,
        leads=seen[place.name].get(own.public_key.hex()) is not None,
    )  # fmt: skip


def _now(moment: datetime, statements: Sequence[Signed]) -> datetime:
    """When a revocation begins that is made at `moment` and is to begin now; refused for a clock that was set back."""
    last = max((signed.statement.time for signed in statements), default=moment)
    if moment < last:
        raise InputError(
            f"the clock says {moment:%Y-%m-%d %H:%M:%S} UTC, before the last statement here ({last:%Y-%m-%d %H:%M:%S})",
            hint="set the clock, or say with --since from when on the key may have been in other hands",
        )
    return key_statements.next_second(moment)


def refuse_revoked(place: KeyPlace) -> None:
    """Raise InputError where a statement beside the key at `place` revokes it: what it signs counts for nothing."""
    if not place.key.exists():
        return
    raw = Identity.load(place.key).public_key.hex()
    found = [s.statement.since for s in place.read() if isinstance(s.statement, Revocation) and s.statement.key == raw]
    if found:
        raise InputError(
            f"{place.name}: the key in {place.key} is revoked from {min(found):%Y-%m-%d %H:%M:%S} UTC on",
            hint="what it signs counts for nothing; use a new identity and begin a new run",
        )


def _runs_of(history: KeyHistory, position: int) -> tuple[SignedRun, ...] | None:
    """What the member had signed when this earlier key was followed by another."""
    retired = history.keys[position].retired
    return None if retired is None else retired.signed


def _history(place: KeyPlace, raw: str, statements: Sequence[Signed]) -> KeyHistory:
    found, findings = histories({place.name: raw}, statements, ())
    if findings:
        raise InputError(f"{findings[0][0]} {findings[0][1]}", hint="restore the folder keys/ from a backup")
    return found[place.name]


def _rotation(signed: Signed, side: str) -> str | None:
    return getattr(signed.statement, side) if isinstance(signed.statement, Rotation) else None


def _newest(place: KeyPlace, statements: Sequence[Signed]) -> Signed | None:
    rotations = [(s.statement.sequence, s) for s in statements if isinstance(s.statement, Rotation)]
    if sorted(number for number, _ in rotations) != list(range(1, len(rotations) + 1)):
        raise InputError(
            f"{place.statements}: the rotations there are not numbered 1 to {len(rotations)}",
            hint="restore the folder from a backup; others hold copies of the statements",
        )
    return max(rotations, key=lambda entry: entry[0])[1] if rotations else None


def _refuse_revoked(place: KeyPlace, statements: Sequence[Signed], raw: str) -> None:
    if any(isinstance(s.statement, Revocation) and s.statement.key == raw for s in statements):
        raise InputError(
            f"the key in {place.key} is revoked, so it can name no successor that others would believe",
            hint="make a new identity with `fedgan-secure keys new` and hand its public key to the others yourself",
        )


def _fresh(place: KeyPlace) -> Identity:
    new = Identity.generate()
    new.save(place.following)
    return new


def _ledger(place: KeyPlace) -> tuple[tuple[SignedRun, ...] | None, str | None]:
    """The newest report of every run that this hospital signed, and the ledger's last entry; None without a ledger."""
    if place.ledger is None:
        return None, None
    with Ledger.open(place.ledger, hospital=place.name, read_only=True) as ledger:
        newest: dict[str, SignedRun] = {}
        for entry in ledger.entries():
            if entry.kind == "report_signed" and entry.run_id is not None and entry.round is not None:
                run = SignedRun(run_id=entry.run_id, round=entry.round, digest=str(entry.facts["digest"]))
                newest[entry.run_id] = run
        return tuple(newest[run] for run in sorted(newest)), ledger.head()


def _note(place: KeyPlace, kind: str, signed: Signed) -> None:
    """Write the statement's digest into the ledger, once."""
    if place.ledger is None:
        return
    statement = signed.statement
    raw = statement.old_key if isinstance(statement, Rotation) else statement.key
    facts = {"statement": signed.digest, "key": key_statements.fingerprint(raw)}
    with Ledger.open(place.ledger, hospital=place.name) as ledger:
        if all(entry.facts.get("statement") != signed.digest for entry in ledger.entries() if entry.kind == kind):
            ledger.record(kind, None, None, facts)
