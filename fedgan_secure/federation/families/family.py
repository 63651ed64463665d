"""What a run trains, behind one face: a DCGAN from a seed or from another run, or a public start that is adapted.

A family knows how long a hospital's update is, how a round's sum leads to the next model, and which files the model is
published as. Hospitals and the coordinator hold equal families, made from the policy and the public start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fedgan_protocols import AggregateResult
from fedgan_secure.federation.distributed_round import Optimiser

if TYPE_CHECKING:
    from fedgan_secure.data import PatientDataset
    from fedgan_secure.privacy import Entropy, MechanismWatch


Progress = Callable[[str, int, int], None]
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


def concluded(family: Family, round_number: int, vector: np.ndarray, result: AggregateResult) -> np.ndarray:
    """Return the model after a whole round of one sum, float32[d]."""
    return family.next_vector(round_number, vector, result.sums[0], len(result.survivors))
