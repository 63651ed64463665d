"""What `audit verify` is given: a wrong argument is a wrong request (2), not a failed verification (5)."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from fedgan_cli.audit import command


def test_a_ledger_that_is_none_is_a_wrong_request(tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("not a database", encoding="utf-8")
    done = CliRunner().invoke(command, ["verify", str(tmp_path), "--ledger", str(other)])
    assert done.exit_code == 2 and "is no ledger" in done.output
