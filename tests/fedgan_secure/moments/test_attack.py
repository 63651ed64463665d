"""A canary in a release of moments: games stay below the proof, and are above it where noise or clip is missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedgan_secure.attacks.games import GamesVerdict
from fedgan_secure.attacks.release_canary import GAMES, LEAST_BY_DEFAULT, MANY_GAMES, attack_release, default_games
from fedgan_secure.moments import statistics
from fedgan_secure.moments.layout import MomentsLayout
from fedgan_secure.statistics import sums as clipping
from tests.fedgan_secure.privacy.test_release import Stream, ring, terms

LAYOUT = MomentsLayout(2, 8, 1, 2, 3.0)


def attacked(place: str = "per_hospital", seed: int = 1, **changes: Any) -> GamesVerdict:
    of = ring(place, 2.285, terms(LAYOUT.dimension))
    return attack_release(LAYOUT, of.mechanism, of.codec, delta=1e-5, entropy=Stream(seed), **changes)


@pytest.mark.parametrize("place", ["per_hospital", "distributed"])
def test_sound_releases_are_never_refuted(place: str) -> None:
    verdicts = [attacked(place, seed, games=200 if place == "distributed" else 700) for seed in range(20)]
    assert {one.outcome for one in verdicts} == {"not refuted"}
    assert all(one.least_epsilon <= one.epsilon for one in verdicts) and np.mean([one.area for one in verdicts]) > 0.55


def test_without_noise_the_proof_is_refuted() -> None:
    found = attacked(games=1000, draw=lambda size: np.zeros(size, np.float32))
    assert found.outcome == "refuted" and found.area == 1.0


def test_a_missing_clip_is_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    def unclipped(vectors: np.ndarray, clip_norm: float) -> tuple[np.ndarray, np.ndarray]:
        return np.trunc(vectors.astype(np.float64) / clipping.grid_of(clip_norm)), np.linalg.norm(vectors, axis=1)

    monkeypatch.setattr(statistics, "contributions", unclipped)
    assert attacked(games=500).outcome == "refuted"


def test_long_vectors_are_played_fewer_games_with() -> None:
    assert default_games(3515) == (GAMES, MANY_GAMES)
    assert LEAST_BY_DEFAULT <= default_games(195_030)[0] < default_games(195_030)[1] < GAMES
    assert default_games(1 << 20)[0] == LEAST_BY_DEFAULT
