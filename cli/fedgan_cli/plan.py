"""`fedgan-secure plan`: of probability, noise, steps and epsilon the fourth from three, before anything runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedgan_cli.plan_figures import figures_of, hospital_figures
from fedgan_cli.plan_table import advise, show
from fedgan_cli.terminal import emit, note, say

if TYPE_CHECKING:
    from fedgan_audits.accounting import MechanismRecord, NoiseShares
    from fedgan_secure.planning import Plan


_GRID_SHARE = 0.01
"""The grid step times sqrt(dimension), in clip norms: what rounding may add to the sensitivity."""
_FIELD_OPTIONS = {
    "sampling_probability": "--sampling-probability",
    "steps": "--steps",
    "noise_multiplier": "--noise-multiplier",
    "images_per_patient": "--images-per-patient",
}


_MOST_PATIENTS = 10**9


class _Number(click.ParamType):
    """A finite number within bounds; the message names the option, as click's do."""

    name = "number"

    def __init__(self, *, above: float | None = None, least: float | None = None, most: float | None = None) -> None:
        self.above, self.least, self.most = above, least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError):
            self.fail(f"{value!r} is not a number.", param, ctx)
        low = number > self.above if self.above is not None else self.least is None or number >= self.least
        if not math.isfinite(number) or not low or (self.most is not None and number > self.most):
            self.fail(f"{value} is out of range: {self._range()} is expected.", param, ctx)
        return number

    def _range(self) -> str:
        low = f"a number above {self.above:g}" if self.above is not None else f"a number of at least {self.least:g}"
        return low if self.most is None else f"{low} and at most {self.most:g}"


def _shares(options: dict[str, Any]) -> NoiseShares | None:
    """The shares of the noise that the options describe; None for `per_hospital` noise."""
    from fedgan_audits.accounting import NoiseShares

    given = [name for name in ("threshold", "colluders", "dimension") if options[name] is not None]
    if options["noise_placement"] == "per_hospital":
        if given:
            raise click.UsageError(f"--{given[0]} is given, but only --noise-placement distributed (or both) takes it.")
        return None
    if len(given) < 3:
        missing = next(name for name in ("threshold", "colluders", "dimension") if options[name] is None)
        raise click.UsageError(f"--noise-placement {options['noise_placement']} needs --{missing}.")
    if options["colluders"] >= options["threshold"]:
        raise click.UsageError(
            f"--colluders is {options['colluders']}, but less than --threshold ({options['threshold']}) is expected: "
            "somebody has to add noise that nobody else knows."
        )
    return NoiseShares(
        threshold=options["threshold"],
        colluders=options["colluders"],
        dimension=options["dimension"],
        grid_step=_GRID_SHARE / math.sqrt(options["dimension"]),
        noise="skellam" if options["integer_noise"] == "skellam" else "discrete_gaussian",
    )


def _release(options: dict[str, Any], shares: NoiseShares | None) -> MechanismRecord | None:
    """The release before the steps, with shares of its own where those of the steps are `shares`; None without one."""
    from fedgan_audits.accounting import releases

    if options["release_noise"] is None:
        return None
    if shares is not None:
        dimension = options["release_dimension"]
        own = {"dimension": dimension, "grid_step": _GRID_SHARE / math.sqrt(dimension)}
        shares = shares.model_copy(update=own)
    return releases.record(
        noise_multiplier=options["release_noise"],
        l2_clip_norm=1.0,
        unit=options["unit"],
        images_per_patient=1 if options["unit"] == "image" else options["images_per_patient"],
        shares=shares,
    )


def _solved(given: dict[str, Any], shares: NoiseShares | None, release: MechanismRecord | None) -> Plan:
    """The plan of one noise placement; messages name the options."""
    from fedgan_audits.errors import RecordInvalid, UnreachableTarget
    from fedgan_secure.planning import plan

    try:
        return plan(shares=shares, release=release, **given)
    except UnreachableTarget as error:
        raise UnreachableTarget(f"--epsilon: {error}", nearest_epsilon=error.nearest_epsilon, hint=error.hint) from None
    except RecordInvalid as error:
        text = str(error)
        option = next((option for field, option in _FIELD_OPTIONS.items() if text.startswith(field)), None)
        raise RecordInvalid(f"{option}: {text}" if option else text, hint=error.hint) from None


def _cohorts(texts: tuple[str, ...]) -> dict[str, int]:
    found: dict[str, int] = {}
    for text in texts:
        name, equals, count = text.partition("=")
        if not equals or not name or not (count.isascii() and count.isdigit()) or name in found:
            raise click.UsageError(
                f"--hospital {text!r}: NAME=N with a public bound on its patients is expected, once."
            )
        if len(count) > 10 or not 1 <= int(count) <= _MOST_PATIENTS:
            raise click.UsageError(f"--hospital {text!r}: 1 to {_MOST_PATIENTS} patients are expected.")
        found[name] = int(count)
    return found


