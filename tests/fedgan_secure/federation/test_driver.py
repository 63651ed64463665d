"""The in-process driver over the real machines: sums, drop-outs, and what a round's facts say of them."""

from __future__ import annotations

import os

import numpy as np
import pytest

from fedgan_protocols.errors import ProtocolError
from fedgan_protocols.parameters import Member, SessionParameters
from fedgan_protocols.primitives.keys import Identity
from fedgan_protocols.primitives.quantization import FixedPoint
from fedgan_protocols.session import ClientSession, ServerSession
from fedgan_secure.errors import InputError
from fedgan_secure.federation.drivers.local import STAGES, DropOut, LocalDriver, parse_drop
from fedgan_secure.federation.fedavg import apply_sum, model_digest

D = 1000
NAMES = ("a", "b", "c", "d")
CODEC = FixedPoint(1.0, 32, 24)


def one_round(drops: list[DropOut]) -> tuple[LocalDriver, dict[str, np.ndarray], ServerSession]:
    """A driver of four hospitals whose updates are known."""
    coordinator = Identity.generate()
    identities = {name: Identity.generate() for name in NAMES}
    parameters = SessionParameters(
        session=os.urandom(32),
        round=1,
        roster=tuple(Member(name, identities[name].public_key) for name in NAMES),
        server_public_key=coordinator.public_key,
        threshold=3,
        ring_bits=32,
        lengths=(D,),
        policy_hash=b"p" * 32,
    )
    model = b"m" * 32
    server = ServerSession(parameters, coordinator, (model,))
    clients = {name: ClientSession(parameters, identities[name], (model,), os.urandom) for name in NAMES}
    updates = {name: np.linspace(-0.9, 0.9, D, dtype=np.float32) * (index + 1) / 4 for index, name in enumerate(NAMES)}

    def before_input(index: int, asked: tuple[str, ...]) -> None:
        for name in asked:
            clients[name].provide_input(index, CODEC.encode(updates[name]))

    return LocalDriver(server, clients, before_input, drops), updates, server


@pytest.mark.parametrize("stage", STAGES)
def test_a_drop_out_at_any_stage_leaves_the_survivors_mean(stage: str) -> None:
    driver, updates, _ = one_round([DropOut("b", 1, stage)])
    result = driver.run()
    inside = [name for name in NAMES if name in result.survivors]
    assert ("b" in inside) == (STAGES.index(stage) > STAGES.index("masked-input"))
    mean = np.mean([updates[name] for name in inside], axis=0)
    start = np.ones(D, np.float32)
    moved = apply_sum(start, result.sums[0], len(inside), CODEC)
    assert moved.dtype == np.float32
    np.testing.assert_allclose(moved - start, mean, atol=2**-23)


def test_too_few_hospitals_abort_and_the_transcript_stays() -> None:
    driver, _, server = one_round([DropOut("a", 1), DropOut("b", 1)])
    with pytest.raises(ProtocolError) as caught:
        driver.run()
    assert caught.value.exit_code == 4 and len(server.transcript_so_far()) > 100


def test_drop_outs_are_read_or_refused() -> None:
    assert parse_drop("b@2", NAMES) == DropOut("b", 2, "masked-input")
    assert parse_drop("c@10:receipt", NAMES) == DropOut("c", 10, "receipt")
    for text in ("b", "b@0", "b@x", "z@1", "b@1:lunch", "b@1:", "@1"):
        with pytest.raises(InputError) as caught:
            parse_drop(text, NAMES)
        assert caught.value.hint


def test_a_models_name_depends_on_every_weight_and_on_the_layout() -> None:
    vector = np.zeros(8, np.float32)
    other = vector.copy()
    other[7] = np.nextafter(np.float32(0), np.float32(1))
    assert len({model_digest("00" * 32, vector), model_digest("00" * 32, other), model_digest("01" * 32, vector)}) == 3
