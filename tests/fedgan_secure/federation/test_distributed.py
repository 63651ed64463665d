"""Shared noise: the grid, the box, the ring's headroom, and what one hospital gives to a sum."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedgan_audits.accounting.integer_noise import sensitivity, share_variance
from fedgan_audits.accounting.mechanism import DistributedMechanism, NoiseShares
from fedgan_protocols.errors import ParameterError
from fedgan_protocols.primitives.quantization import FixedPoint
from fedgan_secure.errors import InputError
from fedgan_secure.privacy.integer_noise import DiscreteGaussian
from fedgan_secure.privacy.shared_noise import (
    COARSEST_GRID,
    Schedule,
    ShareEncoder,
    box_of,
    check_shares,
    choose_grid,
    headroom,
    mean_gradient,
    noise_tail,
    step_digest,
    sums_digest,
)

CLIP = 1.5


def record(noise_multiplier: float = 1.0, **shares: Any) -> DistributedMechanism:
    """One round of five steps; t = 7, c = 3, a grid of 2^-12 in 1000 coordinates unless told otherwise."""
    facts: dict[str, Any] = {"threshold": 7, "colluders": 3, "grid_step": 2.0**-12, "dimension": 1000, **shares}
    return DistributedMechanism(
        sampling_probability=0.2,
        noise_multiplier=noise_multiplier,
        steps=5,
        l2_clip_norm=CLIP,
        unit="patient",
        images_per_patient=2,
        shares=NoiseShares(**facts),
    )


def codec_of(made: DistributedMechanism, box: float = 40.0, ring_bits: int = 32) -> FixedPoint:
    return FixedPoint(box, ring_bits, round(-math.log2(made.shares.grid_step)))


def no_noise(size: int) -> np.ndarray:
    return np.zeros(size, np.int64)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_one_patient_moves_the_rounded_sum_by_at_most_the_sensitivity(data: Any) -> None:
    """Any sum, any contribution of norm C, sums in and beyond the box: |difference| <= (C + g sqrt(d)) / g."""
    d = data.draw(st.integers(1, 300))
    bits = data.draw(st.integers(1, 14))
    made = record(dimension=d, grid_step=2.0**-bits, threshold=3, colluders=1)
    numbers = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    size = data.draw(st.sampled_from([0.01, 1.0, 60.0]))
    total = numbers.normal(size=d) * size
    if data.draw(st.booleans()):  # one coordinate carries the whole contribution, or all carry the same
        patient = np.zeros(d)
        patient[data.draw(st.integers(0, d - 1))] = CLIP
    else:
        patient = numbers.normal(size=d)
        patient *= CLIP / np.linalg.norm(patient)
    codec = codec_of(made)
    moved = codec.encode(total + patient).view(np.int32).astype(np.int64) - codec.encode(total).view(np.int32)
    assert np.linalg.norm(moved) <= sensitivity(made) / made.shares.grid_step * (1 + 1e-9)


def test_the_sensitivity_of_rounding_is_reached_up_to_the_margin() -> None:
    """Not a loose bound: sums just below the middle of two grid points all go up together."""
    d = 900
    made = record(dimension=d)
    codec, g = codec_of(made), made.shares.grid_step
    total, patient = np.full(d, g * 0.49), np.full(d, CLIP / math.sqrt(d))
    whole = math.floor(CLIP / math.sqrt(d) / g)
    patient[:] = (whole + 0.02) * g
    moved = codec.encode(total + patient).view(np.int32).astype(np.int64) - codec.encode(total).view(np.int32)
    assert np.all(moved == whole + 1)
    assert np.linalg.norm(moved) * g > np.linalg.norm(patient) + 0.95 * g * math.sqrt(d)


def test_every_hospital_adds_the_share_of_t_less_c_whatever_the_roster() -> None:
    """Variance of one share: (sigma Delta / g)^2 / (t - c), to six standard errors; 2e5 values (false alarm 4e-9)."""
    made = record(noise_multiplier=1.3, dimension=200_000, grid_step=2.0**-16)
    encoder = ShareEncoder(made, codec_of(made), DiscreteGaussian(Fraction(share_variance(made))).draw)
    zeros = np.zeros(200_000)
    values, moments = encoder.encode(zeros)
    noise = values.view(np.int32).astype(np.float64)
    expected = (1.3 * sensitivity(made) / made.shares.grid_step) ** 2 / 4
    assert abs(noise.var() / expected - 1) < 6 * math.sqrt(2 / noise.size)
    assert moments["count"] == noise.size and moments["sum"] == noise.sum() and moments["clamped"] == 0
    assert np.array_equal(encoder.rounded(zeros), np.zeros(200_000, np.uint32))
    again, _ = encoder.encode(zeros)
    assert not np.array_equal(values, again)


def test_sums_are_clamped_to_the_box_rounded_and_wrapped() -> None:
    made = record(dimension=6)
    codec = codec_of(made, box=2.0)
    encoder = ShareEncoder(made, codec, lambda size: np.array([0, 1, -1, 0, -5, 2**31 - 1]))
    values, moments = encoder.encode(np.array([5.0, -5.0, np.nan, 0.1, 0.0, 2.0]))
    grid = 2**12
    signed = values.view(np.int32)
    assert list(signed[:5]) == [2 * grid, -2 * grid + 1, -1, round(0.1 * grid), -5]
    assert values[5] == np.uint32(2 * grid + 2**31 - 1)
    assert moments["clamped"] == 3
    with pytest.raises(ValueError, match="expected"):
        encoder.encode(np.zeros(7))


@pytest.mark.parametrize(
    ("shares", "noise", "what"),
    [
        ({"grid_step": 2.0**-11}, 1.0, "grid_step"),
        ({"noise": "skellam"}, 1.0, "noise"),
        ({"dimension": 10**8, "grid_step": 2.0**-12}, 1.0, "rounding"),
        ({}, 1e-4, "share of the noise"),
        ({}, 1e9, "share of the noise"),
    ],
)
def test_shares_without_a_proof_are_refused(shares: dict[str, Any], noise: float, what: str) -> None:
    codec = FixedPoint(40.0, 32, 12)
    made = record(noise, **shares)
    with pytest.raises(InputError, match=what):
        check_shares(made, codec)
    with pytest.raises(InputError):
        ShareEncoder(made, codec, no_noise)


def test_headroom_counts_the_noise_and_refuses_one_step_too_much() -> None:
    made, schedule = record(), Schedule(hospitals=10, sums=600)
    tail = noise_tail(made, schedule)
    deviation = math.sqrt(10 * share_variance(made))
    assert 9 * deviation < tail < 13 * deviation
    limit = (2**31 - 1 - tail) // 10
    fits = FixedPoint(limit / 2**12, 32, 12)
    assert fits.largest == limit and str(tail) in headroom(fits, made, schedule)
    with pytest.raises(ParameterError):
        headroom(FixedPoint((limit + 1) / 2**12, 32, 12), made, schedule)
    assert noise_tail(made, Schedule(10, 1)) < tail < noise_tail(made, Schedule(11, 600))


def choose(**changes: Any) -> tuple[DistributedMechanism, int]:
    arguments: dict[str, Any] = {
        "threshold": 4,
        "colluders": 2,
        "dimension": 70_000,
        "box": box_of(CLIP, 192.0),
        "ring_bits": 32,
        "fraction_bits": None,
        "schedule": Schedule(5, 300),
        **changes,
    }
    return choose_grid(lambda shares: record().model_copy(update={"shares": shares}), **arguments)


def test_the_finest_grid_that_fits_is_chosen() -> None:
    made, bits = choose()
    assert made.shares.grid_step == 2.0**-bits
    codec = FixedPoint(box_of(CLIP, 192.0), 32, bits)
    assert headroom(codec, made, Schedule(5, 300))
    assert made.shares.grid_step * math.sqrt(70_000) <= COARSEST_GRID * CLIP
    finer = made.model_copy(update={"shares": made.shares.model_copy(update={"grid_step": 2.0 ** -(bits + 1)})})
    with pytest.raises(ParameterError):
        headroom(FixedPoint(codec.bound, 32, bits + 1), finer, Schedule(5, 300))
    assert choose(ring_bits=64)[1] > bits
    assert choose(fraction_bits=15)[1] == 15


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"colluders": 0}, "no hospital may collude"),
        ({"fraction_bits": 30}, "no grid fits"),
        ({"fraction_bits": 2}, "no grid fits"),
        ({"box": 1e6, "schedule": Schedule(99, 300)}, "no grid fits"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_with_what_to_do(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError, match=what) as caught:
        choose(**changes)
    assert caught.value.hint


def test_the_mean_is_divided_by_public_numbers_alone() -> None:
    codec = FixedPoint(40.0, 32, 12)
    total = codec.encode(np.array([8.0, -4.0])) + codec.encode(np.array([8.0, 0.0]))
    mean = mean_gradient(total, 2, codec, 16.0)
    assert mean.dtype == np.float32 and np.array_equal(mean, np.array([0.5, -0.125], np.float32))
    with pytest.raises(ValueError, match="at least one"):
        mean_gradient(total, 0, codec, 16.0)


def test_digests_tell_models_and_sums_apart() -> None:
    weights = np.zeros(4, np.float32)
    other = weights.copy()
    other[3] = np.nextafter(np.float32(0), np.float32(1))
    names = {step_digest("00" * 32, weights), step_digest("00" * 32, other), step_digest("01" * 32, weights)}
    assert len(names) == 3
    one, two = b"1" * 32, b"2" * 32
    assert len({sums_digest((one, two)), sums_digest((two, one)), sums_digest((one,))}) == 3
