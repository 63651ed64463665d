"""`fedgan-secure data`: look at a folder of images as the loaders will see it. Nothing is trained, nothing leaves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedgan_cli.terminal import emit, progress, say
from fedgan_cli.withdraw import command as withdraw

if TYPE_CHECKING:
    from fedgan_secure.data import DataFindings

_SHOWN = 20
_LAYOUTS = "auto, dicom, rsna-ct, rsna-pneumonia, eyepacs, aptos, idrid, messidor, folders, npz or csv"


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nExample:\n  fedgan-secure data check ./images --layout auto",
)
def command() -> None:
    """Look at a folder of images as the loaders will see it, and keep a hospital's list of withdrawn patients."""


command.add_command(withdraw)


@command.command(
    "check",
    epilog="\b\nExample:\n  fedgan-secure data check ./fundus\n"
    "  fedgan-secure data check ./mnist.npz --unit image --image-size 28 --channels 1 --json",
)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--layout", default="auto", show_default=True, metavar="NAME", help=f"How the files lie: {_LAYOUTS}.")
@click.option(
    "--unit",
    type=click.Choice(["patient", "image"]),
    default="patient",
    show_default=True,
    help="Whom privacy protects: a patient with all images, or (weaker) a single image.",
)
@click.option(
    "--image-size",
    type=click.Choice(["28", "64", "128"]),
    default="64",
    show_default=True,
    help="Side of the prepared images, in pixels.",
)
@click.option(
    "--channels", type=click.Choice(["1", "3"]), default="3", show_default=True, help="1 for grey, 3 for colour."
)
@click.option(
    "--preprocessing",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="auto, fundus-crop/1, ct-abdomen-window/1 or plain/1.",
)
@click.option(
    "--patient-pattern",
    metavar="REGEX",
    help="For class folders: finds the patient in a file's name without suffix, in a group called patient.",
)
@click.option("--image-column", metavar="NAME", help="For a table of labels: the column that names the file.")
@click.option("--label-column", metavar="NAME", help="For a table of labels: the column with the label.")
@click.option("--patient-column", metavar="NAME", help="For a table of labels: the column that names the patient.")
@click.option("--exclude-patient", "exclude", multiple=True, metavar="ID", help="Leave this patient out (repeatable).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with every file that was set aside.")
@click.option("--quiet", is_flag=True, help="No progress.")
def check(
    path: Path,
    layout: str,
    unit: str,
    image_size: str,
    channels: str,
    preprocessing: str,
    patient_pattern: str | None,
    image_column: str | None,
    label_column: str | None,
    patient_column: str | None,
    exclude: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> None:
    """Show what would be loaded from PATH: patients, images, labels, and every file that was set aside and why.

    Everything is read and decoded, as a run would, and thrown away again. The answer is confidential: it names files
    and counts patients.
    """
    from fedgan_secure.data import LoadSettings, load

    settings = LoadSettings(
        layout=layout,
        image_size=int(image_size),
        channels=int(channels),
        unit="image" if unit == "image" else "patient",
        preprocessing=preprocessing,
        exclude=exclude,
        patient_pattern=patient_pattern,
        image_column=image_column,
        label_column=label_column,
        patient_column=patient_column,
    )
    with progress(quiet=quiet) as shown:
        findings = load(path, settings, shown.update).findings
    if as_json:
        emit({"path": str(path), "image_size": int(image_size), "channels": int(channels), **findings.to_dict()})
    else:
        _show(path, findings)


def _show(path: Path, found: DataFindings) -> None:
    say(f"{_safe(str(path))}")
    rows: list[tuple[str, Any]] = [
        ("layout", found.layout),
        ("preprocessing", found.preprocessing),
        ("unit of privacy", found.unit),
        ("patients" if found.unit == "patient" else "units (images)", found.patients),
        ("images", found.images),
        ("quarantined files", len(found.quarantined)),
        ("groups of patients that share an image", len(found.duplicate_patients)),
    ]
    if found.excluded_images or found.excluded_found:
        rows.append(("excluded", f"{len(found.excluded_found)} patients, {found.excluded_images} files"))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        say(f"  {name:<{width}}  {value}")
    if found.classes:
        say("labels (images)")
        width = max(len(name) for name in found.labels)
        largest = max(1, *found.labels.values())
        for name, count in found.labels.items():
            if count or name != "none":
                bar = "#" * round(30 * count / largest)
                say(f"  {_safe(name):<{width}}  {count:>7}  {bar}".rstrip())
    _list("quarantined", [f"{name}: {reason}" for name, reason in found.quarantined])
    _list("identical images of different patients", [" = ".join(group) for group in found.duplicates])
    _list("identical images of one patient", [" = ".join(group) for group in found.duplicates_within_patient])
    _list("images without label", list(found.unlabelled))
    _list("labels without image", list(found.labels_without_image))
    _list("labels that cannot be used", [f"{name}: {reason}" for name, reason in found.unusable_labels])
    for text in found.notes:
        say(f"note: {_safe(text)}")
    if found.duplicates:
        say("note: identical images are reported, never removed; exclude a patient by name with --exclude-patient")
    say("This list is confidential: it counts patients and names files.")


def _list(title: str, lines: list[str]) -> None:
    if not lines:
        return
    say(f"{title} ({len(lines)})")
    for line in lines[:_SHOWN]:
        say(f"  {_safe(line)}")
    if len(lines) > _SHOWN:
        say(f"  ... and {len(lines) - _SHOWN} more (--json lists them all)")


def _safe(text: str) -> str:
    """File names may hold control characters; a terminal must not obey them."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
