"""A canary in a step on the heads: what games show stays below the proof, and is above it where noise or clip lack."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedgan_audits.accounting import accountant
from fedgan_audits.accounting.mechanism import DistributedMechanism, MechanismRecord, NoiseShares
from fedgan_protocols.primitives.quantization import FixedPoint
from fedgan_secure.attacks import step_canary
from fedgan_secure.attacks.games import GamesVerdict
from fedgan_secure.attacks.step_canary import HeadsAtWork, attack_step
from fedgan_secure.errors import InputError
from fedgan_secure.heads.head_settings import HeadSettings
from fedgan_secure.heads.heads import HeadsLayout, HeadsSpec

SPEC = HeadsSpec(features=12, classes=3, hidden=8)
CLIP, NOISE, PROBABILITY, DELTA, GAMES = 0.5, 3.0, 0.5, 1e-3, 160
MANY = 640
"""Games after which a missing protection is certain: of 160, one attack in ten ended "doubtful" by chance."""
SETTINGS = HeadSettings(
    sampling_probability=PROBABILITY, expected_batch_size=20, noise_multiplier=NOISE, l2_clip_norm=CLIP,
    images_per_patient=2, fake_batch_size=6,
)  # fmt: skip
CODEC = FixedPoint(20.0, 32, 16)
MECHANISM: dict[str, Any] = {
    "sampling_probability": PROBABILITY, "noise_multiplier": NOISE, "steps": 10, "l2_clip_norm": CLIP,
    "images_per_patient": 2, "unit": "patient",
}  # fmt: skip
OWN = MechanismRecord(**MECHANISM)
SHARED = DistributedMechanism(
    **MECHANISM,
    shares=NoiseShares(threshold=3, colluders=1, grid_step=2.0**-16, dimension=HeadsLayout.of(SPEC).size),
)
RECORDS = pytest.mark.parametrize("record", [OWN, SHARED], ids=["per_hospital", "distributed"])


def attacked(record: MechanismRecord, settings: HeadSettings = SETTINGS, **changes: Any) -> GamesVerdict:
    given = {"delta": DELTA, "games": GAMES, **changes}
    return attack_step(HeadsAtWork.made_up(SPEC, settings), record, CODEC, **given)


@pytest.mark.slow  # games of chance: so few of them may miss
@RECORDS
def test_a_sound_step_is_not_refuted_and_missing_noise_would_have_been(record: MechanismRecord) -> None:
    heard: list[tuple[int, int]] = []
    found = attacked(record, progress=lambda *told: heard.append(told))
    assert found.outcome == "not refuted" and found.control and found.games == GAMES
    assert found.epsilon == accountant.epsilon([record.model_copy(update={"steps": 1})], DELTA)
    assert heard[-1] == (310, 320) and all(total == 320 for _, total in heard)


def test_without_noise_a_step_is_refuted() -> None:
    assert attacked(OWN, replace(SETTINGS, noise_multiplier=0.0), games=MANY).outcome == "refuted"
    assert attacked(SHARED, draw=lambda size: np.zeros(size, np.int64), games=MANY).outcome == "refuted"


def test_without_a_clip_a_step_is_refuted() -> None:
    """The same noise, and a bound that no gradient reaches: the canary moves the sum by many times the recorded one."""
    told = OWN.model_copy(update={"l2_clip_norm": 0.005})
    wide = replace(SETTINGS, l2_clip_norm=50.0, noise_multiplier=NOISE * 0.005 / 50.0)
    assert attacked(told, wide, games=MANY).outcome == "refuted"


@RECORDS
def test_the_adversary_sees_the_canary_and_the_noise_and_nothing_else(record: MechanismRecord) -> None:
    """Without noise, and with everybody drawn: a clip norm in the canary's direction, or nothing."""
    heads = HeadsAtWork.made_up(SPEC, replace(SETTINGS, sampling_probability=1.0))
    one = record.model_copy(update={"steps": 1})
    own = heads.contributions()
    assert np.linalg.norm(own[-1]) == pytest.approx(CLIP, rel=0.006)  # the clip leaves half a percent free
    assert len(own) == 65 and np.linalg.norm(own, axis=1).max() <= CLIP
    step = step_canary._step_of(heads, own, one, CODEC, step_canary.Noise(os.urandom, silent=True))
    for inside in (True, False, True):
        assert np.abs(step(inside) - inside * own[-1]).max() < 2e-5  # float32, and the grid where noise is shared


def test_made_up_patients_are_different_and_the_canary_is_far_out() -> None:
    heads = HeadsAtWork.made_up(SPEC, SETTINGS)
    assert (heads.others.patients, heads.everybody.patients) == (64, 65)
    assert np.array_equal(heads.everybody.features[:64], heads.others.features)
    assert set(np.abs(heads.everybody.features[-1])) == {5.0} and np.abs(heads.others.features).max() < 6
    assert len(np.unique(heads.everybody.features, axis=0)) == 65 and len(heads.fakes.features) == 6
    other = HeadsAtWork.made_up(SPEC, SETTINGS)
    assert not np.array_equal(heads.others.features, other.others.features)
    images = HeadsAtWork.made_up(SPEC, replace(SETTINGS, unit="image", images_per_patient=1))
    assert images.everybody.unit == "image"


def test_games_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="expected 20 to"):
        attacked(OWN, games=19)
    with pytest.raises(InputError, match="steps without noise"):
        attacked(OWN.model_copy(update={"noise_multiplier": 0.0}))
