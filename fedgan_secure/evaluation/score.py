"""One measurement of a generator: usefulness (TSTR) and variety, beside real images and beside a public start.

On patients' images the result is a release that nothing pays for: it stays with the researcher. A run calls this on
phantoms that nobody trained on (`federation.scoring`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from fedgan_secure.errors import InputError
from fedgan_secure.evaluation.classifier import build_classifier, features
from fedgan_secure.evaluation.diversity import Diversity, measure_diversity
from fedgan_secure.evaluation.images import LabelledImages
from fedgan_secure.evaluation.intervals import Interval, difference_interval
from fedgan_secure.evaluation.tstr import BATCH, TstrResult, accuracy
from fedgan_secure.evaluation.verdict import sentence

Draw = Callable[[np.ndarray, int], np.ndarray]
"""(labels int[n], seed) -> uint8[n, H, W, C]; a generator without classes is given zeros and ignores them."""
Progress = Callable[[str, int, int], None]
TASK = "measuring the pictures"
EMBEDDING_SEED = 1
"""Of the classifier whose last hidden layer is the feature space: the first one trained on real images."""
TRAINED = "a classifier trained on real images of other patients"
UNTRAINED = "an untrained network, because the real images do not show two classes"
"""Naeem et al. (2020) use untrained networks where no trained one fits the images."""


@dataclass(frozen=True)
class Effort:
    """How much work to spend.

    Attributes:
        pictures: to generate.
        seeds: of the classifiers trained on generated pictures.
        real_seeds: of those trained on real ones; `EMBEDDING_SEED` is the first.
        steps, batch: of every classifier's training.
    """

    pictures: int = 1500
    seeds: tuple[int, ...] = (1, 2, 3)
    real_seeds: tuple[int, ...] = (1, 2, 3)
    steps: int = 600
    batch: int = BATCH

    def __post_init__(self) -> None:
        if self.pictures < 1 or not self.seeds or self.real_seeds[:1] != (EMBEDDING_SEED,):
            raise InputError(
                f"{self.pictures} pictures, classifier seeds {self.seeds} and {self.real_seeds}",
                hint=f"take at least one picture and one seed, and {EMBEDDING_SEED} first for real images",
            )


@dataclass(frozen=True)
class Measured:
    """What was measured of one generator; `hits` is bool[seeds, test images], None without TSTR."""

    tstr: TstrResult | None
    diversity: Diversity
    hits: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Score:
    """A generator's measurements, and those of the public start that it came from.

    Attributes:
        made: of the generator.
        start: of the public start alone, which cost no privacy; None where there is none.
        gain: TSTR of the generator less TSTR of the start, and its 95 % interval over test images and seeds.
        tstr_missing_because: why there is no TSTR; None where there is.
        embedding: where the features of coverage and recall come from.
        generated_images, real_training_images, real_images: how many were used; real_images are test images.
    """

    made: Measured
    start: Measured | None
    gain: tuple[float, Interval] | None
    tstr_missing_because: str | None
    embedding: str
    generated_images: int
    real_training_images: int
    real_images: int

    def to_json(self) -> dict[str, Any]:
        """Return JSON-ready values on one level.

        They are those of `TstrResult.to_json` and `Diversity.to_json` (``tstr`` is None where there is none, and
        ``tstr_missing_because`` says why), with ``start_`` before them once more for the public start, ``embedding``,
        the numbers of images, ``gain_over_start`` with its interval, and ``sentence``, what they mean in words.
        """
        values: dict[str, Any] = {
            "generated_images": self.generated_images,
            "real_training_images": self.real_training_images,
            "real_images": self.real_images,
            "embedding": self.embedding,
            **_flat(self.made),
        }
        if self.tstr_missing_because is not None:
            values["tstr_missing_because"] = self.tstr_missing_because
        if self.start is not None:
            own = ((key, value) for key, value in _flat(self.start).items() if not _of_real_images(key))
            values |= {f"start_{key}": value for key, value in own}
        if self.gain is not None:
            values |= {"gain_over_start": self.gain[0], "gain_over_start_interval_95": list(self.gain[1])}
        return {**values, "sentence": sentence(values)}


def score_pictures(
    draw: Draw,
    train: LabelledImages,
    test: LabelledImages,
    classes: int,
    *,
    effort: Effort,
    seed: int,
    start_draw: Draw | None = None,
    progress: Progress | None = None,
) -> Score:
    """Measure what a generator draws.

    Args:
        draw: the generator.
        train, test: real images of different patients. The embedding and TRTR are trained on `train` alone.
        classes: of the generator; 0 where it takes none.
        effort: how much work to spend.
        seed: of the pictures, and of divisions and resampling.
        start_draw: the public start alone, measured in the same way with the same seeds.
        progress: told what is done.

    Raises:
        InputError: a set is empty, or sizes differ.
    """
    if not len(train) or not len(test):
        raise InputError(f"there are {len(train)} real images to train with and {len(test)} to test on")
    missing = _why_not(classes, train, test)
    draws = [draw] if start_draw is None else [draw, start_draw]
    fits = 0 if missing else len(effort.seeds)
    steps = _Steps(progress, len(draws) * (1 + fits) + (1 if missing else len(effort.real_seeds)))
    bench = _build_bench(train, test, classes, effort, missing is None, steps)
    measured = [_measure(bench, one, effort, seed, steps) for one in draws]
    start = measured[1] if len(measured) > 1 else None
    gain = None
    if start is not None and start.hits is not None and measured[0].hits is not None:
        difference = difference_interval(measured[0].hits, start.hits, 0, bench.known.patient)
        gain = float(measured[0].hits.mean() - start.hits.mean()), difference
    return Score(measured[0], start, gain, missing, bench.origin, effort.pictures, len(train), len(test))


class _Steps:
    """Counts finished pieces of work."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._done, self._total = progress, 0, total

    def advance(self, *_: Any) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(TASK, self._done, self._total)


