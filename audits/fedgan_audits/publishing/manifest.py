"""The signed manifest: every file of a run's public folder, how the run stands, and the head of its chain.

A file that is missing, added or changed after the manifest was signed is seen. What a manifest cannot show is that
its signer withheld the newest rounds: for that a head kept elsewhere is needed (see `verify`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from fedgan_audits import canonical_json
from fedgan_audits.bundle import PART, Bundle, Inventory, is_stray, write_atomic
from fedgan_audits.errors import RecordInvalid
from fedgan_audits.facts import (
    FIRST_NOTE,
    INDEX,
    MANIFEST,
    MANIFEST_TYPE,
    FileSize,
    Manifest,
    ReportEntry,
    RoundReport,
    RunFacts,
)
from fedgan_audits.pages import index, renderers
from fedgan_audits.publishing import signing_off
from fedgan_audits.report import read_payload, sample_of
from fedgan_audits.signing import envelope


def report_files(public: Path) -> dict[int, str]:
    """The reports below `public/reports` by the round in their names, in order."""
    found = {}
    for place in (public / "reports").glob("round-*.dsse.json"):
        digits = place.name.removeprefix("round-").removesuffix(".dsse.json")
        if digits.isascii() and digits.isdigit():
            found[int(digits)] = f"reports/{place.name}"
    return dict(sorted(found.items()))


def read_report(bundle: Bundle, file: str) -> tuple[RoundReport, str]:
    """One report and its payload's digest. Signatures are not verified here: for the coordinator's own folder."""
    payload = envelope.parse(bundle.read(file)).payload
    return read_payload(payload)[0], hashlib.sha256(payload).hexdigest()


def read_reports(public: Path) -> Iterator[tuple[RoundReport, str]]:
    """The reports below `public/reports` in order of their rounds, one at a time, as :func:`read_report`."""
    bundle = Bundle(public)
    for file in report_files(public).values():
        yield read_report(bundle, file)


@dataclass(frozen=True)
class _Line:
    """What the manifest and the roll-up need of one report."""

    entry: ReportEntry
    row: index.IndexRow
    sample: tuple[str, str] | None
    previous: str | None


def _line(bundle: Bundle, file: str) -> _Line:
    report, digest = read_report(bundle, file)
    entry = ReportEntry(round=report.header.round, digest=digest, verdict=report.verdict.verdict)
    return _Line(entry, index.IndexRow.of(report), sample_of(report), report.header.previous_report)


def _lines(bundle: Bundle, inventory: Inventory) -> list[_Line]:
    files = report_files(bundle.root).values()
    return [inventory.remembered(bundle, file, "report", partial(_line, bundle, file)) for file in files]


def _roll_up(bundle: Bundle, facts: RunFacts, lines: Sequence[_Line], listed: Sequence[str]) -> bytes:
    """The roll-up page of the reports in a public folder, with the reviews among the files that are `listed`."""
    reports = list(report_files(bundle.root).values())
    last = read_report(bundle, reports[-1])[0] if reports else None
    sample = next((line.sample for line in reversed(lines) if line.sample), None)
    picture = bundle.read(sample[0]) if sample else None
    reviews = signing_off.readable(bundle, listed)
    return index.render_index(facts, [line.row for line in lines], last, picture, reviews=reviews)


def objections_to_index(public: Path, payload: bytes, inventory: Inventory) -> list[str]:
    """Make the roll-up page of a manifest again, for a hospital before it signs that manifest.

    Args:
        public: the published files; their coordinator is not trusted.
        payload: of the manifest, whose head this hospital has compared with its own.
        inventory: of this hospital, kept from one manifest to the next.

    Returns:
        Why the manifest is not signed: its reports are others than the published ones or no chain, or its page is not
        what they render to; empty where all of it fits.
    """
    manifest, subjects = read_manifest(payload)
    bundle = Bundle(public)
    lines = _lines(bundle, inventory)
    digests = [None, *(line.entry.digest for line in lines)]
    chained = [line.previous for line in lines] == digests[:-1] and manifest.head == digests[-1]
    if not chained or tuple(line.entry for line in lines) != manifest.reports:
        return ["the published reports are not those that the manifest lists, one bound to the next"]
    page = _roll_up(bundle, manifest.run, lines, [entry.path for entry in manifest.files])
    if subjects.get(INDEX) != hashlib.sha256(page).hexdigest():
        return [f"{INDEX} is not what the reports render to"]
    return []


def draft_manifest(public: Path, facts: RunFacts, inventory: Inventory | None = None) -> bytes:
    """Render `index.html` from the reports found, then list every file; returns the payload to be signed.

    Left-over parts of interrupted writes are removed. With the `inventory` of the last time, only files that were
    written since are read, and the newest report. Raises RecordInvalid for a link or an odd file name.
    """
    inventory = inventory if inventory is not None else Inventory()
    for leftover in public.rglob(f".*{PART}"):
        leftover.unlink(missing_ok=True)
    bundle = Bundle(public)
    lines = _lines(bundle, inventory)
    entries = [line.entry for line in lines]
    write_atomic(
        public / INDEX, _roll_up(bundle, facts, lines, [path for path, problem in bundle.walk() if problem is None])
    )
    subjects: dict[str, str] = {}
    files = []
    for path, problem in bundle.walk():
        if is_stray(path, problem):
            continue
        if problem is not None:
            raise RecordInvalid(f"{path}: {problem}", hint="Remove it from the run's public folder.")
        if path != MANIFEST:
            size, subjects[path] = inventory.remembered(bundle, path, "digest", partial(bundle.digest, path))
            files.append(FileSize(path=path, size=size))
    manifest = Manifest(
        schema_version="0",
        schema_note=FIRST_NOTE,
        renderer=renderers.RENDERER,
        run=facts,
        head=entries[-1].digest if entries else None,
        reports=tuple(entries),
        files=tuple(sorted(files, key=lambda entry: entry.path)),
    )
    return envelope.statement(subjects, MANIFEST_TYPE, manifest.model_dump(mode="json"))


def publish_manifest(public: Path, payload: bytes, signatures: Sequence[envelope.Signature]) -> Path:
    """Write the signed manifest."""
    return write_atomic(public / MANIFEST, envelope.assemble(payload, signatures))


def write_manifest(public: Path, facts: RunFacts, signers: Mapping[str, Ed25519PrivateKey]) -> Path:
    """Draft, sign and publish, where the keys are at hand; "coordinator" must be among the signers."""
    if "coordinator" not in signers:
        raise RecordInvalid("the coordinator must sign the manifest")
    payload = draft_manifest(public, facts)
    return publish_manifest(public, payload, [envelope.sign(payload, key, name) for name, key in signers.items()])


def read_manifest(payload: bytes) -> tuple[Manifest, dict[str, str]]:
    """The typed manifest and the digests by path; raises EnvelopeError where it is not of this schema."""
    subjects, predicate = envelope.read_statement(payload, MANIFEST_TYPE)
    try:
        manifest = Manifest.model_validate(predicate)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:120]
        raise canonical_json.EnvelopeError(f"schema: {where}: {first['msg'][:200]}") from None
    if not canonical_json.same(manifest.model_dump(mode="json"), predicate):
        raise canonical_json.EnvelopeError("schema: a value is not in the form that this version writes")
    if [entry.path for entry in manifest.files] != sorted(subjects):
        raise canonical_json.EnvelopeError("the files and the subjects of the manifest differ")
    return manifest, subjects
