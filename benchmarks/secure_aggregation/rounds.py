"""Whole rounds in one process, on the protocol's own machines: CPU seconds and bytes of every stage.

The driver delivers packets and nothing else: client and server are `fedgan_protocols.client.machine.step` and
`fedgan_protocols.server.machine.step`. Both are pure, so one round is followed up to the masked inputs and then
branches, once for every drop-out rate, from the same states. A client's state is let go when it has finished.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fedgan_protocols import Identity, Member, SessionParameters, default_threshold
from fedgan_protocols.client import machine as client_machine
from fedgan_protocols.client import states as client_states
from fedgan_protocols.primitives.encoding import Packet
from fedgan_protocols.server import machine as server_machine
from fedgan_protocols.server import states as server_states
from fedgan_protocols.transcript import transcript
from fedgan_protocols.transitions import Stage

STAGES = tuple(stage for stage in Stage if stage is not Stage.CLOSING)
"""R0 to R5; the closing is the server's last word in the transcript, and nobody is asked."""
Inputs = Callable[[int], np.ndarray]
"""member id (from 1) -> its encoded input, uint32[d]; called once per member, when the server asks for it."""


@dataclass(frozen=True)
class Federation:
    """n members with fresh identities, and one sum over one model."""

    parameters: SessionParameters
    server: Identity = field(repr=False)
    members: tuple[Identity, ...] = field(repr=False)
    models: tuple[bytes, ...]

    @classmethod
    def of(cls, n: int, words: int, threshold: int | None = None, **more: Any) -> Federation:
        """`more`: further fields of SessionParameters."""
        server, members = Identity.generate(), tuple(Identity.generate() for _ in range(n))
        roster = tuple(Member(f"member-{place:04d}", one.public_key) for place, one in enumerate(members, start=1))
        t = default_threshold(n) if threshold is None else threshold
        parameters = SessionParameters(
            os.urandom(32), 1, roster, server.public_key, t, 32, (words,), os.urandom(32), **more
        )
        return cls(parameters, server, members, (os.urandom(32),))

    def invited(self, member: int) -> client_states.State:
        context = client_states.Context(self.parameters, self.members[member - 1], member, self.models)
        return client_states.Invited(context)


@dataclass
class Cost:
    """Per stage: CPU seconds of all clients together and of the server, packets and their bytes both ways."""

    client_seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    server_seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    packets_down: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    packets_up: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    bytes_down: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    bytes_up: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def copy(self) -> Cost:
        new = Cost()
        for name, table in vars(self).items():
            getattr(new, name).update(table)
        return new

    def as_dict(self, n: int) -> dict[str, Any]:
        stages = {}
        for stage in self.server_seconds:
            row: dict[str, Any] = {"server_cpu_seconds": self.server_seconds[stage]}
            if asked := self.packets_down.get(stage, 0):
                answered = self.packets_up[stage]
                row["client_cpu_seconds_mean"] = self.client_seconds[stage] / max(answered, 1)
                row["bytes_down_per_client"] = self.bytes_down[stage] / asked
                row["bytes_up_per_client"] = self.bytes_up[stage] / max(answered, 1)
            stages[stage] = row
        return {
            "stages": stages,
            "server_cpu_seconds": sum(self.server_seconds.values()),
            "client_cpu_seconds_mean": sum(self.client_seconds.values()) / n,
            "all_cpu_seconds": sum(self.server_seconds.values()) + sum(self.client_seconds.values()),
            "server_bytes_in": sum(self.bytes_up.values()),
            "server_bytes_out": sum(self.bytes_down.values()),
        }


@dataclass
class Outcome:
    """One branch: who dropped out after the shares were dealt, what it cost, and whether the sum is exact."""

    drop_out: float
    dropped: int
    survivors: int
    exact: bool
    receipts: int
    transcript_bytes: int
    cost: Cost


def fixed_inputs(words: int, seed: int) -> Inputs:
    """Reproducible inputs, drawn when they are asked for: uniform over the whole ring (Philox; not secret here)."""

    def draw(member: int) -> np.ndarray:
        generator = np.random.Generator(np.random.Philox(key=[seed, member]))
        return generator.integers(0, 1 << 32, size=words, dtype=np.uint32).astype("<u4", copy=False)

    return draw


def spread(n: int, rate: float) -> frozenset[int]:
    """round(rate * n) members, spread evenly over the ids."""
    count = round(rate * n)
    return frozenset(1 + int((place + 0.5) * n / count) for place in range(count))


