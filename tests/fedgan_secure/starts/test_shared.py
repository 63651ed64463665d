"""A hospital's image that a start was trained on is found, and only that one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgan_secure.data.patients import PatientDataset
from fedgan_secure.errors import InputError
from fedgan_secure.starts import shared as module
from fedgan_secure.starts import shipped_start
from fedgan_secure.starts.shared import digests_of, refuse_shared_images, refuse_shared_pictures, shared_pictures


def pictures(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)


@given(st.sets(st.integers(0, 29)), st.integers(0, 40))
def test_exactly_the_shared_pictures_are_found(shared: set[int], others: int) -> None:
    mine = pictures(30, 1)
    public = np.concatenate([pictures(others, 2), mine[sorted(shared)]])
    start = replace(shipped_start(), picture_digests=digests_of(public))
    assert shared_pictures(start, mine).tolist() == sorted(shared)


def test_one_changed_pixel_makes_another_picture() -> None:
    mine = pictures(3, 1)
    start = replace(shipped_start(), picture_digests=digests_of(mine))
    mine[1, 0, 0, 0] ^= 1
    assert shared_pictures(start, mine).tolist() == [0, 2]


def test_a_shared_picture_is_refused_with_its_number() -> None:
    start = replace(shipped_start(), picture_digests=digests_of(pictures(5, 1)))
    refuse_shared_pictures(start, pictures(5, 2))
    refuse_shared_pictures(start, pictures(0, 2))
    refuse_shared_pictures(shipped_start(), pictures(5, 1))
    with pytest.raises(InputError, match="2 of these images") as refused:
        refuse_shared_pictures(start, np.concatenate([pictures(5, 1)[:2], pictures(3, 2)]))
    assert refused.value.hint


def hospital(images: np.ndarray) -> PatientDataset:
    count = len(images)
    return PatientDataset(
        images=images, labels=np.zeros(count, np.int32), patient=np.arange(count, dtype=np.int32), classes=1
    )


def test_the_hospital_that_holds_a_public_picture_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """In whichever batch it is: nobody has spent anything yet."""
    monkeypatch.setattr(module, "BATCH", 4)
    start = replace(shipped_start(), picture_digests=digests_of(pictures(1, 1)))
    clean = {name: hospital(pictures(9, seed)) for name, seed in (("a", 2), ("b", 3))}
    refuse_shared_images(start, clean)
    refuse_shared_images(shipped_start(), {"c": hospital(pictures(1, 1))})
    for place in (0, 8):
        images = pictures(9, 5)
        images[place] = pictures(1, 1)[0]
        with pytest.raises(InputError, match="hospital c: 1 of these images") as refused:
            refuse_shared_images(start, {**clean, "c": hospital(images)})
        assert refused.value.hint
