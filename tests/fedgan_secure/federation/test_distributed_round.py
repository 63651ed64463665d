"""Five hospitals, several sums in one session: exact sums, bound models, drop-outs and aborts."""

from __future__ import annotations

import os
from collections.abc import Set
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedgan_audits.accounting.integer_noise import share_variance
from fedgan_audits.accounting.mechanism import DistributedMechanism, NoiseShares
from fedgan_protocols.errors import ProtocolError
from fedgan_protocols.parameters import Member, SessionParameters
from fedgan_protocols.primitives.keys import Identity
from fedgan_protocols.primitives.quantization import FixedPoint
from fedgan_protocols.session import AggregateResult, ClientSession
from fedgan_secure.federation.distributed_round import StepwiseRound, left_on_the_way
from fedgan_secure.federation.drivers.local import LocalDriver
from fedgan_secure.privacy.integer_noise import DiscreteGaussian
from fedgan_secure.privacy.shared_noise import ShareEncoder, mean_gradient, step_digest

NAMES = ("a", "b", "c", "d", "e")
D, STEPS, BATCH = 257, 6, 8.0
LAYOUT = "ab" * 32
CODEC = FixedPoint(64.0, 32, 16)
RECORD = DistributedMechanism(
    sampling_probability=0.2,
    noise_multiplier=1.0,
    steps=STEPS,
    l2_clip_norm=2.0,
    unit="patient",
    shares=NoiseShares(threshold=4, colluders=2, grid_step=CODEC.resolution, dimension=D),
)


class Descent:
    """The simplest optimiser: weights less the mean gradient."""

    def __init__(self) -> None:
        self.weights = np.zeros(D, np.float32)
        self.means: list[np.ndarray] = []
        self.finished = False

    def begin(self, global_vector: np.ndarray) -> None:
        self.weights = global_vector.copy()

    def step(self, mean: np.ndarray) -> np.ndarray:
        self.means.append(mean)
        self.weights = self.weights - mean
        return self.weights

    def finish(self) -> np.ndarray:
        self.finished = True
        return self.weights


POLICY: Any = SimpleNamespace(mechanism=SimpleNamespace(expected_batch_size=BATCH), fixed_point=lambda: CODEC)
"""What a round asks of a policy."""


class World:
    """Five hospitals whose sums, noise and received weights are written down. `gone`: (name, step) that fails."""

    def __init__(self, gone: Set[tuple[str, int]] = frozenset(), lie: int | None = None) -> None:
        coordinator = Identity.generate()
        keys = {name: Identity.generate() for name in NAMES}
        self.start = np.linspace(-1, 1, D, dtype=np.float32)
        model = b"m" * 32
        parameters = SessionParameters(
            session=os.urandom(32),
            round=1,
            roster=tuple(Member(name, keys[name].public_key) for name in NAMES),
            server_public_key=coordinator.public_key,
            threshold=4,
            ring_bits=32,
            lengths=(D,) * STEPS,
            policy_hash=b"p" * 32,
        )
        self.optimiser = Descent()
        self.round = StepwiseRound(parameters, coordinator, POLICY, self.optimiser, self.start, model, LAYOUT)
        later = (b"",) * (STEPS - 1)
        self.clients = {name: ClientSession(parameters, keys[name], (model, *later), os.urandom) for name in NAMES}
        noise = DiscreteGaussian(Fraction(share_variance(RECORD)))
        self.encoder = ShareEncoder(RECORD, CODEC, noise.draw)
        self.given: dict[tuple[str, int], np.ndarray] = {}
        self.gone, self.lie = gone, lie
        self.driver = LocalDriver(self.round.server, self.clients, self.before_input)

    def before_input(self, j: int, asked: tuple[str, ...]) -> None:
        for name in asked:
            if (name, j) in self.gone:
                continue
            weights = self.round.weights
            assert (weights is None) == (j == 0)
            total = np.sin(np.arange(D) * (NAMES.index(name) + 1) + j)
            self.given[name, j], _ = self.encoder.encode(total)
            if weights is not None and self.lie == j and name == "a":
                weights = weights + np.float32(1e-3)
            model = None if weights is None else step_digest(LAYOUT, weights)
            self.clients[name].provide_input(j, self.given[name, j], model)

    def plain(self, names: tuple[str, ...], j: int) -> np.ndarray:
        total = np.zeros(D, np.uint32)
        for name in names:
            total += self.given[name, j]
        return total


