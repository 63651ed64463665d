"""What a client holds in each phase of a round, and the events it answers.

A state holds only what its phase needs: a seed cannot exist before R1 nor outlive its sum. Secrets never
show in a repr.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from fedgan_protocols.messages import Advertisement, Consistency
from fedgan_protocols.parameters import SessionParameters
from fedgan_protocols.primitives import Identity, Packet
from fedgan_protocols.transitions import ClientPhase, Stage


@dataclass(frozen=True)
class Received:
    """A request of the server arrived.

    `entropy`: at least `entropy_needed(state)` random bytes, used once. `vector` (R2): the encoded input,
    uint32[d] or uint64[d]; it is masked once. `model_hash` (R2): needed where it was not known at R0.
    """

    stage: Stage
    packet: Packet = field(repr=False)
    entropy: bytes = field(default=b"", repr=False)
    vector: np.ndarray | None = field(default=None, repr=False)
    model_hash: bytes | None = None


@dataclass(frozen=True)
class DeadlinePassed:
    """The driver waits no longer."""


Event: TypeAlias = Received | DeadlinePassed


@dataclass(frozen=True)
class Context:
    """What never changes during a round. `model_hashes`: 32 bytes per sum, or b"" where not yet known."""

    parameters: SessionParameters
    identity: Identity = field(repr=False)
    member: int
    model_hashes: tuple[bytes, ...]
    threads: int = 1


@dataclass(frozen=True)
class Exchange:
    """The last request, by digest, and its reply, so that a repetition is answered identically."""

    stage: Stage
    request: bytes
    reply: Packet = field(repr=False)


@dataclass(frozen=True)
class Invited:
    context: Context
    phase = ClientPhase.INVITED
    last: Exchange | None = None


@dataclass(frozen=True)
class Advertised:
    """After R0: holds the fresh private keys."""

    context: Context
    last: Exchange
    t0: bytes
    own: bytes = field(repr=False)
    neighbours: tuple[int, ...]
    sealing_key: bytes = field(repr=False)
    mask_keys: tuple[bytes, ...] = field(repr=False)
    phase = ClientPhase.ADVERTISED


@dataclass(frozen=True)
class Shared:
    """After R1: holds its keys, its seeds b_u and its own shares; U1 and T1 are fixed.

    `adverts`: of this member's peers; `own_openings`: its shares of its own secrets, empty in a sparse graph.
    """

    context: Context
    last: Exchange
    t1: bytes
    broadcast: bytes
    u1: tuple[int, ...]
    adverts: Mapping[int, Advertisement]
    own: bytes = field(repr=False)
    sealing_key: bytes = field(repr=False)
    mask_keys: tuple[bytes, ...] = field(repr=False)
    seeds: tuple[bytes, ...] = field(repr=False)
    own_openings: bytes = field(repr=False)
    phase = ClientPhase.SHARED


@dataclass(frozen=True)
class Setup:
    """What R0 and R1 fixed: T1, T2, U2 and the public mask keys of the peers in it."""

    t1: bytes
    t2: bytes
    mask_publics: Mapping[int, tuple[bytes, ...]]
    u2: tuple[int, ...]


@dataclass(frozen=True)
class Secrets:
    """For the sums still to come: own mask keys and seeds, and for the current sum on the dealers' shares."""

    mask_keys: tuple[bytes, ...] = field(repr=False)
    seeds: tuple[bytes, ...] = field(repr=False)
    openings: Mapping[int, bytes] = field(repr=False)


@dataclass(frozen=True)
class Masked:
    """After R2 of sum j: the vector, its seed and its mask key are gone."""

    context: Context
    last: Exchange
    setup: Setup
    secrets: Secrets
    j: int
    model_hash: bytes
    chain: bytes
    broadcast: bytes
    own_digest: bytes
    received: tuple[np.ndarray, ...] = field(repr=False)
    phase = ClientPhase.MASKED


@dataclass(frozen=True)
class Signed:
    """After R3 of sum j: bound to one U3."""

    context: Context
    last: Exchange
    setup: Setup
    secrets: Secrets
    j: int
    u3: tuple[int, ...]
    t3: bytes
    broadcast: bytes
    statement: Consistency
    own: bytes = field(repr=False)
    received: tuple[np.ndarray, ...] = field(repr=False)
    phase = ClientPhase.SIGNED


@dataclass(frozen=True)
class Revealed:
    """After R4 of sum j: the shares of sum j are gone, so no second kind of share can be given."""

    context: Context
    last: Exchange
    setup: Setup
    secrets: Secrets
    j: int
    u3: tuple[int, ...]
    t4: bytes
    broadcast: bytes
    own_digest: bytes
    received: tuple[np.ndarray, ...] = field(repr=False)
    phase = ClientPhase.REVEALED


@dataclass(frozen=True)
class Finished:
    """After R5: the verified sums, nothing secret."""

    context: Context
    last: Exchange
    received: tuple[np.ndarray, ...] = field(repr=False)
    phase = ClientPhase.FINISHED


State: TypeAlias = Invited | Advertised | Shared | Masked | Signed | Revealed | Finished
