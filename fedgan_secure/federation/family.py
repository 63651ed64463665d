"""What a run trains, behind one face: a DCGAN from a seed or from another run, or a public start that is adapted.

A family knows how long a hospital's update is, how a round's sum leads to the next model, and which files the model is
published as. Hospitals and the coordinator hold equal families, made from the policy and the public start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fedgan_protocols.session import AggregateResult
from fedgan_secure.errors import InputError
from fedgan_secure.federation.distributed_round import Optimiser
from fedgan_secure.federation.fedavg import apply_sum
from fedgan_secure.federation.published_files import Passed
from fedgan_secure.models.adapted_spec import AdaptedSpec
from fedgan_secure.models.errors import ModelError
from fedgan_secure.models.moments_spec import FAMILY as MOMENTS
from fedgan_secure.models.moments_spec import MomentsSpec
from fedgan_secure.moments.start import AnyStart, MomentsStart
from fedgan_secure.policy import FederationPolicy

if TYPE_CHECKING:
    from fedgan_secure.data.patients import PatientDataset
    from fedgan_secure.privacy import Entropy
    from fedgan_secure.privacy.self_test import MechanismWatch

Progress = Callable[[str, int, int], None]
_PASSED = Passed()
Draw = Callable[[np.ndarray, int], np.ndarray]
"""(labels int[n], seed) -> uint8[n, H, W, C]; a generator without classes ignores the labels."""


class KeptOptimiser(Optimiser, Protocol):
    """A coordinator's optimiser where noise is shared, whose state lasts over rounds."""

    def save(self, path: Path) -> None: ...

    def restore(self, path: Path) -> None: ...


class Layout(Protocol):
    """The flat vector of a model."""

    @property
    def size(self) -> int: ...

    @property
    def layout_hash(self) -> str: ...

    def initial_vector(self, seed: int) -> np.ndarray: ...


class Family(Protocol):
    """One kind of model and of training."""

    @property
    def layout(self) -> Layout:
        """Where everything lies in the model's vector."""

    @property
    def update_size(self) -> int:
        """The length of what a hospital gives to a round that is not a release."""

    def first_model(self, seed: int) -> str:
        """Return the digest (hex) of the first model that the policy fixes by its seed."""

    def next_vector(self, round_number: int, vector: np.ndarray, total: np.ndarray, survivors: int) -> np.ndarray:
        """Return the model after a round of one sum: uint[k] over the survivors, on float32[d]; float32[d]."""

    def trainer(self, dataset: PatientDataset, entropy: Entropy, watch: MechanismWatch) -> Any:
        """Return what makes a hospital's part of a round; a `SumTrainer` of the family's kind where noise is shared."""

    def optimiser(self, entropy: Entropy) -> KeptOptimiser:
        """Return what turns sums into models where noise is shared."""

    def files(self, vector: np.ndarray, progress: Progress | None = None) -> dict[str, bytes]:
        """Return the published files of a model: name below ``public/`` -> bytes."""

    def sheet(self, vector: np.ndarray) -> bytes:
        """Return a sample sheet of a model, PNG."""

    def may_lead_to(self, round_number: int, before: np.ndarray, after: np.ndarray) -> bool:
        """Return whether a round can lead from one vector to another; for rounds whose sums do not say so alone."""

    def objections(self, average: np.ndarray, models: Mapping[str, bytes], sheet: bytes) -> list[str]:
        """Compare published files, of a party that is not trusted, with those that a model leads to.

        Args:
            average: float32[d], the model.
            models: name below ``public/`` -> bytes.
            sheet: PNG.
        """

    def generator(self, vector: np.ndarray) -> Any:
        """Return the Keras generator of a model."""

    def draw(self, vector: np.ndarray) -> Draw:
        """Return what draws pictures of a model."""

    def start_draw(self, vector: np.ndarray) -> Draw | None:
        """Return what draws pictures of the public start alone; None without one."""


