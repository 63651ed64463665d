"""The ledger: reserve before spending, never refund, show every change, survive being killed."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fedgan_audits.accounting import accountant, budget
from fedgan_audits.accounting.mechanism import MechanismRecord
from fedgan_audits.errors import AuditError, BudgetRefused, LedgerCorrupt, LedgerError, NotAccounted, RecordInvalid
from fedgan_audits.ledger.ledger import GENESIS, Ledger
from tests.patience import HANG_SECONDS

DELTA = 1e-5
DIGEST = "ab" * 32


def mechanism(sigma: float = 1.0, steps: int = 20, **fields: object) -> MechanismRecord:
    return budget.mechanism_record(
        **{
            "sampling_probability": 0.1,
            "noise_multiplier": sigma,
            "steps": steps,
            "l2_clip_norm": 1.0,
            "unit": "patient",
            **fields,
        }
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "site" / "ledger.sqlite"


def filled(path: Path, rounds: int = 3) -> Path:
    with Ledger.open(path, hospital="north", create=True) as ledger:
        for number in range(1, rounds + 1):
            ledger.reserve("run-1", number, mechanism(), DELTA)
            ledger.record("round_finished", "run-1", number, {"loss": 0.25, "note": "å"})
    return path


def rewrite(path: Path, statement: str, *values: object) -> None:
    """Change the file behind the ledger's back, without its triggers."""
    with sqlite3.connect(path) as raw:
        for trigger in ("no_update", "no_delete", "in_order"):
            raw.execute(f"DROP TRIGGER {trigger}")
        raw.execute(statement, values)
    raw.close()


def test_entries_chain_and_come_back_whole(path: Path) -> None:
    filled(path)
    with Ledger.open(path, hospital="north") as ledger:
        entries = ledger.entries()
        assert [e.kind for e in entries] == ["opened", *["reserved", "round_finished"] * 3]
        assert [e.sequence for e in entries] == list(range(1, 8))
        assert entries[0].previous == GENESIS
        assert all(b.previous == a.digest for a, b in pairwise(entries))
        assert all(e.time.endswith("Z") and "T" in e.time for e in entries)
        assert entries[1].mechanism == mechanism()
        assert entries[2].facts == {"loss": 0.25, "note": "å"}
        assert ledger.reservations("run-1") == {n: mechanism() for n in (1, 2, 3)}
        assert len(ledger.mechanisms()) == len(ledger.mechanisms("run-1")) == 3
        assert ledger.mechanisms("run-2") == ledger.mechanisms(exclude_run="run-1") == ()
        assert ledger.head() == entries[-1].digest
        assert ledger.verify() == ledger.verify(head=entries[3].digest) == 7
        assert json.loads(json.dumps(ledger.to_rows()))[1]["facts"]["mechanism"]["steps"] == 20


def test_no_epsilon_is_stored_as_the_truth(path: Path) -> None:
    filled(path)
    with Ledger.open(path) as ledger:
        assert not any("epsilon" in json.dumps(row) for row in ledger.to_rows())


def test_the_owner_alone_can_read_it(path: Path) -> None:
    previous = os.umask(0)
    try:
        filled(path, 1)
    finally:
        os.umask(previous)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_cap_refuses_before_anything_is_spent(path: Path) -> None:
    spent = accountant.epsilon_pld([mechanism()] * 2, DELTA)
    asked = accountant.epsilon_pld([mechanism()] * 3, DELTA)
    cap = (spent + asked) / 2
    with Ledger.open(path, hospital="north", create=True) as ledger:
        ledger.reserve("run-1", 1, mechanism(), DELTA, cap)
        ledger.reserve("run-1", 2, mechanism(), DELTA, cap)
        with pytest.raises(BudgetRefused) as caught:
            ledger.reserve("run-1", 3, mechanism(), DELTA, cap)
        assert (caught.value.spent, caught.value.asked, caught.value.cap) == (spent, asked, cap)
        assert caught.value.exit_code == 3
        assert len(ledger.mechanisms()) == 2
        last = ledger.entries()[-1]
        assert (last.kind, last.round, last.mechanism) == ("refused", 3, None)
        ledger.reserve("run-1", 3, mechanism(sigma=4.0), DELTA, cap)  # a quieter round still fits


