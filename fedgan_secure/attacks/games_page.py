"""The page of an attack on a run that adapts a public start: its release, and a step of its heads."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedgan_audits.accounting import accountant
from fedgan_audits.pages import Page, Section, Table, render_page
from fedgan_secure.attacks.adapted_run import NO_RELEASE, NO_STEPS, AdaptedVerdict
from fedgan_secure.attacks.games import CERTAINTY, CONFIDENCE, GamesVerdict


@dataclass(frozen=True)
class Subject:
    """How people call what was attacked.

    Attributes:
        title: of its section.
        proved: what the proof is for.
        it: the thing, with its article.
        game: what happens in every game.
    """

    title: str
    proved: str
    it: str
    game: str


RELEASE = Subject(
    "The release round",
    "the release alone",
    "a release",
    "In every game a fair coin puts one made-up patient into a made-up hospital's sum or leaves them out; the noise is "
    "fresh and added by the code that hospitals run. The adversary knows everybody else and projects the noisy sum on "
    "the canary's own vector, which has the largest norm that is allowed.",
)
STEP = Subject(
    "The steps on the heads",
    "one step alone",
    "a step",
    "In every game a fair coin puts one made-up patient among those of a made-up hospital or leaves them out; the "
    "hospital's trainer makes one step from the same heads, and draws patients and noise afresh. The adversary knows "
    "everybody else and when they were drawn, and projects the noisy gradient on the canary's own, which has the "
    "largest norm that is allowed. More steps are composed by the accountant, which has known answers of its own.",
)
ADAPTED_REMARKS = (
    "A lower bound proves nothing good: a better attack may show more. It can only refute.",
    "Both games are played with made-up features, as the run's policy says. No patient's image was used, and no budget "
    "spent; of the run's own noise and coins this says nothing.",
    "The adversary takes the noise to be independent and of the recorded size. It finds noise or a clip that is "
    "missing; noise that is missing in part, that repeats, or that is a few times too small it may not find.",
    "The public start, the transfer and the published generator are not attacked: they follow from what was released.",
)
_WORDS = {
    "refuted": "REFUTED",
    "doubtful": "IN DOUBT",
    "not testable": "NOT TESTED",
    "not refuted": "Not refuted",
}


def games_headline(verdict: GamesVerdict, subject: Subject) -> str:
    """Return the result of one attack in a sentence."""
    most = accountant.round_up(verdict.epsilon)
    proved = f"at most {most} is proved for {subject.proved} (delta {verdict.delta:.2g})"
    shown = f"epsilon is at least {_down(verdict.least_epsilon)} by {verdict.games} games with a canary"
    match verdict.outcome:
        case "refuted":
            return f"REFUTED: {shown}, but {proved}. {subject.it.capitalize()} does not do what the accountant is told."
        case "doubtful":
            return (
                f"IN DOUBT: {shown}, but {proved}. That is sure at {CONFIDENCE:.0%} and not at {CERTAINTY:.1%}: chance "
                "does it once in twenty attacks. Play more games."
            )
        case "not testable":
            return (
                f"NOT TESTED: {proved}, and the same attack did not refute {subject.it} without noise either. Play "
                f"more games ({shown})."
            )
        case _:
            return f"Not refuted: {shown}; {proved}. The same attack refuted {subject.it} without noise."


def sentences(verdict: AdaptedVerdict) -> tuple[str, ...]:
    """Return a line for each part of the run, missing ones included."""
    found = []
    for part, subject, missing in _parts(verdict):
        told = f"nothing to attack: {missing}." if part is None else games_headline(part, subject)
        found.append(f"{subject.title}: {told}")
    return tuple(found)


def adapted_headline(verdict: AdaptedVerdict) -> str:
    """Return the result for the whole run in a few words."""
    found = [
        f"{_WORDS[part.outcome]}: {subject.title[0].lower()}{subject.title[1:]}."
        for part, subject, _ in _parts(verdict)
        if part is not None
    ]
    return " ".join(found)


def adapted_page(run: str, verdict: AdaptedVerdict) -> bytes:
    """Return the page as UTF-8 HTML. Args: run: how people call the run that was attacked."""
    return render_page(
        Page(
            title=f"Attack on {run}",
            brand="fedgan-secure · evidence by attack",
            headline=adapted_headline(verdict),
            remarks=ADAPTED_REMARKS,
            sections=tuple(
                Section(title=subject.title, paragraphs=(f"Nothing to attack: {missing}.",))
                if part is None
                else games_section(part, subject)
                for part, subject, missing in _parts(verdict)
            ),
        )
    )


def games_section(verdict: GamesVerdict, subject: Subject) -> Section:
    """Return the section on one attack."""
    rows = tuple(
        (f"{row.place:+.1f}", f"{row.hits}", f"{row.false_alarms}", _down(row.least_epsilon))
        for row in verdict.thresholds
    )
    headings = ("Threshold (deviations)", "In, called in", "Out, called in", "Epsilon is at least")
    return Section(
        title=subject.title,
        paragraphs=(
            games_headline(verdict, subject),
            f"{subject.game} The thresholds were fixed beforehand; the bounds hold together at {CONFIDENCE:.0%} "
            "confidence (Clopper and Pearson 1934).",
        ),
        tables=(Table("By threshold", headings, rows, frozenset(range(len(headings)))),),
        facts=(
            ("Games", f"{verdict.games}"),
            ("Canary in", f"{verdict.inside}"),
            (
                f"Proved for {subject.proved}",
                f"epsilon {accountant.round_up(verdict.epsilon)} at delta {verdict.delta:g}",
            ),
            ("If every guess were right", f"epsilon at least {_down(verdict.ceiling)}"),
            ("A canary that is in scores higher", f"{verdict.area:.0%} of the time; 50% would be chance"),
            ("Seconds", f"{verdict.seconds:.0f}"),
        ),
    )


def _parts(verdict: AdaptedVerdict) -> tuple[tuple[GamesVerdict | None, Subject, str], ...]:
    return (verdict.release, RELEASE, NO_RELEASE), (verdict.step, STEP, NO_STEPS)


def _down(value: float) -> str:
    """A lower bound for people: rounded down."""
    return f"{math.floor(value * 100) / 100:.2f}"
