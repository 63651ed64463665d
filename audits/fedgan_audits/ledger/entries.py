"""One line of a ledger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fedgan_audits.accounting import MechanismRecord, parse_mechanism


@dataclass(frozen=True)
class LedgerEntry:
    """One line of the ledger. `time` is ISO 8601 UTC; `previous` and `digest` are 64 lowercase hex digits."""

    sequence: int
    time: str
    kind: str
    run_id: str | None
    round: int | None
    facts: dict[str, Any]
    previous: str
    digest: str
    hospital: str

    @property
    def mechanism(self) -> MechanismRecord | None:
        """What was reserved, for an entry of kind "reserved"; None for any other."""
        if self.kind != "reserved":
            return None
        return parse_mechanism(self.facts["mechanism"])
