"""Pretraining survives a kill, refuses what it cannot use, and says what it was trained on.

The training functions run without compilation here: compiling them takes longer than these steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from fedgan_secure.errors import InputError
from fedgan_secure.interruption import Interruption
from fedgan_secure.pretraining import phases, pretraining
from fedgan_secure.pretraining.feature_training import FeaturePhase
from fedgan_secure.pretraining.judges import Judge, recolour
from fedgan_secure.pretraining.phases import Floats, run_phase
from fedgan_secure.pretraining.pretraining import PretrainSettings, pretrain
from fedgan_secure.pretraining.public_set import PublicSet, folder_set, phantom_set
from fedgan_secure.starts import read_start
from fedgan_secure.starts.shared import shared_pictures

TOY = PretrainSettings(name="toy/1", feature_steps=2, generator_steps=3, feature_batch=3, generator_batch=2, seed=3)


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(pretraining, "MEASURED", 20)
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def public() -> PublicSet:
    return phantom_set(40, seed=5)


class Walk:
    """A phase whose state is one number; the step `dies_at` never returns."""

    name, task, steps = "walk", "walking", 7

    def __init__(self, dies_at: int | None = None) -> None:
        self.value = np.zeros(1, np.float32)
        self.dies_at = dies_at
        self.made: list[int] = []

    def step(self, index: int) -> None:
        if index == self.dies_at:
            raise SystemExit
        self.made.append(index)
        self.value = self.value * 2 + np.float32(index)

    def state(self) -> dict[str, Floats]:
        return {"value": self.value}

    def load(self, state: Mapping[str, Floats]) -> None:
        self.value = state["value"]


@pytest.mark.parametrize("dies_at", range(7))
def test_a_killed_phase_goes_on_to_the_same_end(dies_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases, "SAVE_SECONDS", -1.0)
    whole, killed, again, third = Walk(), Walk(dies_at), Walk(), Walk()
    for folder in ("whole", "killed"):
        (tmp_path / folder).mkdir()
    run_phase(whole, tmp_path / "whole", None, Interruption())
    with pytest.raises(SystemExit):
        run_phase(killed, tmp_path / "killed", None, Interruption())
    run_phase(again, tmp_path / "killed", None, Interruption())
    assert again.value == whole.value
    assert killed.made + again.made == list(range(7))
    run_phase(third, tmp_path / "killed", None, Interruption())
    assert third.made == [] and third.value == whole.value


@pytest.mark.parametrize("damage", [b"", b"PK", b"nan", b"more"])
def test_a_damaged_part_is_refused(damage: bytes, tmp_path: Path) -> None:
    path = tmp_path / "walk.npz"
    run_phase(Walk(), tmp_path, None, Interruption())
    values = {
        b"nan": {"value": np.array([np.nan], np.float32), "done": np.array([3], np.int64)},
        b"more": {"value": np.zeros(1, np.float32), "done": np.array([8], np.int64)},
    }
    path.write_bytes(phases.pack(values[damage]) if damage in values else damage)
    with pytest.raises(InputError, match="not usable") as refused:
        run_phase(Walk(), tmp_path, None, Interruption())
    assert "remove it" in refused.value.hint


def test_an_interrupted_pretraining_goes_on_to_the_same_start(public: PublicSet, tmp_path: Path) -> None:
    whole = pretrain(public, TOY, tmp_path / "whole.npz")
    interruption = Interruption()

    def stop(task: str, done: int, total: int) -> None:
        interruption.asked = "part 2" in task and done == 1

    with pytest.raises(KeyboardInterrupt):
        pretrain(public, TOY, tmp_path / "again.npz", progress=stop, interruption=interruption)
    assert not (tmp_path / "again.npz").exists()
    parts = tmp_path / "again.npz.parts"
    assert {path.name for path in parts.glob("*.npz")} == {"features.npz", "generator-1.npz", "generator-2.npz"}
    with pytest.raises(InputError, match="other settings or pictures"):
        pretrain(public, replace(TOY, seed=4), tmp_path / "again.npz")
    with pytest.raises(InputError, match="other settings or pictures"):
        pretrain(replace(public, labels=public.labels[::-1].copy()), TOY, tmp_path / "again.npz")
    again = pretrain(public, TOY, tmp_path / "again.npz")
    assert not parts.exists()
    with pytest.raises(InputError, match="exists already"):
        pretrain(public, TOY, tmp_path / "again.npz")
    starts = read_start(tmp_path / "whole.npz"), read_start(tmp_path / "again.npz")
    for name, value in starts[0].weights.items():
        assert np.allclose(value, starts[1].weights[name], atol=2e-4), name
    assert np.allclose(starts[0].feature_mean, starts[1].feature_mean, atol=1e-2)
    _says_what_it_is(whole, starts[0])
    assert again["name"] == "toy/1"


def _says_what_it_is(result: Mapping[str, object], start: object) -> None:
    assert isinstance(start, type(read_start(Path(str(result["file"])))))
    assert (start.name, start.classes, start.counts, start.channels) == ("toy/1", 5, 6, 3)
    assert "without privacy on 40 phantoms" in start.statement and "no patient's image" in start.statement
    assert start.statement == result["statement"] and start.digest == result["digest"]
    assert start.figures["held_out_pictures"] == 40 and not len(start.picture_digests)
    assert start.made["simulator"] == "public-fundus/1" and start.made["generator_steps"] == 3


def _write(path: Path, count: int, *, classes: int = 3, patients: int = 10, **others: np.ndarray) -> Path:
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (count, 70, 70), dtype=np.uint8)
    labels, patient = np.arange(count) % classes, np.array([f"p{index % patients}" for index in range(count)])
    np.savez(path, **{"images": images, "labels": labels, "patient": patient, **others})
    return path


def test_a_grey_folder_of_ones_own_makes_a_start_that_finds_its_pictures(tmp_path: Path) -> None:
    path = _write(tmp_path / "own.npz", 60)
    public = folder_set(path, "made up, CC0", channels=1)
    assert public.images.shape == (60, 64, 64, 1) and not public.flips
    pretrain(public, TOY, tmp_path / "start.npz")
    start = read_start(tmp_path / "start.npz")
    assert (start.channels, start.classes, start.counts, start.features) == (1, 3, 0, 16 + 3 + 200 + 3)
    assert "pictures that its maker declared public (made up, CC0)" in start.statement
    assert "no patient" not in start.statement
    assert shared_pictures(start, public.images[[3, 50]]).tolist() == [0, 1]
    assert start.made["declared"] == "made up, CC0"


def test_no_patient_is_trained_on_and_measured_on(tmp_path: Path) -> None:
    public = folder_set(_write(tmp_path / "own.npz", 90), "made up")
    assert len(public.training) + len(public.held_out) == 90 and len(public.held_out) == 9
    assert not set(public.training % 10) & set(public.held_out % 10)


@pytest.mark.parametrize("source", ["", "  ", "x" * 201, "a\nb"])
def test_pictures_that_nobody_declared_public_are_refused(source: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not declared public") as refused:
        folder_set(_write(tmp_path / "own.npz", 30), source)
    assert "--public-source" in refused.value.hint


def test_folders_that_cannot_train_a_start_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="10 labelled pictures"):
        folder_set(_write(tmp_path / "few.npz", 10), "made up")
    with pytest.raises(InputError, match="1 classes"):
        folder_set(_write(tmp_path / "one.npz", 30, classes=1), "made up")
    with pytest.raises(InputError, match="no picture to train on has the label '1'"):
        folder_set(_write(tmp_path / "gap.npz", 30, labels=np.arange(30) % 2 * 2), "made up")
    path = tmp_path / "unlabelled.npz"
    np.savez(path, images=np.zeros((30, 70, 70), np.uint8))
    with pytest.raises(InputError, match="label"):
        folder_set(path, "made up")


@pytest.mark.parametrize(
    "change", [{"feature_steps": 0}, {"generator_steps": 1}, {"generator_batch": 0}, {"seed": -1}, {"seed": 2**30}]
)
def test_settings_out_of_range_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(InputError, match="expected"):
        replace(TOY, **change)


def test_a_name_that_no_start_may_have_is_refused_before_anything_is_trained(public: PublicSet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name"):
        pretrain(public, replace(TOY, name="No"), tmp_path / "start.npz")
    assert not list(tmp_path.iterdir())


def test_recolouring_keeps_the_range_and_follows_its_seed() -> None:
    x = tf.constant(np.random.default_rng(0).uniform(-1, 1, (6, 8, 8, 3)).astype(np.float32))
    one, same, other = (recolour(x, tf.constant([1, seed])).numpy() for seed in (2, 2, 5))
    assert np.array_equal(one, same) and not np.allclose(one, other)
    assert np.abs(one).max() <= 1 and np.abs(one - x.numpy()).max() > 0.05
    assert np.allclose(recolour(x, tf.constant([1, 2]), 0.0).numpy(), np.maximum(x.numpy(), 2e-4 - 1), atol=1e-5)


def test_the_conditional_judge_uses_the_class_and_the_blind_one_has_none(public: PublicSet) -> None:
    x = tf.constant(public.images[:4].astype(np.float32) / 127.5 - 1)
    labels = tf.constant([0, 1, 2, 3])
    judge, blind = (Judge(public.architecture, conditional=known, seed=1) for known in (True, False))
    assert judge(x, labels).shape == (4,)
    judge.variables[-1].assign(np.random.default_rng(0).normal(size=judge.variables[-1].shape))
    assert not np.allclose(judge(x, labels), judge(x, labels[::-1]))
    assert np.allclose(blind(x, labels), blind(x, labels[::-1]))
    assert len(judge.variables) == len(blind.variables) + 1


@pytest.mark.slow
def test_the_feature_network_learns() -> None:
    """At full rate from the first step, or from smaller weights, all its hidden units die and it stays at chance."""
    tf.config.run_functions_eagerly(False)
    public = phantom_set(1000)
    phase = FeaturePhase(public, steps=2500, batch=64, seed=0)
    for index in range(300):
        phase.step(index)
    x = tf.constant(public.images[public.held_out[:500]].astype(np.float32) / 127.5 - 1)
    told = np.asarray(phase.network(x))[:, 260:265].argmax(axis=1)
    assert (told == public.labels[public.held_out[:500]]).mean() > 0.4
