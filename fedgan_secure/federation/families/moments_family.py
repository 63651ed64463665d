"""The family of runs that start from moments: one release, from which every class's Gaussian follows.

Nothing is trained. Everybody who holds the sum finds the same generator, up to the last digits of floating point.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from fedgan_secure.data import PatientDataset
from fedgan_secure.federation.families.family import Draw, Progress
from fedgan_secure.federation.families.moments_hospital import NO_STEPS, MomentsTrainer
from fedgan_secure.federation.fedavg import model_digest
from fedgan_secure.federation.released.release_ring import decode_release_sum, release_deviation
from fedgan_secure.federation.results.passed import Passed
from fedgan_secure.federation.results.published_sheet import objections_to_sheet
from fedgan_secure.models import ModelError, MomentsSpec
from fedgan_secure.moments import AnyStart, MomentsLayout, MomentsStart, MomentsVector
from fedgan_secure.networks import (
    MEAN,
    ROOT,
    TABLES_GRID,
    TABLES_SLACK,
    KerasForm,
    build_moments_generator,
    draw_images,
    keras_bytes,
)
from fedgan_secure.policy import FederationPolicy
from fedgan_secure.privacy import Entropy, MechanismWatch
from fedgan_secure.statistics import Noise, strays
from fedgan_secure.synthesis import COLUMNS, contact_sheet_png, levels_of, sheet_names

GENERATOR = "model/generator.keras"
_PASSED = Passed()


class MomentsFamily:
    """A Gaussian for every class, from one released sum."""

    def __init__(self, policy: FederationPolicy, start: AnyStart | None) -> None:
        """Check that start, model and release fit.

        Raises:
            ModelError: another start, or a release of something else than the model's moments.
        """
        named, release = policy.start, policy.release
        if named is None or not isinstance(start, MomentsStart) or start.digest != named.digest or release is None:
            raise ModelError(
                "the run starts from moments, and its policy's start or release is of another kind",
                hint="use the version of fedgan-secure that made this run",
            )
        self._policy, self._spec = policy, MomentsSpec.from_json(policy.model)
        layout = release.release_layout()
        spec = self._spec
        own = (spec.image_size, spec.channels, spec.classes, spec.order)
        if not isinstance(layout, MomentsLayout) or own != (
            layout.image_size, layout.channels, layout.classes, layout.order,
        ):  # fmt: skip
            raise ModelError("the release of the policy is not of the moments that its model is made of")
        self._release, self._codec = layout, release.fixed_point()
        self.layout = MomentsVector(layout, start.digest)
        self.noise = Noise(release_deviation(release.record(), 1) ** 2)

    @property
    def update_size(self) -> int:
        """The whole vector; no round asks for it."""
        return self.layout.size

    def first_model(self, seed: int) -> str:
        """Return the digest (hex) of the model before anything was released."""
        return model_digest(self.layout.layout_hash, self.layout.initial_vector(seed)).hex()

    def next_vector(self, round_number: int, vector: np.ndarray, total: np.ndarray, survivors: int) -> np.ndarray:
        """Return the model after the release."""
        if not self._policy.is_release(round_number):
            raise ModelError(NO_STEPS)
        return self.layout.with_release(decode_release_sum(total, survivors, self._codec), survivors)

    def trainer(self, dataset: PatientDataset, entropy: Entropy, watch: MechanismWatch) -> Any:
        """Return a hospital's side."""
        return MomentsTrainer(self._policy, self._release, dataset, entropy)

    def optimiser(self, entropy: Entropy) -> NoReturn:
        """Refuse: there are no steps."""
        raise ModelError(NO_STEPS)

    def files(self, vector: np.ndarray, progress: Progress | None = None) -> dict[str, bytes]:
        """Return the published generator, one file."""
        return {GENERATOR: keras_bytes(self.generator(vector))}

    def sheet(self, vector: np.ndarray) -> bytes:
        """Return a PNG of eight samples for every class, the same noise in every run."""
        levels = levels_of(self.generator(vector), self._spec, self._policy.initial_model.seed)
        return contact_sheet_png(np.clip(np.rint(levels), 0, 255).astype(np.uint8), COLUMNS, self._names)

    def may_lead_to(self, round_number: int, before: np.ndarray, after: np.ndarray) -> bool:
        """Return whether the round is the release: no other changes the model."""
        return self._policy.is_release(round_number)

    def objections(self, average: np.ndarray, models: Mapping[str, bytes], sheet: bytes) -> list[str]:
        """Compare with the generator that this party makes itself, and with what that one draws.

        Every byte of the file that is no weight is this party's own, the basis to the bit, and each number of the
        tables its own one rounded to the public grid (`adaptation.rounding`).
        """
        seed = self._policy.initial_model.seed
        what = repr((self.layout.layout_hash, self._spec, self.noise, self._names, seed))
        key = _PASSED.key(what, average, {**models, "sheet": sheet})
        if key in _PASSED:
            return []
        if set(models) != {GENERATOR}:
            return [f"{', '.join(sorted(models))[:200] or 'no model'} is published, expected {GENERATOR} alone"]
        found, generator = self._objections_to_generator(models[GENERATOR], average)
        if generator is not None:
            draw = lambda: levels_of(generator, self._spec, seed)  # noqa: E731
            found += objections_to_sheet(sheet, draw, COLUMNS, self._names)
        if not found:
            _PASSED.add(key)
        return found

    def _objections_to_generator(self, data: bytes, average: np.ndarray) -> tuple[list[str], Any]:
        own = self.generator(average)
        form = KerasForm.of(own)
        weights = form.weights_of(data)
        if weights is None:
            return [f"the generator's file has {len(data)} bytes, expected {form.size}"], None
        if form.file(weights) != data:
            return ["the generator's file differs in more than its weights: other layers, or idle bytes"], None
        moments = self.layout.moments(average, self.noise)
        roots = moments.root.reshape(len(moments.root), -1)
        tables = {MEAN: moments.mean, ROOT: roots}
        places = {id(own.get_layer(name).weights[0]): values for name, values in tables.items()}
        found = []
        for variable, one, other in zip(own.weights, own.get_weights(), weights, strict=True):
            exact = places.get(id(variable))
            if exact is None:
                wrong = int(one.tobytes() != other.tobytes())
            else:
                wrong = strays(other, exact, TABLES_GRID, TABLES_SLACK)
                wrong += _one_sided(other, moments.root.shape) if exact.shape == roots.shape else 0
            if wrong:
                found.append(f"{wrong} numbers of {variable.path} are not what the released sum leads to")
        if not found:
            own.set_weights(weights)
        return found, None if found else own

    @property
    def _names(self) -> list[str] | None:
        return sheet_names(self._spec, self._policy.data.label_names)

    def draw(self, vector: np.ndarray) -> Draw:
        """Return what draws pictures of a vector."""
        generator, spec = self.generator(vector), self._spec
        return lambda labels, seed: draw_images(
            generator, spec, labels if spec.conditional else None, len(labels), seed
        )

    def start_draw(self, vector: np.ndarray) -> Draw | None:
        """There is no public start whose pictures could be drawn."""
        return None

    def generator(self, vector: np.ndarray) -> Any:
        """Return the Keras generator of a vector."""
        self.layout.check(vector)
        moments = self.layout.moments(vector, self.noise)
        return build_moments_generator(self._spec, self._release.scale, moments.mean, moments.root)


def _one_sided(table: np.ndarray, shape: tuple[int, ...]) -> int:
    """How many numbers of a table of matrices of this shape, float32[k, d * d], differ from their mirror image."""
    matrices = table.reshape(shape)
    return int(np.count_nonzero(matrices != matrices.transpose(0, 2, 1)))
