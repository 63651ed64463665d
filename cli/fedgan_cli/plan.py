"""`fedgan-secure plan`: what a schedule costs, or the noise that a target epsilon needs, before anything runs."""

from __future__ import annotations

import math
from typing import Any

import click

from fedgan_cli.terminal import emit, note, say

_IMAGES = (1, 2, 4, 8)
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


def _figures(
    sampling_probability: float,
    steps: int,
    delta: float,
    noise_multiplier: float | None,
    epsilon: float | None,
    unit: str,
    images_per_patient: int,
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
        "noise_placement": "per_hospital",
        "accountant": accountant.accountant_name(),
        "epsilon": _finite(accountant.epsilon_pld(run, delta)),
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
    return figures


def _show(figures: dict[str, Any], declared_patients: int | None) -> None:
    def shown(value: float | str) -> str:
        return value if isinstance(value, str) else _text(value)

    one = "image" if figures["unit"] == "image" else "patient"
    rows = [
        ("Sampling probability", f"{figures['sampling_probability']:g} per {one} and step"),
        ("Steps", f"{figures['steps']}"),
        ("Noise multiplier", f"{figures['noise_multiplier']:g} times the clip norm"),
        ("Delta", f"{figures['delta']:g}"),
        ("", ""),
        (f"Epsilon, one {one}", shown(figures["epsilon"])),
        ("  second opinion (RDP, looser)", shown(figures["epsilon_rdp"])),
        (f"Epsilon, {one} in two hospitals", shown(figures["epsilon_two_hospitals"])),
    ]
    rows += [
        (f"Epsilon, patient with {images} image" + ("s" if images != "1" else ""), shown(value))
        for images, value in figures.get("epsilon_by_images", {}).items()
    ]
    rows.append((f"GDP mu (delta >= {figures['delta']:g})", shown(figures["mu"])))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        say(f"{name:<{width}}  {value}".rstrip())
    say()
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

    try:
        figures = _figures(sampling_probability, steps, delta, noise_multiplier, epsilon, unit, images_per_patient)
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
