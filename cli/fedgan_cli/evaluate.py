"""`fedgan-secure evaluate`: what a run's generator is worth, measured on real images by the person who holds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fedgan_cli import terminal

WARNING = (
    "These figures were computed on real images. They are NOT covered by the run's epsilon: "
    "keep them with the researcher, do not publish them as private."
)


@click.command(
    "evaluate",
    epilog="""\b
Examples:
  fedgan-secure evaluate runs/2026-01-31-1 --real ./held-out
  fedgan-secure evaluate runs/2026-01-31-1 --real ./mnist.npz --layout npz --unit image --seeds 1 --json""",
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--real",
    type=click.Path(path_type=Path),
    required=True,
    help="Real images to measure against, best of patients who took no part in the run.",
)
@click.option("--layout", default="auto", show_default=True, metavar="NAME", help="How the real files lie.")
@click.option(
    "--unit",
    type=click.Choice(["patient", "image"]),
    default="patient",
    show_default=True,
    help="Split the real images into training and test part by patient, or by image where no patient is named.",
)
@click.option(
    "--count",
    type=click.IntRange(50, 100_000),
    default=2000,
    show_default=True,
    help="How many images to generate for each part of the measurement.",
)
@click.option(
    "--seeds", type=click.IntRange(1, 20), default=3, show_default=True, help="How many classifiers to train for TSTR."
)
@click.option(
    "--steps",
    type=click.IntRange(10, 100_000),
    default=600,
    show_default=True,
    help="Training steps of each classifier and of the judge.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(run: Path, real: Path, layout: str, unit: str, count: int, seeds: int, steps: int, as_json: bool) -> None:
    """Measure what a run's generator makes: TSTR (where there are labels) and realism, against real images.

    RUN is the folder of a finished run; only its public part is read.
    """
    terminal.load_tensorflow()
    from fedgan_secure.evaluation.run_score import EvaluationRequest, evaluate_run

    result = evaluate_run(
        EvaluationRequest(run=run, real=real, layout=layout, unit=unit, count=count, seeds=seeds, steps=steps)
    )
    if as_json:
        terminal.emit({**result, "warning": WARNING})
        return
    for line in _lines(result):
        terminal.say(line)
    terminal.note(WARNING)


def _lines(result: dict[str, Any]) -> list[str]:
    realism = result["realism"]
    lines = [f"Real images    {result['real_images']}, half of the patients to train with, half to test on"]
    tstr = result["tstr"]
    if tstr is None:
        lines.append("TSTR           not assessed: " + result["tstr_missing_because"])
    else:
        low, high = tstr["tstr_interval_95"]
        lines.append(
            f"TSTR           {tstr['tstr']:.3f} ({low:.3f} to {high:.3f}); trained on real {tstr['trtr']:.3f}, "
            f"ratio {tstr['ratio']:.3f}; largest class {tstr['chance']:.3f}"
        )
    for name, text in (("generated", "Realism        "), ("real", "  real images  "), ("untrained", "  untrained    ")):
        score = realism[name]
        low, high = score["interval_95"]
        lines.append(f"{text}{score['mean']:.3f} ({low:.3f} to {high:.3f}, {score['images']} images)")
    return lines