def test_asking_first_gives_the_same_answer_and_writes_nothing(path: Path) -> None:
    cap = accountant.epsilon_rdp([mechanism()] * 2, DELTA) * 0.99
    with Ledger.open(path, hospital="north", create=True) as ledger:
        assert ledger.refusal("run-1", 1, mechanism(), DELTA, cap) is None
        ledger.reserve("run-1", 1, mechanism(), DELTA, cap)
        for run in ("run-1", "run-2"):
            lines = ledger.verify()
            answer = ledger.refusal(run, 2, mechanism(), DELTA, cap)
            assert ledger.verify() == lines
            if answer is None:
                ledger.reserve(run, 2, mechanism(), DELTA, cap)
                continue
            with pytest.raises(BudgetRefused) as caught:
                ledger.reserve(run, 2, mechanism(), DELTA, cap)
            assert str(caught.value) == str(answer)
        assert answer is not None
        ledger.record("refused", "run-2", 2, {"reason": str(answer)})


def test_earlier_runs_count(path: Path) -> None:
    cap = accountant.epsilon_rdp([mechanism()] * 2, DELTA) * 0.99
    with Ledger.open(path, hospital="north", create=True) as ledger:
        ledger.reserve("run-1", 1, mechanism(), DELTA, cap)
        with pytest.raises(BudgetRefused, match="2 runs"):
            ledger.reserve("run-2", 1, mechanism(), DELTA, cap)


def test_a_larger_delta_does_not_loosen_the_cap(path: Path) -> None:
    cap = accountant.epsilon_pld([mechanism()] * 2, 1e-7) * 0.999
    with Ledger.open(path, hospital="north", create=True) as ledger:
        ledger.reserve("run-1", 1, mechanism(), 1e-7, cap)
        with pytest.raises(BudgetRefused):
            ledger.reserve("run-1", 2, mechanism(), 0.5, cap)


def test_no_noise_is_over_any_cap_and_allowed_without_one(path: Path) -> None:
    with Ledger.open(path, hospital="north", create=True) as ledger:
        ledger.reserve("run-1", 1, mechanism(sigma=0.0), DELTA)
        with pytest.raises(BudgetRefused):
            ledger.reserve("run-1", 2, mechanism(), DELTA, 1e6)
    other = Ledger.open(path.with_name("other.sqlite"), hospital="north", create=True)
    with other, pytest.raises(BudgetRefused, match="unbounded"):
        other.reserve("run-1", 1, mechanism(sigma=0.0), DELTA, 1e6)


def test_a_round_is_reserved_once(path: Path) -> None:
    filled(path)
    with Ledger.open(path) as ledger:
        with pytest.raises(LedgerError, match="reserved already"):
            ledger.reserve("run-1", 2, mechanism(), DELTA)
        ledger.reserve("run-2", 2, mechanism(), DELTA)
        with pytest.raises(NotAccounted):
            ledger.reserve("run-3", 1, mechanism(unit="image"), DELTA)
        assert len(ledger.mechanisms()) == 4


def test_sqlite_itself_refuses_changes(path: Path) -> None:
    filled(path)
    raw = sqlite3.connect(path)
    for statement in (
        "UPDATE entries SET body = '{}' WHERE sequence = 2",
        "DELETE FROM entries",
        "INSERT INTO entries VALUES (99, 'x', NULL, NULL, '{}', 'd')",
        "INSERT OR REPLACE INTO entries VALUES (2, 'x', NULL, NULL, '{}', 'd')",
    ):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            raw.execute(statement)
    raw.close()


