"""A hospital's side of a run that adapts a public start: features once, then the release and rounds of the heads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedgan_secure.adaptation import feature_network
from fedgan_secure.data import PatientDataset
from fedgan_secure.errors import InputError
from fedgan_secure.federation.released.limits import MOST_IMAGES
from fedgan_secure.federation.released.release_round import ReleaseTrainer
from fedgan_secure.head_training import FakeFeatures, FeatureSet, HeadSumTrainer, HeadTrainer
from fedgan_secure.heads import AdaptedLayout, HeadSettings, heads_spec
from fedgan_secure.models import ModelError
from fedgan_secure.policy import FederationPolicy
from fedgan_secure.privacy import Entropy, MechanismWatch
from fedgan_secure.starts import refuse_shared_pictures
from fedgan_secure.statistics import ImageStatistics, colour_codes, mean_colours
from fedgan_secure.training import LocalResult

Progress = Callable[[int, int], None]
BATCH = 500


def evenly(owner: np.ndarray, most: int) -> np.ndarray:
    """Return which images count, int64[k]: of each owner at most so many, spread over theirs, in their order.

    Whether an image of an owner counts depends on that owner's images alone.
    """
    order = np.argsort(owner, kind="stable")
    _, first, count = np.unique(owner[order], return_index=True, return_counts=True)
    rank = np.arange(len(owner)) - np.repeat(first, count)
    total = np.repeat(count, count)
    used = np.minimum(total, most)
    kept = (rank * used) // total != ((rank - 1) * used) // total
    return np.sort(order[kept])


def _filled(pixels: np.ndarray) -> np.ndarray:
    """The pictures of a batch, with black ones up to `BATCH`: no batch has another shape, whoever is in the data."""
    return np.concatenate([pixels, np.zeros((BATCH - len(pixels), *pixels.shape[1:]), np.uint8)])


@dataclass(frozen=True, eq=False)
class HeadsToGo:
    """What a round of the heads starts from; public.

    Attributes:
        heads: float32[k].
        fakes: features of generated pictures.
        centre: float32[d], what all features are centred by.
    """

    heads: np.ndarray
    fakes: FakeFeatures
    centre: np.ndarray


class HospitalFeatures:
    """The start's features and the mean colours of one hospital's images, computed on first use. Confidential."""

    def __init__(self, layout: AdaptedLayout, dataset: PatientDataset, unit: str) -> None:
        """Check that the images fit the start.

        Raises:
            InputError: other sizes, channels or labels.
        """
        spec = layout.spec
        if (dataset.image_size, dataset.channels) != (spec.image_size, spec.channels):
            raise InputError(
                f"images are {dataset.image_size} pixels with {dataset.channels} channels, "
                f"the public start makes {spec.image_size} and {spec.channels}",
                hint="choose another --image-size, another start, or --start none",
            )
        labels = np.asarray(dataset.labels)
        if spec.conditional and len(labels) and not (labels.min() >= 0 and labels.max() < spec.classes):
            raise InputError(
                f"labels must be 0 to {spec.classes - 1} for a model of {spec.classes} classes",
                hint="leave out images without a label, or train with --unconditional",
            )
        self.spec = spec
        self._layout, self._dataset, self._unit = layout, dataset, unit
        self._found: tuple[np.ndarray, np.ndarray] | None = None

    def compute(self, progress: Progress | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return float32[n, d] features and float32[n, axes] colour codes.

        Raises:
            InputError: an image is one of the start's own public pictures.
        """
        if self._found is None:
            network, count = feature_network(self._layout), len(self._dataset)
            features = np.empty((count, self._layout.spec.features), np.float32)
            codes = []
            for first in range(0, count, BATCH):
                rows = np.arange(first, min(first + BATCH, count))
                pixels = self._dataset.pixels(rows)
                refuse_shared_pictures(self._layout.start, pixels)
                features[rows] = network.of_images(_filled(pixels))[: len(rows)]
                codes.append(colour_codes(mean_colours(pixels)))
                if progress is not None:
                    progress(int(rows[-1]) + 1, count)
            axes = 3 if self._layout.spec.channels == 3 else 1
            self._found = features, np.concatenate([np.zeros((0, axes), np.float32), *codes])
        return self._found

    @property
    def owners(self) -> tuple[np.ndarray, int]:
        """int32[n], whose each image is (of unit "image": its own), and how many owners there are."""
        if self._unit == "image":
            return np.arange(len(self._dataset), dtype=np.int32), len(self._dataset)
        return np.asarray(self._dataset.patient, np.int32), self._dataset.patients

    def labels(self) -> np.ndarray:
        """Return int32[n], the class of every image; zeros where the model has none."""
        labels = np.asarray(self._dataset.labels, np.int32)
        return labels if self._layout.spec.conditional else np.zeros_like(labels)

    def statistics(self) -> ImageStatistics:
        """Return what the release takes from every image."""
        features, codes = self.compute()
        owner, owners = self.owners
        kept = evenly(owner, MOST_IMAGES)
        return ImageStatistics(features[kept], codes[kept], self.labels()[kept], owner[kept], owners)

    def feature_set(self) -> FeatureSet:
        """Return what the heads are trained on."""
        features, _ = self.compute()
        return FeatureSet(
            features, self.labels(), np.asarray(self._dataset.patient, np.int32), self._dataset.patients, self._unit
        )


