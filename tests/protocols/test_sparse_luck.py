"""How often a drawn graph is bad, counted on small rosters beside the bound that is claimed.

An omnipotent adversary sees the honest draws, then picks U1, U2 and U3 (each inside the one before, U3 at least T
large) and which in-neighbours to hide from whom, and keeps every masked vector. By the definition it then holds

- of an honest member of U3 the seed, when enough of its holders are colluders or honest members of U3;
- of an honest member of U2 without U3 the mask key, likewise; of anybody both, when colluders alone are enough;
- of every honest member of U2 the vector, masked by its seed and with its honest peers in U2: whom it drew for certain,
  who drew it unless hidden.

A set of honest members is *closed* when its seeds are held and every mask that its members drew leads into the set or
is held: then its sum is known, whatever the rest does. The claim fails when a closed set has at most half of the
honest. (Two larger ones meet in a closed set, and without an edge between that and the rest, the rest is closed too.)
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

import pytest

from fedgan_protocols.primitives.graph import SparseGraph, availability_bits, draw, draw_bytes
from fedgan_protocols.primitives.shamir import EntropyPool

Draws = Mapping[int, int]
"""Of every honest member the set that it drew, as the sum of 2^id: so are all sets below."""


def mask(members: Iterable[int]) -> int:
    return sum(1 << member for member in members)


@dataclass(frozen=True)
class Game:
    """n members, of whom the last c collude; k neighbours, t of which rebuild; T sign one U3."""

    n: int
    k: int
    t: int
    c: int
    signers: int
    keeps_its_neighbours: bool = True
    """False: a member masks without whom it drew, should the server leave them out (a rule that is not ours)."""

    @property
    def honest(self) -> range:
        return range(1, self.n - self.c + 1)

    @property
    def half(self) -> int:
        return len(self.honest) // 2

    def bound(self) -> Fraction:
        """The bound of `fedgan_protocols.primitives.graph`, exactly."""
        return max(self._bound_of(c) for c in range(self.c + 1))

    def _bound_of(self, c: int) -> Fraction:
        total = Fraction(0)
        for m in range(1, (self.n - c) // 2 + 1):
            marked, ways = m - 1 + c, 0
            for hits in range(self.t, self.k + 1):
                ways += math.comb(marked, hits) * math.comb(self.n - 1 - marked, self.k - hits)
            total += math.comb(self.n - c, m) * Fraction(ways, math.comb(self.n - 1, self.k)) ** m
        return total

    def fails(self, draws: Draws) -> bool:
        """Whether some choice of the adversary leaves a closed set of at most half of the honest members."""
        return any(self._small_closed_set(draws, u2, u3) for u2, u3 in choices(self))

    def _small_closed_set(self, draws: Draws, u2: int, u3: int) -> bool:
        colluders = mask(range(self.n - self.c + 1, self.n + 1))
        seeds = keys = 0
        for member in self.honest:
            one = 1 << member
            if not u2 & one:
                continue
            if (draws[member] & colluders).bit_count() >= self.t:
                seeds, keys = seeds | one, keys | one
            elif (draws[member] & (colluders | u3)).bit_count() >= self.t:
                seeds, keys = (seeds | one, keys) if u3 & one else (seeds, keys | one)
        unknown = u2 & ~keys if self.keeps_its_neighbours else 0
        for first in self.honest:
            closed = 1 << first
            if not seeds & closed:
                continue
            grown = 0
            while grown != closed:
                grown = closed
                for member in self.honest:
                    if closed >> member & 1 and not keys >> member & 1:
                        closed |= draws[member] & unknown
            if closed & seeds == closed and closed.bit_count() <= self.half:
                return True
        return False


@lru_cache
def choices(game: Game) -> tuple[tuple[int, int], ...]:
    """All (U2, U3), of the honest members, that they go along with: T sign U3 together with the colluders.

    U1 is the union of U2 and whoever else; a holder outside U2 releases nothing, so U1 makes no difference.
    """
    found = []
    for last in itertools.product(range(3), repeat=len(game.honest)):
        u2, u3 = (mask(m for m, stage in zip(game.honest, last, strict=True) if stage >= least) for least in (1, 2))
        if u3.bit_count() + game.c >= game.signers:
            found.append((u2, u3))
    return tuple(found)


def every_draw(game: Game) -> Iterator[Draws]:
    """All the honest members' draws, each as likely as the others."""
    others = [[v for v in range(1, game.n + 1) if v != u] for u in game.honest]
    each = [[mask(one) for one in itertools.combinations(candidates, game.k)] for candidates in others]
    for chosen in itertools.product(*each):
        yield dict(zip(game.honest, chosen, strict=True))


