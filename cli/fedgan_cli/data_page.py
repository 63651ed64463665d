"""The findings of `data check` as one page: a single file, no script, no network, for the hospital's own eyes."""

from __future__ import annotations

import base64
import io
import os
import tempfile
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from fedgan_cli.terminal import printable

if TYPE_CHECKING:
    from fedgan_secure.data.reading import LoadResult


MOST_PICTURES = 10


def thumbnails(result: LoadResult) -> list[tuple[str, str]]:
    """Return (data URI of a PNG, label) of up to ten images as they would be trained on, spread over the data set."""
    from PIL import Image

    data, names = result.dataset, result.label_names
    count = min(MOST_PICTURES, len(data))
    chosen = [row * len(data) // count for row in range(count)]
    pixels = data.pixels(chosen)
    found = []
    for picture, row in zip(pixels, chosen, strict=True):
        label = int(data.labels[row])
        file = io.BytesIO()
        Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture).save(file, format="PNG")
        source = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
        found.append((source, names[label] if 0 <= label < len(names) else "no label"))
    return found


def render(path: str, result: LoadResult, command_line: str) -> bytes:
    """The page, in UTF-8. Everything that comes from the folder is escaped; control characters are replaced.

    `command_line`: what to run next.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from fedgan_secure.data.identifiers import PROFILE_EDITION, SAYS_NO, SELDOM, SOURCE

    environment = Environment(
        loader=PackageLoader("fedgan_cli", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    findings = result.findings
    identifiers = findings.identifiers
    css = (files("fedgan_audits") / "templates" / "style.css").read_text(encoding="utf-8")
    text = environment.get_template("data-check.html.j2").render(
        css=css,
        path=path,
        pictures=thumbnails(result),
        next=command_line,
        f=findings,
        unit_word="patients" if findings.unit == "patient" else "units (images)",
        risky=sum(count for kind, count in identifiers.pixel_risk.items() if kind not in (SAYS_NO, SELDOM)),
        labels=[(name, count) for name, count in findings.labels.items() if count or name != "none"],
        unlabelled=[(name,) for name in findings.unlabelled],
        missing=[(name,) for name in findings.labels_without_image],
        across=[(" = ".join(group),) for group in findings.duplicates],
        within=[(" = ".join(group),) for group in findings.duplicates_within_patient],
        attributes=list(identifiers.attributes.items()),
        risk=list(identifiers.pixel_risk.items()),
        harbor=[
            (
                f"({row.letter}) {row.identifier}",
                row.status,
                ", ".join(f"{name} ({count})" for name, count in row.attributes) or "-",
                row.remark,
            )
            for row in findings.safe_harbor
        ],
        profile=PROFILE_EDITION,
        source=SOURCE,
        version=metadata.version("fedgan-secure"),
    )
    return text.encode("utf-8")


def write(place: Path, page: bytes) -> None:
    """Write the page for its owner alone (mode 0600), whole or not at all. Raises OSError."""
    handle, temporary = tempfile.mkstemp(prefix=".writing-", dir=place.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(page)
        Path(temporary).replace(place)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
