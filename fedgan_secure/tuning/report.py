"""The page that compares a search's trials, and the federation.toml of the chosen one.

Where the search was charged for its winner alone, the page has the winner alone: no other trial, no number of trials,
no minutes (they grow with the number), no picture but the winner's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedgan_audits.accounting import accountant
from fedgan_audits.pages import Page, Picture, Point, Section, Series, Table, chart, render_page
from fedgan_secure.errors import InputError
from fedgan_secure.policy import RunSettings
from fedgan_secure.storage import explain_disk, write_bytes
from fedgan_secure.tuning.directory import SearchDirectory
from fedgan_secure.tuning.experiment import Experiment
from fedgan_secure.tuning.outcome import Found, Tried, read

METRICS = {
    "feature_distance": "Distance of image features (lower is better)",
    "tstr": "Accuracy of a classifier trained on generated images (higher is better)",
    "realism": "Realism, over that of real images (higher is better)",
}
_PICTURES = 12


@dataclass(frozen=True)
class Written:
    """What `tune report` wrote: the page, and the chosen trial's federation.toml (None where nothing has a score)."""

    page: Path
    federation: Path | None
    chosen: Tried | None
    winner_alone: bool

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values; nothing but the winner's where only that may be shown."""
        one = self.chosen
        return {
            "page": str(self.page),
            "federation": None if self.federation is None else str(self.federation),
            "winner_alone": self.winner_alone,
            "setting": None if one is None else one.setting,
            "score": None if one is None else one.score,
            "epsilon": None if one is None else one.epsilon,
            "trial": None if one is None or self.winner_alone else one.number,
        }


def write_report(directory: SearchDirectory, output: Path, trial: int | None = None) -> Written:
    """Write index.html and federation.toml to `output`.

    Args:
        directory: of the search.
        output: a folder; an earlier report in it is replaced.
        trial: choose this one instead of the best.

    Raises:
        InputError: no such trial, or one that may not be shown.
    """
    found = read(directory)
    alone = found.experiment.winner_alone
    chosen = found.best
    if trial is not None:
        if alone:
            raise InputError(
                "--trial: only the winner of this search may be shown or used: it was charged for that alone",
                hint="leave --trial out",
            )
        chosen = next((one for one in found.tried if one.number == trial), None)
        if chosen is None:
            raise InputError(f"--trial {trial}: no trial of that number has a score", hint="the page lists them all")
    with explain_disk(output):
        output.mkdir(parents=True, exist_ok=True)
    federation = None
    if chosen is not None:
        federation = output / "federation.toml"
        write_bytes(federation, federation_toml(found.experiment, chosen).encode())
    page = output / "index.html"
    write_bytes(page, render_page(page_of(found, chosen)))
    return Written(page, federation, chosen, alone)


def federation_toml(experiment: Experiment, chosen: Tried) -> str:
    """The chosen setting on the federation's own data, ready to run.

    Where the search was on phantoms of the declared cohort, or names no data, it draws phantoms, too.
    """
    settings = experiment.settings_of(chosen.setting)
    tree = settings.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    for key in ("dataset",):
        if key in tree.get("data", {}):
            tree["data"][key] = str(Path(tree["data"][key]).resolve())
    for name, place in tree.get("data", {}).get("hospital", {}).items():
        tree["data"]["hospital"][name] = str(Path(place).resolve())
    text = (
        "# Chosen by `fedgan-secure tune`. Keys that are left out have their default.\n"
        + "".join(f"# searched: {key} = {value:g}\n" for key, value in chosen.setting.items())
        + toml(tree)
    )
    import tomllib

    again = RunSettings.merged(tomllib.loads(text), {})
    if again != settings:
        raise InputError("the chosen settings cannot be written as TOML", hint="this is a defect; please report it")
    return text


def toml(tree: Mapping[str, Any], prefix: str = "") -> str:
    """Tables of text, numbers, truth values and lists as TOML."""
    lines = [f"{_key(k)} = {_value(v)}" for k, v in tree.items() if not isinstance(v, Mapping)]
    text = "\n".join(lines) + ("\n" if lines else "")
    for key, value in tree.items():
        if isinstance(value, Mapping):
            text += f"\n[{prefix}{_key(key)}]\n" + toml(value, f"{prefix}{_key(key)}.")
    return text


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else json.dumps(key)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_value(one) for one in value) + "]"
    return json.dumps(value, ensure_ascii=True) if isinstance(value, str | bool | int) else repr(float(value))


