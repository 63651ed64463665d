"""A short document for people, in one typed form: written as Markdown, or as an HTML page from which a PDF is made.

Every entry says how the report knows it: "evidenced" (it follows from the signed reports), "declared" (people stated
it and the software repeats it) or "not assessed" (nothing is known here, and somebody has to fill it in).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from fedgan_audits.exports.verified_run import VerifiedRun
from fedgan_audits.facts import Assessment
from fedgan_audits.pages import render

_MARKUP = re.compile(r"([\\`*_\[\]|~#])")
_MEANT = re.compile(r"^(\s*)([-+>]|\d+[.)])(?=\s|$)")


@dataclass(frozen=True)
class Entry:
    """One thing that is known, or is not."""

    topic: str
    standing: Assessment
    text: str


@dataclass(frozen=True)
class Part:
    """A part of a document: entries under one heading, with a remark that may be empty."""

    title: str
    entries: tuple[Entry, ...]
    remark: str = ""


@dataclass(frozen=True)
class Document:
    """The whole: `lead` are paragraphs that stand first, `identity` says which signed files it was made from."""

    title: str
    lead: tuple[str, ...]
    parts: tuple[Part, ...]
    identity: tuple[tuple[str, str], ...]

    @property
    def standings(self) -> dict[str, int]:
        """How many entries have each standing."""
        found = {"evidenced": 0, "declared": 0, "not assessed": 0}
        for part in self.parts:
            for entry in part.entries:
                found[entry.standing] += 1
        return found


def identity(run: VerifiedRun) -> tuple[tuple[str, str], ...]:
    """Which run, which reports, which policy: what binds a document to the signed files."""
    header = run.last.header
    return (
        ("Run", header.run_id),
        (
            "Rounds reported",
            f"{len(run.digests)} of {header.rounds_scheduled} scheduled; the run is {run.facts.outcome}",
        ),
        ("Newest report, SHA-256 of the signed payload", run.head),
        ("Policy, SHA-256", header.policy_sha256),
        ("Edition of the provisions", f"{run.last.controls.edition}, as of {run.last.controls.as_of}"),
        ("Software", f"fedgan-secure {header.software.fedgan_secure}"),
        ("Verification", run.statement()),
    )


def _plain(text: str) -> str:
    """`text` as Markdown that shows it letter by letter: no markup, no HTML, one line."""
    line = " ".join(text.split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = _MARKUP.sub(r"\\\1", line)
    return _MEANT.sub(r"\1\\\2", line)


def markdown(document: Document) -> str:
    """The document as Markdown (tables as in GitHub's), with nothing of a report read as markup."""
    lines = [f"# {_plain(document.title)}", ""]
    for paragraph in document.lead:
        lines += [_plain(paragraph), ""]
    for part in document.parts:
        lines += [f"## {_plain(part.title)}", ""]
        if part.remark:
            lines += [_plain(part.remark), ""]
        if part.entries:
            lines += ["| topic | standing | what is known |", "|---|---|---|"]
            lines += [f"| {_plain(entry.topic)} | {entry.standing} | {_plain(entry.text)} |" for entry in part.entries]
            lines.append("")
    lines += ["## What this was made from", "", "| | |", "|---|---|"]
    lines += [f"| {_plain(name)} | {_plain(value)} |" for name, value in document.identity]
    return "\n".join(lines) + "\n"


def html(document: Document) -> bytes:
    """The document as a page that stands alone, UTF-8."""
    return render.page("document.html.j2", {"d": document})
