"""The public facts of one round of secure aggregation, and the least that a client accepts.

`n` is the size of the roster and `threshold` is absolute; both come from the signed policy and neither is recomputed
from who turned up. A member's id in messages is its roster index + 1, which is also its Shamir abscissa; the server's
id is 0.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fedgan_protocols.errors import Code, ParameterError
from fedgan_protocols.primitives import (
    LEAST_MEMBERS,
    PRIVACY_BITS,
    Entropy,
    SparseGraph,
    digest,
    encode,
    is_safe_public_key,
    privacy_bits,
    signatures_to_check,
)

__all__ = [
    "SERVER",
    "Entropy",
    "Member",
    "PolicyFloors",
    "SessionParameters",
    "default_threshold",
    "roster_hash",
    "sum_digest",
]

SERVER = 0
"""The server's id in messages."""
MAX_MEMBERS = 4096
MAX_SUMS = 4096
MAX_LENGTH = 1 << 31
MAX_NAME_BYTES = 64
HASH_BYTES = 32
ID_BYTES = 2
SHARE_BYTES = 33
SALT_BYTES = 32
TAG_BYTES = 16


def _refuse(message: str, hint: str = "") -> ParameterError:
    return ParameterError(Code.BAD_PARAMETERS, message, hint=hint)


@dataclass(frozen=True)
class Member:
    """A pinned identity, exchanged out of band: a name of 1-64 UTF-8 bytes and a raw Ed25519 key (32 bytes)."""

    name: str
    public_key: bytes

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not 1 <= len(self.name.encode()) <= MAX_NAME_BYTES:
            raise _refuse(f"a member's name has 1 to {MAX_NAME_BYTES} bytes; found {self.name!r}")
        if self.name == "server" or not self.name.isprintable():
            raise _refuse(f"{self.name!r} cannot be a member's name")
        if not isinstance(self.public_key, bytes) or len(self.public_key) != 32:
            raise _refuse(f"member {self.name}: an Ed25519 public key has 32 bytes")
        if not is_safe_public_key(self.public_key):
            raise _refuse(f"member {self.name}: the Ed25519 key has small order or is not canonical")


def roster_hash(roster: tuple[Member, ...], server_public_key: bytes) -> bytes:
    """SHA-256 (32 bytes) that binds the server's key and every member's name, key and position."""
    return digest("roster", encode([server_public_key, [[m.name, m.public_key] for m in roster]]))


def graph_items(graph: SparseGraph | None) -> list[int]:
    """The graph in an encoding: empty for the complete one, else [degree, threshold, colluders]."""
    return [] if graph is None else [graph.degree, graph.threshold, graph.colluders]


def default_threshold(members: int) -> int:
    """floor(2n/3) + 1."""
    return 2 * members // 3 + 1


