"""The mechanism record refuses everything that the accountant does not prove."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from fedgan_audits.mechanism import MechanismRecord

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
