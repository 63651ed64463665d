"""A trial that is killed at a file operation goes on, is scored, and spends no more than was reserved for it.

Nine places out of some 1,700, spread over its life.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedgan_audits.ledger.ledger import Ledger
from tests.patience import HANG_SECONDS

SHARES = (0.005, 0.02, 0.05, 0.2, 0.45, 0.8, 0.92, 0.97, 0.99)


def trial(folder: Path, kill_at: int) -> tuple[int, str, str]:
    command = [sys.executable, str(Path(__file__).with_name("killed_trial.py")), str(folder), str(kill_at)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def operations(tmp_path_factory: pytest.TempPathFactory) -> int:
    code, out, err = trial(tmp_path_factory.mktemp("whole") / "trial", 0)
    assert code == 0, err
    return int(json.loads(out)["count"])


@pytest.mark.slow
@pytest.mark.parametrize("share", SHARES)
def test_a_trial_killed_at_a_file_operation_goes_on(operations: int, share: float, tmp_path: Path) -> None:
    folder = tmp_path / "trial"
    code, _, err = trial(folder, max(1, int(share * operations)))
    assert code == -signal.SIGKILL, err
    code, out, err = trial(folder, 0)
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    assert found["finished"] in (0, 1) and (found["score"] is None) == (found["finished"] == 0)
    ledgers = sorted(folder.glob("site/*/ledger.sqlite"))
    assert len(ledgers) >= 2
    for file in ledgers:
        with Ledger.open(file, read_only=True) as ledger:
            assert len(ledger.mechanisms()) == 1
