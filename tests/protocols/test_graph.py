"""The sparse graph's arithmetic against exact fractions, and its draws against a second reading of their definition."""

from __future__ import annotations

import hashlib
import itertools
import math
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import lru_cache

import pytest

from fedgan_protocols import Code, ParameterError, ProtocolError
from fedgan_protocols.primitives.graph import (
    SparseGraph,
    availability_bits,
    choose_graph,
    draw,
    draw_bytes,
    holders,
    log_tail,
    privacy_bits,
    signatures_to_check,
)
from fedgan_protocols.primitives.shamir import EntropyPool


def stream(seed: str, size: int) -> bytes:
    return hashlib.shake_256(seed.encode()).digest(size)


# --- the formulas of the module's docstring, in exact arithmetic


@lru_cache(maxsize=1 << 16)
def tail(population: int, marked: int, draws: int, least: int) -> Fraction:
    """P[Hypergeometric(population, marked, draws) >= least]."""
    marked = min(marked, population)
    ways = sum(
        math.comb(marked, hits) * math.comb(population - marked, draws - hits)
        for hits in range(max(0, least), min(draws, marked) + 1)
    )
    return Fraction(ways, math.comb(population, draws))


def failure_bound(n: int, k: int, t: int, c: int) -> Decimal:
    """The largest over c' = 0 .. c of the sum over m = 1 .. (n - c') / 2 of
    C(n - c', m) * P[Hypergeometric(n - 1, m - 1 + c', k) >= t]^m.

    The probabilities are exact fractions, their powers and the sum have 60 digits.
    """
    return max(failure_bound_of_exactly(n, k, t, fewer) for fewer in range(c + 1))


