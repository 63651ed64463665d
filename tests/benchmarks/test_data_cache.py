"""The benchmark of the cache: every code path on tiny sizes, and that it compares equal work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.patience import HANG_SECONDS

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "data_cache.py"


def test_the_script_prints_one_object_with_both_kinds() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--json", "--quick"], capture_output=True, text=True, timeout=HANG_SECONDS
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["quick"] is True and found["sizes"]["turns"] == 1
    for kind in ("photograph", "slice"):
        assert all(found[f"{kind}_{name}"] > 0 for name in ("one_core", "two_cores", "second_start_seconds"))
        assert set(found[f"{kind}_turns"]) == {"bare", "one", "two", "again"}


def test_a_cache_that_holds_something_else_is_not_timed() -> None:
    code = (
        "import sys\nsys.path.insert(0, sys.argv[1])\nimport data_cache\nbare = data_cache.bare_photograph\n"
        "data_cache.bare_photograph = lambda path: bare(path) ^ 1\ndata_cache.main(['--quick'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(SCRIPT.parent)], capture_output=True, text=True, timeout=HANG_SECONDS
    )
    assert done.returncode == 1 and "does not hold what the bare loop decodes" in done.stderr
