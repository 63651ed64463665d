"""The keys that a member has had, how each began and ended, and what came before its end.

Dates are whole seconds and the word of whoever signed them, so the order of what was signed goes by the chain first. A
revocation names the key's successor: a rotation to any other key came later, or is not the member's. A revocation also
lists the reports that the member had signed. Where it begins in the very second in which it was made, the two tell what
came before it in that second; a revocation that was made later says that the key was in other hands when the second in
which it begins began.

Each revocation is judged by itself and all count, so that no statement takes back what another one says: whoever signs
a mild one beside a strict one, a thief say, gains nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from fedgan_audits.signing.key_statements import Rotation, SignedRun, fingerprint

Vouched = tuple[str, int]
"""A run's id, and the newest of its rounds whose report a signature vouches for."""


@dataclass(frozen=True)
class Listed:
    """A line of the auditor's own list: a key's fingerprint, from when on it is revoked, and the file of the list."""

    fingerprint: str
    since: datetime
    file: str


@dataclass(frozen=True)
class Revoked:
    """A revocation that counts: from when on, by whose word, why, and what its signer had signed by then, if listed.

    `made` is when the statement says that it was made, and `successor` the key that it names as the next one; both are
    None for a line of the auditor's list.
    """

    since: datetime
    by: str
    reason: str
    signed: Mapping[str, SignedRun] | None
    listed: bool = False
    """By the auditor's own list, and not by a statement that is held against the rotations."""
    made: datetime | None = None
    successor: str | None = None

    def precedes(self, rotation: Rotation) -> bool:
        """Tell whether the key had ended, by this revocation, when it signed `rotation`: a thief may have signed it.

        It had not where the revocation names the same successor and begins later, or in the same second if it was made
        in that second.
        """
        if self.listed or self.successor != rotation.new_key:
            return True
        return self._reaches(rotation.time, known=True)

    def covers(self, moment: datetime, vouched: Vouched | None = None) -> bool:
        """Tell whether a signature of the key counts for nothing by this revocation.

        Args:
            moment: when the signature says that it was made.
            vouched: the reports that it vouches for. Only these can be in the revocation's list, which decides for the
                second in which the revocation begins; without a list, that whole second counts for nothing.
        """
        entry = self.signed.get(vouched[0]) if self.signed is not None and vouched is not None else None
        known = entry is not None and vouched is not None and vouched[1] <= entry.round
        return self._reaches(moment, known)

    def _reaches(self, moment: datetime, known: bool) -> bool:
        return moment > self.since or (moment == self.since and not (known and self.made == self.since))


@dataclass(frozen=True)
class Held:
    """One key of a member: its 32 bytes in hexadecimal, the rotations to it and away from it, its revocations."""

    raw: str
    began: Rotation | None = None
    retired: Rotation | None = None
    revoked: tuple[Revoked, ...] = ()

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.raw)

    @property
    def lists(self) -> list[Mapping[str, SignedRun]]:
        """What the member had signed with it, by run, as each statement about the key's end lists it."""
        found = [entry.signed for entry in self.revoked if entry.signed is not None]
        if self.retired is not None and self.retired.signed is not None:
            found.append(by_run(self.retired.signed))
        return found

    def revoked_by(self, moment: datetime, vouched: Vouched | None = None) -> str | None:
        """Say which revocation covers a signature of this key, dated `moment`; None where none does."""
        for entry in self.revoked:
            if entry.covers(moment, vouched):
                return f"is revoked from {entry.since:%Y-%m-%d %H:%M:%S} UTC on by {entry.by}"
        return None

    def ended_by(self, moment: datetime, vouched: Vouched | None = None) -> str | None:
        """Say why a signature of this key, dated `moment`, does not count by its date; None where it does."""
        if (revoked := self.revoked_by(moment, vouched)) is not None:
            return revoked
        if self.retired is not None and moment > self.retired.time:
            return f"was followed by another on {self.retired.time:%Y-%m-%d %H:%M:%S} UTC"
        if self.began is not None and moment < self.began.time:
            return f"was not in use before {self.began.time:%Y-%m-%d %H:%M:%S} UTC"
        return None


@dataclass(frozen=True)
class KeyHistory:
    """A member's keys, oldest first, as far as statements lead from the key that is trusted."""

    name: str
    keys: tuple[Held, ...]

    def get(self, raw: str) -> Held | None:
        return next((held for held in self.keys if held.raw == raw), None)

    @property
    def newest(self) -> Held:
        return self.keys[-1]


def by_run(signed: Iterable[SignedRun]) -> dict[str, SignedRun]:
    """Return the newest report of each run; of one run the highest round counts."""
    found: dict[str, SignedRun] = {}
    for entry in signed:
        if entry.run_id not in found or found[entry.run_id].round < entry.round:
            found[entry.run_id] = entry
    return found
