"""A hospital's image that a start was trained on is found, and only that one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgan_secure.errors import InputError
from fedgan_secure.starts import shipped_start
from fedgan_secure.starts.shared import digests_of, refuse_shared_pictures, shared_pictures


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
