"""What a stranger found in searches and withdrawals: each finding as a test."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedgan_audits.accounting import solving
from fedgan_audits.accounting.mechanism import MechanismRecord
from fedgan_audits.errors import UnreachableTarget
from fedgan_audits.ledger.ledger import Ledger
from fedgan_secure.data.patients import PatientDataset, pseudonym
from fedgan_secure.errors import InputError
from fedgan_secure.federation import prepare
from fedgan_secure.site import withdrawals
from fedgan_secure.site.withdrawals import take_effect, withdraw
from fedgan_secure.storage.run import RunDirectory
from fedgan_secure.tuning.experiment import MOST_CHARGED, SearchSection
from fedgan_secure.tuning.trial import Job, run_trial

SECRET = bytes(range(32))


def people(*names: str) -> PatientDataset:
    count = len(names)
    images = np.zeros((count, 2, 2, 1), np.uint8)
    return PatientDataset(images, np.full(count, -1), np.arange(count), 0, [pseudonym(SECRET, name) for name in names])


def test_a_withdrawal_during_a_round_is_never_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pseudonym.key").write_bytes(SECRET)
    withdraw(tmp_path, ["A"])
    read, second = withdrawals._read, threading.Thread(target=withdraw, args=(tmp_path, ["B"]))

    def slow(site: Path) -> Any:
        found = read(site)
        if threading.current_thread() is threading.main_thread() and not second.ident:
            second.start()
            second.join(0.5)  # it has to wait for this reader to write
        return found

    monkeypatch.setattr(withdrawals, "_read", slow)
    take_effect(tmp_path, people("A", "B", "C"), "run", 1)
    second.join()
    monkeypatch.undo()
    left = take_effect(tmp_path, people("A", "B", "C"), "run", 2).patients
    assert left.pseudonyms == (pseudonym(SECRET, "C"),)


def test_a_trials_hospitals_read_the_lasting_sites_list(tmp_path: Path) -> None:
    lasting = tmp_path / "sites"
    run = RunDirectory.create(tmp_path / "trial")
    site = prepare._sites(run, None, ("a",), "run", lasting)["a"]
    secret = (lasting / "a" / "pseudonym.key").read_bytes()
    assert site.pseudonym_secret.read_bytes() == secret and site.withdrawals == lasting / "a"
    withdraw(lasting / "a", ["P1"])
    held = PatientDataset(np.zeros((2, 2, 2, 1), np.uint8), np.full(2, -1), np.arange(2), 0,
                          [pseudonym(secret, "P1"), pseudonym(secret, "P2")])  # fmt: skip
    assert take_effect(site.withdrawals, held, "run", 1).patients.patients == 1


def test_a_trial_that_spent_and_lost_its_policy_is_not_run_again(tmp_path: Path) -> None:
    folder = tmp_path / "trial"
    (folder / "site" / "a").mkdir(parents=True)
    record = MechanismRecord(sampling_probability=0.1, noise_multiplier=1, steps=1, l2_clip_norm=1, unit="patient")
    with Ledger.open(folder / "site" / "a" / "ledger.sqlite", hospital="a", create=True) as ledger:
        ledger.reserve("run", 1, record, 1e-5, None)
    with pytest.raises(InputError, match="would be run again"):
        run_trial(Job(folder, {}, {}, 1))
    assert (folder / "site" / "a" / "ledger.sqlite").exists()


KILLED_WHILE_MAKING_A_LEDGER = """
import os, signal, sys
from fedgan_audits.ledger import file as ledger_file
from fedgan_audits.ledger import Ledger
if sys.argv[2] == "half made":
    ledger_file.is_blank = lambda db: db.execute("PRAGMA cache_size = 1") and db.execute("CREATE TABLE t (x)") and any(
        db.execute("INSERT INTO t VALUES (zeroblob(5000))") is None for _ in range(200)) or os.kill(os.getpid(), 9)
else:
    ledger_file.connect = lambda *_: os.kill(os.getpid(), 9)
Ledger.open(sys.argv[1], hospital="a", create=True)
"""


@pytest.mark.parametrize("how", ["half made", "blank"])
def test_a_trial_that_was_killed_while_it_made_a_ledger_is_begun_anew(tmp_path: Path, how: str) -> None:
    """It had spent nothing, so its folder is removed; here what then fails is an epsilon out of reach."""
    folder = tmp_path / "trial"
    file = folder / "site" / "a" / "ledger.sqlite"
    done = subprocess.run([sys.executable, "-c", KILLED_WHILE_MAKING_A_LEDGER, str(file), how], check=False)
    assert done.returncode == -signal.SIGKILL and file.exists()
    assert (file.stat().st_size == 0) == (how == "blank")
    assert file.with_name("ledger.sqlite-journal").exists() == (how == "half made")
    with pytest.raises(UnreachableTarget):
        run_trial(Job(folder, {"privacy": {"epsilon": 1e-9}}, {}, 1))
    assert not file.exists()


@pytest.mark.parametrize("wrong", [
    {"method": "random", "trains_on": "patients", "trials": MOST_CHARGED + 1},
    {"method": "random", "trains_on": "patients", "charge": "winner_alone", "mean_trials": 800},
])  # fmt: skip
def test_a_search_that_no_ledger_entry_holds_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"at most|less than or equal"):
        SearchSection.model_validate(wrong)


def test_steps_are_found_where_epsilon_is_nothing_at_the_guess() -> None:
    assert solving._settle(lambda steps: max(0.0, steps - 100.0), 50.0, 3) in range(149, 151)
