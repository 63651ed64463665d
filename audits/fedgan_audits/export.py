"""What others read: a hospital's ledger as a table.

The ledger stays the truth; a table made from it is a copy that anyone can alter, and says which entry came last.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping

from fedgan_audits import accountant
from fedgan_audits.errors import AuditError
from fedgan_audits.ledger import Ledger, LedgerEntry
from fedgan_audits.mechanism import MechanismRecord

COLUMNS = (
    "sequence", "time", "hospital", "kind", "run_id", "round", "unit", "sampling_probability", "noise_multiplier",
    "steps", "l2_clip_norm", "noise_placement", "delta", "cap", "epsilon_of_the_run_so_far", "other_facts", "previous",
    "digest",
)  # fmt: skip


def _plain(value: object) -> str:
    """A cell that a spreadsheet takes for text or a number, never for a formula."""
    text = "" if value is None else str(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _row(entry: LedgerEntry, spent: str) -> Mapping[str, object]:
    mechanism = entry.mechanism
    known = {"mechanism", "delta", "cap"}
    others = {key: value for key, value in entry.facts.items() if mechanism is None or key not in known}
    return {
        **{name: getattr(entry, name) for name in ("sequence", "time", "hospital", "kind", "run_id", "round")},
        **(mechanism.model_dump(include=set(COLUMNS)) if mechanism else {}),
        "delta": entry.facts.get("delta") if mechanism else None,
        "cap": entry.facts.get("cap") if mechanism else None,
        "epsilon_of_the_run_so_far": spent,
        "other_facts": json.dumps(others, sort_keys=True, ensure_ascii=False) if others else None,
        "previous": entry.previous,
        "digest": entry.digest,
    }


def ledger_csv(ledger: Ledger) -> str:
    """Every entry in order, as CSV (RFC 4180) with a heading; the chain was checked when the ledger was opened.

    Epsilon is the run's own so far, by Rényi's accountant (an upper bound that is quick to compute), rounded up; empty
    where the entry reserved nothing, "not proved" where the accountant does not cover the mechanisms.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\r\n")
    writer.writeheader()
    runs: dict[str | None, list[MechanismRecord]] = {}
    for entry in ledger.entries():
        spent = ""
        if entry.mechanism is not None:
            mechanisms = runs.setdefault(entry.run_id, [])
            mechanisms.append(entry.mechanism)
            try:
                spent = accountant.round_up(accountant.epsilon_rdp(mechanisms, float(entry.facts["delta"])))
            except AuditError:
                spent = "not proved"
        writer.writerow({name: _plain(value) for name, value in _row(entry, spent).items()})
    return out.getvalue()