@dataclass(frozen=True)
class _Bench:
    """The fixed side of a measurement.

    Attributes:
        test, known: real test images, and those with a label.
        classes: of the generator.
        embedder: the network whose last hidden layer is the feature space.
        origin: the same in words.
        real_hits: bool[seeds, n], what classifiers trained on real images get right; None where there is no TSTR.
    """

    test: LabelledImages
    known: LabelledImages
    classes: int
    embedder: keras.Model
    origin: str
    real_hits: np.ndarray | None


def _build_bench(
    train: LabelledImages, test: LabelledImages, classes: int, effort: Effort, graded: bool, steps: _Steps
) -> _Bench:
    """Train what is trained on real images: all of TRTR, or the embedding alone where there is no TSTR."""
    learned, known = train.labelled(), test.labelled()
    if not len(known) or len(np.unique(learned.labels)) < 2:
        embedder = build_classifier(test.images.shape[1], test.images.shape[3], 2, EMBEDDING_SEED)
        steps.advance()
        return _Bench(test, known, classes, embedder, UNTRAINED, None)
    models: list[keras.Model] = []

    def keep(model: keras.Model) -> None:
        models.append(model)
        steps.advance()

    outputs = max(classes, int(learned.labels.max()) + 1, int(known.labels.max()) + 1)
    seeds = effort.real_seeds if graded else effort.real_seeds[:1]
    hits = accuracy(learned, known, outputs, seeds, effort.steps, batch=effort.batch, trained=keep)
    return _Bench(test, known, classes, models[0], TRAINED, hits if graded else None)


def _measure(bench: _Bench, draw: Draw, effort: Effort, seed: int, steps: _Steps) -> Measured:
    """Draw the pictures of one generator and measure them."""
    asked = np.arange(effort.pictures, dtype=np.int32) % max(bench.classes, 1)
    made = LabelledImages(draw(asked, seed), asked)
    by_class = bench.classes > 0 and len(bench.known) > 0
    variety = measure_diversity(
        bench.known if by_class else bench.test,
        made,
        bench.classes if by_class else 0,
        lambda images: features(bench.embedder, images),
        seed,
    )
    steps.advance()
    if bench.real_hits is None:
        return Measured(None, variety)
    hits = accuracy(
        made, bench.known, bench.classes, effort.seeds, effort.steps, batch=effort.batch, trained=steps.advance
    )
    return Measured(TstrResult.of(hits, bench.real_hits, bench.known, bench.classes), variety, hits)


def _why_not(classes: int, train: LabelledImages, test: LabelledImages) -> str | None:
    """Return why TSTR cannot be measured, or None."""
    if classes == 0:
        return "the generator is unconditional"
    known = train.labels[train.labels >= 0]
    if not len(known) or not (test.labels >= 0).any():
        return "the real images have no labels"
    if classes == 1 or len(np.unique(known)) < 2:
        return "there is only one class"
    return None


def _flat(measured: Measured) -> dict[str, Any]:
    usefulness = {"tstr": None} if measured.tstr is None else measured.tstr.to_json()
    return {**usefulness, **measured.diversity.to_json()}


def _of_real_images(key: str) -> bool:
    """Return whether a figure is of the real images alone, so that the start's is the same."""
    return key.startswith("trtr") or key.endswith("_real") or key in {"chance", "test_images", "compared_images"}
