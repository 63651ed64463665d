"""`fedgan-secure generate`: synthetic images from a run's generator."""

from __future__ import annotations

from pathlib import Path

import click

from fedgan_cli import terminal


@click.command(
    "generate",
    epilog="""\b
Examples:
  fedgan-secure generate runs/2026-01-31-1 --count 64 --format png --output images
  fedgan-secure generate runs/2026-01-31-1 --count 20 --format dicom --label 4 --output severe
  fedgan-secure generate runs/2026-01-31-1 --count 500 --layout eyepacs --output synthetic""",
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--count", type=click.IntRange(1, 1_000_000), required=True, help="How many images.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["png", "jpeg", "dicom", "npz"]),
    help="File type; default: the layout's own, png for flat.",
)
@click.option(
    "--layout",
    type=click.Choice(
        [
            "auto",
            "flat",
            "dicom",
            "rsna-ct",
            "rsna-pneumonia",
            "eyepacs",
            "aptos",
            "idrid",
            "messidor",
            "folders",
            "npz",
            "csv",
        ]
    ),
    default="auto",
    show_default=True,
    help="File names and label table of this data set; auto: of the one that the run was trained from.",
)
@click.option("--label", help="Only this label (its name or number); default: all labels in turn.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="A new or empty folder.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Repeat the same images; default: fresh ones.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(
    run: Path,
    count: int,
    form: str | None,
    layout: str,
    label: str | None,
    output: Path,
    seed: int | None,
    as_json: bool,
) -> None:
    """Draw synthetic images, with a contact sheet, their labels, and where they come from (model, report, epsilon).

    The run is verified first (exit code 5 where a check fails); where it is not PASS, the images say so.
    """
    terminal.load_tensorflow()
    from fedgan_secure.synthesis import draw

    drawn = draw(run, count=count, form=form, layout=layout, label=label, output=output, seed=seed)
    for text in (*drawn["notes"], *(f"the run is not PASS: {reason}" for reason in drawn["objections"])):
        terminal.note(f"note: {text}")
    if as_json:
        terminal.emit(drawn)
        return
    terminal.say(f"{count} images in {output}" + ("" if layout == "flat" else f" (layout {drawn['layout']})"))
    terminal.say(f"Contact sheet  {drawn['sheet']}")
    terminal.say(f"From run       {drawn['run_id']}, epsilon {drawn['epsilon']} at delta {drawn['delta']}")
