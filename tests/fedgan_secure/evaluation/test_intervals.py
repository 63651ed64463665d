"""Intervals cover as often as they say, know patients from images and seeds from test images."""

from __future__ import annotations

import numpy as np
import pytest

from fedgan_secure.evaluation.intervals import bootstrap_interval, difference_interval, joint_interval, seed_interval


def width(interval: tuple[float, float]) -> float:
    return interval[1] - interval[0]


def test_the_bootstrap_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(100):
        low, high = bootstrap_interval(rng.normal(size=60), seed=trial, draws=300)
        covered += low <= 0 <= high
    assert 85 <= covered <= 100


def test_two_equal_images_of_a_patient_count_once() -> None:
    values = np.random.default_rng(1).normal(size=200)
    twice, patient = np.repeat(values, 2), np.repeat(np.arange(200), 2)
    assert width(bootstrap_interval(twice, 1, groups=patient)) == pytest.approx(
        width(bootstrap_interval(values, 1)), rel=0.01
    )
    assert width(bootstrap_interval(twice, 1)) < 0.8 * width(bootstrap_interval(values, 1))


def test_over_seeds_it_is_students_t_and_needs_three() -> None:
    assert seed_interval([0.5]) is None
    assert seed_interval([0.5, 0.6]) is None
    low, high = seed_interval([0.4, 0.5, 0.6]) or (0.0, 0.0)
    assert high - low == pytest.approx(2 * 4.303 * 0.1 / 3**0.5)
    assert seed_interval([0.9, 0.95, 1.0]) == (pytest.approx(0.95 - 4.303 * 0.05 / 3**0.5), 1.0)


def test_the_joint_interval_holds_both_kinds_of_chance() -> None:
    rng = np.random.default_rng(2)
    alike = np.tile(rng.uniform(size=400) < 0.6, (3, 1))
    over_images = width(bootstrap_interval(alike.mean(axis=0), 0))
    assert width(joint_interval(alike, 0)) == pytest.approx(over_images, rel=0.1)
    uneven = np.stack([np.arange(400) < 400 * share for share in (0.4, 0.6, 0.8)])
    assert width(joint_interval(uneven, 0)) > 0.9 * 2 * 1.96 * 0.2 / 3**0.5
    assert joint_interval(np.ones((2, 50)), 0) == (1.0, 1.0)
    low, high = joint_interval(rng.uniform(size=(1, 30)) < 0.97, 0)
    assert 0 <= low <= high <= 1


def test_a_difference_is_judged_image_by_image() -> None:
    rng = np.random.default_rng(3)
    hard = rng.uniform(size=(2, 500)) < 0.5
    better = hard | (rng.uniform(size=(2, 500)) < 0.1)
    low, high = difference_interval(better, hard, 0)
    assert 0 < low < better.mean() - hard.mean() < high
    assert width((low, high)) < width(joint_interval(better, 0))
    assert difference_interval(hard, hard, 0) == (0.0, 0.0)
