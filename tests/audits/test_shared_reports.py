"""Shared noise in a ledger and in signed reports: written, read again, recomputed, and held to its shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedgan_audits.accounting import accountant, colluders
from fedgan_audits.accounting.mechanism import DistributedMechanism, NoiseShares
from fedgan_audits.ledger.ledger import Ledger
from fedgan_audits.verification.verify import verify_run

SHARED = DistributedMechanism(
    sampling_probability=0.1,
    noise_multiplier=1.4,
    steps=20,
    l2_clip_norm=1.0,
    unit="patient",
    images_per_patient=2,
    shares=NoiseShares(threshold=3, colluders=1, grid_step=1e-5, dimension=1_000_000),
)


def test_a_ledger_keeps_the_shares(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger.open(path, hospital="north", create=True) as ledger:
        ledger.reserve("run-1", 1, SHARED, 1e-5, 8.0)
    with Ledger.open(path, hospital="north") as ledger:
        assert ledger.mechanisms() == (SHARED,)
        assert accountant.epsilon(ledger.mechanisms(), 1e-5) == accountant.epsilon([SHARED], 1e-5)


def test_reports_of_shared_noise_verify_and_tabulate_colluders(new_run: Any, transcript_check: Any) -> None:
    run = new_run(rounds=2, mechanism=SHARED).all_rounds()
    result = verify_run(run.folder, trust=run.public_keys, transcript_check=transcript_check)
    assert result.ok, result.checks
    report = run.drafts[-1].report
    both = [SHARED.model_copy(update={"steps": 40})]
    assert report.privacy.epsilon == accountant.round_up(accountant.epsilon(both, 1e-4))
    assert "integer-order" in report.privacy.accountant
    assert [row.epsilon for row in report.composition.colluders] == [
        accountant.round_up(row.epsilon) for row in colluders.table(both, 1e-4)
    ]
    assert report.composition.two_hospitals == accountant.round_up(accountant.epsilon_two_hospitals(both, 1e-4))
