"""What `fedgan-secure plan` prints for people: a table of each placement of noise, of hospitals and of drop-outs."""

from __future__ import annotations

from typing import Any

from fedgan_cli.terminal import note, say


def _text(value: float) -> str:
    from fedgan_audits.accounting import round_up

    return round_up(value)


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else _text(value)


def _shared_rows(figures: dict[str, Any], one: str) -> list[tuple[str, str]]:
    """The rows of the table that only shared noise has."""
    honest = figures["threshold"] - figures["colluders"]
    rows = [
        ("  were the noise Gaussian (PLD, not proved)", _shown(figures["epsilon_gaussian_approximation"])),
        (f"Epsilon, {one} in two hospitals", _shown(figures["epsilon_two_hospitals"])),
        (
            "  were the noise Gaussian (PLD, not proved)",
            _shown(figures["epsilon_two_hospitals_gaussian_approximation"]),
        ),
        ("Noise shares counted", f"{honest} = threshold {figures['threshold']} - {figures['colluders']} colluders"),
        ("Each hospital adds", f"{figures['share_deviation']:.6g} grid steps of {figures['grid_step']:.4g} clip norms"),
    ]
    for count, value in figures["epsilon_by_colluders"].items():
        mark = "  <- declared" if int(count) == figures["colluders"] else ""
        rows.append((f"Epsilon against {count} colluders", _shown(value) + mark))
    return rows


def _release_rows(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """What a release before the steps is; nothing where there is none."""
    if "release_noise_multiplier" not in figures:
        return []
    unit = "sensitivity" if figures["noise_placement"] == "distributed" else "clip norm"
    noise = f"{figures['release_noise_multiplier']:g} times its {unit}, one sum before the steps"
    return [("Noise of the release", noise)]


def _rows(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """The table of one placement."""
    one = "image" if figures["unit"] == "image" else "patient"
    shared = figures["noise_placement"] == "distributed"

    def solved(name: str) -> str:
        return "  <- solved for" if figures["solved_for"] == name else ""

    rows = [
        (
            "Sampling probability",
            f"{figures['sampling_probability']:g} per {one} and step" + solved("sampling_probability"),
        ),
        ("Steps", f"{figures['steps']}" + solved("steps")),
        (
            "Noise multiplier",
            f"{figures['noise_multiplier']:g} times the " + ("sensitivity" if shared else "clip norm")
            + solved("noise_multiplier"),
        ),
        *_release_rows(figures),
        ("Delta", f"{figures['delta']:g}"),
        ("", ""),
        (f"Epsilon, one {one}", _shown(figures["epsilon"])),
    ]  # fmt: skip
    if "epsilon_of_release" in figures:
        rows.append(("  the release alone", _shown(figures["epsilon_of_release"])))
    if shared:
        rows += _shared_rows(figures, one)
    else:
        rows += [
            ("  second opinion (RDP)", _shown(figures["epsilon_rdp"])),
            (f"Epsilon, {one} in two hospitals", _shown(figures["epsilon_two_hospitals"])),
        ]
    rows += [
        (f"Epsilon, {one} in {count} hospitals", _shown(value))
        for count, value in figures.get("epsilon_by_hospitals", {}).items()
        if int(count) > 2
    ]
    rows += [
        (f"Epsilon, patient with {images} image" + ("s" if images != "1" else ""), _shown(value))
        for images, value in figures.get("epsilon_by_images", {}).items()
    ]
    rows.append((f"GDP mu (delta >= {figures['delta']:g})", _shown(figures["mu"])))
    return rows


def _table(rows: list[tuple[str, ...]]) -> None:
    """Columns of text, the first one left, each as wide as it needs."""
    widths = [max(len(row[index]) for row in rows if index < len(row)) for index in range(max(map(len, rows)))]
    for row in rows:
        say("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)).rstrip())


def show(figures: dict[str, Any]) -> None:
    """Print the figures of `plan --json` as tables, and what they hold against."""
    one = "image" if figures["unit"] == "image" else "patient"
    beside = figures.get("distributed")
    _table([*_rows(figures)])
    if beside is not None:
        say()
        say("With noise that the hospitals share:")
        _table([*_rows(beside)])
    say()
    shared = figures["noise_placement"] == "distributed"
    if shared or beside is not None:
        say(
            "The figures " + ("of shared noise " if beside else "")
            + "hold against the coordinator together with the declared number of colluding hospitals, for"
        )  # fmt: skip
        say(f"adding or removing one {one}, and rest on secure aggregation.")
        say(f"By {(beside or figures)['accountant']}, rounded up.")
    if not shared:
        say("The figures hold against the coordinator and all other hospitals together, for adding or removing one")
        say(f"{one}, with every step released. By {figures['accountant']}, rounded up.")
    if one == "image":
        say("The unit is the image: a patient with several images is protected less, as the rows above say.")
    for key, title, table in (
        ("hospitals", "Hospital by hospital", _hospitals),
        ("drop_outs", "Rounds with hospitals missing", _drop_outs),
    ):
        if key in figures:
            say()
            say(title)
            _table(table(figures))


def _hospitals(figures: dict[str, Any]) -> list[tuple[str, ...]]:
    beside = figures.get("distributed", {}).get("hospitals")
    names = ("Epsilon",) if beside is None else ("Epsilon", "with shared noise")
    rows: list[tuple[str, ...]] = [("Name", "Patients", "Probability", "Batch", *names, "Delta advised")]
    for index, row in enumerate(figures["hospitals"]):
        more = () if beside is None else (_shown(beside[index]["epsilon"]),)
        rows.append(
            (
                row["name"], f"{row['patients']}", f"{row['sampling_probability']:.6g}",
                f"{row['expected_batch']:.4g}", _shown(row["epsilon"]), *more, f"at most {row['delta_advised']:.3g}",
            )
        )  # fmt: skip
    return rows


def _drop_outs(figures: dict[str, Any]) -> list[tuple[str, ...]]:
    both = "distributed" in figures
    rows: list[tuple[str, ...]] = [
        ("Missing", "Noise in the sum, central = 1", *(("with shared noise",) if both else ()))
    ]
    for index, row in enumerate(figures["drop_outs"]):
        more = (figures["distributed"]["drop_outs"][index],) if both else ()
        rows.append((f"{row['missing']}", *(_noise(one["noise"]) for one in (row, *more))))
    return rows


def _noise(value: float | None) -> str:
    return "the round is aborted, and spent" if value is None else f"{value:.3f}"


def advise(figures: dict[str, Any], largest: int) -> None:
    """A word on a delta that is too large for the largest cohort."""
    from fedgan_audits.accounting import advised_delta

    advised = advised_delta(largest)
    if figures["delta"] > advised:
        note(f"delta {figures['delta']:g} is above {advised:.6g} = 1/(10 x {largest}): choose less.")