@pytest.mark.parametrize("number", [1, 2, 5, 7])
def test_a_changed_byte_of_an_entry_is_found_and_the_entry_named(path: Path, number: int) -> None:
    with Ledger.open(filled(path)) as ledger:
        row = ledger.to_rows()[number - 1]
    raw = path.read_bytes()
    mark = row["time"].encode()
    assert raw.count(mark) == 1
    at = raw.index(mark) + len(mark) - 2
    changed = bytearray(raw)
    changed[at] = ord("0") + (changed[at] - ord("0") + 1) % 10
    path.write_bytes(bytes(changed))
    with pytest.raises(LedgerCorrupt, match=f"entry {number} ") as caught:
        Ledger.open(path)
    assert caught.value.entry == number
    assert caught.value.exit_code == 5


@pytest.mark.parametrize(
    ("statement", "number"),
    [
        ("DELETE FROM entries WHERE sequence = 3", 3),
        ("UPDATE entries SET kind = 'incident' WHERE sequence = 4", 4),
        ("UPDATE entries SET round = 9 WHERE sequence = 4", 4),
        ("UPDATE entries SET digest = 'x' || substr(digest, 2) WHERE sequence = 6", 6),
    ],
)
def test_removed_and_rewritten_entries_are_found(path: Path, statement: str, number: int) -> None:
    rewrite(filled(path), statement)
    with pytest.raises(LedgerCorrupt) as caught:
        Ledger.open(path)
    assert caught.value.entry == number


def test_an_entry_rewritten_with_a_new_digest_breaks_the_chain_after_it(path: Path) -> None:
    import hashlib

    with Ledger.open(filled(path)) as ledger:
        head = ledger.head()
    raw = sqlite3.connect(path)
    text = raw.execute("SELECT body FROM entries WHERE sequence = 2").fetchone()[0].replace('"steps":20', '"steps":10')
    raw.close()
    rewrite(
        path,
        "UPDATE entries SET body = ?, digest = ? WHERE sequence = 2",
        text,
        hashlib.sha256(text.encode()).hexdigest(),
    )
    with pytest.raises(LedgerCorrupt) as caught:
        Ledger.open(path)
    assert caught.value.entry == 3
    assert len(head) == 64


def test_a_tail_cut_off_shows_against_a_head_held_elsewhere(path: Path) -> None:
    with Ledger.open(filled(path)) as ledger:
        head = ledger.head()
    rewrite(path, "DELETE FROM entries WHERE sequence > 5")
    with Ledger.open(path) as ledger:
        assert ledger.verify() == 5
        with pytest.raises(LedgerCorrupt, match="cut off"):
            ledger.verify(head=head)


def test_a_reservation_survives_a_kill_at_once_after_it(path: Path) -> None:
    code = """
import os, signal, sys
from fedgan_audits.ledger import Ledger
from fedgan_audits.accounting import MechanismRecord
m = MechanismRecord(sampling_probability=.1, noise_multiplier=1., steps=20, l2_clip_norm=1., unit="patient")
ledger = Ledger.open(sys.argv[1], hospital="north", create=True)
ledger.reserve("run-1", 1, m, 1e-5)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    with Ledger.open(path, hospital="north") as ledger:
        assert ledger.reservations("run-1") == {1: mechanism()}
        with pytest.raises(LedgerError, match="reserved already"):
            ledger.reserve("run-1", 1, mechanism(), DELTA)


def test_a_kill_inside_the_transaction_leaves_nothing_half(path: Path) -> None:
    code = """
import os, signal, sys
from fedgan_audits import ledger as room
from fedgan_audits.accounting import MechanismRecord
m = MechanismRecord(sampling_probability=.1, noise_multiplier=1., steps=20, l2_clip_norm=1., unit="patient")
ledger = room.Ledger.open(sys.argv[1], hospital="north", create=True)
append = room.Ledger._append
def dying(self, *arguments):
    append(self, *arguments)
    os.kill(os.getpid(), signal.SIGKILL)
room.Ledger._append = dying
ledger.reserve("run-1", 1, m, 1e-5)
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    with Ledger.open(path) as ledger:
        assert ledger.mechanisms() == ()
        assert ledger.verify() == 1
        ledger.reserve("run-1", 1, mechanism(), DELTA)


