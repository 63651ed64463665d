"""From a vector to its generator: made once for a release, the same for everybody, and moved by the heads."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from fedgan_secure.adaptation import adapting
from fedgan_secure.adaptation.adapting import Adaptation, adaptation_of, class_posterior, feature_network
from fedgan_secure.heads.vector import AdaptedLayout
from fedgan_secure.models.errors import ModelError
from fedgan_secure.networks.dcgan import draw_images
from fedgan_secure.starts.start import shipped_start
from fedgan_secure.statistics.colours import ColourBins, colour_codes, mean_colours
from fedgan_secure.statistics.layout import ReleaseLayout
from fedgan_secure.statistics.sums import Noise, patient_vectors
from tests.fedgan_secure.adaptation.toy_start import spec_of, untrained_start

POOL = 50
NOISE = Noise(0.5)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Few pictures, and nothing kept from one test to the next."""
    monkeypatch.setattr(adapting, "FAKES", 10)
    adapting._KEPT.clear()
    yield
    adapting._KEPT.clear()


def layout_of(classes: int = 5, *, channels: int = 3, fit_steps: int = 0) -> AdaptedLayout:
    start = shipped_start() if channels == 3 else untrained_start(channels)
    spec = spec_of(start, classes=classes, pool=POOL, fit_steps=fit_steps)
    bins = (3, 3, 3) if channels == 3 else (5,)
    return AdaptedLayout(spec, start, ReleaseLayout(classes=classes, features=start.features, bins=bins))


def released(layout: AdaptedLayout, seed: int = 0) -> np.ndarray:
    """The vector after a release of made-up patients whose colours are in one cell."""
    assert layout.release is not None
    rng, count = np.random.default_rng(seed), 200
    features = rng.standard_normal((count, layout.spec.features)).astype(np.float32)
    codes = np.tile(layout.release.colour_bins.centres[4], (count, 1)).astype(np.float32)
    labels = np.arange(count) % max(layout.spec.classes, 1)
    features[:, 260:] += labels[:, None] * 0.3
    rows = np.concatenate(list(patient_vectors(layout.release, features, codes, labels, np.arange(count), count)))
    return layout.with_release(layout.initial_vector(0), rows.astype(np.float64).sum(axis=0), 3, NOISE, 0)


def moved(layout: AdaptedLayout, vector: np.ndarray) -> np.ndarray:
    """The same release with other heads."""
    after = vector.copy()
    after[layout.heads_slice] += np.random.default_rng(6).standard_normal(layout.heads.size).astype(np.float32)
    return after


def check(found: Adaptation, rows: int) -> None:
    for chances in (found.chances(None), found.chances(found.layout.initial_vector(0))):
        assert chances.shape == (rows, POOL) and (chances > 0).all()
        np.testing.assert_allclose(chances.sum(axis=1), 1.0)
    assert found.features.shape == (POOL, found.layout.spec.features) and np.isfinite(found.features).all()
    assert found.pool.pictures.dtype == np.uint8 and found.histogram.sum() == pytest.approx(1.0)


def test_before_anything_is_released_it_is_the_start_itself() -> None:
    layout = layout_of()
    found = adaptation_of(layout, layout.initial_vector(0), NOISE)
    check(found, 5)
    assert found.distance is None and not found.centre.any()
    bins = found.bins
    own = np.bincount(bins.index(colour_codes(mean_colours(found.pool.pictures))), minlength=bins.cells) / POOL
    np.testing.assert_allclose(found.histogram, own)
    assert np.array_equal(found.pool.labels, np.arange(POOL) % 5)
    # the start's own discriminant knows something of what its generator was asked for
    assert found.posterior[np.arange(POOL), found.pool.labels].mean() > 0.3


