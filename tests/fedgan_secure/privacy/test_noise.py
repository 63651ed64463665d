"""The Gaussian stream: fit, variance, tails, independence; fixed keys throughout."""

import itertools
import os
from types import SimpleNamespace

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy import stats

from fedgan_secure.privacy import noise
from fedgan_secure.privacy.errors import PrivacyRefused
from fedgan_secure.privacy.noise import GaussianStream


def keyed(number: int) -> GaussianStream:
    return GaussianStream(lambda count: number.to_bytes(count, "little"))


def test_the_values_fit_a_standard_normal() -> None:
    values = keyed(1).normal(400_000)
    assert values.dtype == np.float32
    assert stats.kstest(values.astype(np.float64), "norm").pvalue > 1e-3
    assert abs(values.mean(dtype=np.float64)) < 5 / np.sqrt(values.size)
    assert abs(values.var(dtype=np.float64) - 1) < 5 * np.sqrt(2 / values.size)
    assert abs(stats.kurtosis(values)) < 5 * np.sqrt(24 / values.size)


@pytest.mark.parametrize("level", [2.0, 3.0, 4.0, 4.5])
def test_the_tails_are_as_heavy_as_they_should_be(level: float) -> None:
    count = 4_000_000
    beyond = int((np.abs(keyed(2).normal(count)) > level).sum())
    expected = 2 * stats.norm.sf(level) * count
    assert abs(beyond - expected) < 5 * np.sqrt(expected)


def test_neighbouring_values_and_the_two_halves_are_uncorrelated() -> None:
    values = keyed(3).normal(200_000).astype(np.float64)
    half = values.size // 2
    for left, right in ((values[:-1], values[1:]), (values[:half], values[half:])):
        assert abs(np.corrcoef(left, right)[0, 1]) < 5 / np.sqrt(left.size)
        assert abs(np.corrcoef(left**2, right**2)[0, 1]) < 5 / np.sqrt(left.size)


def test_a_stream_goes_on_and_never_repeats_itself() -> None:
    stream = keyed(4)
    first, second = stream.normal(1000), stream.normal(1000)
    assert not np.intersect1d(first, second).size
    assert np.array_equal(first, keyed(4).normal(1000))
    assert not np.array_equal(first, keyed(5).normal(1000))


@pytest.mark.parametrize("size", [0, 1, 2, 3, 65_536 * 2 + 1])
def test_any_number_of_values_can_be_drawn(size: int) -> None:
    values = keyed(6).normal(size)
    assert values.shape == (size,)
    assert np.isfinite(values).all()


@pytest.mark.parametrize("size", [400_000, 16_384 * 8 * 2, 16_384 * 9 * 2 + 1, 777_777])
def test_the_values_do_not_depend_on_how_many_threads_draw_them(size: int) -> None:
    streams = [keyed(10) for _ in range(3)]
    for stream, threads in zip(streams, (1, 2, 5), strict=True):
        stream._threads = threads
    for _ in range(2):  # and the second vector goes on where the first one ended
        alone, *together = (stream.normal(size) for stream in streams)
        assert np.isfinite(alone).all()
        assert all(np.array_equal(alone, other) for other in together)


def test_no_part_of_the_stream_is_used_twice() -> None:
    """Counters taken by all threads of all draws, gathered: every one at most once."""
    stream, taken = keyed(11), []
    stream._threads = 3

    class Watched:
        def __init__(self, counter: int) -> None:
            self.next = counter

        def update_into(self, data: bytes, buffer: bytearray) -> int:
            blocks = -(-len(data) // 16)
            taken.append((self.next, self.next + blocks))
            self.next += blocks
            buffer[: len(data)] = os.urandom(len(data))
            return len(data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            noise, "Cipher",
            lambda _, mode: SimpleNamespace(encryptor=lambda: Watched(int.from_bytes(mode.nonce, "big"))),
        )  # fmt: skip
        for size in (1, 7, 100_000, 400_001, 3):
            stream.normal(size)
    taken.sort()
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(taken))
    assert sum(end - begin for begin, end in taken) >= 12 * (1 + 4 + 50_000 + 200_001 + 2) // 16


def test_what_goes_wrong_in_a_thread_is_raised() -> None:
    stream = keyed(12)
    stream._threads = 2
    honest = stream._fill

    def fill(out: np.ndarray, start: int, end: int, first: int) -> None:
        if start > 0:
            raise MemoryError
        honest(out, start, end, first)

    stream._fill = fill  # type: ignore[method-assign]
    with pytest.raises(MemoryError):
        stream.normal(1_000_000)


def test_more_than_a_key_gives_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedgan_secure.privacy.noise._REKEY_BYTES", 4096)
    with pytest.raises(PrivacyRefused, match="expected at most 4096"):
        keyed(13).normal(1000)


def test_the_largest_value_is_the_documented_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    class Zeros:
        def update_into(self, data: bytes, buffer: bytearray) -> int:
            return len(data)

    monkeypatch.setattr(noise, "Cipher", lambda *_: SimpleNamespace(encryptor=Zeros))
    assert keyed(7).normal(2)[0] == pytest.approx(np.sqrt(2 * np.log(2.0**65)), rel=1e-6)


def test_a_new_key_is_taken_long_before_the_cipher_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedgan_secure.privacy.noise._REKEY_BYTES", 4096)
    keys: list[int] = []

    def entropy(count: int) -> bytes:
        keys.append(count)
        return len(keys).to_bytes(count, "little")

    stream = GaussianStream(entropy)
    values = np.concatenate([stream.normal(256) for _ in range(8)])
    assert keys == [32] * 4  # eight draws of 1536 bytes, two to a key
    assert len(np.unique(values)) == values.size


def test_the_values_are_those_of_the_transform_in_float64_of_the_same_bytes() -> None:
    """AES-256-CTR from the cipher's own interface, and Box and Muller's formula as it is written."""
    size = 30_001
    values = keyed(8).normal(size)
    encryptor = Cipher(algorithms.AES((8).to_bytes(32, "little")), modes.CTR(bytes(16))).encryptor()
    half = (size + 1) // 2
    raw = encryptor.update(bytes(12 * half))
    uniform = (np.frombuffer(raw, "<u8", half).astype(np.float64) + 0.5) * 2.0**-64
    angle = np.frombuffer(raw, "<i4", half, offset=8 * half).astype(np.float64) * np.pi / 2**31
    radius = np.sqrt(-2 * np.log(uniform))
    expected = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    assert np.abs(values - expected[:size]).max() < 1.5e-6
    assert (np.abs(values - expected[:size]) / np.tile(radius, 2)[:size]).max() < 3e-7


def test_the_squared_length_of_a_pair_is_exponential_and_its_angle_uniform() -> None:
    values = keyed(9).normal(400_000).astype(np.float64)
    half = values.size // 2
    squares = values[:half] ** 2 + values[half:] ** 2
    assert stats.kstest(squares / 2, "expon").pvalue > 1e-3
    assert stats.kstest(np.arctan2(values[half:], values[:half]) / (2 * np.pi) + 0.5, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(squares, np.arctan2(values[half:], values[:half]))[0, 1]) < 5 / np.sqrt(half)


def test_a_short_key_is_refused() -> None:
    with pytest.raises(PrivacyRefused, match="expected 32"):
        GaussianStream(lambda count: b"\0" * 16)
