"""The specification of an adapted generator: it survives its file, and what is out of range is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from fedgan_secure.models.adapted_spec import DRAWS, FAMILY, AdaptedSpec
from fedgan_secure.models.errors import ModelError
from fedgan_secure.models.spec import ModelSpec, read_spec

GIVEN: dict[str, Any] = {
    "start_sha256": "0123456789abcdef" * 4, "image_size": 64, "channels": 3, "classes": 5, "features": 271,
}  # fmt: skip


def spec(**changes: Any) -> AdaptedSpec:
    return AdaptedSpec(**{**GIVEN, **changes})


@given(purity=st.one_of(st.integers(0, 100), st.floats(0, 100)), pool=st.integers(50, 20_000), seed=st.integers(0, 99))
def test_it_survives_canonical_json_to_the_byte(purity: float, pool: int, seed: int) -> None:
    """Canonical JSON writes 2.0 as 2: what is read back is the same specification, written as the same bytes."""
    made = spec(purity=float(purity), pool=pool, seed=seed)
    written = rfc8785.dumps(made.to_json())
    again = AdaptedSpec.from_json(json.loads(written))
    assert again == made and type(again.purity) is float and rfc8785.dumps(again.to_json()) == written


def test_a_whole_purity_is_written_as_a_whole_number_and_read_as_one_with_a_point() -> None:
    written = json.loads(rfc8785.dumps(spec(purity=2.0).to_json()))
    assert type(written["purity"]) is int and written["family"] == FAMILY
    assert repr(AdaptedSpec.from_json(written).purity) == "2.0"


def test_what_drawing_needs_to_know() -> None:
    assert spec().latent_dim == DRAWS and spec().conditional and not spec(classes=0).conditional


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("start_sha256", "0" * 63), ("start_sha256", "G" * 64), ("start_sha256", "A" * 64), ("image_size", 7),
        ("image_size", 64.0), ("channels", 0), ("channels", 4), ("classes", -1), ("classes", 1001), ("classes", True),
        ("features", 0), ("pool", 49), ("pool", 20_001), ("pool", "60"), ("hidden", 0), ("transfer_width", -1),
        ("transfer_width", 257), ("fit_steps", -1), ("fit_batch", 1), ("seed", -1), ("seed", 2**31), ("purity", -0.1),
        ("purity", 100.5), ("purity", float("nan")), ("purity", float("inf")), ("purity", "2"), ("purity", True),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused_by_its_name(name: str, wrong: Any) -> None:
    with pytest.raises(ModelError, match=f"model.{name} is"):
        spec(**{name: wrong})
    with pytest.raises(ModelError, match=f"model.{name} is"):
        AdaptedSpec.from_json({**spec().to_json(), name: wrong})


@pytest.mark.parametrize(
    "change", [{"family": "adapted-start/2"}, {"family": None}, {"more": 1}, {"pool": None, "-": "pool"}]
)
def test_other_keys_or_another_family_are_refused(change: dict[str, Any]) -> None:
    values = {**spec().to_json(), **change}
    values.pop(str(values.pop("-", "")), None)
    with pytest.raises(ModelError, match="model: family"):
        AdaptedSpec.from_json(values)


def test_the_family_says_which_specification_a_policy_holds() -> None:
    assert read_spec(spec().to_json()) == spec()
    assert read_spec(ModelSpec().to_json()) == ModelSpec()
    with pytest.raises(ModelError, match="family 'dcgan'"):
        read_spec({**ModelSpec().to_json(), "family": "dcgan"})
    without = spec().to_json()
    del without["family"]
    with pytest.raises(ModelError, match="unknown keys"):
        read_spec(without)
