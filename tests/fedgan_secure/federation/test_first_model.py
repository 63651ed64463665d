"""A hospital trains from no first model but the one that the policy's seed gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedgan_secure.federation.hospital import Hospital, SessionRefused
from fedgan_secure.models.vectors import VectorLayout
from fedgan_secure.policy import InitialModel
from tests.fedgan_secure.federation.test_hospital import World
from tests.fedgan_secure.privacy.test_training import SPEC


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr("fedgan_secure.federation.family.spec_of", lambda policy: SPEC)
    made = World(tmp_path)
    made.hospital.reserve(1)
    return made


def session(world: World, vector: np.ndarray) -> str:
    parameters = replace(world.parameters, lengths=(vector.size,))
    layout = VectorLayout.of(SPEC).layout_hash
    return world.hospital.open_session(parameters, vector, layout).name


def test_the_seeds_own_model_is_taken_and_one_changed_weight_is_refused(world: World) -> None:
    seed = world.policy.initial_model.seed
    honest = VectorLayout.of(SPEC).initial_vector(seed)
    hostile = honest.copy()
    hostile[7] *= np.float32(2.0**60)
    for wrong in (hostile, VectorLayout.of(SPEC).initial_vector(seed + 1)):
        with pytest.raises(SessionRefused, match="the model differ"):
            session(world, wrong)
    assert session(world, honest) == "a"
    world.hospital.close()


def test_a_start_from_another_run_is_not_held_against_the_seed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    started = InitialModel(seed=0, from_run="a" * 32, model_digest="0" * 64, pretraining="a public run")
    world.hospital.policy = world.policy.model_copy(update={"initial_model": started})
    assert Hospital._first_model(world.hospital) is None
    world.hospital.close()