class AdaptedTrainer:
    """One hospital's side of every round: the release, an update of the heads, or a noised sum for each step."""

    def __init__(
        self,
        policy: FederationPolicy,
        features: HospitalFeatures,
        heads_to_go: Callable[[np.ndarray], HeadsToGo],
        settings: HeadSettings,
        entropy: Entropy,
        watch: MechanismWatch,
    ) -> None:
        """Args: heads_to_go: what a round of the heads starts from; watch: of the steps (a release has its own)."""
        self._policy, self._features, self._heads_to_go = policy, features, heads_to_go
        self._settings, self._entropy, self._watch = settings, entropy, watch
        self._heads: HeadTrainer | None = None
        self._sums: HeadSumTrainer | None = None
        self._kept: Path | None = None

    def release(self, watch: MechanismWatch, progress: Progress | None) -> tuple[np.ndarray, dict[str, Any]]:
        """Return this hospital's encoded release, uint[D], and confidential statistics.

        Raises:
            MechanismContradicted: what was done is not what the accountant was told; there is no vector then.
        """
        release = self._policy.release
        if release is None:
            raise ModelError("a release was asked for, and the policy has none")
        self._features.compute(progress)
        trainer = ReleaseTrainer(
            self._features.statistics(), release.release_layout(), release.record(), release.fixed_point(),
            self._entropy, watch,
        )  # fmt: skip
        return trainer.release(), trainer.statistics()

    def train(self, global_vector: np.ndarray, steps: int, progress: Progress | None = None) -> LocalResult:
        """Make the local steps of a round of the heads; the update is of the heads alone, float32[k]."""
        to_go = self._heads_to_go(global_vector)
        if self._heads is None:
            features = self._features.feature_set()
            self._heads = HeadTrainer(self._spec, self._settings, features, self._entropy, self._watch)
            if self._kept is not None:
                self._heads.restore(self._kept)
        return self._heads.train(to_go.heads, to_go.fakes, to_go.centre, steps, progress)

    def begin(self, global_vector: np.ndarray) -> None:
        """Start a round with shared noise from the global model, float32[d]."""
        to_go, shared = self._heads_to_go(global_vector), self._policy.distributed
        if shared is None:
            raise ModelError("a step with shared noise was asked for, and the policy shares none")
        if self._sums is None:
            self._sums = HeadSumTrainer(
                self._spec, self._settings, self._features.feature_set(), shared.record(),
                self._policy.fixed_point(), self._entropy, self._watch,
            )  # fmt: skip
        self._sums.begin(to_go.heads, to_go.centre)

    def step(self, weights: np.ndarray | None) -> np.ndarray:
        """Return one noised sum of the round that began, uint[k]."""
        return self._begun.step(weights)

    def end_round(self) -> None:
        """After the round's last sum. Raises MechanismContradicted."""
        self._begun.end_round()

    def statistics(self) -> dict[str, Any]:
        """Return what a round with shared noise was here (confidential)."""
        return self._begun.statistics()

    @property
    def _begun(self) -> HeadSumTrainer:
        if self._sums is None:
            raise ModelError("a step with shared noise was asked for before a round has begun")
        return self._sums

    @property
    def _spec(self) -> Any:
        return heads_spec(self._features.spec)

    def save(self, path: Path) -> None:
        """Keep the optimiser's state, if there is one (confidential)."""
        if self._heads is not None:
            self._heads.save(path)

    def restore(self, path: Path) -> None:
        """Continue from what `save` kept, on the first round of the heads."""
        self._kept = path
