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
    """Measure what a run's generator makes, against real images: use and variety.

    Use: accuracy of a classifier that learnt from generated images alone (TSTR), beside one that learnt from real ones.
    Variety: coverage, recall, spread within a class, colours. A sentence says what the figures mean. Realism, how often
    a judge takes the images for real, is measured beside them.

    RUN is the folder of a finished run; only its public part is read.
    """
    terminal.load_tensorflow()
    from fedgan_secure.evaluation import EvaluationRequest, evaluate_run

    request = EvaluationRequest(run=run, real=real, layout=layout, unit=unit, count=count, seeds=seeds, steps=steps)
    with terminal.progress() as display:
        result = evaluate_run(request, display.update)
    if as_json:
        terminal.emit({**result, "warning": WARNING})
        return
    for line in _lines(result):
        terminal.say(line)
    terminal.note(WARNING)


def _lines(result: dict[str, Any]) -> list[str]:
    """What a person reads: the sentence, the figures behind it, and realism last."""
    from fedgan_secure.evaluation import flattened, lines

    amounts = (
        f"{result['real_training_images']} to train with, {result['real_test_images']} of other patients to test on"
    )
    rows = [result["sentence"], "", f"Real images: {amounts}", "", *lines(flattened(result))]
    if result["tstr"] is None:
        rows.append(f"TSTR not assessed: {result['tstr_missing_because']}")
    realism = result["realism"]
    if realism is None:
        return rows
    for name, text in (
        ("generated", "Realism of generated images"),
        ("real", "  of real ones"),
        ("untrained", "  of an untrained generator"),
    ):
        score = realism[name]
        low, high = score["interval_95"]
        rows.append(f"{text:<31}  {score['mean']:.3f} ({low:.3f} to {high:.3f}, {score['images']} images)")
    return rows