class Round:
    """One round, followed stage by stage."""

    def __init__(self, federation: Federation, inputs: Inputs, *, keep_replies: bool = True) -> None:
        """`keep_replies`: clients hold their last reply for a repeated request, as they do; no request repeats here."""
        self.federation, self.inputs, self.keep_replies = federation, inputs, keep_replies
        self.cost = Cost()
        self.clients = {member: federation.invited(member) for member in range(1, federation.parameters.n + 1)}
        context = server_states.Context(federation.parameters, federation.server, federation.models)
        self.server: server_states.State = server_states.Ready(context)
        self.packets: server_machine.Packets = ()
        self._serve(Stage.ADVERTISE_KEYS.label, server_states.Start())

    def _serve(self, stage: str, event: server_states.Event) -> None:
        start = time.process_time()
        self.server, packets = server_machine.step(self.server, event)
        self.cost.server_seconds[stage] += time.process_time() - start
        if not isinstance(event, server_states.Reply):
            self.packets = packets

    def ask(self, member: int, stage: Stage, packet: bytes, vector: np.ndarray | None = None) -> Packet:
        """Deliver one request to a client and take its reply; the caller keeps neither state nor packet."""
        state, label = self.clients[member], stage.label
        entropy = os.urandom(client_machine.entropy_needed(state))
        event = client_states.Received(stage, packet, entropy, vector)
        start = time.process_time()
        new, (reply,) = client_machine.step(state, event)
        self.cost.client_seconds[label] += time.process_time() - start
        if not self.keep_replies and new.last is not None:
            new = replace(new, last=replace(new.last, reply=b""))
        self.clients[member] = new
        if stage is Stage.RECEIPT:
            del self.clients[member]
        self.cost.packets_down[label] += 1
        self.cost.bytes_down[label] += len(packet)
        self.cost.packets_up[label] += 1
        self.cost.bytes_up[label] += len(reply)
        return reply

    def exchange(self, stage: Stage, silent: Collection[int] = ()) -> None:
        """A whole stage, in which every member that is asked answers, but for the silent ones."""
        queue, self.packets = list(reversed(self.packets)), ()
        while queue:
            member, packet = queue.pop()
            if member not in silent:
                vector = self.inputs(member) if stage is Stage.MASKED_INPUT else None
                self._serve(stage.label, server_states.Reply(member, self.ask(member, stage, packet, vector)))
        self._serve(stage.label, server_states.DeadlinePassed())

    def run(self, drop_outs: Sequence[float]) -> list[Outcome]:
        """R0 to R5. At every rate that many members fall silent after R1, so that their pair masks must be rebuilt."""
        self.exchange(Stage.ADVERTISE_KEYS)
        self.exchange(Stage.SHARE_KEYS)
        parameters = self.federation.parameters
        label = Stage.MASKED_INPUT.label
        silent = {rate: spread(parameters.n, rate) for rate in drop_outs}
        always = frozenset.intersection(*silent.values())
        servers = dict.fromkeys(drop_outs, self.server)
        costs = {rate: Cost() for rate in drop_outs}
        expected = {rate: np.zeros(parameters.lengths[0], dtype=parameters.dtype) for rate in drop_outs}
        queue, self.packets = list(reversed(self.packets)), ()
        before = self.cost
        while queue:
            member, packet = queue.pop()
            if member in always:
                continue
            vector = self.inputs(member)
            self.cost = Cost()
            reply = self.ask(member, Stage.MASKED_INPUT, packet, vector)
            for rate in drop_outs:
                if member in silent[rate]:
                    continue
                np.add(expected[rate], vector, out=expected[rate])
                _add(costs[rate], self.cost)
                start = time.process_time()
                servers[rate], _ = server_machine.step(servers[rate], server_states.Reply(member, reply))
                costs[rate].server_seconds[label] += time.process_time() - start
            del vector, reply
        clients, self.clients = self.clients, {}
        outcomes = []
        for place, rate in enumerate(drop_outs):
            self.server = servers.pop(rate)
            self.cost = before.copy()
            _add(self.cost, costs[rate])
            last = place == len(drop_outs) - 1
            for member in silent[rate] if last else ():
                clients.pop(member, None)
            self.clients = clients if last else dict(clients)
            self._serve(label, server_states.DeadlinePassed())
            outcomes.append(self._finish(rate, silent[rate], expected.pop(rate)))
        return outcomes

    def _finish(self, rate: float, silent: frozenset[int], expected: np.ndarray) -> Outcome:
        for stage in STAGES[STAGES.index(Stage.CONSISTENCY_CHECK) :]:
            self.exchange(stage)
        state = self.server
        if not isinstance(state, server_states.Finished):
            raise RuntimeError(f"the round stands at {type(state).__name__}; Finished was expected")
        context = state.context
        start = time.process_time()
        written = transcript.write(
            context.parameters,
            context.identity,
            context.groups,
            complete=True,
            code="",
            culprit="",
            drops=dict(context.drops),
        )
        self.cost.server_seconds[Stage.CLOSING.label] += time.process_time() - start
        exact = bool(np.array_equal(context.sums[0], expected))
        survivors = len(context.survivors[0])
        return Outcome(rate, len(silent), survivors, exact, len(state.receipts), len(written), self.cost)


def _add(cost: Cost, more: Cost) -> None:
    for name, table in vars(more).items():
        into = getattr(cost, name)
        for stage, value in table.items():
            into[stage] += value
