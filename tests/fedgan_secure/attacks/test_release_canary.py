"""A canary in a release: what games show stays below the proof, and is above it where noise or clip is missing."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from fedgan_audits.accounting import accountant
from fedgan_secure.attacks import release_canary
from fedgan_secure.attacks.adapted_run import AdaptedVerdict
from fedgan_secure.attacks.games import Bounds, GamesVerdict, Threshold, clopper_pearson
from fedgan_secure.attacks.games_page import RELEASE, STEP, adapted_headline, adapted_page, games_headline, sentences
from fedgan_secure.attacks.release_canary import attack_release
from fedgan_secure.errors import InputError
from fedgan_secure.federation.released.release_ring import Draw, ReleaseRing, noise_of
from fedgan_secure.statistics import sums as statistics
from fedgan_secure.statistics.layout import ReleaseLayout
from tests.fedgan_secure.privacy.test_release import Stream, ring, terms

LAYOUT = ReleaseLayout(2, 6, (5,))
DELTA = 1e-5
SOUND = GamesVerdict(
    epsilon=1.7, delta=1e-5, games=1000, inside=500, sure_epsilon=0.4, ceiling=4.0, control=True, area=0.6, seconds=1.0,
    thresholds=(Threshold(0.0, 290, 210, 0.5), Threshold(1.0, 100, 60, 0.456)),
)  # fmt: skip


def made(place: str, noise: float) -> ReleaseRing:
    return ring(place, noise, terms(LAYOUT.dimension))


def attacked(place: str = "per_hospital", noise: float = 2.285, seed: int = 1, **changes: Any) -> GamesVerdict:
    of = made(place, noise)
    return attack_release(LAYOUT, of.mechanism, of.codec, delta=DELTA, entropy=Stream(seed), **changes)


def scaled(of: ReleaseRing, factor: float) -> Draw:
    draw = noise_of(of.mechanism, Stream(99))
    return lambda size: np.float32(factor) * draw(size)


@pytest.mark.parametrize(("place", "noise"), [("per_hospital", 1.6), ("per_hospital", 2.285), ("distributed", 2.285)])
def test_sound_releases_are_never_refuted(place: str, noise: float) -> None:
    verdicts = [attacked(place, noise, seed, games=200 if place == "distributed" else 700) for seed in range(20)]
    assert all(0 <= one.sure_epsilon <= one.least_epsilon <= one.epsilon for one in verdicts)
    assert {one.outcome for one in verdicts} == {"not refuted"}
    assert np.mean([one.area for one in verdicts]) > 0.55
    assert verdicts[0].epsilon == accountant.epsilon([made(place, noise).mechanism], DELTA)


def test_without_noise_the_proof_is_refuted() -> None:
    for place in ("per_hospital", "distributed"):
        kind = np.int64 if place == "distributed" else np.float32
        found = attacked(place, games=1000, draw=lambda size, kind=kind: np.zeros(size, kind))
        assert found.outcome == "refuted" and found.control and found.area == 1.0
        assert found.least_epsilon == pytest.approx(found.ceiling)


def test_a_quarter_of_the_noise_is_refuted() -> None:
    of = made("per_hospital", 2.285)
    assert attacked(games=5000, draw=scaled(of, 0.25)).outcome == "refuted"


def test_a_missing_clip_is_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    def unclipped(vectors: np.ndarray, clip_norm: float) -> tuple[np.ndarray, np.ndarray]:
        whole = np.trunc(vectors.astype(np.float64) / statistics.grid_of(clip_norm))
        return whole, np.linalg.norm(vectors, axis=1)

    monkeypatch.setattr(statistics, "contributions", unclipped)
    assert attacked(games=500).outcome == "refuted"


def test_few_games_cannot_test_a_large_epsilon() -> None:
    found = attacked(noise=0.3, games=500)
    assert found.epsilon > found.ceiling and found.outcome == "not testable"


def test_more_games_show_more_and_none_more_than_the_ceiling() -> None:
    few, many = attacked(games=200), attacked(games=8000)
    assert few.least_epsilon < many.least_epsilon < many.ceiling and few.ceiling < many.ceiling
    assert many.least_epsilon > 0.25


def test_the_game_is_fair_and_the_canary_has_the_largest_norm() -> None:
    found = attacked(games=2000)
    assert 850 < found.inside < 1150
    play = release_canary._Game(LAYOUT, made("per_hospital", 2.285).mechanism, made("per_hospital", 2.285).codec)
    assert np.linalg.norm(play._with - play._without) == pytest.approx(1, abs=1e-6)
    assert play.score(True, play.silence) == pytest.approx(play.distance, abs=1e-3)
    assert play.score(False, play.silence) == pytest.approx(0, abs=1e-3)
    shared = release_canary._Game(LAYOUT, made("distributed", 2.285).mechanism, made("distributed", 2.285).codec)
    assert shared._shares == 2 and 0.99 / 2.285 < shared.distance < 1 / 2.285


@settings(max_examples=60, deadline=None)
@given(data=st.data(), trials=st.integers(1, 200), level=st.sampled_from([0.3, 0.025, 1e-4]))
def test_the_bounds_are_clopper_and_pearsons(data: st.DataObject, trials: int, level: float) -> None:
    successes = data.draw(st.integers(0, trials))
    lower, upper = clopper_pearson(successes, trials, level)
    assert 0 <= lower <= successes / trials <= upper <= 1
    if successes:
        assert binom.sf(successes - 1, trials, lower) == pytest.approx(level, rel=1e-6)
    if successes < trials:
        assert binom.cdf(successes, trials, upper) == pytest.approx(level, rel=1e-6)


def test_without_trials_nothing_is_known() -> None:
    assert clopper_pearson(0, 0, 0.05) == (0.0, 1.0)


def test_games_that_cannot_be_are_refused() -> None:
    for games in (0, 19, 1_000_001):
        with pytest.raises(InputError):
            attacked(games=games)
    with pytest.raises(InputError, match="without noise"):
        attacked(noise=0.0)


def test_so_many_games_are_played_that_missing_noise_would_show() -> None:
    def shown(epsilon: float, games: int, chance: float) -> float:
        half = games // 2
        coins = np.arange(games) % 2 == 0
        hits = half if chance == 1 else int(chance * half - 4 * math.sqrt(chance * half))
        return Bounds(epsilon, DELTA, 0.5).shown(hits, 0, coins, 0.999)

    for epsilon, chance in ((0.5, 1.0), (4.0, 1.0), (1.2, 0.064), (2.2, 0.2)):
        games = Bounds(epsilon, DELTA, 0.5).telling_games(20, 1_000_000, chance)
        assert shown(epsilon, games, chance) > epsilon > shown(epsilon, int(games / 1.5), chance)
    assert Bounds(0.1, DELTA, 0.5).telling_games(500, 1000) == 500
    assert Bounds(20.0, DELTA, 0.5).telling_games(500, 1000) == 1000


def test_the_sentence_and_the_section_say_what_was_shown() -> None:
    assert games_headline(SOUND, RELEASE) == (
        "Not refuted: epsilon is at least 0.50 by 1000 games with a canary; at most 1.7000 is proved for the release "
        "alone (delta 1e-05). The same attack refuted a release without noise."
    )
    refuted = replace(SOUND, sure_epsilon=1.9, thresholds=(Threshold(0.0, 500, 0, 2.5),))
    doubtful = replace(SOUND, thresholds=(Threshold(0.0, 500, 0, 2.5),))
    untested = replace(SOUND, control=False)
    heads = [games_headline(one, RELEASE).split(":")[0] for one in (refuted, doubtful, untested)]
    assert heads == ["REFUTED", "IN DOUBT", "NOT TESTED"]
    told = SOUND.to_json()
    assert told["outcome"] == "not refuted" and told["least_epsilon"] == 0.5 and len(told["thresholds"]) == 2
    assert math.isclose(told["proved"]["epsilon"], 1.7)
    both = AdaptedVerdict(SOUND, refuted, 300)
    assert both.outcome == "refuted" and both.contradicted
    assert adapted_headline(both) == "Not refuted: the release round. REFUTED: the steps on the heads."
    assert "1.7000 is proved for one step alone" in sentences(both)[1]
    assert games_headline(refuted, STEP).endswith("A step does not do what the accountant is told.")
    text = adapted_page("<run>", both).decode()
    assert "<run>" not in text and "The release round" in text and "290" in text
    assert "epsilon 1.7000 at delta 1e-05" in text and "REFUTED" in text and "published generator are not" in text


def test_what_a_run_does_not_have_is_said_and_not_judged() -> None:
    alone = AdaptedVerdict(SOUND, None, 0)
    assert (alone.outcome, alone.contradicted) == ("not refuted", False)
    assert sentences(alone)[1] == (
        "The steps on the heads: nothing to attack: the release is the only round of the run's policy."
    )
    told = alone.to_json()
    assert told["step"] is None and "only round" in told["step_missing_because"] and told["release"]["games"] == 1000
    assert "release_missing_because" not in told
    assert "Nothing to attack: the release is the only round" in adapted_page("a run", alone).decode()
