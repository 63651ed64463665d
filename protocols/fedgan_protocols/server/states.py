"""What the server holds in each phase of a round, and the events it answers. It holds no secret before R4."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from fedgan_protocols.checks import holders_of
from fedgan_protocols.errors import ProtocolError
from fedgan_protocols.messages import Advertisement, Deal, Message
from fedgan_protocols.parameters import SessionParameters
from fedgan_protocols.primitives import Identity, Packet
from fedgan_protocols.transitions import ServerPhase, Stage


@dataclass(frozen=True)
class Start:
    """Send the invitations."""


@dataclass(frozen=True)
class Reply:
    """A packet came from a member, over a channel that names it."""

    member: int
    packet: Packet = field(repr=False)


@dataclass(frozen=True)
class Failure:
    """A member gave no answer: why, in its own words. Untrusted: it is reported, and decides nothing."""

    code: str
    message: str = ""
    culprit: str = ""

    @classmethod
    def of(cls, error: ProtocolError) -> Failure:
        return cls(error.code.value, error.message, error.culprit)


@dataclass(frozen=True)
class Lost:
    """The driver knows that a member will not answer this stage."""

    member: int
    failure: Failure


@dataclass(frozen=True)
class DeadlinePassed:
    """Close the stage with what has come; silent members have dropped out."""


@dataclass(frozen=True)
class ModelKnown:
    """The model of sum j, where it was not known at R0."""

    j: int
    model_hash: bytes


Event: TypeAlias = Start | Reply | Lost | DeadlinePassed | ModelKnown


@dataclass(frozen=True)
class Drop:
    """When a member stopped taking part (a stage's label), and why; culprit is a name, "server" or empty.

    `verified`: the server saw the fault itself; otherwise code, message and culprit are the member's or driver's claim.
    """

    stage: str
    code: str
    message: str = ""
    culprit: str = ""
    verified: bool = False


@dataclass(frozen=True)
class Group:
    """A broadcast and the verified replies (id, message) to it in order of id, as they enter the transcript."""

    stage: Stage
    j: int
    broadcast: bytes
    replies: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True)
class Context:
    """What every phase carries: the facts, the finished groups, the drop-outs and the sums so far."""

    parameters: SessionParameters
    identity: Identity = field(repr=False)
    model_hashes: tuple[bytes, ...]
    threads: int = 1
    groups: tuple[Group, ...] = field(default=(), repr=False)
    drops: Mapping[int, Drop] = field(default_factory=dict)
    sums: tuple[np.ndarray, ...] = field(default=(), repr=False)
    survivors: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Asked:
    """The open stage: its broadcast, whom it went to and the verified replies so far."""

    broadcast: Message
    members: tuple[int, ...]
    replies: Mapping[int, Message] = field(default_factory=dict, repr=False)
    attachments: Mapping[int, bytes] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Topology:
    """Of every member of U1: who holds its shares, and its peers, both ascending and within U1."""

    holders: Mapping[int, tuple[int, ...]]
    peers: Mapping[int, tuple[int, ...]]

    @classmethod
    def of(cls, parameters: SessionParameters, adverts: Mapping[int, Advertisement]) -> Topology:
        u1 = tuple(adverts)
        if parameters.graph is None:
            return cls(dict.fromkeys(u1, u1), {me: tuple(other for other in u1 if other != me) for me in u1})
        present = frozenset(u1)
        holding = {dealer: holders_of(parameters, body, u1, present) for dealer, body in adverts.items()}
        peers: dict[int, set[int]] = {member: set(holding[member]) for member in u1}
        for dealer, members in holding.items():
            for member in members:
                peers[member].add(dealer)
        return cls(holding, {member: tuple(sorted(found)) for member, found in peers.items()})

    def dealers(self, holder: int, members: tuple[int, ...]) -> tuple[int, ...]:
        """Of `members`, ascending, those of whom `holder` holds shares."""
        if self.holders.get(holder) == tuple(self.holders):
            return members  # the complete graph
        near = frozenset(self.peers[holder])
        return tuple(dealer for dealer in members if dealer in near and holder in self.holders[dealer])


@dataclass(frozen=True)
class Setup:
    """What R0 and R1 fixed: who holds whose shares, whose shares each member of U2 holds, and who masks with whom."""

    t1: bytes
    t2: bytes
    u2: tuple[int, ...]
    adverts: Mapping[int, Advertisement] = field(repr=False)
    deals: Mapping[int, Deal] = field(repr=False)
    topology: Topology = field(repr=False)

    def dealers(self, holder: int) -> tuple[int, ...]:
        """The members of U2 of whom `holder` holds shares, ascending."""
        return self.topology.dealers(holder, self.u2)


@dataclass(frozen=True)
class Ready:
    context: Context
    phase = ServerPhase.READY


@dataclass(frozen=True)
class CollectingAdvertisements:
    """`keys`: every key that was advertised, and by whom."""

    context: Context
    asked: Asked
    t0: bytes
    keys: Mapping[bytes, int] = field(default_factory=dict, repr=False)
    phase = ServerPhase.ADVERTISEMENTS


@dataclass(frozen=True)
class CollectingShares:
    context: Context
    asked: Asked
    t1: bytes
    adverts: Mapping[int, Advertisement] = field(repr=False)
    topology: Topology = field(repr=False)
    phase = ServerPhase.SHARES


@dataclass(frozen=True)
class CollectingInputs:
    """`total` is the modular sum of the masked vectors that have come."""

    context: Context
    asked: Asked
    setup: Setup
    j: int
    chain: bytes
    total: np.ndarray = field(repr=False)
    phase = ServerPhase.INPUTS


@dataclass(frozen=True)
class CollectingConsistency:
    context: Context
    asked: Asked
    setup: Setup
    j: int
    u3: tuple[int, ...]
    t3: bytes
    total: np.ndarray = field(repr=False)
    phase = ServerPhase.CONSISTENCY


@dataclass(frozen=True)
class CollectingRevelations:
    context: Context
    asked: Asked
    setup: Setup
    j: int
    u3: tuple[int, ...]
    t4: bytes
    total: np.ndarray = field(repr=False)
    phase = ServerPhase.REVELATIONS


@dataclass(frozen=True)
class AwaitingModel:
    """Sum j is done; the model of sum j + 1 is not known yet."""

    context: Context
    setup: Setup
    j: int
    u5: tuple[int, ...]
    digests: tuple[bytes, ...] = field(repr=False)
    chain: bytes
    phase = ServerPhase.AWAITING_MODEL


@dataclass(frozen=True)
class CollectingReceipts:
    context: Context
    asked: Asked
    j: int
    t6: bytes
    phase = ServerPhase.RECEIPTS


@dataclass(frozen=True)
class Finished:
    context: Context
    receipts: tuple[int, ...]
    phase = ServerPhase.FINISHED


Collecting: TypeAlias = (
    CollectingAdvertisements
    | CollectingShares
    | CollectingInputs
    | CollectingConsistency
    | CollectingRevelations
    | CollectingReceipts
)
State: TypeAlias = Ready | Collecting | AwaitingModel | Finished
