"""What `fedgan-secure audit export RUN` writes: a verified run as a page, a PDF, a document or a machine's file."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedgan_secure.transcript_check import check_transcript

if TYPE_CHECKING:
    from fedgan_audits.exports import VerifiedRun


def run_export(
    path: Path, form: str, number: int | None, language: str, trust: tuple[Path, ...], output: Path | None
) -> tuple[bytes, str]:
    """The bytes of the export of the run at `path`, and a remark for whoever asked for it.

    Raises VerificationFailed (exit code 5) where the run does not verify.
    """
    from fedgan_audits.exports import verified

    as_pdf = output is not None and output.suffix.lower() == ".pdf"
    if form == "pdf" and output is None and sys.stdout.isatty():
        raise click.UsageError("a PDF is not written to a terminal: give --output FILE.pdf.")
    if as_pdf and form not in ("pdf", "article-30", "dpia"):
        raise click.UsageError(f"--format {form} is no PDF: give --output another ending.")
    run = verified(path, trust=trust or None, transcript_check=check_transcript)
    remark = run.statement()
    if form in ("html", "pdf"):
        data = run.page(number, language)
        return (data if form == "html" else _pdf(run, data, number, language)), remark
    if form in ("article-30", "dpia"):
        from fedgan_audits.exports import documents, gdpr

        document = gdpr.article_30(run) if form == "article-30" else gdpr.impact_assessment(run)
        counts = ", ".join(f"{count} {standing}" for standing, count in document.standings.items())
        if as_pdf:
            return _pdf(run, documents.html(document), None, "en"), f"{remark} Entries: {counts}."
        return documents.markdown(document).encode("utf-8"), f"{remark} Entries: {counts}."
    if form == "oscal":
        from fedgan_audits.exports import assessment_results

        return _json(assessment_results(run)), remark
    from fedgan_audits.exports import card

    made = card(run)
    return _json(made), f"{remark} Left to fill in: {', '.join(made['to_fill']) or 'nothing'}."


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")


def _pdf(run: VerifiedRun, page: bytes, number: int | None, language: str) -> bytes:
    from fedgan_audits.pages import Voice, pdf

    digest = run.head if number is None else run.digests[number - 1]
    return pdf(page, run.foot(digest, language), Voice(language).say("page {page} of {pages}"))
