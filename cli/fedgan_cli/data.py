"""`fedgan-secure data`: look at a folder of images as the loaders will see it, and make de-identified copies of it.

Nothing is trained, nothing leaves this machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedgan_cli.terminal import emit, note, printable, progress, say
from fedgan_cli.withdraw import command as withdraw

if TYPE_CHECKING:
    from fedgan_secure.data.reading import DataFindings


_SHOWN = 20
_LAYOUTS = "auto, dicom, rsna-ct, rsna-pneumonia, eyepacs, aptos, idrid, messidor, folders, npz or csv"


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nExample:\n  fedgan-secure data check ./images --layout auto",
)
def command() -> None:
    """Look at a folder of images as the loaders will see it, de-identify copies of it, leave patients out."""


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
    help="auto (by the layout), fundus-crop/1, ct-abdomen-window/1, plain/1 or by-modality/1.",
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
@click.option("--unknown-ok", is_flag=True, help="Go on where nobody has the name of a patient to exclude.")
@click.option(
    "--html",
    "page",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the findings as one page too (no script, no network; readable by you alone).",
)
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
    unknown_ok: bool,
    page: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Show what would be loaded from PATH: patients, images, labels, identical images, which identifiers headers hold,
    whether text may be burned into pixels, and every file that was set aside and why.

    Everything is read and decoded, as a run would, and thrown away again. The answer is confidential: it names files
    and counts patients. No value of a header is shown.
    """
    from fedgan_cli import data_page
    from fedgan_cli.next_run import run_command
    from fedgan_secure.data.reading import LoadSettings, load, unknown_exclusions, unknown_names
    from fedgan_secure.errors import InputError

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
        result = load(path, settings, shown.update)
    findings = result.findings
    command_line = run_command(path, settings, findings, unknown_ok=unknown_ok)
    unknown = unknown_exclusions(exclude, [findings])
    if unknown and not unknown_ok:
        raise unknown_names(tuple(dict.fromkeys(exclude)), unknown)
    if page is not None:
        try:
            data_page.write(page, data_page.render(str(path), result, command_line))
        except OSError as error:
            raise InputError(f"{page} cannot be written ({error.strerror})", hint="give another --html") from None
        note(f"wrote {printable(str(page))}")
    if as_json:
        said = {"path": str(path), "image_size": int(image_size), "channels": int(channels)}
        emit({**said, **findings.to_dict(), "next": command_line})
    else:
        _show(path, findings)
        say("To go on (say how many patients a hospital has in public, rounded: --declared-patients):")
        say(printable(command_line))


def _show(path: Path, found: DataFindings) -> None:
    say(f"{printable(str(path))}")
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
                say(f"  {printable(name):<{width}}  {count:>7}  {bar}".rstrip())
    _list("quarantined", [f"{name}: {reason}" for name, reason in found.quarantined])
    if found.left_out:
        say(f"not read ({sum(row.files for row in found.left_out)} files)")
        for row in found.left_out:
            say(f"  {row.files:>7}  {printable(row.kind)}: {row.advice}")
    _list("identical images of different patients", [" = ".join(group) for group in found.duplicates])
    _list("identical images of one patient", [" = ".join(group) for group in found.duplicates_within_patient])
    _list("one identifier, several people", [f"{name}: {what}" for name, what in found.several_people])
    _list("images without label", list(found.unlabelled))
    _list("labels without image", list(found.labels_without_image))
    _list("labels that cannot be used", [f"{name}: {reason}" for name, reason in found.unusable_labels])
    _identifiers(found)
    for text in found.notes:
        say(f"note: {printable(text)}")
    if found.duplicates:
        say("note: identical images are reported, never removed; exclude a patient by name with --exclude-patient")
    say("This list is confidential: it counts patients and names files.")


