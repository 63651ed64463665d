"""The end of a run on the terminal: the ledger's figure, with this run's beside it."""

from __future__ import annotations

from fedgan_cli.schedule_text import spent_lines
from fedgan_secure.federation.spent import HospitalSpent

FIRST = HospitalSpent("3.9999", "3.9999", "3.9999", None, "0.0000", None, has_history=False)
SECOND = HospitalSpent("3.9999", "8.5538", "10.2011", 12.0, "0.0001", "1.7989", has_history=True)


def test_the_ledgers_figure_comes_first() -> None:
    """Before: a second run at epsilon 4 on patients who had spent 8 ended with "epsilon 3.9999  (target 4)"."""
    lines = spent_lines({"b": SECOND}, 4.0)
    assert lines[0].split("epsilon ")[1].startswith("8.5538")
    assert "cap 12, left 1.7989, 10.2011 counts against a cap" in lines[0]
    assert "this run 3.9999 of 4, left 0.0001" in lines[0]
    assert "planned before any result was seen" in lines[1]


def test_without_history_a_cap_or_a_target_nothing_is_made_up() -> None:
    (line,) = spent_lines({"a": FIRST}, None)
    assert line.endswith("epsilon 3.9999  (no cap set; this run 3.9999)")
    assert SECOND.json()["held"] == "10.2011"
