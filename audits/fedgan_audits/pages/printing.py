"""A page as a tagged PDF (PDF/UA-1), by WeasyPrint: the extra `fedgan-secure[pdf]`.

A PDF is made of a page that stands alone: nothing is fetched, and a page that asks for anything but the picture inside
it is refused. The PDF itself is not signed; its foot names the signed file that it was made from.
"""

from __future__ import annotations

import logging
import re
from importlib.resources import files
from typing import Any

from fedgan_audits.errors import AuditError, RecordInvalid

_EMBEDDED = "data:image/png;base64,"
_DRAWING = re.compile(r"<svg\b[^>]*>")
_EXTRA = "Install the extra: python -m pip install 'fedgan-secure[pdf]'. Or print the HTML page from a browser."
_PANGO = (
    "WeasyPrint needs the library pango (Debian and Ubuntu: apt install libpango-1.0-0 libpangoft2-1.0-0 "
    "libharfbuzz-subset0; macOS: brew install pango). Or print the HTML page from a browser."
)


class PdfUnavailable(AuditError):  # noqa: N818 - named after what happened
    """WeasyPrint, or a library that it needs, is not on this machine."""


def _weasyprint() -> Any:
    try:
        import weasyprint
    except ImportError:
        raise PdfUnavailable("making a PDF needs WeasyPrint, which is not installed", hint=_EXTRA) from None
    except OSError as error:
        missing = str(error).splitlines()[0][:200]
        raise PdfUnavailable(f"WeasyPrint is installed and cannot start: {missing}", hint=_PANGO) from None
    return weasyprint


def _quoted(text: str) -> str:
    """`text` as a CSS string."""
    return '"' + "".join(f"\\{ord(letter):06x}" if letter in '"\\\n<' else letter for letter in text) + '"'


def pdf(page: bytes, foot: str, page_of: str = "page {page} of {pages}") -> bytes:
    """`page` (HTML, UTF-8) as a tagged PDF/UA-1 document with `foot` and the page's number at the foot of every sheet.

    Raises PdfUnavailable (exit code 2) where WeasyPrint or pango is missing, RecordInvalid where the page asks for a
    file or an address outside itself.
    """
    weasyprint = _weasyprint()
    from weasyprint.urls import FatalURLFetchingError, URLFetcher

    refused: list[str] = []

    class Refuse(URLFetcher):  # type: ignore[misc]
        """Hands out what is inside the page and nothing else."""

        def fetch(self, url: str, headers: Any = None) -> Any:
            if not url.startswith(_EMBEDDED):
                refused.append(url[:120])  # inside a drawing WeasyPrint swallows the error
                raise FatalURLFetchingError(url[:120])
            return super().fetch(url, headers)

    before, rest = page_of.split("{page}")
    between, after = rest.split("{pages}")
    number = f"{_quoted(before)} counter(page) {_quoted(between)} counter(pages) {_quoted(after)}"
    templates = files("fedgan_audits") / "templates"
    style = (templates / "pdf.css").read_text(encoding="utf-8")
    # WeasyPrint draws each <svg> by itself: what the page's style says of it has to stand inside
    drawn = f"<style>{(templates / 'pdf-svg.css').read_text(encoding='utf-8')}</style>"
    text = _DRAWING.sub(lambda found: found.group() + drawn, page.decode("utf-8"))
    style += f"@page {{ @bottom-left {{ content: {_quoted(foot)} }} @bottom-right {{ content: {number} }} }}\n"
    for name in ("weasyprint", "weasyprint.progress", "fontTools"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    fetcher = Refuse(allowed_protocols=("data",), fail_on_errors=True)
    try:
        made = weasyprint.HTML(string=text, url_fetcher=fetcher)
        written: bytes = made.write_pdf(
            stylesheets=[weasyprint.CSS(string=style, url_fetcher=fetcher)],
            pdf_variant="pdf/ua-1",
            pdf_tags=True,
        )
    except FatalURLFetchingError:
        written = b""
    if refused:
        raise RecordInvalid(
            f"the page asks for something outside itself, which is not fetched: {refused[0]}",
            hint="Make the PDF from a page that this software wrote.",
        )
    return written
