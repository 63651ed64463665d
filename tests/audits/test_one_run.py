"""The lower bound of a one-run audit: known values, an independent computation, and how often it is wrong."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedgan_audits.accounting import one_run
from fedgan_audits.errors import RecordInvalid


def slow_p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Theorem 5.2 term by term, in whole binomial coefficients."""
    chance = 1 / (1 + math.exp(-epsilon))

    def mass(count: int) -> float:
        return math.comb(guesses, count) * chance**count * (1 - chance) ** (guesses - count)

    tail = math.fsum(mass(count) for count in range(right, guesses + 1))
    slopes = [math.fsum(mass(right - back) for back in range(1, i + 1)) / i for i in range(1, right + 1)]
    return min(1.0, tail + 2 * canaries * delta * max(slopes, default=0.0))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.data(), st.floats(0, 6), st.sampled_from([0.0, 1e-6, 1e-3, 0.1]))
def test_the_theorem_term_by_term(canaries: int, data: st.DataObject, epsilon: float, delta: float) -> None:
    guesses = data.draw(st.integers(0, canaries))
    right = data.draw(st.integers(0, guesses))
    found = one_run.p_value(canaries=canaries, guesses=guesses, right=right, epsilon=epsilon, delta=delta)
    assert found == pytest.approx(slow_p_value(canaries, guesses, right, epsilon, delta), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize(("guesses", "most"), [(100, 3.493), (1000, 5.809)])
def test_so_many_guesses_cannot_show_more(guesses: int, most: float) -> None:
    """For delta 0 the ceiling is the epsilon with (1 + e^-epsilon)^-guesses = 5 %."""
    found = one_run.ceiling(canaries=guesses, guesses=guesses, delta=0.0, confidence=0.95)
    assert found == pytest.approx(most, abs=1e-3)
    assert found == pytest.approx(-math.log(0.05 ** (-1 / guesses) - 1), abs=1e-5)


@pytest.mark.parametrize("epsilon", [0.0, 0.7, 3.0])
@pytest.mark.parametrize("guesses", [1, 20, 150])
def test_randomised_response_is_wronged_as_seldom_as_promised(epsilon: float, guesses: int) -> None:
    """Its guesses are right with probability exactly 1 / (1 + e^-epsilon): the bound is seldom above epsilon."""
    from scipy.stats import binom

    chance = 1 / (1 + math.exp(-epsilon))
    above = [
        right
        for right in range(guesses + 1)
        if one_run.least_epsilon(canaries=guesses, guesses=guesses, right=right, delta=0.0, confidence=0.95) > epsilon
    ]
    assert sum(binom.pmf(right, guesses, chance) for right in above) <= 0.05
    assert bool(above) == (chance**guesses < 0.05)  # else not even guesses that are all right are so unlikely


def test_a_mechanism_that_fails_with_probability_delta_is_wronged_as_seldom_as_promised() -> None:
    """With probability delta a coin is told outright, else randomised response: (epsilon, delta)-DP for each coin."""
    from scipy.stats import binom

    epsilon, delta, canaries = 1.0, 0.01, 120
    chance = delta + (1 - delta) / (1 + math.exp(-epsilon))
    told = {"canaries": canaries, "guesses": canaries, "delta": delta}
    wronged = sum(
        binom.pmf(right, canaries, chance)
        for right in range(canaries + 1)
        if one_run.least_epsilon(right=right, confidence=0.95, **told) > epsilon
    )
    assert wronged <= 0.05


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 80), st.data(), st.sampled_from([0.0, 1e-5, 1e-3]))
def test_more_right_guesses_show_more_and_a_larger_delta_less(canaries: int, data: st.DataObject, delta: float) -> None:
    right = data.draw(st.integers(0, canaries - 1))

    def least(right: int, delta: float, confidence: float = 0.95) -> float:
        return one_run.least_epsilon(
            canaries=canaries, guesses=canaries, right=right, delta=delta, confidence=confidence
        )

    found = least(right, delta)
    assert found <= least(right + 1, delta)
    assert found >= least(right, delta * 2 + 1e-6) and found >= least(right, delta, 0.99)
    assert found <= one_run.ceiling(canaries=canaries, guesses=canaries, delta=delta, confidence=0.95)
    if found > 0:
        told = {"canaries": canaries, "guesses": canaries, "right": right, "delta": delta}
        assert one_run.p_value(epsilon=found, **told) <= 0.05 + 1e-9  # type: ignore[arg-type]
        assert one_run.p_value(epsilon=found + 1e-4, **told) >= 0.05 - 1e-9  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [{"right": 11}, {"guesses": 21}, {"right": -1}, {"canaries": 0, "guesses": 0, "right": 0}, {"delta": -0.1},
     {"delta": 1.0}, {"delta": math.nan}],
)  # fmt: skip
def test_counts_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    sound = {"canaries": 20, "guesses": 10, "right": 9, "delta": 1e-5}
    with pytest.raises(RecordInvalid):
        one_run.p_value(**{**sound, **wrong}, epsilon=1.0)  # type: ignore[arg-type]
    with pytest.raises(RecordInvalid):
        one_run.least_epsilon(**{**sound, **wrong}, confidence=0.95)  # type: ignore[arg-type]


def test_an_epsilon_or_a_confidence_that_is_none_is_refused() -> None:
    for epsilon in (-1.0, math.nan):
        with pytest.raises(RecordInvalid):
            one_run.p_value(canaries=20, guesses=10, right=9, delta=1e-5, epsilon=epsilon)
    with pytest.raises(RecordInvalid):
        one_run.least_epsilon(canaries=20, guesses=10, right=9, delta=1e-5, confidence=1.0)


def test_the_example_of_the_docs_says_what_it_says() -> None:
    page = (Path(__file__).parents[2] / "docs" / "attacks.md").read_text(encoding="utf-8")
    example = page.split("```python\n")[1].split("```")[0]
    calls = [line.partition("  # ") for line in example.splitlines() if line.startswith("one_run.")]
    assert len(calls) == 2
    for call, _, said in calls:
        found = eval(call, {"one_run": one_run})  # noqa: S307 - our own page
        assert str(found).startswith(said.removesuffix("..."))
