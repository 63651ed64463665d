"""`fedgan-secure pretrain`: a public start of one's own, trained without privacy on public pictures."""

from __future__ import annotations

from pathlib import Path

import click

from fedgan_cli import terminal

WARNING = (
    "A start is trained WITHOUT privacy: whatever it was trained on can be recovered from the file. "
    "Never train one on a hospital's patients."
)


@click.command(
    "pretrain",
    epilog="""\b
Examples:
  fedgan-secure pretrain --output phantoms.npz
  fedgan-secure pretrain ./public-fundus --public-source "IDRiD 2018, CC BY 4.0" --output fundus.npz
  fedgan-secure pretrain ./rsna --channels 1 --public-source "RSNA 2023, public" --name rsna/1 --output rsna.npz""",
)
@click.argument("public", required=False, type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="A new file (.npz).")
@click.option(
    "--public-source",
    metavar="TEXT",
    help="Declares the pictures of PUBLIC public, in words that reports repeat: what they are, and their licence.",
)
@click.option("--layout", default="auto", show_default=True, metavar="NAME", help="How the files of PUBLIC lie.")
@click.option(
    "--channels", type=click.Choice(["1", "3"]), default="3", show_default=True, help="1 grey, 3 colour (PUBLIC only)."
)
@click.option("--name", default="own/1", show_default=True, help="Name and version of the start, like fundus64/1.")
@click.option(
    "--pictures",
    type=click.IntRange(20, 2_000_000),
    default=24_000,
    show_default=True,
    help="Public phantoms to draw where PUBLIC is left out.",
)
@click.option(
    "--feature-steps",
    type=click.IntRange(1, 1_000_000),
    default=2500,
    show_default=True,
    help="Training steps of the feature network, 128 pictures each.",
)
@click.option(
    "--steps",
    type=click.IntRange(2, 1_000_000),
    default=16_600,
    show_default=True,
    help="Training steps of the generator, 64 pictures each.",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**30 - 1), default=1, show_default=True, help="Of pictures and training; public."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(
    public: Path | None,
    output: Path,
    public_source: str | None,
    layout: str,
    channels: str,
    name: str,
    pictures: int,
    feature_steps: int,
    steps: int,
    seed: int,
    as_json: bool,
) -> None:
    """Train a public start: a generator and a feature network that a private run begins with.

    PUBLIC is a folder of public pictures with labels, in any layout that `fedgan-secure data check` reads; without it,
    fundus phantoms of the public simulator are drawn. Pictures are prepared at 64 x 64 pixels; other sizes are not
    supported. On two cores this takes hours (docs/public-start.md). It can be stopped, and the same command goes on.
    """
    terminal.load_tensorflow()
    from fedgan_secure.interruption import Interruption
    from fedgan_secure.pretraining import PretrainSettings, folder_set, phantom_set, pretrain, refuse_existing

    settings = PretrainSettings(name=name, feature_steps=feature_steps, generator_steps=steps, seed=seed)
    _refuse_mixture(public, public_source, channels)
    refuse_existing(output)
    terminal.note(f"note: {WARNING}")
    interruption = Interruption()
    with terminal.progress() as shown:
        if public is None:
            pictures_set = phantom_set(pictures, seed, shown.update)
        else:
            source = public_source or ""
            pictures_set = folder_set(
                public, source, layout=layout, channels=int(channels), seed=seed, progress=shown.update
            )
        with interruption.caught():
            made = pretrain(pictures_set, settings, output, progress=shown.update, interruption=interruption)
    if as_json:
        terminal.emit({**made, "warning": WARNING})
        return
    figures = made["figures"]
    terminal.say(f"{made['name']} in {made['file']}")
    terminal.say(f"SHA-256    {made['digest']}")
    terminal.say(
        f"Features   {figures['grade_accuracy_held_out']:.3f} of {figures['held_out_pictures']} public pictures "
        "that were not trained on get the right label"
    )
    terminal.say(
        f"Generator  in {figures['grade_agreement_generated']:.3f} of {figures['generated_pictures']} pictures the "
        "feature network sees the label that was asked for"
    )
    terminal.say(f"Statement  {terminal.printable(made['statement'])}")


def _refuse_mixture(public: Path | None, source: str | None, channels: str) -> None:
    """Refuse options that belong to a folder where there is none, before hours are spent."""
    from fedgan_secure.errors import InputError

    if public is None and (source is not None or channels != "3"):
        raise InputError(
            "--public-source and --channels describe pictures of PUBLIC, and no folder was given",
            hint="name the folder, or leave both out: the phantoms are in colour",
        )
