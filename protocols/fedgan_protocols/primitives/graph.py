"""The sparse graph of Bell et al. 2020 (CCS, section 4, "SecAgg+" against a malicious server): who masks with whom.

Every member draws `degree` neighbours itself, uniformly without replacement among the other members of the roster, and
signs them with its keys. The server chooses nothing and cannot grind: an honest member's draw depends on nobody. A
member shares its secrets with the neighbours that it drew (its *holders*), `threshold` of which rebuild them, and masks
with them and with those who drew it (its *peers*).

What may go wrong is the luck of the draw, bounded here for any fixed set of at most `colluders` members, chosen before
the draw, and over every U1, U2 and U3 that the server could pick after it (the proof is in docs/protocol.md, "The
sparse graph")::

    P[fail] <= max over c' = 0 .. c of
               sum over m = 1 .. (n - c') / 2 of C(n - c', m) * P[Hypergeometric(n - 1, m - 1 + c', k) >= t]^m

"Fail": the server learns anything but one sum over more than (n - c)/2 honest members. Its term m = 1 also covers a
secret that colluders hold enough shares of. That all honest members unmask one U3 rests on the global threshold T, with
c <= 2T - n - 1 as in the complete graph: of the at least T signatures that the server shows, each member verifies as
many, drawn by itself, as `signatures_to_check` says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fedgan_protocols.errors import Code, ParameterError
from fedgan_protocols.primitives.shamir import EntropyPool

LEAST_MEMBERS = 100
"""Below this the complete graph is cheap, and its claim needs no luck."""
PRIVACY_BITS = 40
AGREEMENT_BITS = 60
AVAILABILITY_BITS = 20
_DRAW_BYTES = 8
_TABLE = 8192


@dataclass(frozen=True)
class SparseGraph:
    """Neighbours that a member draws, how many of them rebuild its secrets, and colluders that the claim allows for."""

    degree: int
    threshold: int
    colluders: int

    def __post_init__(self) -> None:
        if not 1 <= self.threshold <= self.degree:
            raise ParameterError(
                Code.BAD_PARAMETERS, f"{self.threshold} of {self.degree} neighbours cannot rebuild a secret"
            )
        if self.colluders < 0:
            raise ParameterError(Code.BAD_PARAMETERS, "the number of colluders is not negative")


def draw(candidates: Sequence[int], count: int, pool: EntropyPool) -> tuple[int, ...]:
    """`count` distinct ones of the candidates, uniformly (a partial Fisher-Yates shuffle), ascending.

    Every number comes from 8 bytes by rejection, so it is exactly uniform. Raises ProtocolError (entropy).
    """
    shuffled = list(candidates)
    for place in range(count):
        chosen = place + _draw_below(len(shuffled) - place, pool)
        shuffled[place], shuffled[chosen] = shuffled[chosen], shuffled[place]
    return tuple(sorted(shuffled[:count]))


def draw_bytes(count: int) -> int:
    """How many random bytes `draw` may use: one number beyond the need is refused with probability below 2^-51."""
    return (count + 4) * _DRAW_BYTES


def _draw_below(bound: int, pool: EntropyPool) -> int:
    ceiling = (1 << 8 * _DRAW_BYTES) // bound * bound
    while True:
        drawn = int.from_bytes(pool.take(_DRAW_BYTES), "big")
        if drawn < ceiling:
            return drawn % bound


def holders(drawn: Sequence[int] | None, u1: Sequence[int], present: frozenset[int] | None = None) -> tuple[int, ...]:
    """Who in U1 (ascending) holds shares of a dealer that drew these neighbours; None: the complete graph, so all."""
    if drawn is None:
        return tuple(u1)
    present = frozenset(u1) if present is None else present
    return tuple(member for member in drawn if member in present)


# --- the bounds, in log2


@lru_cache(maxsize=8)
def _log_factorials(count: int) -> tuple[float, ...]:
    values = [0.0]
    for number in range(1, count + 1):
        values.append(values[-1] + math.log2(number))
    return tuple(values)


def _log_choose(n: int, k: int) -> float:
    if k < 0 or k > n:
        return -math.inf
    table = _log_factorials(_TABLE if n <= _TABLE else n)
    return table[n] - table[k] - table[n - k]


def _log_sum(terms: Sequence[float]) -> float:
    largest = max(terms, default=-math.inf)
    if largest == -math.inf:
        return -math.inf
    return largest + math.log2(math.fsum(2.0 ** (term - largest) for term in terms))


def log_tail(population: int, marked: int, draws: int, least: int) -> float:
    """log2 P[at least `least` of `draws` without replacement are marked], at most 0; -inf where it cannot be."""
    if least <= 0:
        return 0.0
    base = _log_choose(population, draws)
    terms = [
        _log_choose(marked, hits) + _log_choose(population - marked, draws - hits) - base
        for hits in range(least, min(draws, marked) + 1)
    ]
    return min(0.0, _log_sum(terms))


def _log_tails(population: int, draws: int, least: int) -> np.ndarray:
    """`log_tail` for every number of marked members from 0 to `population`: float64[population + 1]."""
    table = np.array(_log_factorials(_TABLE if population <= _TABLE else population)[: population + 1])
    marked = np.arange(population + 1)
    base = _log_choose(population, draws)
    tails = np.full(population + 1, -np.inf)
    for hits in range(max(least, 0), draws + 1):
        possible = marked[(marked >= hits) & (population - marked >= draws - hits)]
        rest, missed = population - possible, draws - hits
        inside = table[possible] - table[hits] - table[possible - hits]
        outside = table[rest] - table[missed] - table[rest - missed]
        tails[possible] = np.logaddexp2(tails[possible], inside + outside - base)
    return np.minimum(tails, 0.0)


@lru_cache(maxsize=512)
def privacy_bits(members: int, graph: SparseGraph) -> float:
    """-log2 of the bound above: how improbable it is that a drawn graph lets a lying server learn more than one sum."""
    if graph.degree >= members or 2 * graph.colluders >= members:
        return 0.0
    tails = _log_tails(members - 1, graph.degree, graph.threshold)
    table = np.array(_log_factorials(_TABLE if members <= _TABLE else members)[: members + 1])
    worst = -np.inf
    for colluders in range(graph.colluders + 1):
        honest = members - colluders
        sizes = np.arange(1, honest // 2 + 1)
        sets = table[honest] - table[sizes] - table[honest - sizes]
        worst = max(worst, float(np.logaddexp2.reduce(sets + sizes * tails[sizes - 1 + colluders])))
    return max(0.0, -worst)


@lru_cache(maxsize=512)
def signatures_to_check(members: int, threshold: int, colluders: int) -> int:
    """How many of at least T signatures a member draws and verifies, so that two views of U3 cannot both pass.

    Honest members sign one view, so of two views one has at most floor((n + c)/2) valid signatures. Shown as T, they
    pass `s` checks without replacement with probability C(floor((n + c)/2), s) / C(T, s); `s` is the least that keeps
    this below 2^-60 for all members together, and T where none does (then the rule is the complete graph's).
    """
    valid = (members + colluders) // 2
    for count in range(1, threshold):
        log_each = _log_choose(valid, count) - _log_choose(threshold, count)
        if log_each + math.log2(members) <= -AGREEMENT_BITS:
            return count
    return threshold


def availability_bits(members: int, graph: SparseGraph, lost: int) -> float:
    """-log2 of a bound on P[some member's secret cannot be rebuilt] when `lost` members drop out independently of it.

    A union over members; `lost` counts everyone who stops at any stage. A server that wants to stop a round can.
    """
    log_each = log_tail(members - 1, min(lost, members - 1), graph.degree, graph.degree - graph.threshold + 1)
    return max(0.0, -(math.log2(members) + log_each))


def choose_graph(
    members: int,
    corruption: float,
    drop_out: float,
    *,
    least_privacy_bits: float = PRIVACY_BITS,
    least_availability_bits: float = AVAILABILITY_BITS,
) -> SparseGraph:
    """The smallest degree that holds both bounds for these rates (gamma and delta of Bell et al.), and its threshold.

    Args:
        corruption: at most floor(corruption * members) members collude with the server.
        drop_out: at most ceil(drop_out * members) members are lost over all stages.

    Raises:
        ParameterError: rates that are not rates, or that no graph below the complete one meets.
    """
    if not (0 <= corruption < 0.5 and 0 <= drop_out < 0.5) or members < 3:
        raise ParameterError(
            Code.BAD_PARAMETERS,
            f"corruption {corruption} and drop-out {drop_out} of {members} members; from 0 to below 0.5 is possible",
        )
    colluders, lost = math.floor(corruption * members), math.ceil(drop_out * members)
    for degree in range(2, members):
        for threshold in range(degree, 0, -1):
            graph = SparseGraph(degree, threshold, colluders)
            if availability_bits(members, graph, lost) < least_availability_bits:
                continue
            # the largest threshold that survives the drop-outs; a smaller one is easier for colluders
            if privacy_bits(members, graph) >= least_privacy_bits:
                return graph
            break
    raise ParameterError(
        Code.BAD_PARAMETERS,
        f"no sparse graph over {members} members holds {least_privacy_bits:g} bits against corruption {corruption:g} "
        f"and drop-out {drop_out:g}",
        hint="use the complete graph, or allow for lower rates",
    )
