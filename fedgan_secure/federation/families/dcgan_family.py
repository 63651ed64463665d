"""The family of a run without a public start: both networks of a DCGAN are trained."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from fedgan_secure.federation.families.family import Draw, KeptOptimiser, Layout, Progress
from fedgan_secure.federation.fedavg import apply_sum
from fedgan_secure.federation.results.passed import Passed
from fedgan_secure.policy import FederationPolicy, spec_of

if TYPE_CHECKING:
    from fedgan_secure.data import PatientDataset
    from fedgan_secure.privacy import Entropy, MechanismWatch


_PASSED = Passed()


class DcganFamily:
    """Generator and discriminator are trained; every weight is in the vector."""

    def __init__(self, policy: FederationPolicy) -> None:
        self._policy = policy

    @cached_property
    def _spec(self) -> Any:
        return spec_of(self._policy)

    @cached_property
    def layout(self) -> Layout:
        """Every weight of both networks."""
        from fedgan_secure.networks import VectorLayout

        return VectorLayout.of(self._spec)

    @property
    def update_size(self) -> int:
        """All of the vector."""
        return self.layout.size

    def first_model(self, seed: int) -> str:
        """Return the digest (hex) of the seeded model."""
        from fedgan_secure.federation.transfer import seeded_start

        return seeded_start(self._spec, seed)

    def next_vector(self, round_number: int, vector: np.ndarray, total: np.ndarray, survivors: int) -> np.ndarray:
        """Return the old model plus the mean of the survivors' updates."""
        return apply_sum(vector, total, survivors, self._policy.fixed_point())

    def trainer(self, dataset: PatientDataset, entropy: Entropy, watch: MechanismWatch) -> Any:
        """Return a `LocalTrainer`, or a `SumTrainer` where noise is shared."""
        from fedgan_secure.policy import training_of

        settings, shared = training_of(self._policy), self._policy.distributed
        if shared is None:
            from fedgan_secure.training import LocalTrainer

            return LocalTrainer(self._spec, settings, dataset, entropy, watch)
        from fedgan_secure.training import SumTrainer

        codec = self._policy.fixed_point()
        return SumTrainer(self._spec, settings, dataset, shared.record(), codec, entropy, watch)

    def optimiser(self, entropy: Entropy) -> KeptOptimiser:
        """Return a `SharedOptimiser`."""
        from fedgan_secure.policy import training_of
        from fedgan_secure.training import SharedOptimiser

        return SharedOptimiser(self._spec, training_of(self._policy), entropy)

    def files(self, vector: np.ndarray, progress: Progress | None = None) -> dict[str, bytes]:
        """Return the Keras files of both networks."""
        from fedgan_secure.synthesis import model_files

        return model_files(vector, self._spec)

    def sheet(self, vector: np.ndarray) -> bytes:
        """Return a sample sheet, the same noise in every round."""
        from fedgan_secure.synthesis import sample_sheet

        policy = self._policy
        return sample_sheet(vector, self._spec, policy.data.label_names, policy.initial_model.seed)

    def may_lead_to(self, round_number: int, before: np.ndarray, after: np.ndarray) -> bool:
        """Return True: every weight is trained."""
        return True

    def objections(self, average: np.ndarray, models: Mapping[str, bytes], sheet: bytes) -> list[str]:
        """Compare with this family's own files, to the byte, and the sheet to what other roundings give."""
        from fedgan_secure.federation.results.published_sheet import objections_to_sheet
        from fedgan_secure.synthesis import COLUMNS, sheet_levels, sheet_names

        names, seed = self._policy.data.label_names, self._policy.initial_model.seed
        key = _PASSED.key(repr((self._spec, names, seed)), average, {**models, "sheet": sheet})
        if key in _PASSED:
            return []
        own = self.files(average)
        found = [
            f"{name} is not what the rounds' sums lead to"
            for name in sorted({*own, *models})
            if models.get(name) != own.get(name)
        ]
        draw = lambda: sheet_levels(average, self._spec, seed)  # noqa: E731
        found += objections_to_sheet(sheet, draw, COLUMNS, sheet_names(self._spec, names))
        if not found:
            _PASSED.add(key)
        return found

    def generator(self, vector: np.ndarray) -> Any:
        """Return the generator with the vector's weights."""
        from fedgan_secure.synthesis import generator_of

        return generator_of(vector, self._spec)

    def draw(self, vector: np.ndarray) -> Draw:
        """Return what draws pictures of a vector."""
        from fedgan_secure.networks import draw_images

        generator, spec = self.generator(vector), self._spec
        return lambda labels, seed: draw_images(
            generator, spec, labels if spec.conditional else None, len(labels), seed
        )

    def start_draw(self, vector: np.ndarray) -> Draw | None:
        """There is no public start."""
        return None
