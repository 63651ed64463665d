"""The noise of a release in either place, its ring, and the sum over hospitals."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedgan_audits.accounting.integer_noise import sensitivity, share_variance
from fedgan_audits.accounting.mechanism import DistributedMechanism, MechanismRecord
from fedgan_protocols.primitives.quantization import FixedPoint
from fedgan_secure.errors import InputError
from fedgan_secure.federation.released.release_ring import (
    LARGEST_NORMAL,
    ReleaseRing,
    ReleaseTerms,
    box_of_release,
    decode_release_sum,
    encode_release,
    noise_of,
    release_deviation,
    release_ring,
)
from fedgan_secure.privacy.errors import PrivacyRefused
from fedgan_secure.privacy.release import COARSE, add_noise
from fedgan_secure.privacy.shared_noise import Schedule, noise_tail

HOSPITALS, DECLARED = 4, 50
PLACES = ["per_hospital", "distributed"]


class Stream:
    """Reproducible bytes: SHAKE-256 of a seed, read on and on."""

    def __init__(self, seed: int = 1) -> None:
        self.seed, self.calls = seed, 0

    def __call__(self, count: int) -> bytes:
        self.calls += 1
        return hashlib.shake_256(f"{self.seed}/{self.calls}".encode()).digest(count)


def one_release(noise: float = 2.285, place: str = "per_hospital", clip_norm: float = 1.0) -> MechanismRecord:
    return MechanismRecord.model_validate(
        {
            "sampling_probability": 1.0,
            "noise_multiplier": noise,
            "steps": 1,
            "l2_clip_norm": clip_norm,
            "unit": "patient",
            "noise_placement": place,
        }
    )


def terms(dimension: int = 600, hospitals: int = HOSPITALS, declared: int = DECLARED, bits: int = 32) -> ReleaseTerms:
    return ReleaseTerms(dimension, declared, hospitals, bits, threshold=3, colluders=1)


def ring(place: str, noise: float = 2.285, of: ReleaseTerms | None = None) -> ReleaseRing:
    return release_ring(one_release(noise, place), of or terms())


def sums(count: int, dimension: int = 600, patients: int = DECLARED) -> list[np.ndarray]:
    rng = np.random.default_rng(count)
    return [rng.uniform(-1, 1, dimension) * patients * 0.3 for _ in range(count)]


def added(parts: list[np.ndarray]) -> np.ndarray:
    """The sum modulo 2^k, as secure aggregation computes it."""
    total = np.zeros_like(parts[0])
    for part in parts:
        total = total + part
    return total


@pytest.mark.parametrize("place", PLACES)
def test_four_hospitals_sum_is_the_plain_sum_of_what_they_rounded(place: str) -> None:
    made, given_noise = ring(place), []

    def kept(seed: int) -> list[np.ndarray]:
        draw = noise_of(made.mechanism, Stream(seed))

        def drawn(size: int) -> np.ndarray:
            given_noise.append(draw(size))
            return given_noise[-1]

        return drawn  # type: ignore[return-value]

    totals = sums(HOSPITALS)
    parts = [
        encode_release(total, made.mechanism, made.codec, kept(seed)).values  # type: ignore[arg-type]
        for seed, total in enumerate(totals)
    ]
    found = decode_release_sum(added(parts), HOSPITALS, made.codec)
    grid = made.codec.resolution
    if place == "distributed":
        rounded = [np.rint(total / grid) for total in totals]
        expected = sum(one + noise for one, noise in zip(rounded, given_noise, strict=True)) * grid
    else:
        noisy = [total + 2.285 * noise.astype(np.float64) for total, noise in zip(totals, given_noise, strict=True)]
        expected = sum(np.rint(one / grid) for one in noisy) * grid
    assert (found == expected).all()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("survivors", [1, 3, 4])
def test_the_noise_of_the_sum_has_the_stated_deviation(place: str, survivors: int) -> None:
    made, dimension = ring(place, of=terms(20_000)), 20_000
    parts = [
        encode_release(np.zeros(dimension), made.mechanism, made.codec, noise_of(made.mechanism, Stream(seed)))
        for seed in range(survivors)
    ]
    found = decode_release_sum(added([part.values for part in parts]), survivors, made.codec)
    told = release_deviation(made.mechanism, survivors)
    assert found.std() / told == pytest.approx(1, abs=0.025)  # 5 standard deviations
    assert abs(found.mean()) < 5 * told / math.sqrt(dimension)
    own = release_deviation(made.mechanism, 1)
    for part in parts:
        assert part.count == dimension and part.squares / dimension / own**2 == pytest.approx(1, abs=0.05)


def test_shared_noise_has_at_least_what_was_declared_over_any_honest_survivors() -> None:
    made = ring("distributed")
    assert isinstance(made.mechanism, DistributedMechanism)
    delta = sensitivity(made.mechanism)
    assert 1 < delta <= 1.011
    for survivors in (3, 4):
        told = 2.285 * delta * math.sqrt(survivors / made.mechanism.shares.honest_shares)
        assert release_deviation(made.mechanism, survivors) == pytest.approx(told) and told >= 2.285
    assert release_deviation(ring("per_hospital").mechanism, 4) == pytest.approx(2 * 2.285)
    assert share_variance(made.mechanism) > 0


@settings(max_examples=60, deadline=None)
@given(
    noise=st.sampled_from([0.3, 0.5431, 2.285, 13.82, 60.0]),
    hospitals=st.sampled_from([3, 4, 10, 100]),
    declared=st.sampled_from([1, 75, 3000, 100_000]),
    bits=st.sampled_from([32, 64]),
    place=st.sampled_from(PLACES),
    fill=st.sampled_from([-1e12, 1e12, 0.3]),
)
def test_no_sum_wraps(noise: float, hospitals: int, declared: int, bits: int, place: str, fill: float) -> None:
    shape = terms(40, hospitals, declared, bits)
    try:
        made = ring(place, noise, shape)
    except InputError as error:
        assert bits == 32 and hospitals * declared >= 300_000 and error.hint
        return
    codec, members = made.codec, min(hospitals, 10)
    worst = np.full(40, fill if abs(fill) > 1 else declared * 1.0)
    draw = noise_of(made.mechanism, Stream())
    parts = [encode_release(worst, made.mechanism, codec, draw).values for _ in range(members)]
    signed = [part.view(np.int32 if bits == 32 else np.int64) for part in parts]
    plain = [sum(int(part[place]) for part in signed) for place in range(40)]
    assert (decode_release_sum(added(parts), members, codec) == np.array(plain) * codec.resolution).all()
    if isinstance(made.mechanism, DistributedMechanism):
        tail = noise_tail(made.mechanism, Schedule(hospitals, 1))
        assert hospitals * codec.largest + tail < 2 ** (bits - 1)
    else:
        assert hospitals * codec.largest < 2 ** (bits - 1)
        assert max(abs(int(value)) for part in signed for value in part) <= codec.largest
        assert COARSE * noise <= codec.resolution <= max(1.0, noise) / 16


def test_at_the_declared_cohort_nothing_is_clamped() -> None:
    """Every patient at the clip norm in one coordinate, and the largest noise that the stream can give."""
    made = ring("per_hospital")
    worst = np.full(600, float(DECLARED))
    largest = np.full(600, 9.49, np.float32)
    assert encode_release(worst, made.mechanism, made.codec, lambda size: largest).clamped == 0
    assert encode_release(worst + 1, made.mechanism, made.codec, lambda size: largest).clamped == 600
    assert made.codec.bound == box_of_release(DECLARED, 2.285, 1.0) == DECLARED + LARGEST_NORMAL * 2.285
    shared = ring("distributed")
    draw = noise_of(shared.mechanism, Stream())
    assert encode_release(worst, shared.mechanism, shared.codec, draw).clamped == 0


def test_the_whole_default_run_fits_32_bits() -> None:
    for place in PLACES:
        made = ring(place, of=terms(3515, 4, 3000))
        assert made.codec.resolution * math.sqrt(3515) <= 0.1 and "no sum over any survivors wraps" in made.headroom


def test_noise_is_scaled_and_widened_and_nothing_else() -> None:
    normal = np.array([1, -2, 0.1], np.float32)
    total = np.array([1.0, 2.0, 3.0])
    found = add_noise(total, normal, one_release(3.0, clip_norm=0.5))
    assert (found == total + 1.5 * normal.astype(np.float64)).all()
    for wrong in (normal[:2], np.zeros(4, np.float32)):
        with pytest.raises(PrivacyRefused):
            add_noise(total, wrong, one_release())
    with pytest.raises(PrivacyRefused):
        add_noise(total.astype(np.float32), normal, one_release())


def test_without_noise_the_sum_comes_back() -> None:
    made = ring("per_hospital", 0.0)
    total = sums(1)[0]
    values = encode_release(total, made.mechanism, made.codec, noise_of(made.mechanism, Stream())).values
    assert decode_release_sum(values, 1, made.codec) == pytest.approx(total, abs=made.codec.resolution)
    assert release_deviation(made.mechanism, 1) == 0


@pytest.mark.parametrize("change", [{"sampling_probability": 0.5}, {"steps": 2}])
def test_what_is_not_one_release_is_refused(change: dict[str, float]) -> None:
    record = one_release().model_copy(update=change)
    with pytest.raises(PrivacyRefused, match="every patient enters it once"):
        release_ring(record, terms())
    with pytest.raises(PrivacyRefused):
        encode_release(np.zeros(3), record, FixedPoint(10, 32, 8), lambda size: np.zeros(size, np.float32))


def test_rings_and_sums_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="no hospital may"):
        release_ring(one_release(place="distributed"), ReleaseTerms(600, 50, 4, 32, threshold=2, colluders=0))
    for bits in (30, 31):
        with pytest.raises(InputError):
            release_ring(one_release(), ReleaseTerms(600, 50, 4, 32, fraction_bits=bits))
    with pytest.raises(InputError, match="rounded to steps"):
        release_ring(one_release(), ReleaseTerms(600, 50, 4, 64, fraction_bits=24))
    with pytest.raises(InputError, match="rounded to steps"):
        release_ring(one_release(0.1), ReleaseTerms(600, 50, 4, 64, fraction_bits=2))
    with pytest.raises(InputError, match="the sum can wrap"):
        release_ring(one_release(), ReleaseTerms(600, 100_000, 100, 32, fraction_bits=8))
    codec = ring("per_hospital").codec
    with pytest.raises(InputError):
        decode_release_sum(np.zeros(3, np.uint32), 0, codec)
    with pytest.raises(InputError):
        release_deviation(one_release(), 0)
