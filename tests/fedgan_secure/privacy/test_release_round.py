"""Faults of a release, each caught before its vector is handed on; and a sound release that passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from tests.fedgan_secure.privacy.test_release import PLACES, Stream, one_release

from fedgan_audits.accounting.integer_noise import share_variance
from fedgan_audits.accounting.mechanism import DistributedMechanism, MechanismRecord
from fedgan_secure.errors import InputError
from fedgan_secure.federation.released import release_ring, release_round
from fedgan_secure.federation.released.release_ring import (
    Draw,
    ReleaseRing,
    ReleaseTerms,
    decode_release_sum,
    release_deviation,
)
from fedgan_secure.federation.released.release_round import ReleaseTrainer
from fedgan_secure.privacy.entropy import Entropy
from fedgan_secure.privacy.errors import MechanismContradicted, PrivacyRefused
from fedgan_secure.privacy.integer_noise import DiscreteGaussian
from fedgan_secure.privacy.noise import GaussianStream
from fedgan_secure.privacy.self_test import MechanismWatch, Recorded
from fedgan_secure.statistics import sums as statistics
from fedgan_secure.statistics.layout import ReleaseLayout
from fedgan_secure.statistics.sums import ImageStatistics

LAYOUT = ReleaseLayout(5, 100, (8, 10, 10))
PATIENTS = 40


def hospital(layout: ReleaseLayout = LAYOUT, patients: int = PATIENTS) -> ImageStatistics:
    rng = np.random.default_rng(0)
    patient = np.concatenate([np.arange(patients), rng.integers(0, max(patients, 1), patients)])
    rows = len(patient)
    return ImageStatistics(
        rng.standard_normal((rows, layout.features)).astype(np.float32),
        rng.standard_normal((rows, len(layout.bins))).astype(np.float32),
        rng.integers(-1, max(layout.classes, 1), rows),
        patient,
        patients,
    )


def ring_of(place: str, layout: ReleaseLayout = LAYOUT, noise: float = 2.285) -> ReleaseRing:
    terms = ReleaseTerms(layout.dimension, PATIENTS, 4, 32, threshold=3, colluders=1)
    return release_ring.release_ring(one_release(noise, place), terms)


def watch_of(images: ImageStatistics, told: MechanismRecord) -> MechanismWatch:
    return MechanismWatch(Recorded(told, PATIENTS, float(PATIENTS)), images.patient, images.patients)


def trainer(place: str, images: ImageStatistics | None = None, layout: ReleaseLayout = LAYOUT) -> ReleaseTrainer:
    images, made = images or hospital(layout), ring_of(place, layout)
    watch = watch_of(images, made.mechanism)
    return ReleaseTrainer(images, layout, made.mechanism, made.codec, Stream(), watch)


def watch_in(one: ReleaseTrainer) -> MechanismWatch:
    return one._watch


def caught(one: ReleaseTrainer) -> tuple[str, ...]:
    with pytest.raises(MechanismContradicted) as error:
        one.release()
    assert error.value.exit_code == 4 and error.value.hint
    assert one.statistics() == {}
    return error.value.tests


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("classes,bins", [(0, (24,)), (1, (8, 10, 10)), (5, (8, 10, 10)), (10, (24,))])
def test_a_sound_release_passes_and_gives_the_sum_with_its_noise(
    place: str, classes: int, bins: tuple[int, ...]
) -> None:
    layout = ReleaseLayout(classes, 100, bins)
    images = hospital(layout)
    one, made = trainer(place, images, layout), ring_of(place, layout)
    found = decode_release_sum(one.release(), 1, made.codec)
    off = (found - images.clipped_sum(layout, 1.0).total) / release_deviation(made.mechanism, 1)
    assert off.std() == pytest.approx(1, abs=0.3) and np.abs(off).max() < 6
    outcomes = watch_in(one).outcomes()
    assert "FAIL" not in outcomes.values() and not watch_in(one).failed
    passed = {name for name, outcome in outcomes.items() if outcome == "PASS"}
    assert passed >= {"clip_probe", "divisor_probe", "rows", "sum_bound"}
    if place == "per_hospital":
        assert "noise_probe" in passed
    if layout.dimension > 1500:  # fewer values of noise could not show that it is half
        assert passed >= {"noise_mean", "noise_variance"}
    figures = one.statistics()
    assert figures["patients"] == PATIENTS and figures["noise_values"] == layout.dimension
    assert figures["patients_not_finite"] == 0 and 0 <= figures["clip_fraction"] <= 1


def test_confidential_figures_count_what_was_clipped_and_left_out() -> None:
    images = hospital()
    images.features[images.patient == 3] = np.nan
    images.features[np.isin(images.patient, [5, 6])] *= 1e3
    images.labels[:] = 1
    one = trainer("per_hospital", images)
    one.release()
    figures = one.statistics()
    assert figures["patients_not_finite"] == 1 and figures["clip_fraction"] == 2 / PATIENTS
    assert figures["largest_contribution"] <= 1 and figures["clamped_coordinates"] == 0


@pytest.mark.parametrize("place", PLACES)
def test_a_hospital_without_patients_gives_noise(place: str) -> None:
    one = trainer(place, hospital(patients=0))
    assert len(one.release()) == LAYOUT.dimension and watch_in(one).failed == ()


def test_a_second_release_is_refused() -> None:
    one = trainer("per_hospital")
    one.release()
    with pytest.raises(PrivacyRefused, match="two releases for one reservation"):
        one.release()


def test_a_release_that_failed_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        scaled_noise(0.0)(broken)
        one = trainer("per_hospital")
    caught(one)
    with pytest.raises(PrivacyRefused):
        one.release()


def test_without_the_refusal_the_watch_finds_the_second_release() -> None:
    images, made = hospital(), ring_of("distributed")
    watch = watch_of(images, made.mechanism)
    for turn in range(2):
        one = ReleaseTrainer(images, LAYOUT, made.mechanism, made.codec, Stream(turn), watch)
        if turn:
            assert caught(one) == ("sampling_rate",)
        else:
            one.release()


def test_a_watch_that_was_kept_remembers_the_first_release() -> None:
    images, made = hospital(), ring_of("per_hospital")
    watch = watch_of(images, made.mechanism)
    ReleaseTrainer(images, LAYOUT, made.mechanism, made.codec, Stream(1), watch).release()
    again = watch_of(images, made.mechanism)
    again.restore(watch.state())
    one = ReleaseTrainer(images, LAYOUT, made.mechanism, made.codec, Stream(2), again)
    assert caught(one) == ("sampling_rate",)


# faults ---------------------------------------------------------------------------------------------------------------

Fault = Callable[[pytest.MonkeyPatch], None]
SOUND_VECTORS, SOUND_CONTRIBUTIONS, SOUND_ADD = (
    statistics.patient_vectors,
    statistics.contributions,
    release_ring.add_noise,
)


def scaled_noise(factor: float) -> Fault:
    """Both streams give `factor` times what they should."""

    def broken(patch: pytest.MonkeyPatch) -> None:
        normal, draw = GaussianStream.normal, DiscreteGaussian.draw
        patch.setattr(GaussianStream, "normal", lambda self, size: np.float32(factor) * normal(self, size))
        patch.setattr(DiscreteGaussian, "draw", lambda self, size: np.rint(factor * draw(self, size)).astype(np.int64))

    return broken


def shifted_noise(patch: pytest.MonkeyPatch) -> None:
    normal, draw = GaussianStream.normal, DiscreteGaussian.draw
    patch.setattr(GaussianStream, "normal", lambda self, size: normal(self, size) + np.float32(0.5))
    patch.setattr(
        DiscreteGaussian,
        "draw",
        lambda self, size: draw(self, size) + round(0.5 * float(self.variance) ** 0.5),
    )


def wrong_variance(patch: pytest.MonkeyPatch) -> None:
    """Each hospital adds a quarter of its share, or the noise of half the multiplier."""

    def quarter(record: MechanismRecord, entropy: Entropy) -> Draw:
        if not isinstance(record, DistributedMechanism):
            return GaussianStream(entropy).normal
        return DiscreteGaussian(Fraction(share_variance(record)) / 4, entropy).draw

    patch.setattr(release_round, "noise_of", quarter)
    patch.setattr(
        release_ring,
        "add_noise",
        lambda total, normal, record: SOUND_ADD(
            total, normal, record.model_copy(update={"noise_multiplier": record.noise_multiplier / 2})
        ),
    )


def no_clip(patch: pytest.MonkeyPatch) -> None:
    def unclipped(vectors: np.ndarray, clip_norm: float) -> tuple[np.ndarray, np.ndarray]:
        whole = np.trunc(vectors.astype(np.float64) / statistics.grid_of(clip_norm))
        return np.nan_to_num(whole), np.linalg.norm(vectors, axis=1)

    patch.setattr(statistics, "contributions", unclipped)


def loose_clip(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(statistics, "MARGIN", -0.01)


def clip_of_each_image(patch: pytest.MonkeyPatch) -> None:
    """Every image counts as a patient."""

    def each(layout: Any, features: Any, codes: Any, labels: Any, patient: Any, patients: int) -> Any:
        return SOUND_VECTORS(layout, features, codes, labels, np.arange(len(patient)), len(patient))

    patch.setattr(statistics, "patient_vectors", each)


def not_finite_goes_in(patch: pytest.MonkeyPatch) -> None:
    def kept(vectors: np.ndarray, clip_norm: float) -> tuple[np.ndarray, np.ndarray]:
        return SOUND_CONTRIBUTIONS(np.nan_to_num(vectors, nan=0.5, posinf=1.0), clip_norm)

    patch.setattr(statistics, "contributions", kept)


def changed_vectors(change: Callable[[ReleaseLayout, np.ndarray], np.ndarray]) -> Fault:
    """The chunks of vectors are changed before they are clipped."""

    def broken(patch: pytest.MonkeyPatch) -> None:
        def changed(layout: ReleaseLayout, *arrays: Any) -> Iterator[np.ndarray]:
            for chunk in SOUND_VECTORS(layout, *arrays):
                yield change(layout, chunk.copy())

        patch.setattr(statistics, "patient_vectors", changed)

    return broken


def block(layout: ReleaseLayout, label: int) -> slice:
    return slice(label * layout.width, (label + 1) * layout.width)


def drop_block(layout: ReleaseLayout, chunk: np.ndarray) -> np.ndarray:
    chunk[:, block(layout, layout.classes - 1)] = 0
    return chunk


def swap_blocks(layout: ReleaseLayout, chunk: np.ndarray) -> np.ndarray:
    first, second = chunk[:, block(layout, 1)].copy(), chunk[:, block(layout, 2)].copy()
    chunk[:, block(layout, 1)], chunk[:, block(layout, 2)] = second, first
    return chunk


def leak_between_blocks(layout: ReleaseLayout, chunk: np.ndarray) -> np.ndarray:
    chunk[:, block(layout, 0)] += np.float32(1e-3) * chunk[:, block(layout, 3)]
    return chunk


def wrong_weight(layout: ReleaseLayout, chunk: np.ndarray) -> np.ndarray:
    chunk[:, : layout.blocks * layout.width : layout.width] *= np.float32(0.99)
    return chunk


def no_histogram(layout: ReleaseLayout, chunk: np.ndarray) -> np.ndarray:
    chunk[:, layout.blocks * layout.width :] = 0
    return chunk


def twice_in_a_chunk(layout: ReleaseLayout, chunk: np.ndarray) -> np.ndarray:
    return np.concatenate([chunk, chunk[:1]])


def twice_for_another(layout: ReleaseLayout, chunk: np.ndarray) -> np.ndarray:
    if len(chunk) > 1:
        chunk[-1] = chunk[0]
    return chunk


def overlapping_chunks(patch: pytest.MonkeyPatch) -> None:
    """The last patient of a chunk is the first of the next, too."""

    def overlapping(layout: ReleaseLayout, *arrays: Any) -> Iterator[np.ndarray]:
        last: np.ndarray | None = None
        for chunk in SOUND_VECTORS(layout, *arrays):
            yield chunk if last is None else np.concatenate([last, chunk])
            last = chunk[-1:]

    patch.setattr(statistics, "patient_vectors", overlapping)


def divided_by_patients(patch: pytest.MonkeyPatch) -> None:
    """A mean over a private number of patients in place of the sum."""
    sound = statistics.clipped_sum

    def mean(vectors: Any, clip_norm: float) -> statistics.ReleasedSum:
        found = sound(vectors, clip_norm)
        total = found.total / max(found.patients, 1)
        return statistics.ReleasedSum(total, found.patients, found.clipped, found.not_finite, found.largest_norm)

    patch.setattr(statistics, "clipped_sum", mean)


FAULTS: dict[str, tuple[Fault, set[str]]] = {
    "noise off": (scaled_noise(0.0), {"noise_variance"}),
    "noise halved": (scaled_noise(0.5), {"noise_variance"}),
    "noise doubled": (scaled_noise(2.0), {"noise_variance"}),
    "noise not centred": (shifted_noise, {"noise_mean", "noise_variance"}),
    "noise of another variance": (wrong_variance, {"noise_probe", "noise_variance"}),
    "clip off": (no_clip, {"clip_probe"}),
    "clip too loose": (loose_clip, {"clip_probe"}),
    "every image clipped by itself": (clip_of_each_image, {"clip_probe", "rows"}),
    "NaN goes in": (not_finite_goes_in, {"clip_probe"}),
    "a label's block left out": (changed_vectors(drop_block), {"divisor_probe", "rows"}),
    "two labels' blocks swapped": (changed_vectors(swap_blocks), {"divisor_probe", "rows"}),
    "a block leaks into another": (changed_vectors(leak_between_blocks), {"divisor_probe", "rows"}),
    "a wrong weight": (changed_vectors(wrong_weight), {"divisor_probe", "rows"}),
    "no histogram": (changed_vectors(no_histogram), {"divisor_probe", "rows"}),
    "a patient counted twice": (changed_vectors(twice_in_a_chunk), {"rows"}),
    "a patient counted for another": (changed_vectors(twice_for_another), {"rows"}),
    "chunks that overlap": (overlapping_chunks, {"rows"}),
    "divided by a private number": (divided_by_patients, {"divisor_probe"}),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_caught_before_anything_is_handed_on(name: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fault, tests = FAULTS[name]
    fault(monkeypatch)
    found = set(caught(trainer(place)))
    if place == "distributed":
        tests = {"noise_variance"} if "noise_probe" in tests else tests
    assert found & tests, found


@pytest.mark.parametrize("place", PLACES)
def test_an_image_that_is_given_to_another_patient_is_found(place: str) -> None:
    """The release's patients are not the data set's, as the watch knows them."""
    images, made = hospital(), ring_of(place)
    other = images.patient.copy()
    other[-1] = (other[-1] + 1) % PATIENTS
    wrong = ImageStatistics(images.features, images.codes, images.labels, other, PATIENTS)
    one = ReleaseTrainer(wrong, LAYOUT, made.mechanism, made.codec, Stream(), watch_of(images, made.mechanism))
    assert caught(one) == ("rows",)


@pytest.mark.parametrize("place", PLACES)
def test_patients_who_are_left_out_are_found(place: str) -> None:
    images, made = hospital(), ring_of(place)
    kept = images.patient < PATIENTS - 1
    fewer = ImageStatistics(
        images.features[kept], images.codes[kept], images.labels[kept], images.patient[kept], PATIENTS - 1
    )
    one = ReleaseTrainer(fewer, LAYOUT, made.mechanism, made.codec, Stream(), watch_of(images, made.mechanism))
    assert "sampling_rate" in caught(one)


@pytest.mark.parametrize(
    ("place", "told", "test"),
    [
        ("per_hospital", {"noise_multiplier": 4.57}, "noise_probe"),
        ("distributed", {"noise_multiplier": 4.57}, "noise_variance"),
        ("per_hospital", {"noise_multiplier": 2.3}, "noise_probe"),
        ("per_hospital", {"l2_clip_norm": 0.999}, "clip_probe"),
        ("distributed", {"l2_clip_norm": 0.999}, "clip_probe"),
    ],
)
def test_another_mechanism_than_the_accountants_is_found(place: str, told: dict[str, float], test: str) -> None:
    images, made = hospital(), ring_of(place)
    watch = watch_of(images, made.mechanism.model_copy(update=told))
    assert test in caught(ReleaseTrainer(images, LAYOUT, made.mechanism, made.codec, Stream(), watch))


@pytest.mark.parametrize("place", PLACES)
def test_a_clip_that_real_patients_alone_escape_is_found(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def escaped(vectors: np.ndarray, clip_norm: float) -> tuple[np.ndarray, np.ndarray]:
        if len(vectors) != PATIENTS:
            return SOUND_CONTRIBUTIONS(vectors, clip_norm)
        whole = np.trunc(vectors.astype(np.float64) / statistics.grid_of(clip_norm))
        return whole, np.linalg.norm(vectors, axis=1)

    monkeypatch.setattr(statistics, "contributions", escaped)
    images = hospital()
    images.features[images.patient == 3] *= 3
    images.labels[images.patient == 3] = 1
    assert caught(trainer(place, images)) == ("sum_bound",)


def test_a_finding_of_the_noise_depends_on_no_patient() -> None:
    """A cohort far above the declared one is clamped, and still no test fails."""
    rng = np.random.default_rng(0)
    layout = ReleaseLayout(0, 400, (24,))
    count = 400 * PATIENTS
    images = ImageStatistics(
        np.full((count, 400), 1.0, np.float32), rng.standard_normal((count, 1)).astype(np.float32),
        np.zeros(count, int), np.arange(count), count,
    )  # fmt: skip
    for place in PLACES:
        one = trainer(place, images, layout)
        one.release()
        assert one.statistics()["clamped_coordinates"] > 0 and watch_in(one).failed == ()


def test_what_does_not_fit_is_refused_at_once() -> None:
    images, made = hospital(), ring_of("distributed")
    watch = watch_of(images, made.mechanism)
    with pytest.raises(InputError, match="coordinates"):
        ReleaseTrainer(images, ReleaseLayout(4, 100, (8, 10, 10)), made.mechanism, made.codec, Stream(), watch)
    gap = ImageStatistics(images.features, images.codes, images.labels, images.patient, PATIENTS + 1)
    with pytest.raises(InputError, match="no image"):
        ReleaseTrainer(gap, LAYOUT, made.mechanism, made.codec, Stream(), watch)


def test_the_release_needs_no_tensorflow() -> None:
    import subprocess
    import sys

    code = (
        f"import sys, {release_round.__name__}\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules), 'a hospital waits for TensorFlow'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
