"""The family of runs that adapt a public start: a release round, then rounds of DP-SGD on the heads.

Hospitals compute the start's features of their images once. What they give to a round is the release's vector or an
update of the heads; the published generator follows from the summed results (`adaptation.adapting`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fedgan_secure.adaptation import Adaptation, StartAlone, adaptation_of
from fedgan_secure.data import PatientDataset
from fedgan_secure.federation.families.adapted_hospital import AdaptedTrainer, HeadsToGo, HospitalFeatures
from fedgan_secure.federation.families.adapted_optimiser import AdaptedOptimiser
from fedgan_secure.federation.families.family import Draw, KeptOptimiser
from fedgan_secure.federation.fedavg import apply_sum, model_digest
from fedgan_secure.federation.released.release_ring import decode_release_sum, release_deviation
from fedgan_secure.federation.results.passed import Passed
from fedgan_secure.federation.results.published_check import objections_to_generator
from fedgan_secure.federation.results.published_sheet import objections_to_sheet
from fedgan_secure.heads import AdaptedLayout, HeadSettings, heads_spec
from fedgan_secure.models import AdaptedSpec, ModelError
from fedgan_secure.networks import draw_images, keras_bytes
from fedgan_secure.policy import FederationPolicy
from fedgan_secure.privacy import Entropy, MechanismWatch
from fedgan_secure.starts import PublicStart
from fedgan_secure.statistics import Noise, ReleaseLayout
from fedgan_secure.synthesis import COLUMNS, contact_sheet_png, levels_of, sheet_names

GENERATOR = "model/generator.keras"
_PASSED = Passed()
DRAWN = 250
Progress = Callable[[str, int, int], None]


class AdaptedFamily:
    """A public start, what one release says of the patients' images, and trained heads."""

    def __init__(self, policy: FederationPolicy, start: PublicStart | None) -> None:
        """Check that start and policy fit.

        Raises:
            ModelError: the start is missing or another one.
        """
        named = policy.start
        if named is None or start is None or start.digest != named.digest:
            found = "none was given" if start is None else f"{start.name} ({start.digest[:16]}...) was given"
            raise ModelError(
                f"the run adapts the public start {named.name if named else '(none)'}"
                f" ({named.digest[:16] if named else ''}...), and {found}",
                hint="give the start that the run was prepared with",
            )
        self._policy = policy
        self._spec = AdaptedSpec.from_json(policy.model)
        release = policy.release
        released = None if release is None else release.release_layout()
        if released is not None and not isinstance(released, ReleaseLayout):
            raise ModelError("the policy's release is not of a public start's features, which its model adapts")
        self.layout = AdaptedLayout(self._spec, start, released)
        self.noise = Noise(0.0 if release is None else release_deviation(release.record(), 1) ** 2)

    @property
    def update_size(self) -> int:
        """The heads alone."""
        return self.layout.heads.size

    def first_model(self, seed: int) -> str:
        """Return the digest (hex) of the model before anything was released."""
        return model_digest(self.layout.layout_hash, self.layout.initial_vector(seed)).hex()

    def next_vector(self, round_number: int, vector: np.ndarray, total: np.ndarray, survivors: int) -> np.ndarray:
        """Return the model after the release, or with the mean of the survivors' updates on the heads."""
        policy = self._policy
        if policy.release is not None and policy.is_release(round_number):
            found = decode_release_sum(total, survivors, policy.release.fixed_point())
            return self.layout.with_release(vector, found, survivors, self.noise, policy.initial_model.seed)
        after = vector.copy()
        heads = self.layout.heads_slice
        after[heads] = apply_sum(vector[heads], total, survivors, policy.fixed_point())
        return after

    def adaptation(self, vector: np.ndarray, progress: Progress | None = None) -> Adaptation:
        """Return what the vector's release leads to."""

        def step(done: int, total: int) -> None:
            if progress is not None:
                progress("adapting the public start", done, total)

        return adaptation_of(self.layout, vector, self.noise, step)

    def heads_to_go(self, vector: np.ndarray) -> HeadsToGo:
        """Return what a round of the heads starts from: public, the same for everybody who holds the vector."""
        adaptation = self.adaptation(vector)
        seed = int(model_digest(self.layout.layout_hash, vector)[:4].hex(), 16)
        return HeadsToGo(vector[self.layout.heads_slice], adaptation.fakes(vector, seed), adaptation.centre)

    def trainer(self, dataset: PatientDataset, entropy: Entropy, watch: MechanismWatch) -> Any:
        """Return a hospital's side; its features are computed on first use."""
        features = HospitalFeatures(self.layout, dataset, self._policy.mechanism.unit)
        return AdaptedTrainer(self._policy, features, self.heads_to_go, self._settings(), entropy, watch)

    def optimiser(self, entropy: Entropy) -> KeptOptimiser:
        """Return the coordinator's side of steps with shared noise."""
        return AdaptedOptimiser(heads_spec(self._spec), self._settings(), self.layout.heads_slice, self.heads_to_go)

    def files(self, vector: np.ndarray, progress: Progress | None = None) -> dict[str, bytes]:
        """Return the published generator, one file."""
        self.adaptation(vector, progress)
        return {GENERATOR: keras_bytes(self.generator(vector))}

    def sheet(self, vector: np.ndarray) -> bytes:
        """Return a PNG of eight samples for every class, the same noise in every round."""
        levels = levels_of(self.generator(vector), self._spec, self._policy.initial_model.seed)
        return contact_sheet_png(np.clip(np.rint(levels), 0, 255).astype(np.uint8), COLUMNS, self._names)

    def may_lead_to(self, round_number: int, before: np.ndarray, after: np.ndarray) -> bool:
        """Return whether the release is as it was, but for the round that fills it."""
        released = slice(0, self.layout.release_size)
        return self._policy.is_release(round_number) or np.array_equal(before[released], after[released])

    def objections(self, average: np.ndarray, models: Mapping[str, bytes], sheet: bytes) -> list[str]:
        """Compare with the generator that this party makes itself (`published_check`), and with what that one draws."""
        seed = self._policy.initial_model.seed
        what = repr((self.layout.layout_hash, self._spec, self.noise, self._names, seed))
        key = _PASSED.key(what, average, {**models, "sheet": sheet})
        if key in _PASSED:
            return []
        if set(models) != {GENERATOR}:
            return [f"{', '.join(sorted(models))[:200] or 'no model'} is published, expected {GENERATOR} alone"]
        found, generator = objections_to_generator(models[GENERATOR], self.adaptation(average), average)
        if generator is not None:
            draw = lambda: levels_of(generator, self._spec, seed)  # noqa: E731
            found += objections_to_sheet(sheet, draw, COLUMNS, self._names)
        if not found:
            _PASSED.add(key)
        return found

    @property
    def _names(self) -> list[str] | None:
        return sheet_names(self._spec, self._policy.data.label_names)

    def draw(self, vector: np.ndarray) -> Draw:
        """Return what draws pictures of a vector."""
        generator, spec = self.generator(vector), self._spec
        return lambda labels, seed: draw_images(
            generator, spec, labels if spec.conditional else None, len(labels), seed, batch=DRAWN
        )

    def start_draw(self, vector: np.ndarray) -> Draw | None:
        """Return what draws pictures of the public start alone, under colours from the whole public range."""
        return StartAlone(self._spec, self.layout.start, self.adaptation(vector).pool)

    def generator(self, vector: np.ndarray) -> Any:
        """Return the Keras generator of a vector."""
        return self.adaptation(vector).generator(vector)

    def _settings(self) -> HeadSettings:
        from fedgan_secure.policy import mechanism_fields

        fields = mechanism_fields(self._policy.mechanism)
        return HeadSettings.from_json({**self._policy.training, **fields})