def failure_bound_of_exactly(n: int, k: int, t: int, c: int) -> Decimal:
    with localcontext() as context:
        context.prec = 60
        total = Decimal(0)
        for m in range(1, (n - c) // 2 + 1):
            each = tail(n - 1, m - 1 + c, k, t)
            total += math.comb(n - c, m) * (Decimal(each.numerator) / Decimal(each.denominator)) ** m
        return total


def loss_bound(n: int, k: int, t: int, lost: int) -> Fraction:
    """Some member loses more than k - t of its neighbours when `lost` others stop."""
    return n * tail(n - 1, min(lost, n - 1), k, k - t + 1)


def bits(probability: Fraction | Decimal) -> float:
    """-log2, without an underflow; at least 0."""
    if probability == 0:
        return math.inf
    if isinstance(probability, Decimal):
        with localcontext() as context:
            context.prec = 60
            return max(0.0, float(-probability.ln() / Decimal(2).ln()))
    return max(0.0, math.log2(probability.denominator) - math.log2(probability.numerator))


SETTINGS = [
    (n, k, t, c)
    for n in (3, 4, 5, 7, 12, 30, 101)
    for k in (1, 2, 3, 6, 11, 20, 29, 60, 100)
    for t in (1, 2, 3, 5, 7, 9, 11, 15, 20, 26, 33, 47, 60)
    for c in (0, 1, 3, 10, 33)
    if k < n and t <= k and 2 * c < n
]


def test_the_settings_reach_both_ends_and_the_middle() -> None:
    found = [bits(failure_bound(*one)) for one in SETTINGS]
    assert sum(value == 0 for value in found) > 30
    assert sum(0 < value < 40 for value in found) > 30
    assert sum(40 < value < math.inf for value in found) > 30
    assert math.inf in found


def test_the_privacy_bound_is_the_formula() -> None:
    for n, k, t, c in SETTINGS:
        expected = bits(failure_bound(n, k, t, c))
        assert privacy_bits(n, SparseGraph(k, t, c)) == pytest.approx(expected, abs=1e-6, rel=1e-9), (n, k, t, c)


def test_a_bound_of_a_thousand_members() -> None:
    for k, t, c in ((100, 58, 20), (60, 40, 5), (140, 90, 0)):
        expected = bits(failure_bound(1000, k, t, c))
        assert privacy_bits(1000, SparseGraph(k, t, c)) == pytest.approx(expected, abs=1e-6)


def test_no_bound_is_claimed_where_it_says_nothing() -> None:
    assert privacy_bits(10, SparseGraph(10, 9, 0)) == 0.0  # more neighbours than others
    assert privacy_bits(10, SparseGraph(9, 9, 5)) == 0.0  # half of the members collude
    assert privacy_bits(10, SparseGraph(9, 1, 0)) == 0.0


def test_the_availability_bound_is_the_formula() -> None:
    for n, k, t, lost in SETTINGS:
        expected = bits(loss_bound(n, k, t, lost))
        assert availability_bits(n, SparseGraph(k, t, 0), lost) == pytest.approx(expected, abs=1e-6, rel=1e-9)
    assert availability_bits(5, SparseGraph(4, 1, 0), 9) == 0.0


def test_the_hypergeometric_tail_is_exact() -> None:
    for population, marked, draws in itertools.product((1, 2, 5, 9), (0, 1, 4, 9), (0, 1, 3, 9)):
        if marked > population or draws > population:
            continue
        for least in range(-1, draws + 2):
            exact = tail(population, marked, draws, least)
            found = log_tail(population, marked, draws, least)
            assert (0.0 if found == -math.inf else 2.0**found) == pytest.approx(float(exact), abs=1e-12)
            assert (found == -math.inf) == (exact == 0)


def test_bounds_move_the_way_they_must() -> None:
    """More shares to rebuild: harder for colluders, easier to lose. More colluders or losses: worse."""
    for n, k in ((30, 12), (101, 40)):
        for c in (0, 3, 9):
            private = [privacy_bits(n, SparseGraph(k, t, c)) for t in range(1, k + 1)]
            assert private == sorted(private)
        lasting = [availability_bits(n, SparseGraph(k, t, 0), 5) for t in range(1, k + 1)]
        assert lasting == sorted(lasting, reverse=True)
        for t in (6, 9):
            assert (by_c := [privacy_bits(n, SparseGraph(k, t, c)) for c in range(n // 2)]) == sorted(by_c)[::-1]
            lost = [availability_bits(n, SparseGraph(k, t, 0), one) for one in range(n)]
            assert lost == sorted(lost, reverse=True)


# --- how many signatures


def enough_checks(n: int, threshold: int, c: int) -> int:
    """The least s with n * C(floor((n + c) / 2), s) / C(T, s) <= 2^-60, else T."""
    valid = (n + c) // 2
    for s in range(1, threshold):
        if Fraction(n * math.comb(valid, s), math.comb(threshold, s)) <= Fraction(1, 2**60):
            return s
    return threshold


def test_the_number_of_signatures_to_check_is_the_formula() -> None:
    found = set()
    for n in (5, 12, 100, 101, 300, 1000):
        for threshold in {n // 2 + 1, 2 * n // 3, 2 * n // 3 + 1, 3 * n // 4, 9 * n // 10, n - 1, n}:
            for c in {0, 1, n // 10, n // 4, 2 * threshold - n - 1}:
                if not 0 <= c <= 2 * threshold - n - 1:
                    continue
                expected = enough_checks(n, threshold, c)
                assert signatures_to_check(n, threshold, c) == expected, (n, threshold, c)
                found.add(expected < threshold)
    assert found == {False, True}


def test_a_smaller_view_never_passes_for_certain() -> None:
    """Where c <= 2T - n - 1 holds, the smaller view has at least one signature too few."""
    for n in range(3, 60):
        for threshold in range(n // 2 + 1, n + 1):
            assert (n + 2 * threshold - n - 1) // 2 < threshold


# --- the choice of a graph


@pytest.mark.parametrize(
    ("n", "gamma", "delta", "least"), [(100, 0.0, 0.05, 40), (100, 0.1, 0.05, 40), (120, 0.2, 0.0, 30)]
)
def test_the_chosen_graph_holds_its_bounds_and_no_smaller_degree_does(
    n: int, gamma: float, delta: float, least: int
) -> None:
    graph = choose_graph(n, gamma, delta, least_privacy_bits=least)
    c, lost = math.floor(gamma * n), math.ceil(delta * n)
    assert graph.colluders == c
    assert failure_bound(n, graph.degree, graph.threshold, c) <= Decimal(1) / 2**least
    assert loss_bound(n, graph.degree, graph.threshold, lost) <= Fraction(1, 2**20)
    for k in range(1, graph.degree):
        for t in range(1, k + 1):
            available = loss_bound(n, k, t, lost) <= Fraction(1, 2**20)
            assert not (available and failure_bound(n, k, t, c) <= Decimal(1) / 2**least), (k, t)


def test_what_a_larger_rate_or_more_bits_cost() -> None:
    cheap = choose_graph(150, 0.05, 0.05)
    assert choose_graph(150, 0.2, 0.05).degree > cheap.degree
    assert choose_graph(150, 0.05, 0.15).degree > cheap.degree
    assert choose_graph(150, 0.05, 0.05, least_privacy_bits=60).degree > cheap.degree
    longer = choose_graph(150, 0.05, 0.15, least_availability_bits=40)
    assert longer.degree > choose_graph(150, 0.05, 0.15).degree


@pytest.mark.parametrize(
    ("n", "gamma", "delta"),
    [(100, 0.5, 0.1), (100, 0.1, 0.5), (100, -0.1, 0.1), (100, 0.1, -0.1), (2, 0.0, 0.0), (100, math.nan, 0.1)],
)
def test_rates_that_are_no_rates_are_refused(n: int, gamma: float, delta: float) -> None:
    with pytest.raises(ParameterError) as caught:
        choose_graph(n, gamma, delta)
    assert caught.value.code is Code.BAD_PARAMETERS


def test_rates_that_no_sparse_graph_meets_are_refused_with_what_to_do() -> None:
    with pytest.raises(ParameterError) as caught:
        choose_graph(50, 0.45, 0.45)
    assert caught.value.code is Code.BAD_PARAMETERS and "complete graph" in str(caught.value.hint)


@pytest.mark.parametrize(("degree", "threshold", "colluders"), [(3, 4, 0), (3, 0, 0), (0, 0, 0), (3, 2, -1)])
def test_graphs_that_cannot_be_are_refused(degree: int, threshold: int, colluders: int) -> None:
    with pytest.raises(ParameterError) as caught:
        SparseGraph(degree, threshold, colluders)
    assert caught.value.code is Code.BAD_PARAMETERS


# --- draws


def second_draw(candidates: list[int], count: int, data: bytes) -> tuple[int, ...]:
    """The same from its definition: 8-byte big-endian numbers, those beyond the last full multiple skipped."""
    numbers = iter(int.from_bytes(data[at : at + 8], "big") for at in range(0, len(data), 8))
    rest, taken = list(candidates), []
    for place in range(count):
        left = len(rest) - place
        number = next(one for one in numbers if one < 2**64 - 2**64 % left)
        other = place + number % left
        rest[place], rest[other] = rest[other], rest[place]
        taken.append(rest[place])
    return tuple(sorted(taken))


def test_a_draw_is_specified_by_its_bytes() -> None:
    for number in range(300):
        size = 2 + number % 40
        count = 1 + number % size
        data = stream(f"bytes {number}", draw_bytes(count))
        candidates = [3 * one + 1 for one in range(size)]
        pool = EntropyPool(data)
        drawn = draw(candidates, count, pool)
        assert drawn == second_draw(candidates, count, data)
        assert len(set(drawn)) == count and set(drawn) <= set(candidates) and list(drawn) == sorted(drawn)
        assert pool.used == 8 * count  # nothing is refused here, and nothing else is read


def test_a_number_beyond_the_last_full_multiple_is_refused() -> None:
    """Of three candidates: 2^64 - 1 is a multiple of 3, so the number 2^64 - 1 alone is refused."""
    for skipped in (0, 1, 4):
        for index in range(3):
            data = (b"\xff" * 8) * skipped + index.to_bytes(8, "big")
            pool = EntropyPool(data)
            assert draw([5, 6, 7], 1, pool) == (5 + index,) and pool.used == len(data)
    last = (2**64 - 2).to_bytes(8, "big")
    assert draw([5, 6, 7], 1, EntropyPool(last)) == (5 + (2**64 - 2) % 3,)
    with pytest.raises(ProtocolError) as caught:
        draw([5, 6, 7], 1, EntropyPool(b"\xff" * draw_bytes(1)))
    assert caught.value.code is Code.ENTROPY


def test_draws_are_uniform_over_sets() -> None:
    """Pearson's chi-square over all 35 sets of 3 of 7, 14 000 draws: beyond 87.0 with probability below 3e-6.

    34 degrees of freedom; by Wilson and Hilferty's cube root 87.0 is 4.63 standard deviations up. The bytes are fixed,
    so the test does not flicker.
    """
    draws, pool = 14_000, EntropyPool(stream("uniform", 14_000 * 24))
    counts = dict.fromkeys(itertools.combinations(range(1, 8), 3), 0)
    for _ in range(draws):
        counts[draw(range(1, 8), 3, pool)] += 1  # type: ignore[index]
    expected = draws / len(counts)
    statistic = sum((count - expected) ** 2 for count in counts.values()) / expected
    freedom = len(counts) - 1
    deviation = ((87.0 / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    assert math.erfc(deviation / math.sqrt(2)) / 2 < 3e-6
    assert statistic < 87.0
    biased = {**counts, (1, 2, 3): counts[1, 2, 3] + 200}  # half as often again: the statistic would see it
    assert sum((count - expected) ** 2 for count in biased.values()) / expected > 87.0


def test_who_holds_shares() -> None:
    assert holders(None, (1, 3, 4)) == (1, 3, 4)
    assert holders((2, 3, 9), (1, 3, 4, 9)) == (3, 9)
    assert holders((2, 3, 9), (1, 3, 4, 9), frozenset({9})) == (9,)
    assert holders((2,), (1, 3)) == ()
