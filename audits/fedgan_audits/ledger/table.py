"""What others read: a hospital's ledger as a table.

The ledger stays the truth; a table made from it is a copy that anyone can alter, and says which entry came last.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping

from fedgan_audits.accounting import MechanismRecord, accountant, budget
from fedgan_audits.errors import AuditError
from fedgan_audits.ledger.entries import LedgerEntry
from fedgan_audits.ledger.ledger import Ledger

RENYI = "Rényi differential privacy"
FILTER = "Rényi filter (several runs)"
COLUMNS = (
    "sequence", "time", "hospital", "kind", "run_id", "round", "unit", "sampling_probability", "noise_multiplier",
    "steps", "l2_clip_norm", "noise_placement", "delta", "cap", "epsilon_of_the_run_so_far", "accountant_of_the_run",
    "epsilon_of_the_ledger_so_far", "accountant_of_the_ledger", "other_facts", "previous", "digest",
)  # fmt: skip


def _plain(value: object) -> str:
    """A cell that a spreadsheet takes for text or a number, never for a formula."""
    text = "" if value is None else str(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _figures(by_run: Mapping[str, list[MechanismRecord]], run: str, delta: float, cap: float | None) -> dict[str, str]:
    """What one run and the whole ledger have cost, each beside the accountant that says so."""
    run_by, ledger_by = RENYI, RENYI if len(by_run) < 2 else FILTER
    try:
        alone = accountant.round_up(accountant.epsilon_rdp(by_run[run], delta))
        whole = alone if len(by_run) < 2 else accountant.round_up(budget.filtered(by_run, delta, cap))
    except AuditError:
        alone, whole, run_by, ledger_by = "not proved", "not proved", "", ""
    return {
        "epsilon_of_the_run_so_far": alone,
        "accountant_of_the_run": run_by,
        "epsilon_of_the_ledger_so_far": whole,
        "accountant_of_the_ledger": ledger_by,
    }


def _row(entry: LedgerEntry, spent: Mapping[str, str]) -> Mapping[str, object]:
    mechanism = entry.mechanism
    known = {"mechanism", "delta", "cap"}
    others = {key: value for key, value in entry.facts.items() if mechanism is None or key not in known}
    return {
        **{name: getattr(entry, name) for name in ("sequence", "time", "hospital", "kind", "run_id", "round")},
        **(mechanism.model_dump(include=set(COLUMNS)) if mechanism else {}),
        "delta": entry.facts.get("delta") if mechanism else None,
        "cap": entry.facts.get("cap") if mechanism else None,
        **spent,
        "other_facts": json.dumps(others, sort_keys=True, ensure_ascii=False) if others else None,
        "previous": entry.previous,
        "digest": entry.digest,
    }


def ledger_csv(ledger: Ledger) -> str:
    """Every entry in order, as CSV (RFC 4180) with a heading; the chain was checked when the ledger was opened.

    Each figure names its accountant: quick upper bounds, rounded up, above the figures by privacy loss distributions
    that reports print as spent. That of the run is by Rényi differential privacy; that of the ledger as well, and from
    its second run on by the Rényi filter, which counts against a cap and holds whether or not a later run was chosen
    after an earlier one's results. Empty where the entry reserved nothing, "not proved" where the accountant does not
    cover the mechanisms.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\r\n")
    writer.writeheader()
    runs: dict[str, list[MechanismRecord]] = {}
    for entry in ledger.entries():
        spent: Mapping[str, str] = {}
        if entry.mechanism is not None:
            runs.setdefault(str(entry.run_id), []).append(entry.mechanism)
            cap = entry.facts.get("cap")
            delta, limit = float(entry.facts["delta"]), None if cap is None else float(cap)
            spent = _figures(runs, str(entry.run_id), delta, limit)
        writer.writerow({name: _plain(value) for name, value in _row(entry, spent).items()})
    return out.getvalue()