def test_an_adaptation_is_kept_for_its_release_whatever_the_heads() -> None:
    layout = layout_of()
    vector = released(layout)
    found = adaptation_of(layout, vector, NOISE)
    check(found, 5)
    assert adaptation_of(layout, moved(layout, vector), NOISE) is found
    assert not np.allclose(found.chances(vector), found.chances(moved(layout, vector)), rtol=0.1)
    others = [adaptation_of(layout, layout.initial_vector(0), NOISE), adaptation_of(layout, vector, Noise(2.0))]
    assert all(other is not found for other in others) and len(adapting._KEPT) == adapting.KEPT
    again = adaptation_of(layout, vector, NOISE)
    assert again is not found
    np.testing.assert_allclose(again.chances(vector), found.chances(vector), rtol=1e-3, atol=1e-7)
    assert np.array_equal(again.pool.pictures, found.pool.pictures)
    assert again.histogram[4] > 0.99


def test_fakes_follow_from_the_vector_and_the_seed() -> None:
    layout = layout_of()
    vector = released(layout)
    found = adaptation_of(layout, vector, NOISE)
    one, same, other = (found.fakes(vector, seed) for seed in (1, 1, 2))
    assert np.array_equal(one.labels, np.arange(10) % 5) and one.features.shape == (10, 271)
    np.testing.assert_allclose(one.features, same.features, atol=1e-4)
    assert not np.allclose(one.features, other.features, atol=1e-2)


@pytest.mark.parametrize("classes", [0, 2])
def test_without_classes_or_with_others_than_the_starts_it_works(classes: int) -> None:
    layout = layout_of(classes)
    first = adaptation_of(layout, layout.initial_vector(0), NOISE)
    check(first, max(classes, 1))
    np.testing.assert_allclose(first.chances(None), 1 / POOL)
    vector = released(layout)
    found = adaptation_of(layout, vector, NOISE)
    check(found, max(classes, 1))
    assert found.centre.any() and found.distance is None
    labels = None if classes == 0 else np.arange(4, dtype=np.int32) % classes
    drawn = draw_images(found.generator(vector), layout.spec, labels, 4, 0)
    assert drawn.shape == (4, 64, 64, 3) and drawn.std() > 5
    assert found.fakes(vector, 0).labels.max() == max(classes, 1) - 1


def test_grey_pictures_are_adapted_and_fitted() -> None:
    layout = layout_of(2, channels=1, fit_steps=2)
    told: list[tuple[int, int]] = []
    vector = released(layout)
    found = adaptation_of(layout, vector, NOISE, lambda done, total: told.append((done, total)))
    check(found, 2)
    assert told == [(1, 2), (2, 2)] and found.distance is not None and np.isfinite(found.distance).all()
    drawn = draw_images(found.generator(vector), layout.spec, np.array([0, 1], np.int32), 2, 0)
    assert drawn.shape == (2, 64, 64, 1)


def test_a_run_without_a_release_has_the_public_bins() -> None:
    layout = AdaptedLayout(layout_of().spec, shipped_start(), None)
    found = adaptation_of(layout, layout.initial_vector(0), Noise(0.0))
    assert found.bins == ColourBins.for_channels(3)
    check(found, 5)


def test_a_vector_that_does_not_fit_is_refused() -> None:
    layout = layout_of()
    for wrong in (layout.initial_vector(0)[:-1], np.full(layout.size, np.nan, np.float32)):
        with pytest.raises(ModelError, match="model vector"):
            adaptation_of(layout, wrong, NOISE)


def test_the_heads_posterior_is_that_of_their_topology() -> None:
    layout = layout_of()
    vector = moved(layout, layout.initial_vector(0))
    features = np.random.default_rng(0).standard_normal((6, 271)).astype(np.float32)
    centre = np.full(271, 0.2, np.float32)
    from fedgan_secure.heads.heads import build_heads
    from fedgan_secure.heads.vector import heads_spec

    model = build_heads(heads_spec(layout.spec), 0)
    layout.heads.assign(vector[layout.heads_slice], model)
    inputs = ((features - centre) / np.sqrt(271)).astype(np.float32)
    _, logits = model([inputs, np.zeros((6, 1), np.int32)])
    likely = np.exp(np.asarray(logits, np.float64))
    expected = likely / likely.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(class_posterior(layout, vector, features, centre), expected, atol=1e-4)


def test_the_feature_network_is_built_once() -> None:
    assert feature_network(layout_of()) is feature_network(layout_of(2))
