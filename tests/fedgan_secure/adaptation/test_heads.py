"""The heads' layout, their topology, and first weights that are the same to the bit everywhere."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedgan_secure.errors import InputError
from fedgan_secure.heads.head_settings import HeadSettings
from fedgan_secure.heads.head_start import Discriminant, linear_discriminant, public_heads
from fedgan_secure.heads.heads import (
    SLOPE,
    HeadsLayout,
    HeadsSpec,
    build_heads,
    check_centre,
    random_heads,
    standardised,
)
from fedgan_secure.models.errors import ModelError

SPEC = HeadsSpec(features=48, classes=3, hidden=32)
BARE = HeadsSpec(features=48, classes=0, hidden=32)


def outputs(spec: HeadsSpec, vector: np.ndarray, inputs: np.ndarray, labels: np.ndarray) -> tuple[Any, Any]:
    """Realness float[n] and class logits float[n, k] of standardised inputs, in float64 by hand."""
    parts = {name: value.astype(np.float64) for name, value in HeadsLayout.of(spec).parts(vector).items()}
    hidden = inputs.astype(np.float64) @ parts["h_hidden/kernel"] + parts["h_hidden/bias"]
    hidden = np.where(hidden > 0, hidden, SLOPE * hidden)
    realness = (hidden @ parts["h_realness/kernel"] + parts["h_realness/bias"])[:, 0]
    if not spec.conditional:
        return realness, None
    realness = realness + (hidden * parts["h_label/embeddings"][labels]).sum(axis=1)
    return realness, hidden @ parts["h_classes/kernel"] + parts["h_classes/bias"]


def anything(spec: HeadsSpec, seed: int = 5) -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).normal(size=HeadsLayout.of(spec).size), np.float32)


@pytest.mark.parametrize("spec", [SPEC, BARE], ids=["conditional", "unconditional"])
def test_the_keras_model_is_the_topology_with_the_weights_of_the_vector(spec: HeadsSpec) -> None:
    layout, vector = HeadsLayout.of(spec), anything(spec)
    model = build_heads(spec, 3)
    assert np.array_equal(layout.flatten(model), random_heads(spec, 3))
    layout.assign(vector, model)
    assert np.array_equal(layout.flatten(model), vector)
    inputs = np.random.default_rng(1).normal(size=(7, 48)).astype(np.float32)
    labels = np.arange(7) % 3
    made = model([inputs, labels[:, None]] if spec.conditional else inputs)
    realness, classes = outputs(spec, vector, inputs, labels)
    got = made if spec.conditional else [made]
    assert np.allclose(np.asarray(got[0])[:, 0], realness, atol=1e-4)
    if spec.conditional:
        assert np.allclose(got[1], classes, atol=1e-4)
    assert sum(int(np.prod(weight.shape)) for weight in model.trainable_weights) == layout.size == len(vector)


def test_the_layout_is_fixed_and_its_hash_tells_heads_apart() -> None:
    layout = HeadsLayout.of(HeadsSpec(271, 5, 32))
    assert layout.size == 271 * 32 + 32 + 32 + 1 + 5 * 32 + 32 * 5 + 5 == 9062
    assert [entry.name for entry in layout.entries][:2] == ["heads/h_hidden/kernel", "heads/h_hidden/bias"]
    assert [entry.stop for entry in layout.entries][:-1] == [entry.start for entry in layout.entries][1:]
    hashes = {HeadsLayout.of(spec).layout_hash for spec in (SPEC, BARE, replace(SPEC, hidden=9))}
    assert len(hashes) == 3 and all(len(value) == 64 for value in hashes)
    with pytest.raises(ModelError, match="layers of these heads"):
        HeadsLayout.of(BARE).flatten(build_heads(SPEC, 0))


SIZE = 1796


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros(SIZE - 1, np.float32),
        np.zeros(SIZE),
        np.full(SIZE, np.nan, np.float32),
        np.zeros((1, SIZE), np.float32),
    ],
    ids=["short", "float64", "not a number", "a matrix"],
)
def test_a_vector_that_does_not_fit_is_refused(bad: np.ndarray) -> None:
    layout = HeadsLayout.of(SPEC)
    assert layout.size == SIZE
    layout.check(np.zeros(SIZE, np.float32))
    with pytest.raises(ModelError):
        layout.check(bad)
    for centre in (bad, np.full(48, np.nan, np.float32), np.zeros(48)):
        with pytest.raises(ModelError):
            check_centre(SPEC, centre)


@pytest.mark.parametrize(
    "change", [{"features": 0}, {"classes": -1}, {"hidden": 5000}, {"hidden": True}, {"classes": 2.0}], ids=str
)
def test_a_specification_out_of_range_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ModelError):
        HeadsSpec.from_json({**SPEC.to_json(), **change})
    assert HeadsSpec.from_json(SPEC.to_json()) == SPEC
    for keys in ({"features": 3}, {**SPEC.to_json(), "more": 1}):
        with pytest.raises(ModelError, match="keys"):
            HeadsSpec.from_json(keys)


@pytest.mark.parametrize(
    "change",
    [
        {"unit": "study"},
        {"images_per_patient": 0},
        {"images_per_patient": 2, "unit": "image"},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"adam_beta1": 1.0},
        {"class_weight": -1.0},
        {"fake_batch_size": 0},
        {"decay_steps": 1.5},
        {"l2_clip_norm": "1"},
        {"label_prior": [0.5, 0.5]},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(change: dict[str, Any]) -> None:
    good = HeadSettings(0.1, 8.0, 1.0).to_json()
    assert HeadSettings.from_json(good).to_json() == good
    with pytest.raises(InputError):
        HeadSettings.from_json({**good, **change})


def test_the_rate_falls_to_a_tenth() -> None:
    falling = HeadSettings(0.1, 8.0, 1.0, decay_steps=100)
    assert [falling.rate(done) for done in (0, 50, 100, 500)] == pytest.approx([3e-3, 1.65e-3, 3e-4, 3e-4])
    assert HeadSettings(0.1, 8.0, 1.0).rate(10**6) == 3e-3


# the first weights -------------------------------------------------------------------------------------------------


def made_up(classes: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Class means and a covariance of small whole numbers: exact on every machine."""
    means = ((np.arange(classes * count) * 29 % 17) - 8).reshape(classes, count) / 8.0
    root = ((np.arange(count * count) * 31 % 13) - 6).reshape(count, count)
    covariance = root @ root.T / 16.0 + np.eye(count)
    return means.astype(np.float32), covariance.astype(np.float32)