KILLED_MID_WRITE = """
import os, sys
from fedgan_audits.ledger import Ledger
ledger = Ledger.open(sys.argv[1])
ledger._db.execute("PRAGMA cache_size = 1")
ledger._db.execute("BEGIN IMMEDIATE")
ledger._db.execute("CREATE TABLE t (x)")
for _ in range(200):
    ledger._db.execute("INSERT INTO t VALUES (zeroblob(5000))")
os.kill(os.getpid(), 9)
"""


def test_a_reader_of_a_killed_writers_ledger_is_told_so_and_changes_nothing(path: Path) -> None:
    """It may be evidence, and the journal beside it anybody's; who writes next takes the half-made entry back."""
    with Ledger.open(filled(path, 2)) as ledger:
        whole = ledger.verify()
    done = subprocess.run([sys.executable, "-c", KILLED_MID_WRITE, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    journal = path.with_name("ledger.sqlite-journal")
    before = path.read_bytes(), journal.read_bytes()
    assert all(len(data) > 0 for data in before)
    with pytest.raises(LedgerError, match="was killed while it wrote") as caught:
        Ledger.open(path, read_only=True)
    assert "--resume" in caught.value.hint and caught.value.exit_code == 2
    assert (path.read_bytes(), journal.read_bytes()) == before
    with Ledger.open(path) as ledger:
        assert len(ledger.mechanisms()) == 2 and ledger.verify() == whole
    with Ledger.open(path, read_only=True) as ledger:
        assert ledger.verify() == whole


def test_a_reader_reads_the_last_whole_state_beside_a_writer_that_is_at_work(path: Path) -> None:
    filled(path, 1)
    with Ledger.open(path) as writer:
        with writer._writing():
            writer._append("incident", "run-1", None, {"text": "one"}, "north")
            assert path.with_name("ledger.sqlite-journal").exists()
            with Ledger.open(path, read_only=True) as reader:
                before = reader.verify()
        assert writer.verify() == before + 1


def test_the_entry_is_on_the_disk_before_reserve_returns(path: Path) -> None:
    """A second connection reads it, and the connection syncs at every commit and after removing the journal."""
    with Ledger.open(path, hospital="north", create=True) as ledger:
        entry = ledger.reserve("run-1", 1, mechanism(), DELTA)
        assert ledger._db.execute("PRAGMA synchronous").fetchone()[0] == 3
        assert ledger._db.execute("PRAGMA journal_mode").fetchone()[0] == "delete"
        with Ledger.open(path, read_only=True) as reader:
            assert reader.entries()[-1] == entry


def test_two_writers_share_one_chain_and_one_cap(path: Path) -> None:
    cap = accountant.epsilon_pld([mechanism()] * 4, DELTA) * 1.0001
    filled_code = f"""
import sys
from fedgan_audits.ledger import Ledger
from fedgan_audits.errors import BudgetRefused
from fedgan_audits.accounting import MechanismRecord
m = MechanismRecord(sampling_probability=.1, noise_multiplier=1., steps=20, l2_clip_norm=1., unit="patient")
with Ledger.open(sys.argv[1], hospital="north", create=True) as ledger:
    for number in range(int(sys.argv[2]), 9, 2):
        try:
            ledger.reserve("run-1", number, m, 1e-5, {cap!r})
        except BudgetRefused:
            pass
"""
    writers = [
        subprocess.Popen([sys.executable, "-c", filled_code, str(path), start], stderr=subprocess.PIPE, text=True)
        for start in "12"
    ]
    for writer in writers:
        _, errors = writer.communicate(timeout=HANG_SECONDS)
        assert writer.returncode == 0, errors
    with Ledger.open(path) as ledger:
        assert len(ledger.mechanisms()) == 4
        assert sum(e.kind == "refused" for e in ledger.entries()) == 4
        assert accountant.epsilon_pld(ledger.mechanisms(), DELTA) <= cap


def test_two_open_ledgers_see_each_other_s_entries(path: Path) -> None:
    with Ledger.open(filled(path, 1)) as one, Ledger.open(path) as two:
        one.record("incident", "run-1", None, {"text": "one"})
        two.record("incident", "run-1", None, {"text": "two"})
        assert [e.facts["text"] for e in one.entries()[-2:]] == ["one", "two"]
        assert one.head() == two.head()
        assert one.verify() == 5


def test_a_full_disk_reserves_nothing_and_says_so(path: Path) -> None:
    with Ledger.open(filled(path, 1)) as ledger:
        pages = ledger._db.execute("PRAGMA page_count").fetchone()[0]
        ledger._db.execute(f"PRAGMA max_page_count = {pages}")
        before = ledger.head()
        with pytest.raises(LedgerError, match="could not be written") as caught:
            for number in range(2, 200):
                ledger.reserve("run-1", number, mechanism(), DELTA)
        assert caught.value.exit_code == 2
        assert "room" in caught.value.hint
        ledger._db.execute("PRAGMA max_page_count = 100000")
        survivors = len(ledger.mechanisms())
        assert ledger.verify() == 2 + survivors
        assert before in {e.digest for e in ledger.entries()}
        ledger.reserve("run-1", 500, mechanism(), DELTA)


def test_wrong_files_are_refused_with_a_reason(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="no ledger"):
        Ledger.open(tmp_path / "none.sqlite")
    text = tmp_path / "text"
    text.write_text("this is not a database, but it is long enough to be taken for one " * 20)
    with pytest.raises(LedgerCorrupt, match="not a ledger"):
        Ledger.open(text)
    with pytest.raises(LedgerCorrupt, match="not a ledger"):
        Ledger.open(text, hospital="north", create=True)
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as raw:
        raw.execute("CREATE TABLE t (x)")
    raw.close()
    for create in (False, True):
        with pytest.raises(LedgerCorrupt, match="not a ledger"):
            Ledger.open(other, hospital="north", create=create)
    with pytest.raises(AuditError):
        Ledger.open(tmp_path)


def test_a_damaged_page_reads_as_damage_and_not_as_a_full_disk(path: Path) -> None:
    filled(path)
    raw = bytearray(path.read_bytes())
    raw[4096 : 4096 + 64] = os.urandom(64)
    path.write_bytes(bytes(raw))
    with pytest.raises(LedgerCorrupt, match="damaged"):
        Ledger.open(path)


def test_another_hospital_and_a_newer_format_are_refused(path: Path) -> None:
    filled(path)
    with pytest.raises(LedgerError, match="'north', but 'south'"):
        Ledger.open(path, hospital="south", create=True)
    with sqlite3.connect(path) as raw:
        raw.execute("PRAGMA user_version = 2")
    raw.close()
    with pytest.raises(LedgerError, match="version 2"):
        Ledger.open(path)


def test_reading_only_never_writes(path: Path) -> None:
    filled(path)
    before = path.read_bytes()
    with Ledger.open(path, read_only=True) as ledger:
        assert ledger.verify() == 7
        with pytest.raises(LedgerError):
            ledger.record("incident", "run-1", 1, {})
    assert path.read_bytes() == before


def test_signed_heads(path: Path) -> None:
    with Ledger.open(filled(path)) as ledger:
        ledger.record("report_signed", "run-1", 1, {"digest": DIGEST})
        ledger.record("report_signed", "run-1", 1, {"digest": "cd" * 32})
        ledger.record("report_signed", "run-2", 1, {"digest": DIGEST})
        assert ledger.signed_heads("run-1") == {1: "cd" * 32}
        with pytest.raises(RecordInvalid, match="digest"):
            ledger.record("report_signed", "run-1", 2, {"digest": "short"})


@pytest.mark.parametrize(
    ("kind", "run", "number", "facts"),
    [
        ("reserved", "run-1", 1, {}),
        ("opened", "run-1", 1, {}),
        ("Bad kind", "run-1", 1, {}),
        ("incident", "../run", 1, {}),
        ("incident", "run-1", 0, {}),
        ("incident", "run-1", 1, {"x": float("nan")}),
        ("incident", "run-1", 1, {"x": 2**60}),
        ("incident", "run-1", 1, {"x": object()}),
        ("incident", "run-1", 1, {"x": "a" * 2_000_000}),
    ],
)
def test_bad_records_are_refused_and_nothing_is_written(
    path: Path, kind: str, run: str, number: int, facts: dict[str, object]
) -> None:
    with Ledger.open(filled(path, 1)) as ledger:
        with pytest.raises(RecordInvalid):
            ledger.record(kind, run, number, facts)
        assert ledger.verify() == 3


@pytest.mark.parametrize("cap", [0.0, -1.0, float("inf"), float("nan")])
def test_a_bad_cap_is_refused(path: Path, cap: float) -> None:
    with Ledger.open(path, hospital="north", create=True) as ledger, pytest.raises(RecordInvalid, match="cap"):
        ledger.reserve("run-1", 1, mechanism(), DELTA, cap)


class Budget(RuleBasedStateMachine):
    """Whatever is asked of a ledger, in whatever order and over restarts, the composed epsilon stays within the cap."""

    CAP = 4.0

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "ledger.sqlite"
        self.ledger = Ledger.open(self.path, hospital="north", create=True)
        self.accepted: dict[tuple[str, int], MechanismRecord] = {}
        self.lines = 1

    @rule(
        run=st.sampled_from(["a", "b"]),
        number=st.integers(1, 4),
        sigma=st.sampled_from([0.0, 1.0, 2.0]),
        steps=st.sampled_from([5, 50]),
    )
    def reserve(self, run: str, number: int, sigma: float, steps: int) -> None:
        asked = mechanism(sigma, steps)
        try:
            self.ledger.reserve(run, number, asked, DELTA, self.CAP)
        except BudgetRefused as refused:
            assert refused.asked > self.CAP >= refused.spent
            self.lines += 1
        except LedgerError:
            assert (run, number) in self.accepted
        else:
            assert (run, number) not in self.accepted
            self.accepted[run, number] = asked
            self.lines += 1

    @rule()
    def abort_a_round(self) -> None:
        self.ledger.record("round_aborted", "a", 1, {"reason": "rehearsed"})
        self.lines += 1

    @precondition(lambda self: self.lines > 2)
    @rule()
    def restart(self) -> None:
        self.ledger.close()
        self.ledger = Ledger.open(self.path, hospital="north", create=True)

    @invariant()
    def within_the_cap(self) -> None:
        if not hasattr(self, "ledger"):
            return
        assert accountant.epsilon_pld(self.ledger.mechanisms(), DELTA) <= self.CAP
        assert sorted(map(str, self.ledger.mechanisms())) == sorted(map(str, self.accepted.values()))
        assert self.ledger.verify() == self.lines

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.close()
            self.folder.cleanup()


TestBudget = Budget.TestCase
TestBudget.settings = settings(max_examples=8, stateful_step_count=10, deadline=None)


def test_a_ledger_takes_no_more_kinds_of_mechanism_than_can_be_verified(path: Path) -> None:
    """Steps make no other kind; one kind more is refused before anything is written."""
    from fedgan_audits.accounting import budget

    with Ledger.open(path, hospital="north", create=True) as ledger, pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget, "MAX_KINDS", 2)
        ledger.reserve("run-1", 1, mechanism(), DELTA)
        ledger.reserve("run-1", 2, mechanism().model_copy(update={"steps": 7}), DELTA)
        ledger.reserve("run-1", 3, mechanism().model_copy(update={"noise_multiplier": 1.5}), DELTA)
        before = ledger.entries()
        with pytest.raises(LedgerError, match="3 different mechanisms"):
            ledger.reserve("run-1", 4, mechanism().model_copy(update={"noise_multiplier": 2.0}), DELTA)
        assert ledger.entries() == before
