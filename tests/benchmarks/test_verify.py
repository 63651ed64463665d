"""The benchmark of verification: every code path on tiny sizes, and that it does not time what fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.patience import HANG_SECONDS

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "verify.py"


def test_the_script_prints_one_object_with_a_row_for_every_size() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--json", "--quick"], capture_output=True, text=True, timeout=HANG_SECONDS
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["quick"] is True and found["seconds_1000x10"] is None
    assert [row["rounds"] for row in found["rows"]] == [17, 18, 20]
    assert all(row["seconds"] > 0 and row["cpu_seconds"] > 0 and row["peak_mib"] > 20 for row in found["rows"])
    assert isinstance(found["growth"], float) and "cpu" in found["machine"]


def test_a_run_that_does_not_verify_is_not_timed() -> None:
    code = (
        "import sys\nsys.path.insert(0, sys.argv[1])\nimport verify\nfrom audit_trail.trail import Trail\n"
        "Trail.close = lambda self, number: None\nverify.main(['--quick'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(SCRIPT.parent)], capture_output=True, text=True, timeout=HANG_SECONDS
    )
    assert done.returncode == 1 and "the run does not verify" in done.stderr
