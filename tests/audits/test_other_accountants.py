"""Our figures beside those of two libraries that share no code with ours or with dp-accounting (frozen answers)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedgan_audits.accounting import accountant, renyi
from fedgan_audits.accounting.mechanism import MechanismRecord

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "accountants.json").read_text())


def mechanisms(row: dict[str, Any]) -> list[MechanismRecord]:
    return [MechanismRecord(**part, l2_clip_norm=1.0, unit="patient") for part in row["mechanisms"]]


def named(row: dict[str, Any]) -> str:
    first = row["mechanisms"][0]
    return f"{len(row['mechanisms'])}x-q={first['sampling_probability']}-T={first['steps']}"


@pytest.mark.parametrize("row", VECTORS["rows"], ids=named)
def test_pld_lies_in_the_interval_of_prv_accountant(row: dict[str, Any]) -> None:
    epsilon = accountant.epsilon_pld(mechanisms(row), row["delta"])
    assert row["prv_lower"] <= epsilon <= row["prv_upper"]


@pytest.mark.parametrize("row", VECTORS["rows"], ids=named)
def test_integer_orders_agree_with_opacus_and_lose_little(row: dict[str, Any]) -> None:
    """Opacus takes fractional orders, which count where the best order is small: ours may lie above, never below."""
    epsilon = renyi.epsilon_of(accountant.curve(mechanisms(row)), row["delta"])
    assert row["opacus_rdp"] - 1e-4 <= epsilon <= row["opacus_rdp"] * 1.08
    assert accountant.epsilon_rdp(mechanisms(row), row["delta"]) == pytest.approx(row["opacus_rdp"], rel=0.02)
