"""The findings of `data check` as one page: a single file, no script, no network, for the hospital's own eyes."""

from __future__ import annotations

import os
import tempfile
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from fedgan_cli.terminal import printable

if TYPE_CHECKING:
    from fedgan_secure.data.reading import DataFindings


def render(path: str, findings: DataFindings) -> bytes:
    """The page, in UTF-8. Everything that comes from the folder is escaped; control characters are replaced."""
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
    identifiers = findings.identifiers
    css = (files("fedgan_audits") / "templates" / "style.css").read_text(encoding="utf-8")
    text = environment.get_template("data-check.html.j2").render(
        css=css,
        path=path,
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