def sampled_draws(game: Game, count: int) -> Iterator[Draws]:
    """Draws of the package itself, from fixed bytes."""
    pool = EntropyPool(hashlib.shake_256(repr(game).encode()).digest(count * game.n * draw_bytes(game.k)))
    others = {u: [v for v in range(1, game.n + 1) if v != u] for u in game.honest}
    for _ in range(count):
        yield {u: mask(draw(candidates, game.k, pool)) for u, candidates in others.items()}


def frequency(game: Game, draws: Iterable[Draws]) -> Fraction:
    found = [game.fails(one) for one in draws]
    return Fraction(sum(found), len(found))


SMALL = Game(5, 2, 2, 1, 4)
EXACT = [SMALL, Game(4, 2, 2, 1, 4), Game(5, 3, 3, 1, 5), Game(5, 2, 2, 2, 4), Game(5, 3, 3, 2, 4)]
SAMPLED = [
    Game(6, 2, 2, 1, 4),
    Game(6, 3, 3, 2, 5),
    Game(6, 4, 3, 0, 4),
    Game(7, 3, 3, 2, 5),
    Game(7, 4, 3, 1, 5),
    Game(7, 5, 4, 2, 5),
    Game(7, 3, 3, 1, 5),
]
"""T is the least that c <= 2T - n - 1 allows, so that the server may declare as many dead as ever."""


@pytest.mark.parametrize("game", EXACT, ids=str)
def test_every_draw_of_a_small_roster_counted(game: Game) -> None:
    """The exact probability of a bad draw is at most the bound, and where there is room not far below it."""
    found = frequency(game, every_draw(game))
    assert found <= game.bound()
    assert found >= game.bound() / 3


@pytest.mark.parametrize("game", SAMPLED, ids=str)
def test_sampled_draws_of_a_larger_roster(game: Game) -> None:
    """2000 draws of the package's own; five standard deviations above the bound: a false alarm below 3e-7."""
    count, bound = 2000, float(game.bound())
    assert game.c <= 2 * game.signers - game.n - 1 and bound < 1
    found = float(frequency(game, sampled_draws(game, count)))
    assert found <= bound + 5 * math.sqrt(bound * (1 - bound) / count)
    assert found > 0 or bound * count < 50


def test_other_rules_break_the_bound() -> None:
    """So the game would see it: a threshold of one, neighbours of the server's choice, neighbours that it may hide."""
    bound = SMALL.bound()
    assert frequency(replace(SMALL, t=1), every_draw(SMALL)) > 2 * bound
    assert frequency(replace(SMALL, keeps_its_neighbours=False), every_draw(SMALL)) == 1
    assert any(SMALL.fails(draws) for draws in every_draw(SMALL))  # what a server that chooses would choose
    assert (
        frequency(replace(SMALL, c=2), every_draw(replace(SMALL, c=2))) > bound
    )  # more colluders than were allowed for


def test_no_bad_draw_exists_where_the_bound_is_zero() -> None:
    for game in (Game(6, 4, 4, 1, 5), Game(6, 3, 3, 0, 4)):
        assert game.bound() == 0
        assert frequency(game, sampled_draws(game, 500)) == 0


@pytest.mark.parametrize(("n", "k", "t", "lost"), [(12, 6, 3, 4), (20, 8, 4, 5), (30, 8, 4, 7), (30, 8, 3, 6)])
def test_how_often_drop_outs_leave_a_secret_with_too_few_holders(n: int, k: int, t: int, lost: int) -> None:
    """The last `lost` members stop, whoever was drawn: 1500 draws, five standard deviations above the bound (3e-7)."""
    game, count = Game(n, k, t, 0, n), 1500
    gone = mask(range(n - lost + 1, n + 1))
    bound = 2.0 ** -availability_bits(n, SparseGraph(k, t, 0), lost)
    found = sum(
        any((drawn & ~gone).bit_count() < t for drawn in draws.values()) for draws in sampled_draws(game, count)
    )
    assert 0 < bound < 1
    assert found <= count * bound + 5 * math.sqrt(count * bound * (1 - bound))
    assert found > 0 or bound * count < 20
