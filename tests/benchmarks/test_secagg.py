"""The benchmark's figures are computed, not written down: tiny sizes, every section, and what it must refuse."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.secure_aggregation import client_memory, cost_tables, costs, flower_environment, mask_rate, timing
from benchmarks.secure_aggregation.flower_comparison import SharedWork, UnmaskingServer, compare_clients
from benchmarks.secure_aggregation.rounds import STAGES, Federation, Round, fixed_inputs, spread

from fedgan_protocols import masking
from fedgan_protocols.primitives.encoding import split_packet
from fedgan_protocols.server import states as server_states
from fedgan_secure.processors import processors
from tests.patience import HANG_SECONDS

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "secagg.py"
HEADLINES = {
    "mask_share_of_limit",
    "keystream_share_of_openssl",
    "flower_client_ratio",
    "flower_client_cpu_ratio",
    "flower_client_stage_ratio",
    "flower_server_ratio",
    "flower_server_ratio_without_drop_out",
    "client_peak_vectors",
    "thousand_clients_cpu_minutes",
    "thousand_clients_peak_gib",
}


def test_the_script_prints_one_object_with_every_headline() -> None:
    command = [
        sys.executable,
        str(SCRIPT),
        "--json",
        "--quick",
        "--only",
        "memory",
        "--only",
        "thousand",
        "--only",
        "growth",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) >= HEADLINES
    assert found["quick"] is True
    assert {"python", "numpy", "cryptography", "cryptography_openssl", "cpu", "cores"} <= set(found["machine"])
    measured = {"client_peak_vectors", "thousand_clients_cpu_minutes", "thousand_clients_peak_gib"}
    assert all(found[key] > 0 for key in measured)
    assert all(found[key] is None for key in HEADLINES - measured), "sections that were left out have no figure"
    assert [row["members"] for row in found["growth"]] == [120] and found["growth"][0]["sum_exact"] is True
    (row,) = found["thousand"]
    assert row["sum_exact"] is True
    assert row["survivors"] == row["members"] - round(row["drop_out"] * row["members"]) == row["receipts"]
    assert row["cpu_minutes"] > row["protocol_cpu_minutes"]
    assert row["protocol_cpu_minutes"] * 60 == pytest.approx(
        row["server_cpu_seconds"] + row["client_cpu_seconds_mean"] * row["members"]
    )


def test_the_share_of_the_limit_is_that_of_the_measured_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that the work itself moves: a cipher call takes 1 s, the engine 8 s, a look at it a nanosecond."""
    clock = {"now": 0.0}

    def look() -> float:
        clock["now"] += 1e-9
        return clock["now"]

    monkeypatch.setattr(timing.time, "process_time", look)
    words, neighbours, passes = 100_000, 4, {"number": 1}
    true = masking.add_streams

    class Cipher:
        def __init__(self, key: bytes) -> None:
            assert len(key) == masking.KEY_BYTES

        def encrypt_into(self, *_: Any) -> None:
            clock["now"] += 1.0

    def engine(vector: np.ndarray, terms: Any) -> None:
        for _ in range(passes["number"]):
            clock["now"] += 8.0
            true(vector, terms)

    monkeypatch.setattr(mask_rate, "AESGCM", Cipher)
    monkeypatch.setattr(masking, "add_streams", engine)
    segments = -(-words * mask_rate.WORD_BYTES // masking.SEGMENT_BYTES)
    found = mask_rate.measure(words, neighbours, repeats=3, openssl_seconds=0)
    assert found["limit_seconds"] == pytest.approx(segments * (neighbours + 1))
    assert found["mask_seconds"] == pytest.approx(8.0)
    assert found["mask_share_of_limit"] == pytest.approx(found["limit_seconds"] / found["mask_seconds"])
    assert found["streams"] == 5
    assert found["keystream_share_of_openssl"] is None and found["openssl_skipped"] == "left out on request"
    passes["number"] = 4
    slower = mask_rate.measure(words, neighbours, repeats=3, openssl_seconds=0)
    assert slower["mask_share_of_limit"] == pytest.approx(found["mask_share_of_limit"] / 4)


def test_without_an_openssl_command_the_figure_is_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_rate.machine.shutil, "which", lambda _: None)
    found = mask_rate.measure(70_000, 2, repeats=1, openssl_seconds=1)
    assert found["keystream_share_of_openssl"] is None
    assert found["openssl_skipped"] == "no openssl command was found on this machine"
    assert found["mask_share_of_limit"] > 0


