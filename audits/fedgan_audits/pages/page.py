"""Pages that are no signed reports: plans and comparisons, one file each, no script, no network.

They look like the reports and are read the same way, but nobody signs them and nothing verifies them; they say so.
Everything that comes in is escaped.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined

from fedgan_audits.pages.curves import Chart


@dataclass(frozen=True)
class Table:
    """Rows of text under headings; the first cell of a row is its heading, numbers stand right (`numeric` columns)."""

    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Picture:
    """A PNG with the words that stand for it."""

    png: bytes
    alt: str
    caption: str

    @property
    def source(self) -> str:
        """As a data URL: a page fetches nothing."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True)
class Section:
    """A card of a page: whatever it has is shown in this order."""

    title: str
    paragraphs: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    chart: Chart | None = None
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    code: str = ""


@dataclass(frozen=True)
class Page:
    """A whole page. `headline` is its result in a sentence, `remarks` what a reader must know before using it."""

    title: str
    brand: str
    headline: str
    remarks: tuple[str, ...]
    sections: tuple[Section, ...]


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("fedgan_audits", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render_page(page: Page) -> bytes:
    """The page as UTF-8 HTML."""
    css = (files("fedgan_audits") / "templates" / "style.css").read_text(encoding="utf-8")
    return _environment().get_template("page.html.j2").render(css=css, page=page).encode("utf-8")
