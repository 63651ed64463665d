"""`audit export`: a hospital's ledger as a table."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from click.testing import CliRunner

from fedgan_audits.accounting import accountant, budget
from fedgan_audits.accounting.mechanism import MechanismRecord
from fedgan_audits.errors import LedgerCorrupt, RecordInvalid
from fedgan_audits.ledger import table as export
from fedgan_audits.ledger.ledger import Ledger
from fedgan_cli.main import cli

MECHANISM = MechanismRecord(
    sampling_probability=0.1, noise_multiplier=1.4, steps=20, l2_clip_norm=1.0, unit="patient"
)  # fmt: skip


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    place = tmp_path / "ledger.sqlite"
    with Ledger.open(place, hospital="north", create=True) as opened:
        for number in (1, 2):
            opened.reserve("run-7", number, MECHANISM, 1e-4, 8.0)
            opened.record("report_signed", "run-7", number, {"digest": "0" * 64})
        opened.record("note", "run-7", 2, {"text": "=HYPERLINK(1)", "who": 'Ä, "B"\nC'})
    return place


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_every_entry_is_a_row(ledger: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["audit", "export", "--ledger", str(ledger), "--output", str(tmp_path / "out.csv")])
    assert done.exit_code == 0, done.output
    found = rows((tmp_path / "out.csv").read_bytes().decode("utf-8"))
    assert [row["kind"] for row in found] == [
        "opened", "reserved", "report_signed", "reserved", "report_signed", "note"
    ]  # fmt: skip
    assert [row["sequence"] for row in found] == ["1", "2", "3", "4", "5", "6"]
    assert found[3]["noise_multiplier"] == "1.4" and found[3]["cap"] == "8" and found[3]["unit"] == "patient"
    for index, steps in ((1, 20), (3, 40)):
        expected = accountant.epsilon_rdp([MECHANISM.model_copy(update={"steps": steps})], 1e-4)
        assert found[index]["epsilon_of_the_run_so_far"] == accountant.round_up(expected)
    assert found[2]["epsilon_of_the_run_so_far"] == "" and "0" * 64 in found[2]["other_facts"]
    assert "HYPERLINK" in found[5]["other_facts"] and "Ä" in found[5]["other_facts"]
    assert [row["previous"] for row in found[1:]] == [row["digest"] for row in found[:-1]]


def test_each_figure_names_its_accountant(ledger: Path) -> None:
    with Ledger.open(ledger) as opened:
        opened.reserve("run-8", 1, MECHANISM, 1e-4, 8.0)
        found = rows(export.ledger_csv(opened))
    first, last = found[3], found[-1]
    assert (first["accountant_of_the_run"], first["accountant_of_the_ledger"]) == (export.RENYI, export.RENYI)
    assert first["epsilon_of_the_ledger_so_far"] == first["epsilon_of_the_run_so_far"]
    assert (last["accountant_of_the_run"], last["accountant_of_the_ledger"]) == (export.RENYI, export.FILTER)
    held = budget.capped_epsilon({"run-7": [MECHANISM] * 2, "run-8": [MECHANISM]}, 1e-4, 8.0)
    assert last["epsilon_of_the_ledger_so_far"] == accountant.round_up(held)
    assert last["epsilon_of_the_run_so_far"] == accountant.round_up(accountant.epsilon_rdp([MECHANISM], 1e-4))
    assert found[2]["accountant_of_the_run"] == found[2]["accountant_of_the_ledger"] == ""


def test_no_cell_is_a_formula(ledger: Path) -> None:
    from fedgan_audits.ledger.table import _plain

    for text in ("=1+1", "+1", "-1", "@x", "\tx", "\rx"):
        assert _plain(text) == f"'{text}"
    assert _plain("a=b") == "a=b" and _plain(None) == "" and _plain(1.5) == "1.5"
    done = CliRunner().invoke(cli, ["audit", "export", "--ledger", str(ledger)])
    assert all(cell[:1] not in "=+-@" or not cell for row in rows(done.stdout) for cell in row.values())


def test_a_broken_ledger_gives_no_table(ledger: Path, tmp_path: Path) -> None:
    ledger.write_bytes(ledger.read_bytes().replace(b"report_signed", b"report_resign"))
    done = CliRunner().invoke(cli, ["audit", "export", "--ledger", str(ledger), "--output", str(tmp_path / "x.csv")])
    assert isinstance(done.exception, LedgerCorrupt) and done.exception.exit_code == 5
    assert not (tmp_path / "x.csv").exists()


def test_nothing_is_overwritten(ledger: Path, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("mine")
    done = CliRunner().invoke(cli, ["audit", "export", "--ledger", str(ledger), "--output", str(tmp_path / "x.csv")])
    assert isinstance(done.exception, RecordInvalid) and (tmp_path / "x.csv").read_text() == "mine"
