"""`fedgan-secure plan`: what a schedule costs, or the noise that a target epsilon needs, before anything runs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from fedgan_cli.terminal import emit, note, say

if TYPE_CHECKING:
    from fedgan_audits.mechanism import MechanismRecord, NoiseShares

_IMAGES = (1, 2, 4, 8)
_GRID_SHARE = 0.01
"""The grid step times sqrt(dimension), in clip norms: what rounding may add to the sensitivity."""
_FIELD_OPTIONS = {
    "sampling_probability": "--sampling-probability",
    "steps": "--steps",
    "noise_multiplier": "--noise-multiplier",
    "images_per_patient": "--images-per-patient",
}


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


def _text(value: float) -> str:
    from fedgan_audits.accountant import round_up

    return round_up(value)


def _finite(value: float) -> float | str:
    """A number for JSON, or "unbounded"."""
    return value if math.isfinite(value) else "unbounded"


def _shares(options: dict[str, Any]) -> NoiseShares | None:
    """The shares of the noise that the options describe; None for `per_hospital` noise."""
    from fedgan_audits.mechanism import NoiseShares

    given = [name for name in ("threshold", "colluders", "dimension") if options[name] is not None]
    if options["noise_placement"] == "per_hospital":
        if given:
            raise click.UsageError(f"--{given[0]} is given, but only --noise-placement distributed takes it.")
        return None
    if len(given) < 3:
        missing = next(name for name in ("threshold", "colluders", "dimension") if options[name] is None)
        raise click.UsageError(f"--noise-placement distributed needs --{missing}.")
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


def _figures(
    sampling_probability: float,
    steps: int,
    delta: float,
    noise_multiplier: float | None,
    epsilon: float | None,
    unit: str,
    images_per_patient: int,
    shares: NoiseShares | None,
) -> dict[str, Any]:
    from fedgan_audits import accountant, budget

    plan = budget.plan_run(
        sampling_probability=sampling_probability,
        steps_per_round=steps,
        rounds=1,
        delta=delta,
        noise_multiplier=noise_multiplier,
        epsilon=epsilon,
        unit="image" if unit == "image" else "patient",
        images_per_patient=images_per_patient,
        noise_placement="per_hospital" if shares is None else "distributed",
        shares=shares,
    )
    run = [plan.mechanism]
    figures: dict[str, Any] = {
        "sampling_probability": sampling_probability,
        "steps": steps,
        "delta": delta,
        "noise_multiplier": plan.mechanism.noise_multiplier,
        "unit": unit,
        "images_per_patient": images_per_patient,
        "neighbouring_relation": "add_or_remove_one",
        "sampler": "poisson",
        "noise_placement": plan.mechanism.noise_placement,
        "accountant": accountant.accountant_name(run),
        "epsilon": _finite(accountant.epsilon(run, delta)),
        "epsilon_rdp": _finite(accountant.epsilon_rdp(run, delta)),
        "epsilon_two_hospitals": _finite(accountant.epsilon_two_hospitals(run, delta)),
        "mu": _finite(accountant.mu_gdp(run, delta)),
        "mu_smallest_delta": delta,
        "colluders": accountant.colluder_figures(run),
    }
    if epsilon is not None:
        figures["epsilon_target"] = epsilon
    if unit == "image":
        figures["epsilon_by_images"] = {
            str(images): _finite(accountant.epsilon_k_images(run, delta, images)) for images in _IMAGES
        }
    if shares is not None:
        figures |= _shared_figures(plan.mechanism, delta)
    return figures


def _shared_figures(mechanism: MechanismRecord, delta: float) -> dict[str, Any]:
    """What is said of shared noise beside the proved figure; lengths in clip norms, the deviation in grid steps."""
    from fedgan_audits import accountant, colluders, integer_noise
    from fedgan_audits.mechanism import DistributedMechanism

    assert isinstance(mechanism, DistributedMechanism)  # noqa: S101 - for the type checker
    shares = mechanism.shares
    return {
        **shares.model_dump(mode="json"),
        "sensitivity": integer_noise.sensitivity(mechanism),
        "share_deviation": math.sqrt(integer_noise.share_variance(mechanism)),
        "epsilon_gaussian_approximation": _finite(accountant.epsilon_gaussian_approximation([mechanism], delta)),
        "epsilon_two_hospitals_gaussian_approximation": _finite(
            accountant.epsilon_gaussian_approximation([mechanism], delta, records=2)
        ),
        "epsilon_by_colluders": {
            str(row.colluders): _finite(row.epsilon) for row in colluders.table([mechanism], delta)
        },
        "colluders": shares.colluders,
    }


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


def _show(figures: dict[str, Any], declared_patients: int | None) -> None:
    one = "image" if figures["unit"] == "image" else "patient"
    shared = figures["noise_placement"] == "distributed"
    rows = [
        ("Sampling probability", f"{figures['sampling_probability']:g} per {one} and step"),
        ("Steps", f"{figures['steps']}"),
        (
            "Noise multiplier",
            f"{figures['noise_multiplier']:g} times the " + ("sensitivity" if shared else "clip norm"),
        ),
        ("Delta", f"{figures['delta']:g}"),
        ("", ""),
        (f"Epsilon, one {one}", _shown(figures["epsilon"])),
    ]
    if shared:
        rows += _shared_rows(figures, one)
    else:
        rows += [
            ("  second opinion (RDP, looser)", _shown(figures["epsilon_rdp"])),
            (f"Epsilon, {one} in two hospitals", _shown(figures["epsilon_two_hospitals"])),
        ]
    rows += [
        (f"Epsilon, patient with {images} image" + ("s" if images != "1" else ""), _shown(value))
        for images, value in figures.get("epsilon_by_images", {}).items()
    ]
    rows.append((f"GDP mu (delta >= {figures['delta']:g})", _shown(figures["mu"])))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        say(f"{name:<{width}}  {value}".rstrip())
    say()
    if shared:
        say("The figures hold against the coordinator together with the declared number of colluding hospitals, for")
        say(f"adding or removing one {one}, and rest on secure aggregation.")
        say(f"By {figures['accountant']}, rounded up.")
    else:
        say("The figures hold against the coordinator and all other hospitals together, for adding or removing one")
        say(f"{one}, with every step released. By {figures['accountant']}, rounded up.")
    if one == "image":
        say("The unit is the image: a patient with several images is protected less, as the rows above say.")
    if declared_patients is not None:
        from fedgan_audits.budget import advised_delta

        advised = advised_delta(declared_patients)
        if figures["delta"] > advised:
            note(f"delta {figures['delta']:g} is above {advised:.6g} = 1/(10 x {declared_patients}): choose less.")


@click.command(
    "plan",
    short_help="Plan a privacy budget: epsilon from noise, or noise from epsilon.",
)
@click.option(
    "--sampling-probability",
    type=_Number(above=0, most=1),
    required=True,
    metavar="Q",
    help="Probability with which each patient is drawn in each step.",
)
@click.option(
    "--steps",
    type=click.IntRange(1, 2**40),
    required=True,
    metavar="T",
    help="Steps of the whole run: rounds (spare ones included) times steps per round.",
)
@click.option("--delta", type=_Number(least=1e-12, most=0.99), required=True, metavar="D", help="Delta of all figures.")
@click.option(
    "--noise-multiplier",
    type=_Number(least=0, most=1e9),
    metavar="SIGMA",
    help="Noise per step, in clip norms: ask what it costs.",
)
@click.option("--epsilon", type=_Number(above=0), metavar="E", help="Target for the run: ask which noise reaches it.")
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
    type=click.Choice(["per_hospital", "distributed"]),
    default="per_hospital",
    show_default=True,
    help="Whether each hospital adds all of its noise, or a share of the sum's.",
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
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(
    sampling_probability: float,
    steps: int,
    delta: float,
    noise_multiplier: float | None,
    epsilon: float | None,
    unit: str,
    images_per_patient: int,
    declared_patients: int | None,
    as_json: bool,
    **shared: Any,
) -> None:
    """Plan a privacy budget: the epsilon that a noise multiplier costs, or the noise that an epsilon needs.

    Epsilon is proved by the privacy loss distribution (PLD) of the Poisson-sampled Gaussian mechanism, for adding or
    removing one patient, with all noise added by each hospital. Nothing is read or written.

    \b
    Example:
      fedgan-secure plan --sampling-probability 0.01 --steps 1000 --delta 1e-5 --epsilon 3
      fedgan-secure plan --sampling-probability 0.01 --steps 1000 --delta 1e-5 --noise-multiplier 1 --json
    """
    if (noise_multiplier is None) == (epsilon is None):
        raise click.UsageError(
            "Give one of --noise-multiplier and --epsilon: "
            + ("both are given." if epsilon is not None else "neither is given.")
        )
    from fedgan_audits.errors import RecordInvalid, UnreachableTarget

    shares = _shares(shared)
    try:
        figures = _figures(
            sampling_probability, steps, delta, noise_multiplier, epsilon, unit, images_per_patient, shares
        )
    except UnreachableTarget as error:
        raise UnreachableTarget(f"--epsilon: {error}", nearest_epsilon=error.nearest_epsilon, hint=error.hint) from None
    except RecordInvalid as error:
        text = str(error)
        option = next((option for field, option in _FIELD_OPTIONS.items() if text.startswith(field)), None)
        raise RecordInvalid(f"{option}: {text}" if option else text, hint=error.hint) from None
    if declared_patients is not None:
        from fedgan_audits.budget import advised_delta

        figures["declared_patients"] = declared_patients
        figures["delta_advised"] = advised_delta(declared_patients)
    if as_json:
        emit(figures)
    else:
        _show(figures, declared_patients)
