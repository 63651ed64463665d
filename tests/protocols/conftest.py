"""A whole federation in memory, with fixed entropy, for the tests of the protocol."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from tests.protocols.lying import LyingServer

from fedgan_protocols import (
    AggregateResult,
    ClientSession,
    Failure,
    Identity,
    Journal,
    Member,
    PolicyFloors,
    ProtocolError,
    ServerSession,
    SessionParameters,
    Stage,
)
from fedgan_protocols.messages import Message, sign_message
from fedgan_protocols.parameters import SERVER
from fedgan_protocols.primitives.encoding import join_packet, split_packet
from fedgan_protocols.primitives.graph import SparseGraph
from fedgan_protocols.transcript.transcript import TranscriptExpectations


def fixed_entropy(seed: str) -> Callable[[int], bytes]:
    """A reproducible source: SHAKE-256 over the seed and a counter."""
    calls = iter(range(1 << 62))

    def draw(size: int) -> bytes:
        return hashlib.shake_256(f"{seed}/{next(calls)}".encode()).digest(size)

    return draw


Tamper = Callable[[str, str, bytes], bytes | None]


@dataclass
class Federation:
    """n members h1..hn, their identities, models and inputs; `run` carries the bytes."""

    parameters: SessionParameters
    server_identity: Identity = field(repr=False)
    identities: Mapping[str, Identity] = field(repr=False)
    models: tuple[bytes, ...]
    inputs: Mapping[tuple[str, int], np.ndarray] = field(repr=False)
    seed: str = "seed"
    floors: PolicyFloors = field(
        default_factory=lambda: PolicyFloors(
            least_roster=2, least_sparse_roster=2, least_sparse_corruption=0.0, least_graph_bits=0
        )
    )

    def server(self, **changes: Any) -> ServerSession:
        parameters = replace(self.parameters, **changes) if changes else self.parameters
        return ServerSession(parameters, self.server_identity, self.models)

    def client(
        self,
        name: str,
        *,
        parameters: SessionParameters | None = None,
        models: tuple[bytes, ...] | None = None,
        journal: Journal | None = None,
        salt: str = "",
    ) -> ClientSession:
        entropy = fixed_entropy(f"{self.seed}/{name}/{salt}")
        return ClientSession(
            parameters or self.parameters,
            self.identities[name],
            models or self.models,
            entropy,
            floors=self.floors,
            journal=journal,
        )

    def clients(self) -> dict[str, ClientSession]:
        return {name: self.client(name) for name in self.parameters.names}

    def expected_sum(self, survivors: tuple[str, ...], j: int = 0) -> np.ndarray:
        total = np.zeros(self.parameters.lengths[j], dtype=self.parameters.dtype)
        for name in survivors:
            total = total + self.inputs[name, j]
        return total

    def expectations(self, **more: Any) -> TranscriptExpectations:
        return TranscriptExpectations(self.parameters.roster, self.parameters.server_public_key, **more)

    def sign(self, stage: Stage, previous: bytes, body: object, sender: int = SERVER) -> Message:
        names = self.parameters.names
        identity = self.server_identity if sender == SERVER else self.identities[names[sender - 1]]
        return sign_message(identity, self.parameters, stage, sender, previous, body)

    def run(
        self,
        drops: Mapping[str, str] | None = None,
        *,
        server: ServerSession | None = None,
        clients: Mapping[str, ClientSession] | None = None,
        to_client: Tamper = lambda name, phase, packet: packet,
        to_server: Tamper = lambda name, phase, packet: packet,
        stop_before: str = "",
        errors: dict[str, ProtocolError] | None = None,
    ) -> ServerSession:
        """Carry bytes until the end or `stop_before`; refusals of clients are collected in `errors`."""
        server = server or self.server()
        clients = clients or self.clients()
        gone: set[str] = set()
        while (phase := server.next_phase()) is not None and phase.name != stop_before:
            if phase.stage is Stage.MASKED_INPUT:
                for name, client in clients.items():
                    client.provide_input(phase.sum, self.inputs[name, phase.sum].copy())
            replies: dict[str, bytes | Failure] = {}
            for name, packet in phase.payloads.items():
                if (drops or {}).get(name) in (phase.name, f"{phase.name}/{phase.sum}"):
                    gone.add(name)
                given = to_client(name, phase.name, packet)
                if name in gone or given is None:
                    continue
                try:
                    reply = to_server(name, phase.name, bytes(clients[name].handle(phase.name, given)))
                except ProtocolError as error:
                    if errors is not None:
                        errors[name] = error
                    reply = Failure.of(error)
                if reply is not None:
                    replies[name] = reply
            server.receive(replies)
        return server

    def result(self, drops: Mapping[str, str] | None = None, **options: Any) -> AggregateResult:
        return self.run(drops, **options).result()


@dataclass(frozen=True)
class Lab:
    """Makes federations, and takes packets apart."""

    def federation(
        self,
        n: int = 4,
        t: int = 3,
        d: int = 5,
        *,
        ring_bits: int = 32,
        sums: int = 1,
        seed: str = "seed",
        round_: int = 1,
        session: bytes | None = None,
        graph: SparseGraph | None = None,
    ) -> Federation:
        draw = fixed_entropy(f"{seed}/set-up")
        server_identity = Identity.generate(draw)
        identities = {f"h{index}": Identity.generate(draw) for index in range(1, n + 1)}
        roster = tuple(Member(name, identity.public_key) for name, identity in identities.items())
        parameters = SessionParameters(
            session or draw(32),
            round_,
            roster,
            server_identity.public_key,
            t,
            ring_bits,
            (d,) * sums,
            hashlib.sha256(b"policy").digest(),
            graph,
        )
        models = tuple(hashlib.sha256(f"model {j}".encode()).digest() for j in range(sums))
        dtype = parameters.dtype
        inputs = {
            (name, j): np.frombuffer(draw(d * dtype.itemsize), dtype=dtype) for name in identities for j in range(sums)
        }
        return Federation(parameters, server_identity, identities, models, inputs, seed)

    entropy = staticmethod(fixed_entropy)
    split = staticmethod(lambda packet: split_packet(packet, 1 << 30))
    join = staticmethod(join_packet)


@pytest.fixture(scope="session")
def lab() -> Lab:
    return Lab()


@pytest.fixture
def liar(lab: Lab) -> LyingServer:
    """A lying server and five honest members, four of whom unmask."""
    return LyingServer(lab, lab.federation(n=5, t=4, d=3))