@dataclass(frozen=True)
class SessionParameters:
    """One round: who, at what threshold, over which ring, how many sums of which length.

    session            32 bytes, fresh for every attempt
    round              1 .. 2^32 - 1, the scheduled round number
    roster             ordered members, at least 2
    server_public_key  raw Ed25519 key, 32 bytes
    threshold          t, absolute: n/2 < t <= n and t >= 2
    ring_bits          32 or 64
    lengths            vector length of every sum (S sums)
    policy_hash        32 bytes
    graph              None: everybody masks with everybody; else `fedgan_protocols.primitives.graph`, for 100 or more

    Raises ParameterError for anything else.
    """

    session: bytes
    round: int
    roster: tuple[Member, ...]
    server_public_key: bytes
    threshold: int
    ring_bits: int
    lengths: tuple[int, ...]
    policy_hash: bytes
    graph: SparseGraph | None = None

    def __post_init__(self) -> None:
        for name in ("session", "server_public_key", "policy_hash"):
            value = getattr(self, name)
            if not isinstance(value, bytes) or len(value) != 32:
                raise _refuse(f"{name} has 32 bytes")
        if not is_safe_public_key(self.server_public_key):
            raise _refuse("the server's Ed25519 key has small order or is not canonical")
        if not isinstance(self.roster, tuple) or not isinstance(self.lengths, tuple):
            raise _refuse("roster and lengths are tuples")
        self._check_numbers()
        keys = {member.public_key for member in self.roster} | {self.server_public_key}
        if len(keys) != self.n + 1 or len(set(self.names)) != self.n:
            raise _refuse("every member of the roster, and the server, has its own name and its own key")
        if self.graph is not None:
            self._check_graph(self.graph)

    def _check_numbers(self) -> None:
        if not 1 <= self.round < 1 << 32:
            raise _refuse(f"round {self.round} is not in 1 .. 2^32 - 1")
        if not 2 <= self.n <= MAX_MEMBERS:
            raise _refuse(f"a roster has 2 to {MAX_MEMBERS} members; found {self.n}")
        if not self.n < 2 * self.threshold <= 2 * self.n or self.threshold < 2:
            least = max(2, self.n // 2 + 1)
            raise _refuse(
                f"threshold {self.threshold} of {self.n} members; {least} to {self.n} are possible",
                hint=f"the default for {self.n} members is {default_threshold(self.n)}",
            )
        if self.ring_bits not in (32, 64):
            raise _refuse(f"the ring has 32 or 64 bits; found {self.ring_bits}")
        if not 1 <= self.sums <= MAX_SUMS or not all(1 <= length <= MAX_LENGTH for length in self.lengths):
            raise _refuse(f"1 to {MAX_SUMS} sums of 1 to {MAX_LENGTH} words each are possible")

    def _check_graph(self, graph: SparseGraph) -> None:
        if graph.degree > self.n - 1:
            raise _refuse(f"{graph.degree} neighbours; a roster of {self.n} leaves {self.n - 1}")
        agreeing = max(0, 2 * self.threshold - self.n - 1)
        if graph.colluders > agreeing:
            raise _refuse(
                f"the graph allows for {graph.colluders} colluders, a threshold of {self.threshold} of {self.n} for "
                f"{agreeing}",
                hint="raise the threshold: all honest members must be brought to agree on who survived",
            )

    @property
    def n(self) -> int:
        return len(self.roster)

    @property
    def sums(self) -> int:
        return len(self.lengths)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(member.name for member in self.roster)

    @property
    def colluders(self) -> int:
        """How many clients may collude with a lying server: max(0, min(2t - n - 1, t - 2)), or the sparse graph's c."""
        if self.graph is not None:
            return self.graph.colluders
        return max(0, min(2 * self.threshold - self.n - 1, self.threshold - 2))

    @property
    def share_threshold(self) -> int:
        """How many shares rebuild a secret: t, or the sparse graph's local threshold."""
        return self.threshold if self.graph is None else self.graph.threshold

    @cached_property
    def signatures_checked(self) -> int:
        """How many signatures under U3 a client verifies before it unmasks: t, or in a sparse graph a drawn sample."""
        if self.graph is None:
            return self.threshold
        return signatures_to_check(self.n, self.threshold, self.graph.colluders)

    @property
    def most_holders(self) -> int:
        """How many members hold shares of one dealer, at most."""
        return self.n if self.graph is None else self.graph.degree

    @cached_property
    def roster_hash(self) -> bytes:
        return roster_hash(self.roster, self.server_public_key)

    @cached_property
    def parameters_hash(self) -> bytes:
        """SHA-256 over every field: the start of the transcript chain."""
        return digest(
            "parameters",
            encode(
                [
                    self.session,
                    self.round,
                    self.roster_hash,
                    self.threshold,
                    self.ring_bits,
                    list(self.lengths),
                    self.policy_hash,
                    graph_items(self.graph),
                ]
            ),
        )

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """Little-endian uint32 or uint64."""
        return np.dtype("<u4" if self.ring_bits == 32 else "<u8")

    def vector_bytes(self, j: int) -> int:
        return self.lengths[j] * self.ring_bits // 8

    def name_of(self, member: int) -> str:
        """The name behind an id (0 is the server)."""
        return "server" if member == SERVER else self.roster[member - 1].name

    def key_of(self, member: int) -> bytes:
        return self.server_public_key if member == SERVER else self.roster[member - 1].public_key

    def id_of(self, name: str) -> int:
        """The id of a member; raises KeyError for a stranger."""
        return self._ids[name]

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {member.name: index + 1 for index, member in enumerate(self.roster)}

    @property
    def sealed_bytes(self) -> int:
        """Size of one sealed share: per sum two (share, salt) pairs, and the tag."""
        return self.sums * 2 * (SHARE_BYTES + SALT_BYTES) + TAG_BYTES

    @property
    def message_limit(self) -> int:
        """No signed message is larger (the largest, ShareKeys, carries (2h + 1)S + h digests for h holders)."""
        holders = self.most_holders
        return 1024 + HASH_BYTES * (2 * holders * self.sums + holders) + 40 * 4 * self.sums + 2 * ID_BYTES * self.n

    @property
    def reply_limit(self) -> int:
        """No packet of a client is larger: its sealed shares, its vector, or an opening of every member's secret."""
        attachments = (
            self.most_holders * self.sealed_bytes,
            max(self.lengths) * self.ring_bits // 8,
            self.n * (SHARE_BYTES + SALT_BYTES),
        )
        return self.message_limit + max(attachments) + 64

    @property
    def packet_limit(self) -> int:
        """No packet is larger: of each of n members a message, a sealed share, a digest and two openings."""
        each = self.message_limit + self.sealed_bytes + HASH_BYTES + 2 * (SHARE_BYTES + SALT_BYTES) + 32
        attachments = self.n * each
        return self.message_limit + attachments + max(self.lengths) * self.ring_bits // 8 + 4096


@dataclass(frozen=True)
class PolicyFloors:
    """The least that one client accepts, whatever a policy says. Kept by the client, never sent by the server.

    Of a sparse graph: how many members there must be, which part of them it must allow for as colluders, and how
    improbable its failure must be against those.
    """

    least_roster: int = 3
    least_threshold: int = 2
    least_ring_bits: int = 32
    least_colluders: int = 0
    least_sparse_roster: int = LEAST_MEMBERS
    least_sparse_corruption: float = 0.05
    least_graph_bits: float = PRIVACY_BITS

    def check(self, parameters: SessionParameters) -> None:
        """Raise ParameterError (policy-floor) when the parameters are weaker."""
        for what, found, least in (
            ("members in the roster", parameters.n, self.least_roster),
            ("threshold", parameters.threshold, self.least_threshold),
            ("ring bits", parameters.ring_bits, self.least_ring_bits),
            ("colluders allowed for", parameters.colluders, self.least_colluders),
        ):
            if found < least:
                raise ParameterError(
                    Code.POLICY_FLOOR,
                    f"{what}: {found}; this member accepts no less than {least}",
                    hint="agree on a stronger policy, or lower this member's own floor knowingly",
                )
        if parameters.graph is not None:
            for what, found, least in (
                ("members in a sparse graph", parameters.n, self.least_sparse_roster),
                (
                    "colluders that a sparse graph allows for",
                    parameters.graph.colluders,
                    math.floor(self.least_sparse_corruption * parameters.n),
                ),
            ):
                if found < least:
                    raise ParameterError(
                        Code.POLICY_FLOOR,
                        f"{what}: {found}; this member accepts no less than {least}",
                        hint="use the complete graph, or a stronger sparse one (`primitives.graph.choose_graph`)",
                    )
            bits = privacy_bits(parameters.n, parameters.graph)
            if bits < self.least_graph_bits:
                raise ParameterError(
                    Code.POLICY_FLOOR,
                    f"a sparse graph that fails with probability 2^-{bits:.1f}; this member accepts no more than "
                    f"2^-{self.least_graph_bits:g}",
                    hint="raise the degree or the graph's threshold (`primitives.graph.choose_graph` finds both)",
                )


def sum_digest(vector: np.ndarray) -> bytes:
    """H(sum) or H(y), 32 bytes: SHA-256 over word size, count and little-endian words of uint32/uint64[d]."""
    width = vector.dtype.itemsize
    if vector.ndim != 1 or vector.dtype.kind != "u" or width not in (4, 8):
        raise ParameterError(Code.BAD_INPUT, "a masked vector or a sum is uint32[d] or uint64[d]")
    words = np.ascontiguousarray(vector, dtype=f"<u{width}")
    state = hashlib.sha256(b"fedgan-secure/secure-aggregation/v1/vector\x00")
    state.update(bytes([width]) + vector.size.to_bytes(8, "big"))
    state.update(words.data)
    return state.digest()
