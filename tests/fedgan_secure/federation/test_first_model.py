"""A hospital trains from no first model but the one that the policy's seed gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedgan_secure.federation.fedavg import model_digest
from fedgan_secure.federation.refusals import SessionRefused
from fedgan_secure.federation.start_model import start_vector
from fedgan_secure.federation.transfer import Initial
from fedgan_secure.networks.vectors import VectorLayout
from fedgan_secure.policy.policy import InitialModel
from tests.fedgan_secure.federation.test_hospital import World
from tests.fedgan_secure.privacy.test_training import SPEC


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    for module in ("federation.families.dcgan_family", "federation.start_model"):
        monkeypatch.setattr(f"fedgan_secure.{module}.spec_of", lambda policy: SPEC)
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


def test_a_policy_that_names_another_start_than_the_seeds_is_refused(world: World) -> None:
    honest = VectorLayout.of(SPEC).initial_vector(world.policy.initial_model.seed)
    hostile = honest.copy()
    hostile[7] *= np.float32(2.0**60)
    world.follow(world.policy.starting_from(digest(hostile)))
    for vector in (hostile, honest):
        with pytest.raises(SessionRefused, match="hospital a makes the first model"):
            session(world, vector)
    world.follow(world.policy.starting_from(digest(honest)))
    assert session(world, honest) == "a"
    world.hospital.close()


def digest(vector: np.ndarray) -> str:
    return model_digest(VectorLayout.of(SPEC).layout_hash, vector).hex()


def bundle(value: float, files: str = "1" * 64) -> Any:
    """A released model, all of whose weights in one layer are `value`, as a hospital was given it itself."""
    entry = VectorLayout.of(SPEC).entries[0]
    weights = {entry.name: np.full(entry.shape, value, np.float32)}
    return SimpleNamespace(initial=Initial("a" * 32, files, "a public run", SPEC, weights))


def pretrained(world: World, value: float) -> np.ndarray:
    """Let the world's run start from that model; return its first vector."""
    initial = InitialModel(seed=0, from_run="a" * 32, model_digest="1" * 64, pretraining="a public run")
    policy = world.policy.model_copy(update={"initial_model": initial})
    vector = start_vector(policy, world.hospital.family, bundle(value).initial)
    world.follow(policy.starting_from(digest(vector)))
    return vector


def test_other_start_weights_than_the_own_bundle_gives_are_refused(world: World) -> None:
    """Before, nothing was compared: a coordinator could start a pretrained run from any weights, and all signed."""
    honest = pretrained(world, 0.25)
    with pytest.raises(SessionRefused, match="was given no bundle of run a"):
        session(world, honest)
    world.hospital.bundle = bundle(0.25, files="2" * 64)
    with pytest.raises(SessionRefused, match="was given the model 22222222"):
        session(world, honest)
    world.hospital.bundle = bundle(0.5)
    with pytest.raises(SessionRefused, match="makes the first model"):
        session(world, honest)
    assert not any(entry.kind == "start_derived" for entry in world.hospital.ledger.entries())
    world.hospital.bundle = bundle(0.25)
    for wrong in (VectorLayout.of(SPEC).initial_vector(0), honest * 2):
        with pytest.raises(SessionRefused, match="the model differ"):
            session(world, wrong)
    world.hospital.bundle = None  # a resumed run: what the bundle gave is in the ledger
    assert session(world, honest) == "a"
    world.hospital.close()
