"""The page of a plan: epsilon against steps, hospital by hospital, and what else was asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedgan_audits.accounting import accountant
from fedgan_audits.pages import Page, Point, Section, Series, Table, chart, render_page
from fedgan_secure.planning.schedule import Plan, curve
from fedgan_secure.storage import explain_disk, write_bytes

_NAMES = {"per_hospital": "own noise", "distributed": "shared noise"}
_UNKNOWN = {
    "epsilon": "epsilon",
    "noise_multiplier": "noise multiplier",
    "steps": "number of steps",
    "sampling_probability": "sampling probability",
}


def write_page(path: Path, schedules: Sequence[Plan], figures: Mapping[str, Any]) -> None:
    """Write the page of one or two placements of noise; `figures` are those of `plan --json`."""
    with explain_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, render_page(page_of(schedules, figures)))


def page_of(schedules: Sequence[Plan], figures: Mapping[str, Any]) -> Page:
    """The page; nothing in it is read from patients' data."""
    every = [figures, *([figures["distributed"]] if "distributed" in figures else [])]
    sections = [_answers(every), _curves(schedules)]
    if "hospitals" in figures:
        sections.append(_hospitals(every))
    sections.append(_patients(every))
    if any("epsilon_by_colluders" in one for one in every):
        sections.append(_colluders(every))
    if "drop_outs" in figures:
        sections.append(_missing(every))
    return Page(
        title="A plan of a privacy budget",
        brand="fedgan-secure · plan",
        headline=_headline(figures),
        remarks=_remarks(figures),
        sections=tuple(sections),
    )


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else accountant.round_up(value)


def _placement(one: Mapping[str, Any]) -> str:
    return _NAMES[one["noise_placement"]]


def _headline(figures: Mapping[str, Any]) -> str:
    unknown = figures["solved_for"]
    value = _shown(figures["epsilon"]) if unknown == "epsilon" else f"{figures[unknown]:.6g}"
    text = f"The {_UNKNOWN[unknown]} is {value}"
    if unknown != "epsilon":
        text += f": then {figures['steps']} steps cost epsilon {_shown(figures['epsilon'])}"
    return f"{text} at delta {figures['delta']:g}, where each hospital adds " + (
        "all of its noise." if figures["noise_placement"] == "per_hospital" else "its share of the noise."
    )


def _remarks(figures: Mapping[str, Any]) -> tuple[str, ...]:
    one = figures["unit"]
    remarks = [
        f"Epsilon is for adding or removing one {one}, with every step released, for a schedule that is fixed before "
        "it starts. All figures are proved upper bounds, rounded up.",
        "Nothing was read from patients: numbers of patients are public bounds that people declare.",
    ]
    if one == "image":
        remarks.append("The unit is the image: a patient with several images is protected less.")
    if "release_noise_multiplier" in figures:
        remarks.append(
            "Before the first step comes a release: one noisy sum in which every patient takes part. Every figure here "
            "counts it."
        )
    advised = figures.get("delta_advised")
    if advised is not None:
        word = "is within" if figures["delta"] <= advised else "is above: choose less. It should be at most"
        remarks.append(
            f"Delta {figures['delta']:g} {word} {advised:.3g} = 1/(10 x {figures['declared_patients']}), for the "
            "largest cohort: a delta of one over the patients would allow publishing one record outright."
        )
    return tuple(remarks)


def _answers(every: Sequence[Mapping[str, Any]]) -> Section:
    rows = [
        ("Sampling probability", lambda one: f"{one['sampling_probability']:.6g}"),
        ("Steps", lambda one: f"{one['steps']}"),
        ("Noise multiplier", lambda one: f"{one['noise_multiplier']:.6g}"),
        *_release_rows(every),
        ("Delta", lambda one: f"{one['delta']:g}"),
        (f"Epsilon, one {every[0]['unit']}", lambda one: _shown(one["epsilon"])),
        ("Second opinion (Rényi)", lambda one: _shown(one["epsilon_rdp"])),
        ("GDP mu", lambda one: _shown(one["mu"])),
    ]
    return Section(
        title="The plan",
        tables=(
            Table(
                "Solved for: " + _UNKNOWN[every[0]["solved_for"]],
                ("Figure", *(_placement(one) for one in every)),
                tuple((name, *(text(one) for one in every)) for name, text in rows),
                frozenset(range(1, 1 + len(every))),
            ),
        ),
    )


def _release_rows(every: Sequence[Mapping[str, Any]]) -> list[tuple[str, Any]]:
    """What the table says of a release before the steps; nothing where there is none."""
    if "release_noise_multiplier" not in every[0]:
        return []
    return [
        ("Noise multiplier of the release", lambda one: f"{one['release_noise_multiplier']:.6g}"),
        ("Epsilon of the release alone", lambda one: _shown(one["epsilon_of_release"])),
    ]