def test_alternation_turns_the_order_round_and_keeps_every_sample() -> None:
    order: list[str] = []

    def work(name: str) -> float:
        order.append(name)
        return float(len(order))

    found = timing.alternate({"a": lambda: work("a"), "b": lambda: work("b")}, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert found == {"a": [1.0, 4.0, 5.0], "b": [2.0, 3.0, 6.0]}
    assert timing.medians(found) == {"a": 4.0, "b": 3.0}


def test_one_round_branches_into_every_drop_out_with_its_own_exact_sum() -> None:
    federation = Federation.of(7, 1000)
    outcomes = Round(federation, fixed_inputs(1000, seed=3)).run([0.0, 0.3])
    assert [(one.dropped, one.survivors, one.exact) for one in outcomes] == [(0, 7, True), (2, 5, True)]
    for one in outcomes:
        row = one.cost.as_dict(7)
        stages = row["stages"]
        assert set(stages) == {stage.label for stage in STAGES} | {"closing"}
        assert all(stage["server_cpu_seconds"] > 0 for stage in stages.values())
        assert stages["masked-input"]["bytes_up_per_client"] > 4000
        asked = stages["advertise-keys"]["bytes_down_per_client"]
        assert asked < stages["share-keys"]["bytes_down_per_client"]
        assert row["all_cpu_seconds"] == pytest.approx(row["server_cpu_seconds"] + 7 * row["client_cpu_seconds_mean"])
    full, reduced = (one.cost.as_dict(7) for one in outcomes)
    assert full["server_bytes_in"] > reduced["server_bytes_in"] + 2 * 4000


def test_clients_that_let_go_of_what_they_sent_give_the_same_sum() -> None:
    rehearsal = Round(Federation.of(4, 1000), fixed_inputs(1000, seed=2), keep_replies=False)
    rehearsal.exchange(STAGES[0])
    assert all(state.last is not None and state.last.reply == b"" for state in rehearsal.clients.values())
    (outcome,) = Round(Federation.of(4, 1000), fixed_inputs(1000, seed=2), keep_replies=False).run([0.3])
    assert outcome.exact and outcome.survivors == 3


def test_a_wrong_sum_is_reported() -> None:
    calls: list[int] = []
    draw = fixed_inputs(50, seed=1)

    def changing(member: int) -> np.ndarray:
        calls.append(member)
        return draw(member)

    rehearsal = Round(Federation.of(4, 50), changing)
    finish = rehearsal._finish
    rehearsal._finish = lambda rate, silent, expected: finish(rate, silent, expected + np.uint32(1))  # type: ignore[method-assign]
    (outcome,) = rehearsal.run([0.0])
    assert outcome.exact is False
    assert calls == [1, 2, 3, 4], "every input is drawn once, when it is asked for"


def test_drop_outs_are_spread_over_the_roster() -> None:
    assert spread(10, 0.0) == frozenset()
    assert spread(10, 0.3) == {2, 6, 9}
    assert len(spread(1000, 0.1)) == 100 and max(spread(1000, 0.1)) > 900


def test_rounds_that_would_be_too_long_are_left_out_with_the_reason() -> None:
    (row,) = costs.round_table([5], [1000], [0.0], most_streams=100)
    assert "at most" in row["skipped"] and "sum_exact" not in row


def test_a_table_of_rounds_says_what_was_run() -> None:
    rows = costs.round_table([4, 7], [50, 1000], [0.0, 0.3], most_streams=20_000)
    measured = [row for row in rows if "skipped" not in row]
    found = [(row["members"], row["parameters"], row["drop_out"], row["survivors"]) for row in measured]
    assert found == [
        (4, 50, 0.0, 4),
        (4, 50, 0.3, 3),
        (4, 1000, 0.0, 4),
        (4, 1000, 0.3, 3),
        (7, 50, 0.0, 7),
        (7, 50, 0.3, 5),
    ]
    assert all(row["sum_exact"] and row["receipts"] == row["survivors"] for row in measured)


def test_a_table_of_clients_has_a_row_for_every_size() -> None:
    rows = costs.client_table([100, 200_000], [2, 5], repeats=1)
    assert [(row["neighbours"], row["parameters"]) for row in rows] == [(2, 100), (2, 200_000), (5, 100), (5, 200_000)]
    assert rows[1]["quantisation_cpu_seconds"] > rows[0]["quantisation_cpu_seconds"]


def test_the_tables_of_the_docs_come_from_a_whole_run(tmp_path: Path) -> None:
    page, figures = tmp_path / "page.md", tmp_path / "figures.json"
    page.write_text(f"before\n{cost_tables.START}\nold\n{cost_tables.END}\nafter\n")
    figures.write_text(json.dumps({"quick": True}))
    with pytest.raises(ValueError, match="--quick"):
        cost_tables.write(figures, page)
    rows = costs.round_table([4], [50], [0.0, 0.3], most_streams=1e9)
    assert "| 4 | 50 | 30% |" in cost_tables.rounds(rows)
    with pytest.raises(ValueError, match="not exact"):
        cost_tables.rounds([{**rows[0], "sum_exact": False}])
    text = (SCRIPT.parents[1] / "docs" / "secure-aggregation-costs.md").read_text()
    assert text.index(cost_tables.START) < text.index(cost_tables.END)


def test_like_for_like_work_gives_the_vector_that_the_client_sends() -> None:
    client = costs.MaskingClient(5000, 4)
    shared, stage = SharedWork(client).run(), client.encode_and_answer()
    assert split_packet(shared, 1 << 20)[1] == split_packet(stage, 1 << 20)[1]
    assert split_packet(shared, 1 << 20)[0] == b"" != split_packet(stage, 1 << 20)[0]


def test_the_timed_server_recovers_the_mean_after_drop_outs() -> None:
    server = UnmaskingServer(7, 2000, 0.3)
    assert server.run() > 0
    assert len(server.silent) == 2 and 0 < server.error < 1e-5
    server.replies[0] = server_states.Reply(server.replies[0].member, bytes(server.replies[1].packet))
    server.replies.pop()
    with pytest.raises(Exception, match="threshold is 5"):
        server.run()


class FlowerStandIn:
    """Answers as the worker does, so that the arithmetic of the comparison can be tested without Flower."""

    def order(self, **order: Any) -> dict[str, Any]:
        if order.get("run"):
            return {"cpu_seconds": 1.0, "wall_seconds": 3.0, "error": 0.0}
        return {"flwr": "1.0", "numpy": "2.0"}


def test_the_client_ratio_is_flowers_time_over_ours() -> None:
    found = compare_clients(FlowerStandIn(), 2000, 4, repeats=3)  # type: ignore[arg-type]
    assert found["flower_cpu_seconds"] == 1.0
    assert found["cpu_ratio"] == pytest.approx(1.0 / found["like_for_like_cpu_seconds"])
    assert found["flower_wall_seconds"] == 3.0 and found["threads"] == processors()
    assert found["ratio"] == pytest.approx(3.0 / found["like_for_like_wall_seconds"])
    assert found["stage_ratio"] == pytest.approx(1.0 / found["stage_cpu_seconds"])


def test_an_environment_that_cannot_be_made_is_a_reason_and_not_a_crash(tmp_path: Path) -> None:
    broken = tmp_path / "requirements.txt"
    broken.write_text(f"{tmp_path}/no-such-wheel.whl --hash=sha256:{hashlib.sha256(b'').hexdigest()}\n")
    with pytest.raises(flower_environment.UnavailableError, match="pip could not install"):
        flower_environment.interpreter(tmp_path / "environment", broken)


def test_a_worker_that_dies_is_a_reason_and_not_a_crash() -> None:
    with (
        flower_environment.Worker(Path(sys.executable)) as worker,
        pytest.raises(flower_environment.UnavailableError, match="flwr"),
    ):
        worker.order(prepare="client", parameters=10, neighbours=2)


def test_flowers_lock_has_a_hash_for_everything_and_names_no_registry() -> None:
    text = flower_environment.LOCK.read_text(encoding="utf-8")
    blocks = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    assert blocks and all(line.endswith("\\") for line in blocks)
    assert "://" not in text and not any(line.startswith("-") for line in text.splitlines())
    assert "flwr==1." in text


def test_the_memory_of_one_client_counts_its_input_and_its_packet() -> None:
    found = client_memory.measure(500_000, 3)
    stages = found["stage_peak_vectors"]
    assert found["client_peak_vectors"] == max(stages.values())
    assert 2 <= stages["masked-input"] < 3, "the input and the packet that it is masked in"
    assert found["with_quantisation_stage_peak_vectors"]["masked-input"] == pytest.approx(
        stages["masked-input"] + 1, abs=0.05
    )
    assert found["resident_peak_vectors"] > 1.5


def test_a_replayed_client_that_answers_otherwise_is_noticed(tmp_path: Path) -> None:
    client_memory.record(tmp_path, 1000, 3)
    story = json.loads((tmp_path / "round.json").read_text())
    costs.CODEC.encode(client_memory.update_of(story["member"], 1000) + np.float32(1)).tofile(tmp_path / "input")
    with pytest.raises(RuntimeError, match="another answer to masked-input"):
        client_memory.play(tmp_path, traced=False, encoding=False, threads=1)
