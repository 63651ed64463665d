"""What a server and its colluders can compute from all that they were given: linear algebra over mask streams.

A member that releases y_u = x_u + sum of signed streams gives the adversary one equation per sum. Streams whose keys
the adversary can derive are known; the others are unknowns. A combination of equations in which every unknown
cancels is a sum that the adversary learns, whatever the protocol calls it. The rule that must hold (Bonawitz et al.
2017, section 6): per sum at most one such combination, every coefficient the same, over at least t members less the
colluders, all of one model, and only after as many members agreed to unmask.

The streams are seen where they are used: the protocol's own functions are wrapped, innermost, so that a fault that is
seeded on top of them is seen as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedgan_protocols import masking
from fedgan_protocols.client import setup as client_setup
from fedgan_protocols.parameters import SHARE_BYTES, SessionParameters
from fedgan_protocols.primitives import shamir

_PRIME = (1 << 61) - 1


class Violation(AssertionError):  # noqa: N818 - it is not the tested code's error
    """The protocol broke a promise."""


def require(condition: bool, message: str) -> None:
    if not condition:
        raise Violation(message)


@dataclass
class View:
    """Everything that was made in one round, and what of it has left a member."""

    parameters: SessionParameters
    colluders: frozenset[int] = frozenset()
    acting: int = 0
    openings: dict[tuple[int, int, int, str], bytes] = field(default_factory=dict)
    """(dealer, holder, sum, kind) -> share || salt, as it was dealt."""
    pair_of: dict[bytes, tuple[int, int, int]] = field(default_factory=dict)
    """pair seed -> (sum, lower id, higher id)."""
    seed_of: dict[bytes, bytes] = field(default_factory=dict)
    """stream key -> the seed that it came from."""
    terms: dict[tuple[int, int], list[tuple[bytes, int]]] = field(default_factory=dict)
    """(member, sum) -> signed stream keys that were added to its vector."""
    inputs: dict[tuple[int, int], bytes] = field(default_factory=dict)
    masked: dict[tuple[int, int], bytes] = field(default_factory=dict)
    models: dict[tuple[int, int], bytes] = field(default_factory=dict)
    """(member, sum) -> the model that the member was given."""
    released: set[tuple[int, int, int, str]] = field(default_factory=set)
    """Openings that were seen in the clear in something that an honest member released."""
    agreed: dict[int, set[int]] = field(default_factory=dict)
    """sum -> honest members that released shares of it."""
    masking_sum: int = 0

    def share_made(self, j: int, kind: str, dealer: int, holder: int, opening: bytes) -> None:
        if dealer != self.acting:
            return  # somebody checks a commitment
        known = self.openings.setdefault((dealer, holder, j, kind), opening)
        require(known == opening or dealer in self.colluders, f"member {dealer} dealt its shares of sum {j} twice")

    def vector_masked(self, before: bytes, after: bytes, terms: list[tuple[bytes, int]]) -> None:
        place = (self.acting, self.masking_sum)
        if not self.acting or self.acting in self.colluders:
            return
        require(place not in self.masked, f"member {place[0]} masked its vector of sum {place[1]} twice")
        self.terms[place], self.inputs[place], self.masked[place] = terms, before, after

    def reply_released(self, member: int, reply: bytes) -> None:
        """Look for shares in the clear in what an honest member releases: never both kinds of one peer and sum."""
        for place, opening in self.openings.items():
            dealer, holder, j, kind = place
            if holder == member and place not in self.released and opening in reply:
                self.released.add(place)
                self.agreed.setdefault(j, set()).add(member)
                other = (dealer, holder, j, "seed" if kind == "key" else "key")
                require(
                    other not in self.released,
                    f"member {member} released both kinds of share of member {dealer} in sum {j}",
                )

    def _secrets(self) -> dict[tuple[int, int, str], bytes]:
        """(dealer, sum, kind) -> every secret that released shares and the colluders' own rebuild."""
        shares: dict[tuple[int, int, str], dict[int, int]] = {}
        for place, opening in self.openings.items():
            dealer, holder, j, kind = place
            if place in self.released or holder in self.colluders:
                shares.setdefault((dealer, j, kind), {})[holder] = int.from_bytes(opening[:SHARE_BYTES], "big")
        threshold = share_threshold(self.parameters)
        return {
            what: (shamir.reconstruct(held, threshold) & (1 << 256) - 1).to_bytes(32, "big")
            for what, held in shares.items()
            if len(held) >= threshold
        }

    def _known(self, key: bytes, secrets: Mapping[tuple[int, int, str], bytes], seeds: set[bytes]) -> bool:
        seed = self.seed_of[key]
        if seed in seeds:
            return True
        if seed not in self.pair_of:
            return False
        j, *pair = self.pair_of[seed]
        return any(member in self.colluders or (member, j, "key") in secrets for member in pair)

    def learned(self, j: int) -> list[dict[int, int]]:
        """A basis of what the adversary can compute of sum j: combinations {member: coefficient} of honest inputs."""
        secrets = self._secrets()
        seeds = {secret for (_, _, kind), secret in secrets.items() if kind == "seed"}
        members = sorted(member for member, i in self.terms if i == j)
        unknown: dict[bytes, int] = {}
        rows = []
        for place, member in enumerate(members):
            row: dict[int, int] = {}
            for key, sign in self.terms[member, j]:
                if not self._known(key, secrets, seeds):
                    column = unknown.setdefault(key, len(unknown))
                    row[column] = (row.get(column, 0) + sign) % _PRIME
            rows.append((row, {place: 1}))
        return [
            {members[place]: value if value < _PRIME // 2 else value - _PRIME for place, value in made.items()}
            for made in _left_null_space(rows, len(unknown))
        ]

    def check(self, j: int) -> None:
        """Raise Violation when the adversary learns anything of sum j but one sum over enough members."""
        combinations = self.learned(j)
        require(len(combinations) <= 1, f"the server learns {len(combinations)} different sums of sum {j}")
        for combination in combinations:
            require(len(set(combination.values())) == 1, f"the server learns a difference of inputs of sum {j}")
            least = self.parameters.threshold - len(self.colluders)
            require(len(combination) >= least, f"the server learns a sum of {len(combination)} honest inputs")
            models = {self.models.get((member, j)) for member in combination}
            require(len(models) == 1, f"the server learns a sum over updates of {len(models)} models")
            agreed = len(self.agreed.get(j, set()))
            require(agreed >= least, f"the server learns sum {j} when {agreed} honest members agreed")

    def secrets_made(self) -> list[bytes]:
        """What must never be published: shares, seeds and inputs."""
        return (
            [one[:SHARE_BYTES] for one in self.openings.values()]
            + list(self.seed_of.values())
            + [value for value in self.inputs.values() if len(value) >= 12]
        )


def share_threshold(parameters: SessionParameters) -> int:
    """How many shares rebuild a secret: t, or a sparse graph's own threshold."""
    return int(getattr(parameters, "share_threshold", parameters.threshold))


def _left_null_space(rows: list[tuple[dict[int, int], dict[int, int]]], columns: int) -> list[dict[int, int]]:
    """Gaussian elimination over a prime field; each row carries which input rows it is made of."""
    rows = [(dict(row), dict(made)) for row, made in rows]
    for column in range(columns):
        place = next((index for index, (row, _) in enumerate(rows) if row.get(column)), None)
        if place is None:
            continue
        pivot, made = rows.pop(place)
        inverse = pow(pivot[column], -1, _PRIME)
        for row, parts in rows:
            factor = row.get(column, 0) * inverse % _PRIME
            if factor:
                for target, source in ((row, pivot), (parts, made)):
                    for index, value in source.items():
                        target[index] = (target.get(index, 0) - factor * value) % _PRIME
    return [_normalised({index: value for index, value in made.items() if value}) for _, made in rows]


def _normalised(combination: dict[int, int]) -> dict[int, int]:
    scale = pow(combination[min(combination)], -1, _PRIME)
    return {index: value * scale % _PRIME for index, value in combination.items()}


class Observer:
    """The wrapped functions report to the view of the round that is being played."""

    view: View | None = None


@contextmanager
def observed() -> Iterator[type[Observer]]:
    """Wrap the protocol's functions while the context lasts; `Observer.view` is whom they report to."""
    real: dict[str, Any] = {
        "commit": client_setup.share_commitment,
        "pair_seed": masking.pair_seed,
        "stream_key": masking.stream_key,
        "add_streams": masking.add_streams,
    }

    def commit(parameters: SessionParameters, j: int, kind: str, dealer: int, holder: int, opening: bytes) -> bytes:
        if Observer.view is not None:
            Observer.view.share_made(j, kind, dealer, holder, opening)
        return real["commit"](parameters, j, kind, dealer, holder, opening)

    def pair_seed(parameters: SessionParameters, shared: bytes, t1: bytes, j: int, u: int, v: int, *rest: Any) -> bytes:
        seed: bytes = real["pair_seed"](parameters, shared, t1, j, u, v, *rest)
        if Observer.view is not None:
            Observer.view.pair_of[seed] = (j, min(u, v), max(u, v))
        return seed

    def stream_key(parameters: SessionParameters, seed: bytes, j: int, label: str) -> bytes:
        key: bytes = real["stream_key"](parameters, seed, j, label)
        if Observer.view is not None:
            Observer.view.seed_of[key] = seed
            Observer.view.masking_sum = j
        return key

    def add_streams(vector: np.ndarray, terms: Any, **options: Any) -> None:
        listed, before = list(terms), vector.tobytes()
        real["add_streams"](vector, listed, **options)
        if Observer.view is not None:
            Observer.view.vector_masked(before, vector.tobytes(), listed)

    client_setup.share_commitment = commit
    masking.pair_seed, masking.stream_key, masking.add_streams = pair_seed, stream_key, add_streams
    try:
        yield Observer
    finally:
        Observer.view = None
        client_setup.share_commitment = real["commit"]
        masking.pair_seed, masking.stream_key = real["pair_seed"], real["stream_key"]
        masking.add_streams = real["add_streams"]
