"""Poisson sampling of patients and the choice of their images."""

import hashlib

import numpy as np
import pytest
from scipy import stats

from fedgan_secure.privacy.errors import PrivacyRefused
from fedgan_secure.privacy.sampling import PatientImages, poisson_sample


class Stream:
    """Reproducible bytes: SHAKE-256 of a seed, read on and on."""

    def __init__(self, seed: int) -> None:
        self.seed, self.calls = seed, 0

    def __call__(self, count: int) -> bytes:
        self.calls += 1
        return hashlib.shake_256(f"{self.seed}/{self.calls}".encode()).digest(count)


def test_every_patient_is_taken_with_the_given_probability_independently() -> None:
    patients, steps, q = 60, 4000, 0.07
    entropy = Stream(1)
    taken = np.zeros((steps, patients), bool)
    for step in range(steps):
        taken[step, poisson_sample(patients, q, entropy)] = True
    sizes = taken.sum(axis=1)
    assert abs(taken.mean() - q) < 5 * np.sqrt(q * (1 - q) / taken.size)
    counts = np.bincount(sizes, minlength=20)[:12]
    expected = steps * stats.binom.pmf(np.arange(12), patients, q)
    kept = expected > 5
    assert stats.chisquare(counts[kept], expected[kept] * counts[kept].sum() / expected[kept].sum()).pvalue > 1e-4
    # a shuffle or a fixed batch size would have no variance, or negative correlation between patients
    assert sizes.var() == pytest.approx(patients * q * (1 - q), rel=0.15)
    correlation = np.corrcoef(taken[:, 0], taken[:, 1:].sum(axis=1))[0, 1]
    assert abs(correlation) < 5 / np.sqrt(steps)
    lagged = np.corrcoef(taken[:-1].ravel(), taken[1:].ravel())[0, 1]
    assert abs(lagged) < 5 / np.sqrt(taken.size)


def test_batches_are_empty_at_times() -> None:
    entropy = Stream(2)
    sizes = [len(poisson_sample(10, 0.05, entropy)) for _ in range(200)]
    assert 0 in sizes
    assert max(sizes) > 0


def test_the_coin_is_exact_to_64_bits() -> None:
    q = 0.25
    words = np.array([2**62 - 1, 2**62, 0, 2**64 - 1], dtype="<u8")
    assert poisson_sample(4, q, lambda count: words.tobytes()).tolist() == [0, 2]


def test_probability_one_takes_everybody() -> None:
    assert poisson_sample(5, 1.0, lambda count: b"\xff" * count).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("q", [0.0, -0.1, 1.1, float("nan")])
def test_other_probabilities_are_refused(q: float) -> None:
    with pytest.raises(PrivacyRefused, match="sampling probability"):
        poisson_sample(5, q, Stream(3))


def test_a_short_answer_from_the_entropy_source_is_refused() -> None:
    with pytest.raises(PrivacyRefused, match="entropy source"):
        poisson_sample(5, 0.5, lambda count: b"\0" * 8)


def test_a_fresh_uniform_subset_of_the_images_of_each_patient() -> None:
    owner = np.array([0, 1, 1, 1, 1, 2, 2, 0])
    images = PatientImages(owner, 3)
    entropy = Stream(4)
    seen = np.zeros(8)
    for _ in range(3000):
        indices, weights = images.choose(np.array([0, 1]), 2, entropy)
        assert owner[indices[0]].tolist() == [0, 0]
        assert owner[indices[1]].tolist() == [1, 1]
        assert (np.diff(indices, axis=1) != 0).all()
        assert weights.tolist() == [[0.5, 0.5], [0.5, 0.5]]
        seen[indices[1]] += 1
    assert stats.chisquare(seen[1:5]).pvalue > 1e-4


def test_a_patient_with_fewer_images_gives_all_of_them_with_full_weight() -> None:
    images = PatientImages(np.array([0, 1, 1]), 2)
    indices, weights = images.choose(np.array([0, 1]), 4, Stream(5))
    assert weights.tolist() == [[1, 0, 0, 0], [0.5, 0.5, 0, 0]]
    assert indices[0].tolist() == [0, 0, 0, 0]
    assert sorted(indices[1, :2].tolist()) == [1, 2]


def test_nobody_sampled_gives_an_empty_batch() -> None:
    indices, weights = PatientImages(np.array([0, 1]), 2).choose(np.zeros(0, np.int64), 3, Stream(6))
    assert indices.shape == weights.shape == (0, 3)