def family_of(policy: FederationPolicy, start: AnyStart | None) -> Family:
    """Return the family that a policy names.

    Args:
        policy: the federation's.
        start: the public start that it names, or None where it names none.

    Raises:
        ModelError: the start is not the policy's.
    """
    if policy.start is None:
        return DcganFamily(policy)
    if policy.model.get("family") == MOMENTS:
        from fedgan_secure.federation.moments_family import MomentsFamily

        return MomentsFamily(policy, start)
    from fedgan_secure.federation.adapted import AdaptedFamily

    if isinstance(start, MomentsStart):
        raise ModelError("the run adapts a public start, and was given that of moments")
    return AdaptedFamily(policy, start)


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
        from fedgan_secure.models.vectors import VectorLayout

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
        from fedgan_secure.federation.prepare import training_of

        settings, shared = training_of(self._policy), self._policy.distributed
        if shared is None:
            from fedgan_secure.federation.training import LocalTrainer

            return LocalTrainer(self._spec, settings, dataset, entropy, watch)
        from fedgan_secure.federation.distributed_training import SumTrainer

        codec = self._policy.fixed_point()
        return SumTrainer(self._spec, settings, dataset, shared.record(), codec, entropy, watch)

    def optimiser(self, entropy: Entropy) -> KeptOptimiser:
        """Return a `SharedOptimiser`."""
        from fedgan_secure.federation.distributed_training import SharedOptimiser
        from fedgan_secure.federation.prepare import training_of

        return SharedOptimiser(self._spec, training_of(self._policy), entropy)

    def files(self, vector: np.ndarray, progress: Progress | None = None) -> dict[str, bytes]:
        """Return the Keras files of both networks."""
        from fedgan_secure.federation.pictures import model_files

        return model_files(vector, self._spec)

    def sheet(self, vector: np.ndarray) -> bytes:
        """Return a sample sheet, the same noise in every round."""
        from fedgan_secure.federation.pictures import sample_sheet

        policy = self._policy
        return sample_sheet(vector, self._spec, policy.data.label_names, policy.initial_model.seed)

    def may_lead_to(self, round_number: int, before: np.ndarray, after: np.ndarray) -> bool:
        """Return True: every weight is trained."""
        return True

    def objections(self, average: np.ndarray, models: Mapping[str, bytes], sheet: bytes) -> list[str]:
        """Compare with this family's own files, to the byte, and the sheet to what other roundings give."""
        from fedgan_secure.federation.pictures import COLUMNS, sheet_levels, sheet_names
        from fedgan_secure.federation.published_sheet import objections_to_sheet

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
        from fedgan_secure.federation.pictures import generator_of

        return generator_of(vector, self._spec)

    def draw(self, vector: np.ndarray) -> Draw:
        """Return what draws pictures of a vector."""
        from fedgan_secure.models.dcgan import draw_images

        generator, spec = self.generator(vector), self._spec
        return lambda labels, seed: draw_images(
            generator, spec, labels if spec.conditional else None, len(labels), seed
        )

    def start_draw(self, vector: np.ndarray) -> Draw | None:
        """There is no public start."""
        return None


def spec_of(policy: FederationPolicy) -> Any:
    """Return the networks that a policy without a public start names."""
    from fedgan_secure.models.spec import read_spec

    spec = read_spec(policy.model)
    if isinstance(spec, AdaptedSpec | MomentsSpec) != (policy.start is not None):
        raise ModelError("policy: the model adapts a public start and the policy names none, or the other way round")
    return spec


def concluded(family: Family, round_number: int, vector: np.ndarray, result: AggregateResult) -> np.ndarray:
    """Return the model after a whole round of one sum, float32[d]."""
    return family.next_vector(round_number, vector, result.sums[0], len(result.survivors))


def refuse_other_dimension(policy: FederationPolicy, family: Family) -> None:
    """Refuse sums of another length than what is trained where noise is shared."""
    shared = policy.distributed
    if shared is None or (policy.release is not None and policy.rounds == 1):
        return
    trained = family.update_size if policy.start is not None else _discriminator_size(policy)
    if shared.shares.dimension != trained:
        raise InputError(
            f"the policy's sums have {shared.shares.dimension} coordinates, its discriminator has {trained}",
            hint="use the version of fedgan-secure that made this run",
        )


def _discriminator_size(policy: FederationPolicy) -> int:
    from fedgan_secure.models.vectors import VectorLayout

    layout = VectorLayout.of(spec_of(policy))
    return layout.size - layout.generator_size
