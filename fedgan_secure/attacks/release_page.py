"""What the page of an attack says about the release round."""

from __future__ import annotations

import math

from fedgan_audits import accountant
from fedgan_audits.pages import Section, Table
from fedgan_secure.attacks.release_canary import CERTAINTY, CONFIDENCE, ReleaseVerdict


def release_headline(verdict: ReleaseVerdict) -> str:
    """Return the result in a sentence."""
    most = accountant.round_up(verdict.epsilon)
    proved = f"at most {most} is proved for the release alone (delta {verdict.delta:.2g})"
    shown = f"epsilon is at least {_down(verdict.least_epsilon)} by {verdict.games} games with a canary"
    match verdict.outcome:
        case "refuted":
            return f"REFUTED: {shown}, but {proved}. The release does not do what the accountant is told."
        case "doubtful":
            return (
                f"IN DOUBT: {shown}, but {proved}. That is sure at {CONFIDENCE:.0%} and not at {CERTAINTY:.1%}: chance "
                "does it once in twenty attacks. Play more games."
            )
        case "not testable":
            return (
                f"NOT TESTED: {proved}, and the same attack did not refute a release without noise either. Play more "
                f"games ({shown})."
            )
        case _:
            return f"Not refuted: {shown}; {proved}. The same attack refuted a release without noise."


def release_section(verdict: ReleaseVerdict) -> Section:
    """Return the section on the release round."""
    rows = tuple(
        (f"{row.place:+.1f}", f"{row.hits}", f"{row.false_alarms}", _down(row.least_epsilon))
        for row in verdict.thresholds
    )
    headings = ("Threshold (deviations)", "In, called in", "Out, called in", "Epsilon is at least")
    return Section(
        title="The release round",
        paragraphs=(
            release_headline(verdict),
            "In every game a fair coin puts one made-up patient into a made-up hospital's sum or leaves them out; the "
            "noise is fresh and added by the code that hospitals run. The adversary knows everybody else and projects "
            "the noisy sum on the canary's own vector, which has the largest norm that is allowed. The thresholds were "
            f"fixed beforehand; the bounds hold together at {CONFIDENCE:.0%} confidence (Clopper and Pearson 1934).",
        ),
        tables=(Table("By threshold", headings, rows, frozenset(range(len(headings)))),),
        facts=(
            ("Games", f"{verdict.games}"),
            ("Canary in", f"{verdict.inside}"),
            ("Proved for the release", f"epsilon {accountant.round_up(verdict.epsilon)} at delta {verdict.delta:g}"),
            ("If every guess were right", f"epsilon at least {_down(verdict.ceiling)}"),
            ("A canary that is in scores higher", f"{verdict.area:.0%} of the time; 50% would be chance"),
            ("Seconds", f"{verdict.seconds:.0f}"),
        ),
    )


def _down(value: float) -> str:
    """A lower bound for people: rounded down."""
    return f"{math.floor(value * 100) / 100:.2f}"
