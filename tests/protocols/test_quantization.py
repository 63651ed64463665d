"""Fixed point: exact where it must be, clamped and counted elsewhere, and the headroom's boundary to the unit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedgan_protocols import Code, FixedPoint, ParameterError, prove_headroom, widest_fraction_bits


@settings(max_examples=60, deadline=None)
@given(data=st.data(), ring=st.sampled_from([32, 64]), bound=st.floats(0.01, 100))
def test_the_decoded_sum_is_the_sum_of_the_inputs(data: st.DataObject, ring: int, bound: float) -> None:
    n, d = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 12))
    weights = data.draw(st.lists(st.integers(1, 500), min_size=n, max_size=n))
    codec = FixedPoint(bound, ring, widest_fraction_bits(bound, ring, weights))
    rows = data.draw(st.lists(st.lists(st.floats(-250, 250, width=32), min_size=d, max_size=d), min_size=n, max_size=n))
    total = np.zeros(d, dtype=codec.dtype)
    real = np.zeros(d)
    for row, weight in zip(rows, weights, strict=True):
        vector = np.array(row, dtype=np.float32)
        total = total + codec.encode(vector, weight)
        real += weight * np.clip(vector.astype(np.float64), -bound, bound)
    tolerance = codec.resolution * 0.5 * (1 + 1e-9) + 1e-12 * bound
    assert np.allclose(codec.decode_sum(total, sum(weights)), real / sum(weights), rtol=0, atol=tolerance)


def test_every_extreme_at_once_does_not_wrap_where_the_proof_holds() -> None:
    for ring in (32, 64):
        weights = [3, 1, 7, 2]
        codec = FixedPoint(0.37, ring, widest_fraction_bits(0.37, ring, weights))
        for sign in (1, -1):
            total = np.zeros(1, dtype=codec.dtype)
            for weight in weights:
                total = total + codec.encode(np.array([sign * 1e9], dtype=np.float32), weight)
            assert int(total.view(f"<i{ring // 8}")[0]) == sign * sum(weights) * codec.largest


@pytest.mark.parametrize("ring", [32, 64])
def test_the_headroom_boundary_is_exact(ring: int) -> None:
    """The largest sum that fits is proved; one unit more is refused, and would in fact wrap."""
    codec = FixedPoint(1.0, ring, 20)
    ceiling = 2 ** (ring - 1) - 1
    weights = [1] * 4
    tail = ceiling - 4 * codec.largest
    proof = prove_headroom(codec, weights, tail)
    assert f"= {ceiling} <= {ceiling}" in proof and "noise" in proof
    with pytest.raises(ParameterError) as caught:
        prove_headroom(codec, weights, tail + 1)
    assert caught.value.code is Code.HEADROOM and caught.value.exit_code == 2 and str(ceiling + 1) in str(caught.value)
    most = np.array([ceiling], dtype=codec.dtype)
    assert codec.decode_sum(most)[0] > 0 > codec.decode_sum(most + codec.dtype.type(1))[0]


def test_the_headroom_boundary_is_exact_in_the_number_of_inputs() -> None:
    codec = FixedPoint(1.0, 32, 20)  # largest = 2^20; 2^31 - 1 = 2047 * 2^20 + (2^20 - 1)
    prove_headroom(codec, [1] * 2047)
    with pytest.raises(ParameterError):
        prove_headroom(codec, [1] * 2048)
    assert widest_fraction_bits(1.0, 32, [1] * 2047) == 20
    assert widest_fraction_bits(1.0, 32, [1] * 2048) == 19


def test_values_that_are_not_numbers_never_raise() -> None:
    codec = FixedPoint(2.0, 32, 8)
    vector = np.array([np.nan, np.inf, -np.inf, 3.0, -2.0, 2.0, 0.0], dtype=np.float32)
    found = codec.encode(vector).view("<i4")
    assert found.tolist() == [0, 512, -512, 512, -512, 512, 0]
    assert codec.count_clamped(vector) == 4
    assert vector[3] == 3.0  # the caller's vector is left alone


@pytest.mark.parametrize(
    "arguments",
    [
        (0.0, 32, 8),
        (float("inf"), 32, 8),
        (float("nan"), 32, 8),
        (1.0, 16, 8),
        (1.0, 32, -1),
        (1.0, 64, 53),
        (1e-9, 32, 4),
    ],
)
def test_impossible_encodings_are_refused(arguments: tuple[float, int, int]) -> None:
    with pytest.raises(ParameterError):
        FixedPoint(*arguments)


def test_impossible_weights_and_sums_are_refused() -> None:
    codec = FixedPoint(1.0, 32, 20)
    for weight in (0, -1, 2048):
        with pytest.raises(ParameterError):
            codec.encode(np.zeros(1, dtype=np.float32), weight)
    codec.encode(np.zeros(1, dtype=np.float32), 2047)
    for weights in ([], [0], [1.5]):
        with pytest.raises(ParameterError):
            prove_headroom(codec, weights)  # type: ignore[arg-type]
    with pytest.raises(ParameterError):
        codec.decode_sum(np.zeros(1, dtype=np.uint64))
    with pytest.raises(ParameterError):
        codec.decode_sum(np.zeros(1, dtype=np.uint32), 0)
    with pytest.raises(ParameterError):
        widest_fraction_bits(1.0, 32, [2**31])
