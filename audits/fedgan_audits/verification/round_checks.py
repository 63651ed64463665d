"""One report after the other: what is checked of each, and what it must have to do with the one before.

A run may have thousands of rounds, so no report is kept: each is read once, checked and let go. What stays is a row
for the roll-up page, the digests of the chain, and the last report.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from fedgan_audits.bundle import Bundle, UnreadableFileError
from fedgan_audits.errors import AuditError
from fedgan_audits.facts import INDEX, MANIFEST, POLICY, Manifest, RoundReport, Verification, html_path, said, stem_of
from fedgan_audits.pages import index, render, renderers
from fedgan_audits.publishing import readable
from fedgan_audits.report import check_sample, read_any, rebuilding, sample_of
from fedgan_audits.signing import COORDINATOR, Roster, envelope
from fedgan_audits.verification import heads, recompute
from fedgan_audits.verification import whole_run as standing
from fedgan_audits.verification.keys_in_use import SignedReport
from fedgan_audits.verification.transcripts import TRANSCRIPTS, Evidence, TranscriptCheck, replay

SCHEMA = "schema"
CHAIN = "chain"
OPENSSL = "openssl files"
ARTEFACTS = "artefacts"
PAGES = "pages"
TIMES = "times"

_ENVELOPE = re.compile(r"reports/round-([0-9]{4,9})\.dsse\.json\Z")
_UNNUMBERED = 10**9


@dataclass(frozen=True)
class Read:
    """A report that could be read: its file, envelope and typed form."""

    file: str
    envelope: envelope.Envelope
    report: RoundReport
    subjects: Mapping[str, str]
    digest: str

    @property
    def number(self) -> int:
        return self.report.header.round


@dataclass(frozen=True)
class Ground:
    """What the reports of a bundle are held against. `files` maps a path to its size and SHA-256."""

    bundle: Bundle
    files: Mapping[str, tuple[int, str]]
    policy: Mapping[str, Any]
    roster: Roster | None
    manifest: Manifest | None
    transcript_check: TranscriptCheck | None
    full: bool

    @property
    def policy_digest(self) -> str:
        return self.files.get(POLICY, (0, ""))[1]

    def report_files(self) -> list[str]:
        """The files that should hold reports, in the order of the rounds in their names."""

        def place(path: str) -> tuple[int, str]:
            found = _ENVELOPE.match(path)
            return (int(found.group(1)) if found else _UNNUMBERED, path)

        listed = (path for path in self.files if path.startswith("reports/") and path.endswith(".dsse.json"))
        return sorted(listed, key=place)


def signed_by(
    result: Verification,
    roster: Roster | None,
    name: str,
    file: str,
    parsed: envelope.Envelope,
    *,
    required: Sequence[str],
) -> set[str]:
    """Every signature is valid and by a known key, and everyone in `required` signed; returns who signed."""
    if roster is None:
        result.failed(name, "the signatures cannot be checked without the policy's roster", file)
        return set()
    names = roster.by_keyid
    signed = set()
    for keyid, sig in parsed.signatures.items():
        who = names.get(keyid)
        if who is None:
            result.failed(name, f"signed with a key that does not belong to this run ({keyid[:24]})", file)
        elif not envelope.verify(parsed.payload, sig, roster.keys[who]):
            result.failed(name, f"the signature of {who} is not valid", file)
        else:
            signed.add(who)
    for who in required:
        if who not in signed:
            result.failed(name, f"no valid signature of {who}", file)
    if required != (COORDINATOR,):
        for who in sorted(signed - set(required)):
            result.failed(name, f"{who} signed although the report says that it did not", file)
    return signed


@dataclass
class RoundChecks:
    """A pass over the reports of one bundle; `check` each file in order, then `conclude`."""

    ground: Ground
    result: Verification
    ledger: heads.LedgerComparison | None = None
    chain: list[tuple[int, str, str]] = field(default_factory=list)
    """Round, digest and verdict of every report that could be read."""
    last: RoundReport | None = None
    rows: list[index.IndexRow] = field(default_factory=list)
    _previous: str | None = None
    _identity: tuple[str, int] | None = None
    _vouched: int = 0
    _last_vouched: RoundReport | None = None
    _signers: list[tuple[int, str, int]] = field(default_factory=list)
    _paths: set[str] = field(default_factory=set)
    _models: dict[str, tuple[str, str]] = field(default_factory=dict)
    _last_sample: tuple[str, str] | None = None
    _older: Counter[str] = field(default_factory=Counter)
    signed: list[SignedReport] = field(default_factory=list)
    """Whose valid signatures each report bears, and when it says that it ended."""
    _versions: Counter[str] = field(default_factory=Counter)
    _replayed: int = 0
    _by_pld: int = 0
    _compared: int = 0
    _renderer: int = 0
    _uncompared: list[str] = field(default_factory=list)
    _ended: datetime | None = None
    _backwards: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.files = self.ground.report_files()
        self.standing = standing.Standing(self.result, self.ground.policy)
        self.signing_names = self.ground.roster.by_keyid if self.ground.roster else {}

    def run(self) -> None:
        """Check every report, then what they say together."""
        for file in self.files:
            self._guarded(SCHEMA, file, lambda file=file: self._check(file))  # type: ignore[misc]
        for name, step in (
            (SCHEMA, self._conclude_schema),
            (standing.SIGNATURES, self._conclude_signatures),
            (CHAIN, self._conclude_chain),
            (standing.POLICY_CONTENT, lambda: self.standing.conclude(self._run_facts())),
            (ARTEFACTS, self._conclude_artefacts),
            (PAGES, self._conclude_pages),
            (TRANSCRIPTS, self._conclude_transcripts),
            (recompute.EPSILON, self._conclude_accounting),
            (TIMES, self._conclude_times),
        ):
            self._guarded(name, "", step)

    def _guarded(self, name: str, file: str, step: Callable[[], object]) -> None:
        try:
            step()
        except Exception as error:  # noqa: BLE001 - whatever hostile content breaks is a failure, never a crash
            self.result.failed(name, f"the check could not be made ({type(error).__name__}): unexpected content", file)

    def _run_facts(self) -> Any:
        return self.ground.manifest.run if self.ground.manifest else None

    # one report -----------------------------------------------------------------------------------------------

    def _check(self, file: str) -> None:
        try:
            parsed = envelope.parse(self.ground.bundle.read(file))
            report, subjects, version = read_any(parsed.payload)
        except UnreadableFileError as error:
            self.result.failed(SCHEMA, error.problem, file)
            return
        except AuditError as error:
            self.result.failed(SCHEMA, str(error), file)
            return
        self._versions[version] += 1
        read = Read(file, parsed, report, subjects, hashlib.sha256(parsed.payload).hexdigest())
        vouched = self._check_signatures(read)
        steps: list[tuple[str, Callable[[Read], None]]] = [
            (CHAIN, self._check_chain),
            (standing.POLICY_CONTENT, lambda read: self.standing.add(read.report, read.file)),
            (OPENSSL, self._check_sidecars),
            (ARTEFACTS, self._check_artefacts),
            (TIMES, self._check_times),
        ]
        if vouched:
            steps += [
                (PAGES, self._check_page),
                (TRANSCRIPTS, self._check_transcript),
                (recompute.EPSILON, self._check_accounting),
            ]
        if self.ledger is not None:
            steps.append((heads.LEDGER, lambda read: self.ledger.add(read.report, read.digest, read.file)))  # type: ignore[union-attr]
        for name, step in steps:
            self._guarded(name, file, lambda step=step: step(read))  # type: ignore[misc]
        self.chain.append((read.number, read.digest, report.verdict.verdict))
        self.rows.append(index.IndexRow.of(report))
        self._last_sample = sample_of(report) or self._last_sample
        self._previous, self.last = read.digest, report
        if vouched:
            self._vouched, self._last_vouched = self._vouched + 1, report

    def _check_signatures(self, read: Read) -> bool:
        """Whether the report is signed by everyone whom it does not list as missing."""
        name, roster = standing.SIGNATURES, self.ground.roster
        if roster is None:
            return False
        missing = {entry.name for entry in read.report.incidents.missing_cosignatures}
        required = (COORDINATOR, *(who for who in roster.hospitals if who not in missing))
        before = len(self.result.checks)
        signed = signed_by(self.result, roster, name, read.file, read.envelope, required=required)
        self._signers.append((read.number, read.file, len(signed - {COORDINATOR})))
        header = read.report.header
        self.signed.append(SignedReport(read.number, read.file, read.digest, header.ended, frozenset(signed)))
        vouched = len(self.result.checks) == before
        if missing and read.report.verdict.verdict != "INCOMPLETE":
            self.result.failed(name, "a signature is missing and the verdict is not INCOMPLETE", read.file)
        listed = {entry.name: entry.fingerprint for entry in read.report.aggregation.participants}
        prints = roster.fingerprints
        if {COORDINATOR: read.report.header.coordinator_fingerprint, **listed} != prints:
            self.result.failed(name, "the hospitals or keys in the report are not those of the policy", read.file)
        return vouched

    def _check_chain(self, read: Read) -> None:
        header, due = read.report.header, len(self.chain) + 1
        if _ENVELOPE.match(read.file) is None or read.file != f"reports/{stem_of(read.number)}.dsse.json":
            self.result.failed(
                CHAIN, f"holds the report of round {read.number}: files were renamed or swapped", read.file
            )
        if read.number != due:
            self.result.failed(CHAIN, f"round {read.number} where round {due} is due: a gap or a repetition", read.file)
        if header.previous_report != self._previous:
            self.result.failed(CHAIN, "does not follow from the report before it", read.file)
        if header.policy_sha256 != self.ground.policy_digest:
            self.result.failed(CHAIN, "was made under another policy than policy.json", read.file)
        self._identity = self._identity or (header.run_id, header.rounds_scheduled)
        if (header.run_id, header.rounds_scheduled) != self._identity:
            self.result.failed(CHAIN, "belongs to another run than the first report", read.file)

    def _check_sidecars(self, read: Read) -> None:
        stem = f"reports/{stem_of(read.number)}"
        wanted = {f"{stem}.pae": envelope.pae(read.envelope.payload)}
        for keyid, sig in read.envelope.signatures.items():
            if keyid in self.signing_names:
                wanted[f"{stem}.{self.signing_names[keyid]}.sig"] = sig
        for path, data in wanted.items():
            if self.ground.files.get(path, (0, ""))[1] != hashlib.sha256(data).hexdigest():
                self.result.failed(OPENSSL, "missing, or not what the envelope beside it says", path)

    def _check_artefacts(self, read: Read) -> None:
        self._paths.update(read.subjects)
        for path, digest in read.subjects.items():
            if path.startswith("model/"):  # written anew by every round: the newest report's word counts
                self._models[path] = (digest, read.file)
            elif self.ground.files.get(path, (0, ""))[1] != digest:
                self.result.failed(ARTEFACTS, f"missing, or not the file that {read.file} vouches for", path)
        if POLICY not in read.subjects or html_path(read.number) not in read.subjects:
            self.result.failed(ARTEFACTS, "does not vouch for the policy and its page", read.file)
        transcript = read.report.aggregation.facts.transcript_sha256
        listed = [entry.sha256 for entry in read.report.verification.artefacts if entry.kind == "transcript"]
        if listed != ([transcript] if transcript else []):
            self.result.failed(ARTEFACTS, "names another transcript than it vouches for", read.file)

    def _check_times(self, read: Read) -> None:
        header = read.report.header
        if header.ended < header.started or (self._ended is not None and header.started < self._ended):
            self._backwards.append(read.number)
        self._ended = header.ended

    def _check_page(self, read: Read) -> None:
        name, file = read.report.renderer, html_path(read.number)
        since = renderers.number(name)
        self._renderer = max(self._renderer, since or 0)
        if since is None:
            self.result.failed(PAGES, renderers.unknown(name), read.file)
            return
        if since < renderers.VERSION:
            self._older[name] += 1
            return
        wanted = read.subjects.get(file)
        try:
            listed = sample_of(read.report)
            sample = self.ground.bundle.read(listed[0]) if listed else None
            check_sample(read.report, sample)
            fits = any(
                hashlib.sha256(render.render_round(read.report, picture)).hexdigest() == wanted
                for picture in ([sample, None] if sample else [None])
            )
        except Exception as error:  # noqa: BLE001 - see _guarded()
            self.result.failed(PAGES, f"cannot be rendered: {said(error)}", file)
            return
        if not fits:
            self.result.failed(PAGES, "is not what the report renders to", file)

    def _check_transcript(self, read: Read) -> None:
        if self.ground.roster is not None and self.ground.transcript_check is not None:
            evidence = Evidence(self.ground.bundle, self.ground.policy, self.ground.roster)
            self._replayed += replay(self.result, evidence, read.report, self.ground.transcript_check)

    def _check_accounting(self, read: Read) -> None:
        report, previous = read.report, self._last_vouched
        if (previous.header.round if previous else 0) + 1 == read.number:
            recompute.check_history(self.result, previous, report, read.file)
        pld = (
            self.ground.full
            or len(self.files) <= recompute.ALL_UP_TO
            or read.file == self.files[-1]
            or (previous is not None and recompute.changes_mechanism(previous, report))
        )
        recompute.check_epsilon(self.result, report, read.file, pld=pld)
        if pld:
            self._by_pld += 1
            unchecked = recompute.check_figures(self.result, report, read.file)
            self._compared += unchecked is not None
            self._uncompared += [path for path in unchecked or () if path not in self._uncompared]

    # all of them together -------------------------------------------------------------------------------------

    def _conclude_schema(self) -> None:
        manifest = self.ground.manifest
        if not self.chain and manifest is not None and not manifest.reports:
            self.result.conclude(SCHEMA, "no round has been reported")
        else:
            counts = ", ".join(f"{count} of schema version {name}" for name, count in sorted(self._versions.items()))
            self.result.conclude(SCHEMA, f"{len(self.chain)} reports: {counts or 'none'}")

    def _conclude_signatures(self) -> None:
        roster = self.ground.roster
        if roster is None:
            self.result.failed(standing.SIGNATURES, "cannot be checked without the policy's roster", POLICY)
        elif self.chain:
            standing.check_signers(self.result, self._signers, len(roster.hospitals), self.ground.policy)

    def _conclude_chain(self) -> None:
        manifest = self.ground.manifest
        if manifest is not None:
            listed = [(entry.round, entry.digest, entry.verdict) for entry in manifest.reports]
            here = set(self.chain)
            for entry in listed:
                if entry not in here:
                    file = f"reports/{stem_of(entry[0])}.dsse.json"
                    self.result.failed(CHAIN, "is not the report that the manifest lists", file)
            head = self.chain[-1][1] if self.chain else None
            if listed != self.chain or manifest.head != head or manifest.run.policy_sha256 != self.ground.policy_digest:
                self.result.failed(
                    CHAIN, "the manifest's reports, head or policy are not those of the folder", MANIFEST
                )
            if self._identity and manifest.run.run_id != self._identity[0]:
                self.result.failed(CHAIN, "the manifest is of another run", MANIFEST)
        self.result.conclude(CHAIN, f"{len(self.chain)} rounds in order, each bound to the one before it")

    def _conclude_artefacts(self) -> None:
        for path, (digest, file) in self._models.items():
            if self.ground.files.get(path, (0, ""))[1] != digest:
                self.result.failed(ARTEFACTS, f"missing, or not the file that {file} vouches for", path)
        self.result.conclude(ARTEFACTS, f"{len(self._paths)} files are those that the reports vouch for")
        self.result.conclude(OPENSSL, "the .pae and .sig files agree with the envelopes")

    def _conclude_pages(self) -> None:
        manifest = self.ground.manifest
        if manifest is None or self._vouched < len(self.chain) or self.result.has_failed("manifest"):
            self.result.skipped(PAGES, "pages whose signatures do not hold were not rendered again")
            return
        self._check_index(manifest)
        if self._older:
            count, names = self._older.total(), ", ".join(sorted(self._older)[:4])
            self.result.skipped(
                PAGES,
                f"{count} {'page was' if count == 1 else 'pages were'} made by an older renderer ({names}), and this"
                f" version ({renderers.RENDERER}) cannot make them again: their digests were compared, not their"
                " content. Read the run's pages only with the version that made them",
                closing=True,
            )
        if self._older.total() < len(self.chain) + 1:
            self.result.conclude(
                PAGES, f"every {'other ' if self._older else ''}page is what the signed figures render to"
            )

    def _check_index(self, manifest: Manifest) -> None:
        """The roll-up is what the reports render to. One that an older renderer made cannot be made again here; that
        renderer is no older than the reports', so that nobody picks an old name to have a page go unchecked."""
        since = renderers.number(manifest.renderer)
        if since is None:
            self.result.failed(PAGES, renderers.unknown(manifest.renderer), MANIFEST)
        elif since < self._renderer:
            text = f"names the renderer {manifest.renderer}, which is older than that of the reports"
            self.result.failed(PAGES, text, MANIFEST)
        elif not self._index_fits(manifest):
            if since < renderers.VERSION:
                self._older[manifest.renderer] += 1
            else:
                self.result.failed(PAGES, "is not what the reports render to", INDEX)

    def _index_fits(self, manifest: Manifest) -> bool:
        try:
            sample = self.ground.bundle.read(self._last_sample[0]) if self._last_sample else None
            reviews = readable(self.ground.bundle, [entry.path for entry in manifest.files])
            page = index.render_index(manifest.run, self.rows, self.last, sample, reviews=reviews)
        except Exception as error:  # noqa: BLE001 - see _guarded()
            self.result.failed(PAGES, f"cannot be rendered: {said(error)}", INDEX)
            return True
        return self.ground.files.get(INDEX, (0, ""))[1] == hashlib.sha256(page).hexdigest()

    def _conclude_transcripts(self) -> None:
        if self.ground.roster is None:
            return
        if self.ground.transcript_check is None:
            self.result.skipped(TRANSCRIPTS, "no transcript check was given; only their digests were compared")
        elif self._replayed:
            self.result.conclude(TRANSCRIPTS, f"{self._replayed} replayed: signatures, stages and sums fit the reports")

    def _conclude_accounting(self) -> None:
        if self._vouched < len(self.chain) or self._last_vouched is None:
            if self.chain:
                self.result.skipped(recompute.EPSILON, "figures whose signatures do not hold were not computed again")
            return
        verdict, all_by_pld = self._last_vouched.verdict, self._by_pld == self._vouched
        self.result.conclude(recompute.HISTORY, "each hospital's reservations grow round by round; none is forgotten")
        self.result.conclude(
            recompute.EPSILON,
            f"computed again from the recorded parameters: {verdict.spent} at delta {verdict.delta}, with two"
            f" accountants in {self._by_pld} of {self._vouched} reports"
            + ("" if all_by_pld else ", with the second alone in the others"),
        )
        self.result.conclude(
            recompute.FIGURES, f"every section follows from the facts in {self._compared} of {self._vouched} reports"
        )
        if self._uncompared:
            self.result.skipped(
                recompute.FIGURES,
                f"an older renderer made these fields otherwise, and they were not compared with the facts:"
                f" {rebuilding.listed(tuple(self._uncompared))}; what decides was",
                closing=True,
            )
        if not all_by_pld:
            self.result.skipped(
                recompute.FIGURES,
                f"{self._vouched - self._by_pld} reports were not built again: give --full",
                closing=True,
            )

    def _conclude_times(self) -> None:
        if self._backwards:
            first = ", ".join(map(str, self._backwards[:12]))
            more = f" and {len(self._backwards) - 12} more" if len(self._backwards) > 12 else ""
            self.result.skipped(
                TIMES,
                f"the coordinator's clock went backwards at round {first}{more}: when a round was is not known. Their"
                " order does not rest on times",
            )
        elif self.chain:
            self.result.passed(TIMES, "as the coordinator's clock told them, each round began after the last had ended")