def page_of(found: Found, chosen: Tried | None) -> Page:
    """The page, from what may be shown."""
    experiment, alone = found.experiment, found.experiment.winner_alone
    sections = [_chosen_section(found, chosen)] if chosen is not None else []
    if not alone and found.tried:
        sections += [_comparison(found, chosen), *_sheets(found, chosen)]
    elif chosen is not None:
        sections += _sheets(found, chosen)
    if experiment.charged:
        sections.append(_charged(found))
    sections.append(_about(found))
    return Page(
        title=f"Search {experiment.name}",
        brand="fedgan-secure · settings compared",
        headline=_headline(found, chosen),
        remarks=_remarks(found),
        sections=tuple(sections),
    )


def _epsilon(one: Tried) -> str:
    return "unbounded" if one.epsilon is None else accountant.round_up(one.epsilon)


def _headline(found: Found, chosen: Tried | None) -> str:
    if chosen is None:
        return "No trial has a score yet: there is nothing to choose."
    who = "The chosen setting" if chosen is not found.best else "The best setting"
    return (
        f"{who} has the score {chosen.score:.4g}; one run of it costs "
        f"epsilon {_epsilon(chosen)} at delta {chosen.delta:g}."
    )


def _remarks(found: Found) -> tuple[str, ...]:
    search = found.experiment.search
    if search.trains_on == "phantoms":
        first = (
            "The search was free: every trial trained on phantoms, drawn images of nobody. Epsilons are what a run of "
        )
        first += "the same schedule would cost real patients."
    elif search.trains_on == "public":
        statement = found.experiment.public.statement if found.experiment.public else ""
        first = f"The search was free: it trained on images that were declared public. The declaration: {statement}"
    else:
        first = (
            f"The search was charged to every hospital's ledger before it began: epsilon "
            f"{accountant.round_up(float(found.info['charge']['epsilon']))} at delta "
            f"{float(found.info['charge']['delta']):g}."
        )
        if found.experiment.winner_alone:
            first += (
                " It covers the release of the winner alone (Papernot and Steinke 2021). No other trial, and not their "
                "number, may ever be shown."
            )
            if found.info.get("cut"):
                first += (
                    " The search was interrupted: a trial that lost a round is unlike the others, and the theorem is "
                    "about trials that are alike, so the figure is not proved for this search."
                )
        else:
            first += " It covers every trial that is shown here."
    words = [first]
    if found.info["status"] != "complete":
        done = (
            ""
            if found.experiment.winner_alone
            else f" {len(found.tried)} of {found.experiment.trials} trials have a score."
        )
        words.append(f"THE SEARCH IS NOT COMPLETE.{done} Go on with it before you choose.")
    if not found.experiment.winner_alone and any(one.lost for one in found.tried):
        words.append(
            "Runs were interrupted, and each lost a round for good: their scores are of less training than their "
            "epsilon pays for. The table marks them."
        )
    rest = "A run with the chosen settings on patients is charged on top, as a run of its own."
    scores = "Scores are of images that are no hospital's: none was measured on patients."
    return (*words, rest, scores)


def _named(one: Tried) -> tuple[str, ...]:
    return tuple(f"{value:g}" for value in one.setting.values())


def _interval(one: Tried) -> str:
    if one.interval is None:
        return "one seed"
    return f"{one.interval[0]:.4g} to {one.interval[1]:.4g}"


def _lost(one: Tried) -> str:
    return "" if not one.lost else f", {one.lost} round{'s' if one.lost > 1 else ''} lost"


def _chosen_section(found: Found, chosen: Tried | None) -> Section:
    assert chosen is not None  # noqa: S101 - the caller asked
    facts = [(key, f"{value:g}") for key, value in chosen.setting.items()]
    facts += [
        ("Epsilon of one run", f"{_epsilon(chosen)} at delta {chosen.delta:g}"),
        ("Noise multiplier", f"{chosen.noise_multiplier:.6g}"),
        ("Sampling probability", f"{chosen.sampling_probability:g}"),
        ("Steps", f"{chosen.steps}"),
        ("Score", f"{chosen.score:.4g}"),
    ]
    if chosen.lost and not found.experiment.winner_alone:
        facts.append(("Rounds that its runs lost", f"{chosen.lost}"))
    if len(chosen.scores) > 1:
        facts.append(("95 % interval over seeds", _interval(chosen)))
    return Section(
        title="The chosen setting",
        paragraphs=("This is federation.toml beside this page. Run it with: fedgan-secure run federation.toml",),
        facts=tuple(facts),
        code=federation_toml(found.experiment, chosen),
    )