def _identifiers(found: DataFindings) -> None:
    counts = found.identifiers
    if not counts.files:
        return
    say(f"identifiers in headers and EXIF (of {counts.files} files; not taken over)")
    for row in found.safe_harbor:
        held = [f"{name} {count}" for name, count in row.attributes]
        more = f", and {len(held) - 4} more" if len(held) > 4 else ""
        detail = f": {', '.join(held[:4])}{more}" if held else ""
        say(f"  ({row.letter}) {row.identifier}: {row.status}{detail}")
    if counts.private:
        say(f"  private attributes: {counts.private} files")
    say("text burned into pixels (not looked for; what headers say)")
    for kind, count in counts.pixel_risk.items():
        say(f"  {count:>7}  {kind}")


def _list(title: str, lines: list[str]) -> None:
    if not lines:
        return
    say(f"{title} ({len(lines)})")
    for line in lines[:_SHOWN]:
        say(f"  {printable(line)}")
    if len(lines) > _SHOWN:
        say(f"  ... and {len(lines) - _SHOWN} more (--json lists them all)")


@command.command(
    "deidentify",
    epilog="\b\nExample:\n  fedgan-secure data deidentify ./from-the-archive ./copies\n"
    "  fedgan-secure data deidentify ./fundus ./copies --layout eyepacs --pixels-reviewed",
)
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--layout", default="auto", show_default=True, metavar="NAME", help=f"How the files lie: {_LAYOUTS}.")
@click.option(
    "--patient-pattern",
    metavar="REGEX",
    help="For class folders: finds the patient in a file's name without suffix, in a group called patient.",
)
@click.option(
    "--pixels-reviewed",
    is_flag=True,
    help="A person has looked: no text is burned into the pictures whose header does not say.",
)
@click.option(
    "--secret-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The hospital's secret behind pseudonyms and UIDs; made on the first run otherwise.",
)
@click.option(
    "--confidential",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where manifest and secret go; otherwise beside TARGET. Never pass it on.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with every file that was set aside.")
@click.option("--quiet", is_flag=True, help="No progress.")
def deidentify(
    source: Path,
    target: Path,
    layout: str,
    patient_pattern: str | None,
    pixels_reviewed: bool,
    secret_file: Path | None,
    confidential: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write de-identified copies of the pictures in SOURCE to TARGET; the originals are not touched.

    DICOM goes through the Basic Application Confidentiality Profile and each copy is searched again before it is
    written; pictures are written as bare pixels (PNG). Files that may have text burned in are set aside: nothing is
    painted over. Begun again, it goes on where it was, and it never overwrites a file.
    """
    from fedgan_secure.data.deidentification import DeidentifySettings, deidentify_folder

    settings = DeidentifySettings(layout, patient_pattern, confidential, secret_file, pixels_reviewed)
    try:
        with progress(quiet=quiet) as shown:
            result = deidentify_folder(source, target, settings, shown.update)
    except KeyboardInterrupt:
        note("the copies that are written stay; the same command goes on where this one stopped")
        raise
    if as_json:
        emit({"source": str(source), "target": str(target), **result.to_dict()})
        return
    facts = result.to_dict()
    say(f"{printable(str(source))} -> {printable(str(target))}{' (went on)' if result.resumed else ''}")
    rows = [
        ("layout", result.layout),
        ("copies written", facts["written"]),
        ("identical files left out", facts["duplicates"]),
        ("set aside", len(facts["set_aside"])),
        ("not copied (no pictures)", len(facts["not_copied"])),
        ("residual scan of the copies", facts["residual_scan"]),
        ("withheld by that scan", facts["withheld_by_residual_scan"]),
        ("profile", f"{facts['profile']}, dicom-anonymizer {facts['dicom_anonymizer']}, code 113100"),
        ("table of labels or patients", result.table or "none needed"),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        say(f"  {name:<{width}}  {value}")
    _list("set aside", [f"{one['path']}: {one['reason']}" for one in facts["set_aside"]])
    _list("labels withheld from the table", [f"{label}: {reason}" for label, reason in result.labels_withheld])
    for text in result.notes:
        say(f"note: {printable(text)}")
    say(f"Confidential, never to be passed on: {printable(str(result.confidential))} (names of originals, secret)")
    if pixels_reviewed:
        say("note: that no text is burned in was declared with --pixels-reviewed; the manifest records it")