@click.command(
    "plan",
    short_help="Plan a privacy budget: epsilon, noise, steps or batch from the other three.",
)
@click.option(
    "--sampling-probability",
    type=_Number(above=0, most=1),
    metavar="Q",
    help="Probability with which each patient is drawn in each step.",
)
@click.option(
    "--steps",
    type=click.IntRange(1, 2**40),
    metavar="T",
    help="Steps of the whole run: rounds (spare ones included) times steps per round.",
)
@click.option("--delta", type=_Number(least=1e-12, most=0.99), metavar="D", help="Delta of all figures.")
@click.option(
    "--noise-multiplier",
    type=_Number(least=0, most=1e9),
    metavar="SIGMA",
    help="Noise per step, in clip norms: ask what it costs.",
)
@click.option("--epsilon", type=_Number(above=0), metavar="E", help="Target for the run: ask which noise reaches it.")
@click.option(
    "--release-noise",
    type=_Number(above=0, most=1e9),
    metavar="SIGMA",
    help="Noise multiplier of a release before the steps, in which every patient takes part once: counted everywhere.",
)
@click.option(
    "--release-dimension",
    type=click.IntRange(1, 2**40),
    metavar="D",
    help="Numbers in the release's vector (distributed noise with --release-noise).",
)
@click.option(
    "--unit",
    type=click.Choice(["patient", "image"]),
    default="patient",
    show_default=True,
    help="Whose data one record is.",
)
@click.option(
    "--images-per-patient",
    type=click.IntRange(1, 2**31),
    default=2,
    show_default=True,
    metavar="K",
    help="Public bound on one patient's images in a step (unit patient); it does not change epsilon.",
)
@click.option(
    "--declared-patients",
    type=click.IntRange(1),
    metavar="N",
    help="Public nominal number of patients: advise on delta against 1/(10 N).",
)
@click.option(
    "--noise-placement",
    type=click.Choice(["per_hospital", "distributed", "both"]),
    default="per_hospital",
    show_default=True,
    help="Whether each hospital adds all of its noise, or a share of the sum's; both: side by side.",
)
@click.option(
    "--threshold",
    type=click.IntRange(2, 2**20),
    metavar="T",
    help="Hospitals that a secure sum needs (distributed noise).",
)
@click.option(
    "--colluders",
    type=click.IntRange(0, 2**20),
    metavar="C",
    help="Hospitals that may tell the coordinator their noise (distributed noise): T - C shares are counted.",
)
@click.option(
    "--dimension",
    type=click.IntRange(1, 2**40),
    metavar="D",
    help="Parameters of the discriminator (distributed noise); the grid step is .01/sqrt(D) clip norms.",
)
@click.option(
    "--integer-noise",
    type=click.Choice(["discrete_gaussian", "skellam"]),
    default="discrete_gaussian",
    show_default=True,
    help="What each hospital's share of the noise is (distributed noise).",
)
@click.option(
    "--hospital",
    "hospital",
    multiple=True,
    metavar="NAME=N",
    help="A hospital and a public bound on its patients (repeatable): a table, and advice on delta.",
)
@click.option(
    "--batch",
    type=_Number(above=0),
    metavar="B",
    help="Expected batch, the same at every --hospital, instead of --sampling-probability.",
)
@click.option(
    "--known-to",
    "--hospitals-per-patient",
    "known_to",
    type=click.IntRange(2, 16),
    default=2,
    show_default=True,
    metavar="M",
    help="Show a patient whom up to M hospitals know.",
)
@click.option(
    "--drop-outs",
    type=click.IntRange(0),
    metavar="K",
    help="Show what up to K missing hospitals (of those given with --hospital) do to a round's noise.",
)
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write a page with the curves."
)
@click.option("--run", "run", type=click.Path(path_type=Path), metavar="RUN", help="Ask what-if of a run.")
@click.option("--more-rounds", type=click.IntRange(1, 10_000), metavar="R", help="What if R more rounds (with --run)?")
@click.option(
    "--more-hospitals", type=click.IntRange(1, 99), metavar="H", help="What if H more hospitals (with --run)?"
)
@click.option("--epsilon-cap", type=_Number(above=0), metavar="E", help="What if the cap were E (with --run)?")
@click.option(
    "--ledger",
    type=click.Path(path_type=Path),
    help="A hospital's ledger: count its other runs as well (with --run).",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(**options: Any) -> None:
    """Plan a privacy budget: of sampling probability, steps, noise and epsilon give three, and learn the fourth.

    Epsilon is proved by the privacy loss distribution (PLD) of the Poisson-sampled Gaussian mechanism, for adding or
    removing one patient, with all noise added by each hospital; with shared noise by Renyi's accountant. Nothing is
    read, but with --run a run's public policy, and nothing written, but with --html.

    \b
    Example:
      fedgan-secure plan --sampling-probability 0.01 --steps 1000 --delta 1e-5 --epsilon 3
      fedgan-secure plan --sampling-probability 0.01 --delta 1e-5 --noise-multiplier 1 --epsilon 3
      fedgan-secure plan --batch 64 --hospital north=3000 --hospital south=900 --steps 600 --delta 1e-5 --epsilon 4
      fedgan-secure plan --release-noise 2.285 --sampling-probability 0.064 --steps 300 --delta 3.3e-5 --epsilon 8
      fedgan-secure plan --run runs/2026-01-31-1 --more-rounds 3
    """
    if options["run"] is not None:
        _what_if(options)
        return
    for name in ("more_rounds", "more_hospitals", "epsilon_cap", "ledger"):
        if options[name] is not None:
            raise click.UsageError(f"--{name.replace('_', '-')} asks about a run: give --run RUN.")
    if options["delta"] is None:
        raise click.UsageError("Missing option '--delta'.")
    _plan(options)


def _plan(options: dict[str, Any]) -> None:
    from fedgan_secure.planning import UNKNOWNS, drop_outs, for_hospitals

    cohorts, batch = _cohorts(options["hospital"]), options["batch"]
    probability = _probability(options, cohorts)
    if options["drop_outs"] is not None and options["drop_outs"] >= len(cohorts):
        raise click.UsageError(f"--drop-outs {options['drop_outs']} needs more than so many --hospital NAME=N.")
    given: dict[str, Any] = {str(name): options[name] for name in UNKNOWNS} | {"sampling_probability": probability}
    missing = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is None]
    if len(missing) != 1:
        raise click.UsageError(
            "Give three of --sampling-probability, --steps, --noise-multiplier and --epsilon: "
            + ("all four are given." if not missing else f"{', '.join(missing)} are left out.")
        )
    given |= {key: options[key] for key in ("delta", "unit", "images_per_patient")}
    shares = _shares(options)
    _check_release(options, shares)
    placements = [None, shares] if options["noise_placement"] == "both" else [shares]
    schedules = [_solved(given, one, _release(options, one)) for one in placements]
    every = []
    for schedule in schedules:
        figures = figures_of(schedule, options["known_to"])
        if cohorts:
            rows = for_hospitals(schedule, cohorts, same_batch=batch is not None)
            figures["hospitals"] = hospital_figures(rows)
        if options["drop_outs"] is not None:
            found = drop_outs(schedule, len(cohorts), options["drop_outs"], options["threshold"])
            figures["drop_outs"] = [{"missing": d.missing, "left": d.left, "noise": d.noise} for d in found]
        every.append(figures)
    figures = every[0] if len(every) == 1 else {**every[0], "distributed": every[1]}
    _tell(options, schedules, figures, max([*cohorts.values(), options["declared_patients"] or 0]))


