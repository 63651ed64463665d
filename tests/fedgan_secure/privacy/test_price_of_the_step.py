"""The figures of the step's benchmark are computed from what was timed; an absent environment is a reason."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.dpsgd import timing
from benchmarks.dpsgd.environments import Environment
from tests.patience import HANG_SECONDS

SCRIPT = Path(__file__).resolve().parents[3] / "benchmarks" / "dpsgd.py"
HEADLINES = {
    "step_ratio_64",
    "real_half_ratio_64",
    "plain_over_keras",
    "memory_ratio_64",
    "step_ratio_28_b512",
    "opacus_ratio",
    "tfp_ratio",
}


def test_the_script_prints_one_object_with_every_headline() -> None:
    command = [sys.executable, str(SCRIPT), "--json", "--quick", "--rounds", "1", "--only", "b512", "--only", "split"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) >= HEADLINES
    assert all(found[key] is None for key in HEADLINES - {"step_ratio_28_b512"})
    row = found["b512"]["row"]
    assert found["step_ratio_28_b512"] == row["ratio"] == pytest.approx(row["private_seconds"] / row["plain_seconds"])
    seconds = found["split"]["seconds"]
    causes = ("forward_backward", "norms", "sum", "noise", "optimiser")
    assert sum(seconds[cause] for cause in causes) == pytest.approx(seconds["whole"])


def test_sides_take_turns_and_ratios_are_those_of_their_times(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    clock = {"now": 0.0}
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock["now"])

    def side(name: str, seconds: float) -> None:
        calls.append(name)
        clock["now"] += seconds

    times = timing.interleaved({"a": lambda: side("a", 3.0), "b": lambda: side("b", 2.0)}, 2, warm=1)
    assert calls == ["a", "b", "a", "b", "b", "a"]
    assert times["a"].wall == pytest.approx((3.0, 3.0))
    assert timing.ratio(times, "a", "b")["ratio"] == pytest.approx(1.5)


def test_an_environment_that_is_absent_or_fails_is_a_reason_and_no_figure(tmp_path: Path) -> None:
    absent = Environment("x", tmp_path / "venv" / "bin" / "python", "install it", tmp_path / "worker.py")
    assert absent.measure(28, 2, 1, 5) == {"ratio": None, "skipped": "no environment venv: install it"}
    worker = tmp_path / "worker.py"
    failing = Environment("x", Path(sys.executable), "install it", worker)
    worker.write_text("raise SystemExit('no such layer')", encoding="utf-8")
    assert "no such layer" in failing.measure(28, 2, 1, 60)["skipped"]
    worker.write_text("import sys, json; print(json.dumps({'ratio': float(sys.argv[2])}))", encoding="utf-8")
    assert failing.measure(28, 2, 1, 60) == {"ratio": 2.0}
