"""`fedgan-secure run --noise-placement distributed`, whole: what the reports say, drop-outs, and a kill."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from fedgan_audits.accounting.accountant import epsilon
from fedgan_audits.accounting.integer_noise import share_variance
from fedgan_audits.accounting.mechanism import DistributedMechanism
from fedgan_audits.verification.verify import verify_run
from fedgan_secure.policy.policy import FederationPolicy
from tests.cli.conftest import SMALL, fedgan
from tests.cli.test_run import reports, reserved_rounds, start_and_signal

SHARED = [*SMALL, "--noise-placement", "distributed"]


def verified(root: Path) -> bool:
    return fedgan("audit", "verify", root, "--trust", root / "public" / "trust").code == 0


@pytest.fixture(scope="module")
def finished_shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four hospitals, two rounds of two steps; one hospital drops out of the second."""
    root = tmp_path_factory.mktemp("shared") / "run"
    four = [*SHARED]
    four[four.index("--hospitals") + 1] = "4"
    done = fedgan("run", *four, "--rounds", "2", "--drop", "d@2:consistency-check", "--output", root)
    assert done.code == 0, done.err
    assert "at most 1 colluding hospital" in done.out
    return root


def test_reports_verify_and_say_what_the_placement_means(finished_shared: Path) -> None:
    assert verified(finished_shared)
    found: list[Any] = reports(finished_shared)
    assert [report["verdict"]["verdict"] for report in found] == ["PASS", "PASS"]
    privacy, composition = found[-1]["privacy"], found[-1]["composition"]
    assert privacy["settings"]["noise_placement"] == "distributed"
    assert "rests on secure aggregation" in privacy["setting"] and "integer-order RDP" in privacy["accountant"]
    assert "discrete Gaussian" in privacy["settings"]["noise"]
    rows = composition["colluders"]
    assert [float(row["epsilon"]) for row in rows] == sorted(float(row["epsilon"]) for row in rows)
    declared = [row for row in rows if "the binding figure" in row["who"]]
    assert len(rows) == 3 and len(declared) == 1 and "1 hospital" in declared[0]["who"]
    assert declared[0]["epsilon"] == found[-1]["verdict"]["spent"] == privacy["epsilon"]
    assert float(composition["two_hospitals"]) > float(privacy["epsilon"])
    page = (finished_shared / "public" / "reports" / "round-0002.html").read_text()
    assert "It rests on secure aggregation" in page and "an update of the model, hidden" not in page


def test_the_declared_figure_is_that_of_the_policys_shares(finished_shared: Path) -> None:
    """Recomputed from the policy: noise of t - c shares over the rounded sum's sensitivity, in every scheduled step."""
    policy = FederationPolicy.parse((finished_shared / "public" / "policy.json").read_bytes())
    record = policy.mechanism_record()
    assert isinstance(record, DistributedMechanism)
    assert (record.shares.threshold, record.shares.colluders, record.shares.honest_shares) == (3, 1, 2)
    whole = record.model_copy(update={"steps": record.steps * policy.rounds})
    figure = epsilon([whole], policy.mechanism.delta)
    found: list[Any] = reports(finished_shared)
    assert figure <= float(found[-1]["verdict"]["spent"]) < figure + 1e-3 <= 20.001
    assert f"{share_variance(record) ** 0.5:.6g} steps" in found[-1]["privacy"]["settings"]["noise"]


def test_a_hospital_that_left_on_the_way_is_told_of(finished_shared: Path) -> None:
    found: list[Any] = reports(finished_shared)
    assert found[0]["aggregation"]["facts"]["survivors"] == ["a", "b", "c", "d"]
    assert found[1]["aggregation"]["facts"]["survivors"] == ["a", "b", "c"]
    texts = [row["text"] for row in found[1]["incidents"]["incidents"] if row["kind"] == "drop-out"]
    assert texts == ["hospital d dropped out on the way: 1 of the 2 sums of the round hold its patients"]


def test_the_annex_keeps_the_steps_and_nothing_of_them_is_public(finished_shared: Path) -> None:
    annex = json.loads((finished_shared / "site" / "a" / "confidential" / "round-0001.json").read_text())["annex"]
    assert annex["training"]["steps"] == 2 and len(annex["training"]["batch_sizes"]) == 2
    assert annex["training"]["noise_variance_grid_steps"] > 0
    public = b"".join(path.read_bytes() for path in (finished_shared / "public").rglob("*") if path.is_file())
    assert b"noise_variance_grid_steps" not in public


@pytest.mark.parametrize(
    ("what", "value"),
    [("colluders", 2), ("threshold", 4), ("grid_step", 2.0**-9), ("dimension", 10)],
)
def test_a_policy_with_other_shares_does_not_verify(
    what: str, value: float, finished_shared: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(finished_shared, tmp_path / "copy"))
    policy = json.loads((root / "public" / "policy.json").read_text())
    policy["mechanism"]["shares"][what] = value
    (root / "public" / "policy.json").write_text(json.dumps(policy, separators=(",", ":"), sort_keys=True))
    failed = [
        check.name for check in verify_run(root, trust=None, transcript_check=None).checks if check.outcome == "FAIL"
    ]
    assert "policy content" in failed


def test_a_kill_in_round_two_is_resumed_and_stays_spent(tmp_path: Path) -> None:
    root = tmp_path / "run"
    start_and_signal(root, signal.SIGKILL, "--noise-placement", "distributed")
    done = fedgan("run", "--resume", root)
    assert done.code == 0, done.err
    found: list[Any] = reports(root)
    assert [report["verdict"]["verdict"] for report in found] == ["PASS", "INCOMPLETE", "PASS"]
    assert float(found[-1]["verdict"]["spent"]) <= 20.0
    assert verified(root)
    assert reserved_rounds(root, "a") == [1, 2, 3]
    kept = json.loads((root / "checkpoints" / "state.json").read_text())
    assert kept["finished"] == 2 and (root / "checkpoints" / "optimiser.npz").exists()
    assert not (root / "site" / "a" / "optimiser.npz").exists()