def test_the_first_weights_are_these_on_every_machine() -> None:
    """Digests taken once: another order of additions anywhere, or another library, would change them."""
    spec = HeadsSpec(271, 5, 32)
    made = [random_heads(spec, 20).astype("<f4").tobytes()]
    means, covariance = made_up(5, 271)
    for columns in (slice(260, 271), slice(None)):
        found = linear_discriminant(means, covariance, columns)
        vector = public_heads(spec, found, 20, means[0])
        made += [
            vector.astype("<f4").tobytes(),
            found.weights.astype("<f8").tobytes() + found.bias.astype("<f8").tobytes(),
        ]
    assert [hashlib.sha256(each).hexdigest()[:16] for each in made] == [
        "7f1b5ba70d21d98d",
        "08897e031847e0e1",
        "3216af3726afb881",
        "08c808ec7920e769",
        "bb1e4f7d386aa943",
    ]


def test_equal_seeds_give_equal_weights_with_the_stated_spread() -> None:
    spec = HeadsSpec(271, 5, 32)
    one, other = random_heads(spec, 1), random_heads(spec, 2)
    assert np.array_equal(one, random_heads(spec, 1)) and not np.array_equal(one, other)
    parts = HeadsLayout.of(spec).parts(one)
    assert parts["h_hidden/kernel"].std() == pytest.approx(1.4 / np.sqrt(271), rel=0.05)
    assert parts["h_classes/kernel"].std() == pytest.approx(0.2, rel=0.2)
    assert not parts["h_label/embeddings"].any() and not parts["h_hidden/bias"].any()
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.05


