"""The mechanism record refuses everything that the accountant does not prove."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from fedgan_audits.accounting.mechanism import DistributedMechanism, MechanismRecord, NoiseShares, parse_mechanism

GOOD: dict[str, Any] = {
    "sampling_probability": 0.1,
    "noise_multiplier": 1.5,
    "steps": 20,
    "l2_clip_norm": 1.0,
    "unit": "patient",
    "images_per_patient": 2,
}


def test_a_record_is_frozen_hashable_and_survives_json() -> None:
    record = MechanismRecord(**GOOD)
    assert MechanismRecord.model_validate_json(record.model_dump_json()) == record
    assert hash(record) == hash(MechanismRecord(**GOOD))
    with pytest.raises(ValidationError):
        record.steps = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sampling_probability", 0.0),
        ("sampling_probability", 1.0000001),
        ("sampling_probability", float("nan")),
        ("sampling_probability", True),
        ("noise_multiplier", -1e-9),
        ("noise_multiplier", float("inf")),
        ("steps", 0),
        ("steps", 2.5),
        ("steps", True),
        ("l2_clip_norm", 0.0),
        ("unit", "study"),
        ("neighbouring_relation", "replace_one"),
        ("sampler", "shuffle"),
        ("noise_placement", "nowhere"),
        ("images_per_patient", 0),
        ("epsilon", 1.0),
    ],
)
def test_a_value_out_of_range_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError):
        MechanismRecord(**{**GOOD, field: value})


def test_no_noise_can_be_recorded() -> None:
    assert MechanismRecord(**{**GOOD, "noise_multiplier": 0.0}).noise_multiplier == 0.0


SHARES: dict[str, Any] = {"threshold": 7, "colluders": 3, "grid_step": 1e-5, "dimension": 1000}


def test_shared_noise_is_a_record_of_its_own_kind() -> None:
    record = DistributedMechanism(**GOOD, shares=NoiseShares(**SHARES))
    assert (record.noise_placement, record.shares.honest_shares, record.shares.noise) == (
        "distributed",
        4,
        "discrete_gaussian",
    )
    assert hash(record) == hash(DistributedMechanism(**GOOD, shares=SHARES))
    parsed = parse_mechanism(record.model_dump(mode="json"))
    assert isinstance(parsed, DistributedMechanism)
    assert parsed == record != MechanismRecord(**GOOD)
    assert parsed.model_copy(update={"steps": 40}).shares == record.shares


def test_records_written_before_there_were_shares_read_as_they_did() -> None:
    """The JSON of a per-hospital record is byte for byte what earlier versions wrote into ledgers and reports."""
    text = (
        '{"sampling_probability":0.1,"noise_multiplier":1.5,"steps":20,"l2_clip_norm":1.0,"unit":"patient",'
        '"neighbouring_relation":"add_or_remove_one","sampler":"poisson","noise_placement":"per_hospital",'
        '"images_per_patient":2}'
    )
    record = parse_mechanism(json.loads(text))
    assert type(record) is MechanismRecord
    assert record.model_dump_json() == text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("threshold", 1),
        ("threshold", 3),
        ("colluders", 7),
        ("colluders", -1),
        ("colluders", True),
        ("grid_step", 0.0),
        ("grid_step", float("nan")),
        ("dimension", 0),
        ("noise", "laplace"),
        ("survivors", 5),
    ],
)
def test_shares_out_of_range_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError):
        DistributedMechanism(**GOOD, shares={**SHARES, field: value})


def test_shares_come_with_distributed_noise_and_with_nothing_else() -> None:
    for wrong in ({**GOOD, "shares": None}, {**GOOD, "shares": SHARES, "noise_placement": "per_hospital"}):
        with pytest.raises(ValidationError):
            parse_mechanism(wrong)
    with pytest.raises(ValidationError):
        MechanismRecord(**GOOD, shares=SHARES)
    with pytest.raises(ValidationError):
        DistributedMechanism(**GOOD)  # type: ignore[call-arg]
