"""A hospital's budget ledger: every mechanism it ever allowed on its patients, append-only and hash-chained.

Rules:
* Reserve before spending. `reserve` returns only after the entry is on the disk; nothing is ever refunded.
* Entries store events (mechanisms), never an epsilon as the truth: figures are recomputed from them.
* One file is one hospital, over all its runs.
* Each entry's digest is SHA-256 over its canonical JSON (RFC 8785), which holds the previous entry's digest.
* Writers take turns: the cap is checked and the entry written under one lock. The file itself: file.py.

What the chain does not show: a tail that was cut off, or a file replaced by an older copy, unless a later head is held
elsewhere (`verify(head=...)`; the signed reports hold such heads). Whoever can write the file can rewrite it whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from fedgan_audits.accounting import MechanismRecord, SearchMechanism, accountant, budget
from fedgan_audits.errors import BudgetRefused, LedgerCorrupt, LedgerError, RecordInvalid
from fedgan_audits.ledger import caps
from fedgan_audits.ledger import file as ledger_file
from fedgan_audits.ledger.budget_refusals import Refused
from fedgan_audits.ledger.entries import LedgerEntry

GENESIS = "0" * 64
ENDED = "run_ended"
"""Kind of the entry after which a run reserves nothing any more, where its `outcome` is COMPLETE."""
COMPLETE = "complete"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_KIND = re.compile(r"[a-z][a-z0-9_]{0,39}")
_OWN_KINDS = frozenset({"opened", "reserved", caps.RAISED})
_MAX_FACTS = 1_000_000


def is_complete(entry: LedgerEntry) -> bool:
    """Tell whether an entry says that its hospital signed that a run is complete."""
    return entry.kind == ENDED and entry.facts.get("outcome") == COMPLETE


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class Ledger:
    """One hospital's ledger, open. Made by :meth:`open`; a context manager; safe to use from several threads."""

    def __init__(self, path: Path, connection: sqlite3.Connection, clock: Callable[[], str]) -> None:
        self.path = path
        self._db = connection
        self._clock = clock
        self._lock = threading.RLock()
        self._entries: list[LedgerEntry] = []

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        hospital: str | None = None,
        create: bool = False,
        read_only: bool = False,
        clock: Callable[[], str] = _now,
    ) -> Ledger:
        """Open the ledger at `path` and check its whole chain.

        `create` makes a new one (mode 0600) where there is none, and needs `hospital`. `hospital`, where given, must be
        the ledger's own. `read_only` never writes. `clock` gives the time as ISO 8601 UTC text.

        Raises LedgerError (exit 2) for no file, another hospital, a newer format, no access; LedgerCorrupt (exit 5) for
        a file that is not a ledger or whose chain is broken.
        """
        path = Path(path)
        if hospital is not None and not _NAME.fullmatch(hospital):
            raise RecordInvalid(
                f"the hospital's name is {hospital!r}, but letters, digits, '.', '_' and '-' are expected"
            )
        new = False
        if not path.exists():
            if not create or read_only or hospital is None:
                raise LedgerError(f"there is no ledger at {path}", hint="Check the path; a run makes its own ledgers.")
            new = ledger_file.make_file(path)
        connection = ledger_file.connect(path, read_only)
        ledger = cls(path, connection, clock)
        try:
            with ledger_file.translated(path):
                ledger._prepare(hospital, new_allowed=create and not read_only)
            if hospital is not None and ledger.hospital != hospital:
                raise LedgerError(
                    f"the ledger at {path} belongs to hospital {ledger.hospital!r}, but {hospital!r} was expected",
                    hint="One ledger is one hospital: give each hospital its own site directory.",
                )
        except BaseException:
            connection.close()
            if new and path.exists() and path.stat().st_size == 0:
                path.unlink()
            raise
        return ledger

    def _prepare(self, hospital: str | None, *, new_allowed: bool) -> None:
        if not new_allowed or hospital is None:
            ledger_file.check_format(self._db, self.path)
            self.verify()
            return
        # Two processes may create the same ledger at once: the first to take the lock writes the schema.
        with self._writing(fresh=True):
            if ledger_file.is_blank(self._db):
                ledger_file.create_schema(self._db)
                facts = {"format": ledger_file.FORMAT_VERSION, "hospital": hospital}
                self._append("opened", None, None, facts, hospital)
        ledger_file.check_format(self._db, self.path)
        self.verify()

    # -- reading -------------------------------------------------------------------------------------------------

    @property
    def hospital(self) -> str:
        """Whose ledger this is."""
        return self._entries[0].hospital

    def entries(self) -> tuple[LedgerEntry, ...]:
        """Every entry in order, other writers' included."""
        with self._lock, ledger_file.translated(self.path):
            self._catch_up()
            return tuple(self._entries)

    def head(self) -> str:
        """Digest of the last entry (64 hex digits): held elsewhere, it shows a tail that was cut off."""
        return self.entries()[-1].digest

    def reservations(self, run_id: str) -> dict[int, MechanismRecord]:
        """What this run reserved, by round."""
        return {
            entry.round: entry.mechanism
            for entry in self.entries()
            if entry.run_id == run_id and entry.mechanism is not None and entry.round is not None
        }

    def mechanisms(self, run_id: str | None = None, *, exclude_run: str | None = None) -> tuple[MechanismRecord, ...]:
        """Everything reserved, in order; of one run, or of all runs but one."""
        return tuple(
            entry.mechanism
            for entry in self.entries()
            if entry.mechanism is not None
            and (run_id is None or entry.run_id == run_id)
            and (exclude_run is None or entry.run_id != exclude_run)
        )

    def signed_heads(self, run_id: str) -> dict[int, str]:
        """Digest of the last report that was signed for each round of a run (entries of kind "report_signed")."""
        return {
            entry.round: str(entry.facts["digest"])
            for entry in self.entries()
            if entry.kind == "report_signed" and entry.run_id == run_id and entry.round is not None
        }

    def to_rows(self) -> list[dict[str, Any]]:
        """Every entry as plain JSON-able values."""
        return [
            {
                "sequence": entry.sequence,
                "time": entry.time,
                "hospital": entry.hospital,
                "kind": entry.kind,
                "run_id": entry.run_id,
                "round": entry.round,
                "facts": entry.facts,
                "previous": entry.previous,
                "digest": entry.digest,
            }
            for entry in self.entries()
        ]

    def verify(self, *, head: str | None = None) -> int:
        """Re-read everything and check every digest and link; return the number of entries.

        `head`, a digest held elsewhere, must be one of the entries'. Raises LedgerCorrupt naming the first bad entry.
        """
        with self._lock, ledger_file.translated(self.path):
            result = self._db.execute("PRAGMA integrity_check").fetchone()[0]
            self._entries = []
            self._catch_up()
            if result != "ok":
                raise LedgerCorrupt(f"the ledger's file {self.path} is damaged: {result}")
            if not self._entries:
                raise LedgerCorrupt(f"the ledger at {self.path} has no entry, but its first one is expected", entry=1)
            if head is not None and all(entry.digest != head for entry in self._entries):
                raise LedgerCorrupt(
                    f"no entry of the ledger at {self.path} has the digest {head}: its tail was cut off or replaced",
                )
            return len(self._entries)

    def _catch_up(self) -> None:
        """Read the entries after the last one known, checking each against the one before it."""
        rows = self._db.execute(
            "SELECT sequence, kind, run_id, round, body, digest FROM entries WHERE sequence > ? ORDER BY sequence",
            (len(self._entries),),
        )
        for row in rows:
            self._entries.append(self._checked(row, len(self._entries) + 1))

    def _checked(self, row: tuple[Any, ...], number: int) -> LedgerEntry:
        sequence, kind, run_id, round_, text, digest = row

        def damaged(what: str) -> LedgerCorrupt:
            return LedgerCorrupt(f"entry {number} of the ledger at {self.path} {what}", entry=number)

        if sequence != number:
            raise damaged(f"is missing: the next one is {sequence}")
        previous = self._entries[-1].digest if self._entries else GENESIS
        if not isinstance(text, str) or hashlib.sha256(text.encode()).hexdigest() != digest:
            raise damaged("does not have the digest that was written with it")
        try:
            body = json.loads(text)
            entry = LedgerEntry(digest=digest, **body)
            canonical = rfc8785.dumps(body).decode() == text
            well_formed = isinstance(entry.facts, dict) and isinstance(entry.hospital, str)
            mechanism = entry.mechanism
        except (ValueError, TypeError, KeyError, rfc8785.CanonicalizationError, ValidationError):
            raise damaged("cannot be read") from None
        if not canonical or not well_formed or (kind == "reserved") != (mechanism is not None):
            raise damaged("is not in the ledger's form")
        if (entry.sequence, entry.kind, entry.run_id, entry.round) != (number, kind, run_id, round_):
            raise damaged("differs from its own columns")
        if entry.previous != previous:
            raise damaged("does not follow from the entry before it")
        if self._entries and entry.hospital != self._entries[0].hospital:
            raise damaged(f"belongs to hospital {entry.hospital!r}")
        return entry

    # -- writing -------------------------------------------------------------------------------------------------

    def reserve(
        self,
        run_id: str,
        round: int,
        mechanism: MechanismRecord,
        delta: float,
        cap: float | None = None,
        target: float | None = None,
    ) -> LedgerEntry:
        """Reserve one round's mechanism: on return it is on the disk and counts as spent, whatever happens next.

        The rule is budget.allows, the one that reports count their rounds left by: the epsilon of the whole ledger
        with this reservation is held against `cap` (PLD within one run, the Rényi filter over several), that of the
        run alone against `target`, the policy's. Cap and delta have to stay: a delta above one that the ledger
        reserved at is refused under a cap. `cap` may lower what the ledger holds its hospital to
        (:meth:`standing_cap`), never raise it; the smaller one is recorded. Raises BudgetRefused (exit 3) above a
        limit, after writing an entry of kind "refused"; LedgerError for a second reservation of the same run and
        round; RecordInvalid and NotAccounted as the accountant does.
        """
        caps.check_cap(cap)
        with self._writing():
            cap = caps.smallest(cap, caps.standing_cap(self._entries))
            facts = {"mechanism": mechanism.model_dump(mode="json"), "delta": delta, "cap": cap}
            if round in self.reservations(run_id):
                raise LedgerError(
                    f"round {round} of run {run_id} is reserved already, and a reservation is never made twice",
                    hint="An attempt uses up its round: go on with the next one (run --resume does).",
                )
            refusal = self._refusal(run_id, round, mechanism, delta, cap, target)
            if refusal is None:
                return self._append("reserved", run_id, round, facts, self.hospital)
            refused = {"spent": accountant.round_up(refusal.spent), "asked": accountant.round_up(refusal.asked)}
            self._append("refused", run_id, round, {**facts, **refused}, self.hospital)
        raise refusal

    def refusal(
        self,
        run_id: str,
        round: int,
        mechanism: MechanismRecord,
        delta: float,
        cap: float | None,
        target: float | None = None,
    ) -> BudgetRefused | None:
        """What `reserve` would raise because of a limit, or None: asked before anybody pays. Writes nothing."""
        with self._lock, ledger_file.translated(self.path):
            self._catch_up()
            return self._refusal(run_id, round, mechanism, delta, cap, target)

    def _refusal(
        self,
        run_id: str,
        round_: int,
        mechanism: MechanismRecord,
        delta: float,
        cap: float | None,
        target: float | None,
    ) -> BudgetRefused | None:
        accountant.check_delta(delta)
        caps.check_cap(cap)
        cap = caps.smallest(cap, caps.standing_cap(self._entries))
        _check_place(run_id, round_, needed=True)
        by_run = self._by_run()
        after = {**by_run, run_id: [*by_run.get(run_id, []), mechanism]}
        records = [record for held in after.values() for record in held]
        accountant.refuse_unaccounted(records)
        if (found := budget.kinds(records)) > budget.MAX_KINDS:
            raise LedgerError(
                f"the ledger of hospital {self.hospital} would hold {found} different mechanisms, and reports of more "
                f"than {budget.MAX_KINDS} cannot be verified; nothing was spent",
                hint="run with settings that these patients' runs have had: sampling, noise, clip norm, unit",
            )
        what = "the search" if isinstance(mechanism, SearchMechanism) else f"round {round_}"
        refused = Refused(self.hospital, what, by_run, after, delta)
        if target is not None and not budget.allows(after, run_id, delta, None, target):
            return refused.over_target(run_id, target)
        if cap is None:
            return None
        strictest = min(self._deltas(), default=delta)
        if delta > strictest:
            return refused.at_another_delta(strictest, cap)
        return None if budget.allows(after, run_id, delta, cap) else refused.over_cap(cap)

    def record(self, kind: str, run_id: str | None, round: int | None, facts: Mapping[str, Any]) -> LedgerEntry:
        """Write down something that happened (round_started, round_finished, round_aborted, report_signed, ...).

        `facts` are JSON values (finite numbers, integers below 2**53). "report_signed" needs `digest`, 64 hex digits.
        Raises RecordInvalid for anything else and LedgerError where it cannot be written.
        """
        if not _KIND.fullmatch(kind) or kind in _OWN_KINDS:
            raise RecordInvalid(f"the kind of a ledger entry is {kind!r}, but a lower-case word of its own is expected")
        if kind == "report_signed" and not re.fullmatch(r"[0-9a-f]{64}", str(facts.get("digest"))):
            raise RecordInvalid("a report_signed entry needs the report's digest, 64 lower-case hex digits")
        if run_id is not None or round is not None:
            _check_place(run_id, round)
        with self._writing():
            return self._append(kind, run_id, round, dict(facts), self.hospital)

    def standing_cap(self) -> float | None:
        """Return the cap that this ledger holds its hospital to, whatever is asked for: see `caps`."""
        return caps.standing_cap(self.entries())

    def cap_of(self, run_id: str, round: int) -> float | None:
        """Return the cap that the reservation of a round was held against; None where there is none or no cap."""
        for entry in self.entries():
            if entry.kind == "reserved" and (entry.run_id, entry.round) == (run_id, round):
                cap = entry.facts.get("cap")
                return None if cap is None else float(cap)
        return None

    def raise_cap(self, cap: float | None, reason: str, key: Ed25519PrivateKey) -> LedgerEntry:
        """Write down a raise that the hospital's own key signs (`cap` None: no cap); raises as caps.raise_facts."""
        with self._writing():
            before, previous = caps.standing_cap(self._entries), self._entries[-1].digest
            facts = caps.raise_facts(self.hospital, previous, before, cap, reason, key)
            return self._append(caps.RAISED, None, None, facts, self.hospital)

    def end_run(self, run_id: str, outcome: str) -> None:
        """Write down, once, that this hospital signed that a run is complete; nothing for any other outcome."""
        ended = any(entry.kind == ENDED and entry.run_id == run_id for entry in self.entries())
        if outcome == COMPLETE and not ended:
            self.record(ENDED, run_id, None, {"outcome": outcome})

    def _by_run(self) -> dict[str, list[MechanismRecord]]:
        by_run: dict[str, list[MechanismRecord]] = {}
        for entry in self._entries:
            if entry.mechanism is not None:
                by_run.setdefault(str(entry.run_id), []).append(entry.mechanism)
        return by_run

    def _deltas(self) -> list[float]:
        return [float(entry.facts["delta"]) for entry in self._entries if entry.kind == "reserved"]

    def _append(
        self, kind: str, run_id: str | None, round_: int | None, facts: dict[str, Any], hospital: str
    ) -> LedgerEntry:
        """Add one entry inside the open transaction."""
        body = {
            "sequence": len(self._entries) + 1,
            "time": self._clock(),
            "hospital": hospital,
            "kind": kind,
            "run_id": run_id,
            "round": round_,
            "facts": facts,
            "previous": self._entries[-1].digest if self._entries else GENESIS,
        }
        try:
            text = rfc8785.dumps(body).decode()
        except (rfc8785.CanonicalizationError, ValueError, TypeError) as error:
            raise RecordInvalid(f"a fact of the ledger entry {kind!r} is not a JSON value: {error}") from None
        if len(text) > _MAX_FACTS:
            raise RecordInvalid(
                f"the ledger entry {kind!r} has {len(text)} characters; {_MAX_FACTS} at most are expected"
            )
        digest = hashlib.sha256(text.encode()).hexdigest()
        self._db.execute(
            "INSERT INTO entries (sequence, kind, run_id, round, body, digest) VALUES (?, ?, ?, ?, ?, ?)",
            (body["sequence"], kind, run_id, round_, text, digest),
        )
        return LedgerEntry(digest=digest, **json.loads(text))

    @contextmanager
    def _writing(self, *, fresh: bool = False) -> Iterator[None]:
        """One transaction, durable when it ends; the entries of other writers are read first."""
        with self._lock, ledger_file.translated(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                if not fresh:
                    self._catch_up()
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            if not fresh:
                self._catch_up()

    def close(self) -> None:
        """Close the file; the ledger cannot be used after it."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_place(run_id: str | None, round_: int | None, *, needed: bool = False) -> None:
    if run_id is None or not _NAME.fullmatch(run_id):
        raise RecordInvalid(f"the run id is {run_id!r}, but letters, digits, '.', '_' and '-' are expected")
    if (needed or round_ is not None) and (
        isinstance(round_, bool) or not isinstance(round_, int) or not 1 <= round_ < 2**31
    ):
        raise RecordInvalid(f"the round is {round_!r}, but a whole number of at least 1 is expected")