@given(
    seed=st.integers(0, 2**32 - 1),
    classes=st.integers(1, 4),
    count=st.integers(1, 12),
    centred=st.booleans(),
)
@settings(max_examples=40)
def test_the_class_head_starts_as_the_linear_discriminant(seed: int, classes: int, count: int, centred: bool) -> None:
    draw = np.random.default_rng(seed)
    spec = HeadsSpec(count, classes, 8)
    means = draw.normal(size=(classes, count)) * 2
    root = draw.normal(size=(count, count))
    covariance = root @ root.T
    first = int(draw.integers(0, count))
    found = linear_discriminant(means, covariance, slice(first, count))
    own, matrix = means[:, first:], covariance[first:, first:]
    matrix = matrix + 0.3 * np.trace(matrix) / len(matrix) * np.eye(len(matrix))
    solved = np.linalg.solve(matrix, own.T)
    wanted_bias = -0.5 * (own.T * solved).sum(axis=0)
    features = (draw.normal(size=(9, count)) * 3).astype(np.float32)
    wanted = features[:, first:].astype(np.float64) @ solved + wanted_bias
    wanted -= wanted.mean(axis=1, keepdims=True)
    assert not found.weights[:first].any()
    assert np.allclose(features @ found.weights + found.bias, wanted, atol=1e-6 * (1 + np.abs(wanted).max()))
    centre = draw.normal(size=count).astype(np.float32) if centred else np.zeros(count, np.float32)
    vector = public_heads(spec, found, seed, centre if centred else None)
    logits = outputs(spec, vector, standardised(features, centre, count), np.zeros(9, int))[1]
    assert np.allclose(logits, wanted, atol=1e-4 * (1 + np.abs(wanted).max()))


def test_the_rest_of_the_first_weights_is_the_seeds() -> None:
    means, covariance = made_up(3, 48)
    vector = public_heads(SPEC, linear_discriminant(means, covariance), 4)
    layout = HeadsLayout.of(SPEC)
    parts, plain = layout.parts(vector), layout.parts(random_heads(SPEC, 4))
    assert np.array_equal(parts["h_hidden/kernel"][:, 6:], plain["h_hidden/kernel"][:, 6:])
    assert np.array_equal(parts["h_realness/kernel"], plain["h_realness/kernel"])
    assert not parts["h_classes/kernel"][6:].any()
    assert np.array_equal(public_heads(BARE, None, 4), random_heads(BARE, 4))


def test_statistics_that_make_no_discriminant_are_refused() -> None:
    means, covariance = made_up(3, 48)
    endless = np.full_like(covariance, np.inf)
    for wrong_means, wrong_covariance in (
        (means[0], covariance),
        (means, covariance[:-1]),
        (means * np.nan, covariance),
        (means, endless),
        (means, -covariance),
        (means, covariance * 0),
    ):
        with pytest.raises(ModelError):
            linear_discriminant(wrong_means, wrong_covariance)
    with pytest.raises(ModelError, match="no feature"):
        linear_discriminant(means, covariance, slice(48, 48))
    good = linear_discriminant(means, covariance)
    with pytest.raises(ModelError, match="at least 6") as error:
        public_heads(replace(SPEC, hidden=5), good, 0)
    assert error.value.hint
    with pytest.raises(ModelError, match="expected"):
        public_heads(replace(SPEC, features=49), good, 0)
    with pytest.raises(ModelError), np.errstate(over="ignore"):
        public_heads(SPEC, Discriminant(good.weights * 1e100, good.bias), 0)


def test_layout_and_first_weights_need_no_tensorflow() -> None:
    code = (
        "import sys\n"
        "from fedgan_secure.heads import HeadsLayout, HeadsSpec, random_heads\n"
        "HeadsLayout.of(HeadsSpec()).layout_hash; random_heads(HeadsSpec(), 1)\n"
        "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