def _curves(schedules: Sequence[Plan]) -> Section:
    lines = [curve(schedule, from_one=True) for schedule in schedules]
    names = [_NAMES[schedule.mechanism.noise_placement] for schedule in schedules]
    starts = [schedule.epsilon_of_release for schedule in schedules]
    drawing = chart(
        "Epsilon against steps",
        "steps",
        "epsilon",
        [
            Series(name, tuple(Point(float(steps), value) for steps, value in ((0, first), *line)) if line else ())
            for name, line, first in zip(names, lines, starts, strict=True)
        ],
    )
    same = len({tuple(steps for steps, _ in line) for line in lines}) == 1
    groups = [(names, lines)] if same else [([name], [line]) for name, line in zip(names, lines, strict=True)]
    tables = tuple(
        Table(
            "Epsilon after so many steps",
            ("Steps", *(f"Epsilon, {name}" for name in of)),
            tuple(
                (f"{steps}", *(accountant.round_up(line[index][1]) for line in parts))
                for index, (steps, _) in enumerate(parts[0])
            ),
            frozenset(range(1, 1 + len(of))),
        )
        for of, parts in groups
        if parts[0]
    )
    words = () if drawing is not None else ("There is no chart: epsilon is unbounded without noise.",)
    if drawing is not None and any(starts):
        words = ("The curve begins at what the release before the first step costs.",)
    return Section(title="Epsilon against steps", paragraphs=words, chart=drawing, tables=tables)


def _hospitals(every: Sequence[Mapping[str, Any]]) -> Section:
    rows = []
    for index, row in enumerate(every[0]["hospitals"]):
        epsilons = [_shown(one["hospitals"][index]["epsilon"]) for one in every]
        rows.append(
            (
                str(row["name"]), f"{row['patients']}", f"{row['sampling_probability']:.6g}",
                f"{row['expected_batch']:.4g}", *epsilons, f"{row['delta_advised']:.3g}",
            )
        )  # fmt: skip
    names = ["Epsilon"] if len(every) == 1 else [f"Epsilon, {_placement(one)}" for one in every]
    return Section(
        title="Hospital by hospital",
        tables=(
            Table(
                "Patients are public bounds",
                ("Hospital", "Patients", "Probability", "Expected batch", *names, "Delta at most"),
                tuple(rows),
                frozenset(range(1, 5 + len(names))),
            ),
        ),
    )


def _patients(every: Sequence[Mapping[str, Any]]) -> Section:
    rows = [("One hospital", *(_shown(one["epsilon"]) for one in every))]
    rows.append(("Two hospitals", *(_shown(one["epsilon_two_hospitals"]) for one in every)))
    for count in every[0].get("epsilon_by_hospitals", {}):
        if int(count) > 2:
            rows.append((f"{count} hospitals", *(_shown(one["epsilon_by_hospitals"][count]) for one in every)))
    heads = ("The patient is known to", *(f"Epsilon, {_placement(one)}" for one in every))
    tables = [Table("Patients whom several hospitals know", heads, tuple(rows), frozenset(range(1, 1 + len(every))))]
    images = every[0].get("epsilon_by_images")
    if images:
        tables.append(
            Table(
                "Patients with several images, unit image",
                ("Images", *heads[1:]),
                tuple((count, *(_shown(one["epsilon_by_images"][count]) for one in every)) for count in images),
                frozenset(range(1, 1 + len(every))),
            )
        )
    words = (
        "With the unit patient, a patient's number of images changes nothing: all of them make one clipped gradient."
        if not images
        else "With the unit image, every image is protected by itself."
    )
    return Section(title="Patients who are in more than once", paragraphs=(words,), tables=tuple(tables))


def _colluders(every: Sequence[Mapping[str, Any]]) -> Section:
    one = next(one for one in every if "epsilon_by_colluders" in one)
    rows = tuple(
        (f"{count}" + (" (declared)" if int(count) == one["colluders"] else ""), _shown(value))
        for count, value in one["epsilon_by_colluders"].items()
    )
    return Section(
        title="Hospitals that collude with the coordinator",
        paragraphs=(
            "With every hospital's own noise the figure holds against all others together. With shared noise each "
            "hospital that tells the coordinator its share takes it away:",
        ),
        tables=(Table("Shared noise", ("Colluders", "Epsilon"), rows, frozenset({1})),),
    )


def _missing(every: Sequence[Mapping[str, Any]]) -> Section:
    def text(value: float | None) -> str:
        return "aborted, and spent" if value is None else f"{value:.3f}"

    rows = tuple(
        (f"{row['missing']}", *(text(one["drop_outs"][index]["noise"]) for one in every))
        for index, row in enumerate(every[0]["drop_outs"])
    )
    return Section(
        title="Rounds with hospitals missing",
        paragraphs=("Epsilon does not change: what was reserved is spent. Noise in the sum, central training = 1:",),
        tables=(
            Table("Noise of a round", ("Missing", *(_placement(one) for one in every)), rows,
                  frozenset(range(1, 1 + len(every)))),
        ),
    )  # fmt: skip