def _comparison(found: Found, chosen: Tried | None) -> Section:
    metric = METRICS[found.experiment.objective.metric]
    front = found.front

    def point(one: Tried, text: str = "") -> Point:
        low, high = one.interval or (None, None)
        return Point(one.epsilon or 0.0, one.score, low, high, text)

    bounded = [one for one in found.tried if one.epsilon is not None]
    best = [one for one in front if one.epsilon is not None]
    drawing = chart(
        "Quality against epsilon",
        "epsilon of one run",
        metric,
        [
            Series("best score for its epsilon (Pareto front)", tuple(point(one, f"{one.number}") for one in best)),
            Series("other trials", tuple(point(one) for one in bounded if one not in best), line=False),
        ],
        y_from_zero=False,
    )
    rows = tuple(
        (
            f"{one.number}" + (" (chosen)" if one is chosen else "") + _lost(one),
            _epsilon(one),
            f"{one.score:.4g}",
            _interval(one),
            "yes" if one in front else "no",
            f"{one.minutes:.2f}",
            *_named(one),
        )
        for one in sorted(found.tried, key=lambda one: one.epsilon if one.epsilon is not None else float("inf"))
    )
    keys = tuple(found.experiment.parsed)
    headings = ("Trial", "Epsilon", "Score", "95 % interval over seeds", "On the front", "Minutes", *keys)
    words = [f"{metric}. A trial is on the front where no other has a smaller epsilon and a better score."]
    if found.failed:
        words.append(f"{found.failed} trial(s) have no score: no noise reaches their epsilon, or no round was whole.")
    return Section(
        title="Quality against epsilon",
        paragraphs=tuple(words),
        chart=drawing,
        tables=(
            Table(
                "Every trial, by epsilon", headings, rows,
                frozenset({1, 2, 5, *range(6, 6 + len(keys))}),
            ),
        ),
    )  # fmt: skip


def _sheets(found: Found, chosen: Tried | None) -> list[Section]:
    shown = [one for one in (chosen, *found.front) if one is not None and one.pictures]
    unique = list(dict.fromkeys(one.number for one in shown))
    by_number = {one.number: one for one in shown}
    pictures = tuple(
        Picture(
            by_number[number].pictures[0].read_bytes(),
            "A sheet of generated images" + ("" if found.experiment.winner_alone else f", trial {number}"),
            f"epsilon {_epsilon(by_number[number])}, score {by_number[number].score:.4g}"
            + ("" if found.experiment.winner_alone else f", trial {number}"),
        )
        for number in unique[:_PICTURES]
    )
    if not pictures:
        return []
    return [Section(title="What the generators draw", paragraphs=("Synthetic images.",), pictures=pictures)]


def _charged(found: Found) -> Section:
    """What the search cost, also those for whom one unit in one hospital is not the whole."""
    charge = found.info["charge"]
    images = {int(count): float(value) for count, value in charge["several_images"].items()}
    unit = "image" if images else "patient"
    facts = [
        ("Delta", f"{float(charge['delta']):g}"),
        (f"Epsilon for one {unit} in one hospital", accountant.round_up(float(charge["epsilon"]))),
    ]
    if charge["two_hospitals"] is not None:
        both = accountant.round_up(float(charge["two_hospitals"]))
        facts.append((f"Epsilon for one {unit} that two hospitals hold", both))
    for count, value in images.items():
        if count > 1:
            facts.append((f"Epsilon for a patient with {count} images", accountant.round_up(value)))
    how = (
        "Every image counts by itself: a patient with several is protected less, as the figures say."
        if images
        else "A patient counts once in one hospital, whatever the number of images."
    )
    return Section(title="What the search cost", paragraphs=(how,), facts=tuple(facts))


def _about(found: Found) -> Section:
    search, objective = found.experiment.search, found.experiment.objective
    facts = [
        ("Trained on", search.trains_on),
        ("Measured on", objective.measured_on),
        ("Measure", METRICS[objective.metric]),
        ("Settings chosen by", search.method),
    ]
    if found.experiment.winner_alone:
        facts.append(("Trials", f"a secret number, {search.mean_trials:g} on average ({search.distribution})"))
    else:
        facts += [
            ("Trials with a score", f"{len(found.tried)}"),
            ("Runs of each", f"{search.seeds}"),
            ("Minutes of all runs together", f"{sum(one.minutes for one in found.tried):.1f}"),
        ]
    return Section(title="About this search", facts=tuple(facts))