def finish(world: World) -> tuple[AggregateResult, np.ndarray]:
    result = world.driver.run()
    return result, world.round.conclude(result)


def test_every_unmasked_sum_is_the_plaintext_sum_to_the_bit() -> None:
    world = World()
    result, vector = finish(world)
    assert len(result.sums) == STEPS and result.receipts_ok == 5
    for j in range(STEPS):
        assert np.array_equal(result.sums[j], world.plain(NAMES, j))
        assert np.array_equal(world.optimiser.means[j], mean_gradient(world.plain(NAMES, j), 5, CODEC, BATCH))
    assert world.optimiser.finished
    expected = world.start
    for mean in world.optimiser.means:
        expected = expected - mean
    assert np.array_equal(vector, expected)


@pytest.mark.parametrize("step", range(STEPS))
def test_a_drop_out_changes_the_sums_by_the_missing_hospital_alone(step: int) -> None:
    """Before `step` all five are in, from then on four; the divisor follows the public number of survivors."""
    world = World({("c", step)})
    result, _ = finish(world)
    rest = tuple(name for name in NAMES if name != "c")
    for j in range(STEPS):
        inside = NAMES if j < step else rest
        assert result.survivors_per_sum[j] == world.round.survivors[j] == inside
        assert np.array_equal(result.sums[j], world.plain(inside, j))
        assert np.array_equal(
            world.optimiser.means[j], mean_gradient(world.plain(inside, j), len(inside), CODEC, BATCH)
        )
    assert left_on_the_way(result.survivors_per_sum, NAMES) == ({"c": step} if step else {})
    assert ("c", step) not in world.given and "c" in result.dropped


@pytest.mark.parametrize("step", [0, 2, STEPS - 1])
def test_a_step_below_the_threshold_aborts_the_round_and_nothing_is_concluded(step: int) -> None:
    world = World({("c", step), ("e", step)})
    with pytest.raises(ProtocolError) as caught:
        world.driver.run()
    assert caught.value.code == "too-few" and caught.value.exit_code == 4
    assert len(world.optimiser.means) == step and not world.optimiser.finished
    with pytest.raises(ProtocolError):
        world.round.server.result()
    # no sum of the aborted step exists anywhere: every client has at most the sums before it
    assert all(len(client.sums) <= step for client in world.clients.values())


def test_a_hospital_that_was_sent_other_weights_is_out_and_its_vector_is_in_no_sum() -> None:
    world = World(lie=3)
    result, _ = finish(world)
    assert [len(names) for names in result.survivors_per_sum] == [5, 5, 5, 4, 4, 4]
    assert "a" not in result.survivors and world.round.server.dropped["a"].code == "model-mismatch"
    assert np.array_equal(result.sums[3], world.plain(NAMES[1:], 3))


def test_a_vector_is_masked_once_and_a_model_is_bound_once() -> None:
    world = World()
    finish(world)
    for name in NAMES:
        for j in range(STEPS):
            with pytest.raises(ProtocolError):
                world.clients[name].provide_input(j, world.given[name, j])
    with pytest.raises(ProtocolError):
        world.round.server.bind_model(2, b"x" * 32)


def test_left_on_the_way_counts_only_those_who_gave_something() -> None:
    sums: list[Any] = [("a", "b", "c"), ("a", "c"), ("a",)]
    assert left_on_the_way(sums, ("a", "b", "c", "d")) == {"b": 1, "c": 2}
    assert left_on_the_way([], ("a",)) == {}
