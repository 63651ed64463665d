"""The page of an attack: what the adversary showed, what is proved, and what so few guesses could never show."""

from __future__ import annotations

import math

from fedgan_audits.accounting import accountant
from fedgan_audits.pages import Page, Point, Section, Series, Table, chart, render_page
from fedgan_secure.attacks.games import CONFIDENCE
from fedgan_secure.attacks.verdict import CONTRADICTION, Verdict

_POINTS = 60


def attack_page(run: str, verdict: Verdict) -> bytes:
    """Return the page as UTF-8 HTML. Args: run: how people call the run that was rehearsed."""
    return render_page(
        Page(
            title=f"Attack on {run}",
            brand="fedgan-secure · evidence by attack",
            headline=headline(verdict),
            remarks=REMARKS,
            sections=(_curve(verdict), _counts(verdict), _about(verdict)),
        )
    )


REMARKS = (
    "A lower bound proves nothing good: a better attack may show more. It can only refute.",
    "The training was rehearsed on made-up patients, as the run's policy says, from untrained weights. No patient's "
    "image was used, and no budget spent; of the run's own noise and coins this says nothing.",
    "The adversary looks at the gradients that steps give to the optimiser, and takes the noise to be independent and "
    "of the recorded size. It finds noise or a clip that is missing; noise that is missing in part, that repeats, or "
    "that is a few times too small it may not find.",
)


def headline(verdict: Verdict) -> str:
    """The result in a sentence."""
    most = accountant.round_up(verdict.epsilon)
    proved = f"at most {most} is proved for {verdict.steps} steps (delta {verdict.delta:.2g})"
    shown = f"epsilon is at least {_down(verdict.least_epsilon)} by this attack"
    match verdict.outcome:
        case "refuted":
            return f"REFUTED: {shown}, but {proved}. The training does not do what the accountant is told."
        case "doubtful":
            return (
                f"IN DOUBT: {shown}, but {proved}. That is sure at {CONFIDENCE:.0%} and not at "
                f"{1 - CONTRADICTION:.1%}: chance does it once in twenty attacks. Attack again with more canaries."
            )
        case "not testable":
            return (
                f"NOT TESTED: {proved}, and the same attack did not refute a training without noise either. Attack "
                f"with more canaries or other steps ({shown})."
            )
        case _:
            return f"Not refuted: {shown}; {proved}. The same attack refuted a training without noise."


def _down(value: float) -> str:
    """A lower bound for people: rounded down."""
    return f"{math.floor(value * 100) / 100:.2f}"


def _curve(verdict: Verdict) -> Section:
    every = max(1, len(verdict.roc) // _POINTS)
    found = [Point(x, y) for x, y in (*verdict.roc[::every], verdict.roc[-1])]
    rates = [(step / _POINTS) ** 3 for step in range(_POINTS + 1)]  # most where the curve bends
    allowed = [Point(rate, _most(rate, verdict.epsilon, verdict.delta)) for rate in rates]
    drawing = chart(
        "How often the adversary is right",
        "canaries that are out and are called in (share)",
        "canaries that are in and are called in (share)",
        [
            Series("this attack", tuple(found)),
            Series("most that the proved epsilon allows, on average over many attacks", tuple(allowed)),
            Series("blind guesses", (Point(0.0, 0.0), Point(1.0, 1.0))),
        ],
    )
    return Section(
        title="What the adversary can tell",
        paragraphs=(
            f"A canary that is in is believed more than one that is out {verdict.area:.0%} of the time; 50% would be "
            "chance.",
        ),
        chart=drawing,
    )


def _most(rate: float, epsilon: float, delta: float) -> float:
    """The largest true positive rate that (epsilon, delta) allows at this false positive rate."""
    return max(0.0, min(1.0, math.exp(min(epsilon, 700)) * rate + delta, 1 - math.exp(-epsilon) * (1 - delta - rate)))


def _counts(verdict: Verdict) -> Section:
    rows = tuple(
        (
            f"{row.ins} in, {row.outs} out",
            f"{row.right}",
            _down(row.least_epsilon),
            _down(row.ceiling),
            f"{row.p_value:.3g}",
        )
        for row in verdict.rows
    )
    headings = ("Guesses", "Right", "Epsilon is at least", "If all were right", "Chance of it, if the proof holds")
    return Section(
        title="Guesses and what they show",
        paragraphs=(
            "The numbers of guesses were fixed beforehand: which canaries are in, and which are out, by the "
            f"adversary's belief. The bounds hold together, at {CONFIDENCE:.0%} confidence (Steinke, Nasr and "
            "Jagielski 2023, Theorem 5.2).",
        ),
        tables=(Table("By number of guesses", headings, rows, frozenset(range(1, len(headings)))),),
    )


def _about(verdict: Verdict) -> Section:
    return Section(
        title="About this attack",
        paragraphs=(
            "The adversary sees every noisy gradient, all weights and generated images, and knows every other patient "
            "and when they were drawn; not the canaries' coins, nor when they were drawn, nor the noise.",
        ),
        facts=(
            ("Steps attacked", f"{verdict.steps}"),
            ("Proved for them", f"epsilon {accountant.round_up(verdict.claimed[0])} at delta {verdict.claimed[1]:g}"),
            (
                "The same at the attack's delta",
                f"epsilon {accountant.round_up(verdict.epsilon)} at {verdict.delta:.2g}",
            ),
            ("Canaries", f"{verdict.canaries}"),
            ("Other made-up patients", f"{verdict.others}"),
            ("Seconds", f"{verdict.seconds:.0f}"),
        ),
    )