def _probability(options: dict[str, Any], cohorts: dict[str, int]) -> float | None:
    """The sampling probability, given or from a batch of the smallest hospital's patients."""
    probability: float | None = options["sampling_probability"]
    batch = options["batch"]
    if batch is None:
        return probability
    if not cohorts or probability is not None:
        raise click.UsageError("--batch takes the place of --sampling-probability and needs a --hospital NAME=N.")
    if batch > min(cohorts.values()):
        raise click.UsageError(f"--batch {batch:g} is more than the smallest hospital's patients.")
    return float(batch / min(cohorts.values()))


def _tell(options: dict[str, Any], schedules: list[Plan], figures: dict[str, Any], largest: int) -> None:
    """Write what was found as page, JSON or table; `largest`: the largest cohort that was named, or 0."""
    if largest:
        from fedgan_audits.accounting import advised_delta

        figures["declared_patients"] = largest
        figures["delta_advised"] = advised_delta(largest)
    if options["html"] is not None:
        from fedgan_secure.planning import write_page

        write_page(options["html"], schedules, figures)
        note(f"page written: {options['html']}")
    if options["as_json"]:
        emit(figures)
        return
    show(figures)
    if largest:
        advise(figures, largest)


def _check_release(options: dict[str, Any], shares: NoiseShares | None) -> None:
    """Refuse options of a release that do not go together."""
    noise, dimension = options["release_noise"], options["release_dimension"]
    if dimension is not None and (noise is None or shares is None):
        raise click.UsageError(
            "--release-dimension goes with --release-noise and --noise-placement distributed or both."
        )
    if noise is not None and shares is not None and dimension is None:
        raise click.UsageError(
            f"--release-noise with --noise-placement {options['noise_placement']} needs --release-dimension: rounding "
            "to a grid counts more in longer vectors."
        )


def _what_if(options: dict[str, Any]) -> None:
    allowed = {"run", "more_rounds", "more_hospitals", "epsilon_cap", "ledger", "as_json"}
    context = click.get_current_context()
    from click.core import ParameterSource

    other = [
        name for name in options
        if name not in allowed and context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]  # fmt: skip
    if other:
        raise click.UsageError(f"--run takes the run's own settings; leave out {', '.join(sorted(other))}.")
    from fedgan_secure.planning import what_if

    found = what_if(
        options["run"],
        more_rounds=options["more_rounds"] or 0,
        more_hospitals=options["more_hospitals"] or 0,
        cap=options["epsilon_cap"],
        ledger=options["ledger"],
    )
    if options["as_json"]:
        emit({**found.figures, "sentences": list(found.sentences)})
        return
    for sentence in found.sentences:
        say(sentence)
