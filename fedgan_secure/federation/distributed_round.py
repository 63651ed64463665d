"""One round with shared noise: S sums of one secure-aggregation session, the model of each following from the last.

Keys and shares are exchanged once, with S independent key sets. The coordinator learns sum j, makes one optimiser step
of it, names the next model to the session (`bind_model`), and sends its weights to the hospitals that are still in;
each computes the digest itself, and masks of members that were sent different weights do not cancel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from fedgan_protocols import AggregateResult, ServerSession, SessionParameters, Stage
from fedgan_protocols.primitives import Identity, Packet
from fedgan_protocols.server import Failure
from fedgan_secure.policy import FederationPolicy
from fedgan_secure.privacy import mean_gradient, step_digest
from fedgan_secure.processors import processors

AfterSum = Callable[[int, np.ndarray, tuple[str, ...]], bytes]
"""(j, sum uint[d], survivors) -> digest of the model of sum j + 1."""


class StepwiseServer(ServerSession):
    """A server session that asks for the next model whenever a sum is done: any driver can carry it."""

    def __init__(
        self, parameters: SessionParameters, identity: Identity, model: bytes, after_sum: AfterSum, *, threads: int = 1
    ) -> None:
        """Args: model: digest of the model of the first sum; after_sum: called for every sum but the last."""
        later = (b"",) * (parameters.sums - 1)
        super().__init__(parameters, identity, (model, *later), threads=threads)
        self._after_sum = after_sum
        self._survivors: tuple[str, ...] = ()

    def receive(self, replies: Mapping[str, Packet | Failure]) -> None:
        """As of a server session; after a sum the next model is bound before this returns."""
        phase = self.next_phase()
        super().receive(replies)
        if phase is None:
            return
        if phase.stage is Stage.CONSISTENCY_CHECK:
            self._survivors = tuple(phase.payloads)
        if phase.stage is Stage.UNMASKING and phase.sum + 1 < self.parameters.sums:
            self.bind_model(phase.sum + 1, self._after_sum(phase.sum, self.sum_of(phase.sum), self._survivors))


class Optimiser(Protocol):
    """What follows from the sums; `distributed_training.SharedOptimiser` is one."""

    def begin(self, global_vector: np.ndarray) -> None: ...

    def step(self, mean: np.ndarray) -> np.ndarray: ...

    def finish(self) -> np.ndarray: ...


class StepwiseRound:
    """The coordinator's side of one round: from sum to sum, and from the last sum to the next global model.

    Args:
        parameters: of the session, with one length for each step.
        identity: the coordinator's.
        policy: the federation's policy, whose noise is shared.
        optimiser: makes the steps; begun here from `vector`, float32[d], which `model` names.
        layout_hash: of the models.
    """

    def __init__(
        self,
        parameters: SessionParameters,
        identity: Identity,
        policy: FederationPolicy,
        optimiser: Optimiser,
        vector: np.ndarray,
        model: bytes,
        layout_hash: str,
    ) -> None:
        self._policy = policy
        self._optimiser = optimiser
        self._layout_hash = layout_hash
        self._next: np.ndarray | None = None
        self.survivors: list[tuple[str, ...]] = []
        optimiser.begin(vector)
        self.server = StepwiseServer(parameters, identity, model, self._after_sum, threads=processors())

    @property
    def weights(self) -> np.ndarray | None:
        """What the coordinator sends for the step that is now due, float32[k]; None for the first."""
        return self._next

    def _after_sum(self, j: int, total: np.ndarray, survivors: tuple[str, ...]) -> bytes:
        self._next = self._step(total, survivors)
        return step_digest(self._layout_hash, self._next)

    def _step(self, total: np.ndarray, survivors: tuple[str, ...]) -> np.ndarray:
        self.survivors.append(survivors)
        expected = self._policy.mechanism.expected_batch_size
        return self._optimiser.step(mean_gradient(total, len(survivors), self._policy.fixed_point(), expected))

    def conclude(self, result: AggregateResult) -> np.ndarray:
        """The next global model, float32[d], once every sum is there and acknowledged. To be called once."""
        self._step(result.sums[-1], result.survivors)
        return self._optimiser.finish()


def left_on_the_way(survivors_per_sum: Sequence[Sequence[str]], names: Sequence[str]) -> dict[str, int]:
    """Hospitals that are in some of a round's sums and not in the last -> how many sums hold them."""
    last = set(survivors_per_sum[-1]) if survivors_per_sum else set()
    counts = {name: sum(name in sum_ for sum_ in survivors_per_sum) for name in names if name not in last}
    return {name: count for name, count in counts.items() if count}
