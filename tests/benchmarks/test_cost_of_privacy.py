"""The cost of a whole run is measured, not written down: tiny sizes, both placements, and what must be refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks.whole_run import causes, tables

from tests.patience import HANG_SECONDS

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "cost_of_privacy.py"
PAGE = SCRIPT.parents[1] / "docs" / "privacy.md"


@pytest.fixture(scope="module")
def quick() -> dict[str, Any]:
    command = [sys.executable, str(SCRIPT), "--json", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_script_runs_both_placements_beside_plain_averaging(quick: dict[str, Any]) -> None:
    assert quick["quick"] is True and {"python", "tensorflow", "cpu", "cores"} <= set(quick["machine"])
    for name, prefix in (("per_hospital", "ratio"), ("distributed", "ratio_distributed")):
        found = quick[name]
        seconds = found["seconds"]
        assert found["placement"] == name and found["rounds"] == len(seconds["rounds"]) == 2
        assert found["ratio"] == pytest.approx(seconds["private"] / seconds["plain"])
        assert found["ratio_without_start"] == pytest.approx(
            (seconds["private"] - seconds["private_start"]) / (seconds["plain"] - seconds["plain_start"])
        )
        assert quick[prefix] == found["ratio"]
        assert quick[f"{prefix}_without_start"] == found["ratio_without_start"]


def test_every_second_has_one_cause(quick: dict[str, Any]) -> None:
    found = quick["per_hospital"]
    seconds, rows = found["seconds"], found["causes"]
    preparing = sum(row["seconds"] for row in found["preparing"].values())
    ours = sum(row["private"]["seconds"] for row in rows.values())
    assert ours + preparing == pytest.approx(seconds["private"])
    assert sum(row["plain"]["seconds"] for row in rows.values()) == pytest.approx(seconds["plain"])
    steps = found["hospitals"] * found["rounds"] * found["steps_per_round"]
    assert rows["noise"]["private"]["entered"] == steps and rows["noise"]["plain"]["entered"] == 0
    for name in (
        "secure aggregation",
        "journal",
        "ledger",
        "reports, pages, signatures",
        "the hospitals' reviews",
        "self-tests of the mechanism",
    ):
        assert rows[name]["private"]["seconds"] > 0 == rows[name]["plain"]["seconds"], name
    for name in ("training steps", "drawing batches", "samples and models", "averaging"):
        assert rows[name]["private"]["seconds"] > 0 < rows[name]["plain"]["seconds"], name


def test_time_is_charged_to_the_innermost_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"now": 0.0}
    monkeypatch.setattr(causes.time, "perf_counter", lambda: clock["now"])
    monkeypatch.setattr(causes.time, "process_time", lambda: 2 * clock["now"])

    def work(seconds: float) -> None:
        clock["now"] += seconds

    class Thing:
        def inner(self) -> None:
            work(2.0)

        def outer(self) -> None:
            work(1.0)
            self.inner()

    watch = causes.Causes()
    with causes.charged(watch, [causes.Charge(Thing, "inner", "in"), causes.Charge(Thing, "outer", "out")]):
        Thing().outer()
        work(50.0)
        with watch.running():
            work(0.5)
            Thing().outer()
            with watch.paused():
                work(100.0)
            Thing().inner()
    Thing().outer()
    assert {name: (one.wall, one.processor, one.entered) for name, one in watch.spent.items()} == {
        causes.REST: (0.5, 1.0, 0),
        "out": (1.0, 2.0, 1),
        "in": (4.0, 8.0, 2),
    }
    assert watch.total().wall == 5.5


def test_a_cause_that_is_whole_keeps_what_happens_inside_but_not_building() -> None:
    watch = causes.Causes(whole=frozenset({"tests"}))
    with watch.running(), watch.of("tests"):
        with watch.of("steps"):
            pass
        with watch.of(causes.BUILDING):
            pass
    assert {name: one.entered for name, one in watch.spent.items()} == {causes.REST: 0, "tests": 1, causes.BUILDING: 1}


def test_the_first_call_of_a_compiled_function_is_building() -> None:
    class Networks:
        def __init__(self) -> None:
            self.step = lambda: None

    watch = causes.Causes()
    with causes.charged(watch, [causes.Compiled(Networks, {"step": "steps"})]), watch.running():
        networks = Networks()
        for _ in range(3):
            networks.step()
    assert watch.spent[causes.BUILDING].entered == 2 and watch.spent["steps"].entered == 2


def test_a_function_that_moved_is_an_error_and_nothing_stays_wrapped() -> None:
    class Thing:
        def here(self) -> None: ...

    original = Thing.here
    with (
        pytest.raises(KeyError, match="gone"),
        causes.charged(causes.Causes(), [causes.Charge(Thing, "here", "x"), causes.Charge(Thing, "gone", "x")]),
    ):
        pass
    assert Thing.here is original


def test_the_page_takes_the_figures_of_whole_runs_alone(tmp_path: Path, quick: dict[str, Any]) -> None:
    page, results = tmp_path / "page.md", tmp_path / "results"
    results.mkdir()
    page.write_text(f"before\n{tables.RUN[0]}\nold\n{tables.RUN[1]}\nafter\n", encoding="utf-8")
    assert tables.write(results, page) == []
    (results / "cost_of_privacy.json").write_text(json.dumps(quick), encoding="utf-8")
    with pytest.raises(ValueError, match="--quick"):
        tables.write(results, page)
    (results / "cost_of_privacy.json").write_text(json.dumps({**quick, "quick": False}), encoding="utf-8")
    assert tables.write(results, page) == ["cost_of_privacy.json"]
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert f"| `ratio` | `per_hospital`, everything | {quick['ratio']:.2f} |" in text
    assert "| training steps |" in text
    marks = PAGE.read_text(encoding="utf-8")
    assert marks.index(tables.STEP[0]) < marks.index(tables.STEP[1])
    assert marks.index(tables.RUN[0]) < marks.index(tables.RUN[1])
