"""Checking a run from its public folder alone.

Nothing in the bundle is trusted before it is verified: files are read with bounds and without following links,
envelopes must be canonical, and every figure is computed again. Every check ends in the result's table, so that a
failure names its file and the rest is still checked.

What the folder cannot show is that its newest rounds were withheld: without a head kept elsewhere (`head`) or a
hospital's ledger (`ledger`), that check reads NOT CHECKED.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedgan_audits import envelope, heads, recompute, render, standing
from fedgan_audits.checks import Verification, said
from fedgan_audits.errors import AuditError, RecordInvalid
from fedgan_audits.manifest import INDEX, MANIFEST, Manifest, last_sample, read_manifest
from fedgan_audits.reading import Bundle, UnreadableFileError
from fedgan_audits.report import check_sample, html_path, read_payload, sample_of, stem_of
from fedgan_audits.sections import RoundReport
from fedgan_audits.transcripts import Evidence, TranscriptCheck, TranscriptContext, check_transcripts
from fedgan_audits.trust import COORDINATOR, Roster, load_trust, public_key, roster

__all__ = ["TranscriptCheck", "TranscriptContext", "Verification", "public_folder", "verify_run"]

POLICY = "policy.json"
_ENVELOPE = re.compile(r"reports/round-([0-9]{4,9})\.dsse\.json\Z")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_TRUST = re.compile(r"trust/(.+)\.pub\.pem\Z")


@dataclass(frozen=True)
class Read:
    """A report that could be read: its file, envelope and typed form."""

    file: str
    envelope: envelope.Envelope
    report: RoundReport
    subjects: Mapping[str, str]

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.envelope.payload).hexdigest()

    @property
    def number(self) -> int:
        return self.report.header.round


def public_folder(path: Path) -> Path:
    """The public folder of a run, or the folder itself; raises RecordInvalid where it is neither."""
    for place in (path / "public", path):
        if place.is_dir() and any((place / name).exists() for name in (MANIFEST, POLICY, "reports")):
            return place
    raise RecordInvalid(
        f"{path} holds no run: expected a run's folder, or a copy of its public folder with {MANIFEST} in it",
        hint="Give the folder that `fedgan-secure run` printed, such as runs/2026-03-02-1.",
    )


def verify_run(
    path: Path,
    *,
    trust: Sequence[Path] | Mapping[str, Ed25519PublicKey] | None = None,
    transcript_check: TranscriptCheck | None = None,
    ledger: Path | None = None,
    head: str | None = None,
    full: bool = False,
) -> Verification:
    """Verify the run at `path` (its folder or a copy of `public/`); see the module for what can and cannot be shown.

    Raises RecordInvalid (exit code 2) where the request itself is wrong: no run at `path`, a file that is no key, a
    head that is no digest. Everything wrong with the bundle is a FAIL in the result (exit code 5), never an error.
    """
    if head is not None and not _DIGEST.match(head):
        raise RecordInvalid("a head is the SHA-256 of a report's payload: 64 lowercase hexadecimal digits")
    public = public_folder(path)
    trusted = trust if isinstance(trust, Mapping) or trust is None else load_trust(trust)
    own = not isinstance(trust, Mapping) and any(
        place.resolve().is_relative_to(public.resolve()) for place in trust or ()
    )
    return _Verifier(Bundle(public), trusted, transcript_check, ledger, head, full, own_keys=own).run()


class _Verifier:
    """One pass over one bundle."""

    def __init__(
        self,
        bundle: Bundle,
        trusted: Mapping[str, Ed25519PublicKey] | None,
        transcript_check: TranscriptCheck | None,
        ledger: Path | None,
        head: str | None,
        full: bool,
        *,
        own_keys: bool = False,
    ) -> None:
        self.bundle = bundle
        self.trusted = trusted
        self.transcript_check = transcript_check
        self.ledger = ledger
        self.head = head
        self.full = full
        self.own_keys = own_keys
        self.result = Verification()
        self.files: dict[str, tuple[int, str]] = {}
        self.policy: Mapping[str, Any] = {}
        self.roster: Roster | None = None
        self.manifest: Manifest | None = None
        self.reports: list[Read] = []
        self.vouched: list[Read] = []

    def run(self) -> Verification:
        for name, step in (
            ("files", self._list_files),
            ("policy", self._read_policy),
            ("keys", self._check_keys),
            ("manifest", self._check_manifest),
            ("schema", self._read_reports),
            ("signatures", self._check_signatures),
            ("chain", self._check_chain),
            (standing.POLICY_CONTENT, self._check_standing),
            ("openssl files", self._check_sidecars),
            ("artefacts", self._check_artefacts),
            ("pages", self._check_pages),
            ("transcripts", self._check_transcripts),
            (recompute.EPSILON, self._check_accounting),
            (heads.HEAD, self._check_heads),
        ):
            try:
                step()
            except Exception as error:  # noqa: BLE001 - whatever hostile content breaks is a failure, never a crash
                self.result.failed(name, f"the check could not be made ({type(error).__name__}): unexpected content")
        last = self.reports[-1] if self.reports else None
        self.result.run = {
            "run_id": last.report.header.run_id if last else None,
            "rounds": len(self.reports),
            "outcome": self.manifest.run.outcome if self.manifest else None,
            "head": last.digest if last else None,
            "epsilon": last.report.verdict.spent if last else None,
            "verdicts": [read.report.verdict.verdict for read in self.reports],
        }
        return self.result

    def _list_files(self) -> None:
        for path, problem in self.bundle.walk():
            if problem is None:
                try:
                    self.files[path] = self.bundle.digest(path)
                    continue
                except UnreadableFileError as error:
                    problem = error.problem
            self.result.failed("files", problem, path)

    def _read(self, name: str, file: str, limit: int | None = None) -> bytes | None:
        try:
            return self.bundle.read(file) if limit is None else self.bundle.read(file, limit)
        except UnreadableFileError as error:
            self.result.failed(name, error.problem, error.file)
            return None

    def _read_policy(self) -> None:
        data = self._read("policy", POLICY, 16 * 2**20)
        if data is None:
            return
        try:
            self.policy = envelope.parse_canonical(data)
            self.roster = roster(self.policy, self.trusted)
        except AuditError as error:
            self.result.failed("policy", str(error), POLICY)
            return
        self.result.passed("policy", f"readable; {len(self.roster.hospitals)} hospitals and a coordinator", POLICY)

    def _check_keys(self) -> None:
        name = "keys"
        if self.roster is None:
            self.result.failed(name, "the policy names no usable keys: nothing that follows can be trusted", POLICY)
            return
        listed = self.roster
        for who in listed.mismatched:
            self.result.failed(name, f"the policy's key for {who} is not the one that you trust", POLICY)
        for file in self.files:
            found = _TRUST.match(file)
            if found is None:
                continue
            who, data = found.group(1), self._read(name, file, 2**20)
            try:
                key = public_key(data or b"", "it")
                if who not in listed.keys or envelope.fingerprint(key) != envelope.fingerprint(listed.keys[who]):
                    self.result.failed(name, "differs from the policy or from the key that you trust", file)
            except AuditError as error:
                self.result.failed(name, str(error), file)
        if self.trusted is None or self.own_keys:
            self.result.skipped(
                name,
                "KEYS WERE TAKEN FROM THE BUNDLE ITSELF, not from an outside source: give --trust to check whose"
                " they are",
            )
        elif not listed.outside:
            self.result.failed(name, "none of the keys that you trust belongs to this run")
        else:
            without = [who for who in (COORDINATOR, *listed.hospitals) if who not in listed.outside]
            self.result.conclude(name, f"{len(listed.outside)} keys agree with those that you trust")
            if without:
                self.result.skipped(
                    name, f"no outside key was given for {', '.join(without[:12])}: the policy's key was used"
                )

    def _check_manifest(self) -> None:
        name = "manifest"
        data = self._read(name, MANIFEST)
        if data is None:
            return
        try:
            parsed = envelope.parse(data)
            manifest, subjects = read_manifest(parsed.payload)
        except AuditError as error:
            self.result.failed(name, str(error), MANIFEST)
            return
        self.manifest = manifest
        self._signed(name, MANIFEST, parsed, required=(COORDINATOR,))
        sizes = {entry.path: entry.size for entry in manifest.files}
        for path in sorted(subjects.keys() - self.files.keys()):
            self.result.failed("files", "missing; the manifest lists it", path)
        for path in sorted(self.files.keys() - subjects.keys() - {MANIFEST}):
            self.result.failed("files", "not listed in the manifest (added later, or the run was interrupted)", path)
        for path in sorted(subjects.keys() & self.files.keys()):
            if self.files[path] != (sizes[path], subjects[path]):
                self.result.failed("files", "changed since the manifest was signed", path)
        self.result.conclude(name, f"signed; the run is {manifest.run.outcome}: {manifest.run.reason}", MANIFEST)
        self.result.conclude("files", f"{len(subjects)} files, each as listed in the manifest")

    def _signed(
        self, name: str, file: str, parsed: envelope.Envelope, *, required: Sequence[str], also: Sequence[str] = ()
    ) -> set[str]:
        """Every signature is valid and by a known key, and everyone in `required` signed; returns who signed."""
        if self.roster is None:
            self.result.failed(name, "the signatures cannot be checked without the policy's roster", file)
            return set()
        names = self.roster.by_keyid
        signed = set()
        for keyid, sig in parsed.signatures.items():
            who = names.get(keyid)
            if who is None:
                self.result.failed(name, f"signed with a key that does not belong to this run ({keyid[:24]})", file)
            elif not envelope.verify(parsed.payload, sig, self.roster.keys[who]):
                self.result.failed(name, f"the signature of {who} is not valid", file)
            else:
                signed.add(who)
        for who in required:
            if who not in signed:
                self.result.failed(name, f"no valid signature of {who}", file)
        if required != (COORDINATOR,):
            for who in sorted(signed - set(required) - set(also)):
                self.result.failed(name, f"{who} signed although the report says that it did not", file)
        return signed

    def _read_reports(self) -> None:
        name = "schema"
        for file in sorted(path for path in self.files if path.startswith("reports/") and path.endswith(".dsse.json")):
            data = self._read(name, file)
            if data is None:
                continue
            try:
                parsed = envelope.parse(data)
                report, subjects = read_payload(parsed.payload)
            except AuditError as error:
                self.result.failed(name, str(error), file)
                continue
            self.reports.append(Read(file, parsed, report, subjects))
        self.reports.sort(key=lambda read: (read.number, read.file))
        if not self.reports and self.manifest is not None and not self.manifest.reports:
            self.result.conclude(name, "no round has been reported")
        else:
            self.result.conclude(name, f"{len(self.reports)} reports of schema version 0")

    def _check_signatures(self) -> None:
        name = standing.SIGNATURES
        signers: list[tuple[int, str, int]] = []
        for read in self.reports:
            if self.roster is None:
                continue
            missing = {entry.name for entry in read.report.incidents.missing_cosignatures}
            required = (COORDINATOR, *(who for who in self.roster.hospitals if who not in missing))
            before = len(self.result.checks)
            signed = self._signed(name, read.file, read.envelope, required=required)
            signers.append((read.number, read.file, len(signed - {COORDINATOR})))
            if len(self.result.checks) == before:
                self.vouched.append(read)
            if missing and read.report.verdict.verdict != "INCOMPLETE":
                self.result.failed(name, "a signature is missing and the verdict is not INCOMPLETE", read.file)
            listed = {entry.name: entry.fingerprint for entry in read.report.aggregation.participants}
            keys = {who: envelope.fingerprint(self.roster.keys[who]) for who in self.roster.hospitals}
            coordinator = envelope.fingerprint(self.roster.keys[COORDINATOR])
            if listed != keys or read.report.header.coordinator_fingerprint != coordinator:
                self.result.failed(name, "the hospitals or keys in the report are not those of the policy", read.file)
        if self.roster is None:
            self.result.failed(name, "cannot be checked without the policy's roster", POLICY)
        elif self.reports:
            standing.check_signers(self.result, signers, len(self.roster.hospitals), self.policy)

    def _check_standing(self) -> None:
        filed = [(read.report, read.file) for read in self.reports]
        standing.check_policy_content(self.result, filed, self.policy)
        standing.check_models(self.result, filed)
        standing.check_self_tests(self.result, filed)
        standing.check_verdicts(self.result, filed, self.manifest.run if self.manifest else None, self.policy)

    def _check_chain(self) -> None:
        name, policy = "chain", self.files.get(POLICY, (0, ""))[1]
        previous: Read | None = None
        for index, read in enumerate(self.reports, start=1):
            header = read.report.header
            if _ENVELOPE.match(read.file) is None or read.file != f"reports/{stem_of(read.number)}.dsse.json":
                self.result.failed(
                    name, f"holds the report of round {read.number}: files were renamed or swapped", read.file
                )
            if read.number != index:
                self.result.failed(
                    name, f"round {read.number} where round {index} is due: a gap or a repetition", read.file
                )
            if header.previous_report != (previous.digest if previous else None):
                self.result.failed(name, "does not follow from the report before it", read.file)
            if header.policy_sha256 != policy:
                self.result.failed(name, "was made under another policy than policy.json", read.file)
            first = self.reports[0].report.header
            if (header.run_id, header.rounds_scheduled) != (first.run_id, first.rounds_scheduled):
                self.result.failed(name, "belongs to another run than the first report", read.file)
            previous = read
        if self.manifest is not None:
            listed = [(entry.round, entry.digest, entry.verdict) for entry in self.manifest.reports]
            found = [(read.number, read.digest, read.report.verdict.verdict) for read in self.reports]
            for entry in listed:
                if entry not in found:
                    file = f"reports/{stem_of(entry[0])}.dsse.json"
                    self.result.failed(name, "is not the report that the manifest lists", file)
            head = found[-1][1] if found else None
            if listed != found or self.manifest.head != head or self.manifest.run.policy_sha256 != policy:
                self.result.failed(name, "the manifest's reports, head or policy are not those of the folder", MANIFEST)
            if self.reports and self.manifest.run.run_id != self.reports[0].report.header.run_id:
                self.result.failed(name, "the manifest is of another run", MANIFEST)
        self.result.conclude(name, f"{len(self.reports)} rounds in order, each bound to the one before it")

    def _check_sidecars(self) -> None:
        name = "openssl files"
        for read in self.reports:
            stem = f"reports/{stem_of(read.number)}"
            wanted = {f"{stem}.pae": envelope.pae(read.envelope.payload)}
            names = self.roster.by_keyid if self.roster else {}
            for keyid, sig in read.envelope.signatures.items():
                if keyid in names:
                    wanted[f"{stem}.{names[keyid]}.sig"] = sig
            for path, data in wanted.items():
                if self.files.get(path, (0, ""))[1] != hashlib.sha256(data).hexdigest():
                    self.result.failed(name, "missing, or not what the envelope beside it says", path)
        self.result.conclude(name, "the .pae and .sig files agree with the envelopes")

    def _check_artefacts(self) -> None:
        name = "artefacts"
        newest = {path: read for read in self.reports for path in read.subjects}
        for read in self.reports:
            for path, digest in read.subjects.items():
                overwritten = path.startswith("model/") and newest[path] is not read
                if not overwritten and self.files.get(path, (0, ""))[1] != digest:
                    self.result.failed(name, f"missing, or not the file that {read.file} vouches for", path)
            if POLICY not in read.subjects or html_path(read.number) not in read.subjects:
                self.result.failed(name, "does not vouch for the policy and its page", read.file)
            transcript = read.report.aggregation.facts.transcript_sha256
            listed = [entry.sha256 for entry in read.report.verification.artefacts if entry.kind == "transcript"]
            if listed != ([transcript] if transcript else []):
                self.result.failed(name, "names another transcript than it vouches for", read.file)
        self.result.conclude(name, f"{len(newest)} files are those that the reports vouch for")

    def _check_pages(self) -> None:
        name, other = "pages", 0
        for read in self.vouched:
            if read.report.renderer != render.RENDERER:
                other += 1
                continue
            file = html_path(read.number)
            try:
                listed = sample_of(read.report)
                sample = self.bundle.read(listed[0]) if listed else None
                check_sample(read.report, sample)
                pages = [render.render_round(read.report, sample), render.render_round(read.report, None)]
            except Exception as error:  # noqa: BLE001 - see run()
                self.result.failed(name, f"cannot be rendered: {said(error)}", file)
                continue
            if read.subjects.get(file) not in [hashlib.sha256(page).hexdigest() for page in pages]:
                self.result.failed(name, "is not what the report renders to", file)
        if self.manifest is None or len(self.vouched) < len(self.reports) or self.result.has_failed("manifest"):
            self.result.skipped(name, "pages whose signatures do not hold were not rendered again")
            return
        if self.manifest.renderer == render.RENDERER:
            try:
                reports = [read.report for read in self.reports]
                page = render.render_index(self.manifest.run, reports, last_sample(self.bundle, reports))
                if self.files.get(INDEX, (0, ""))[1] != hashlib.sha256(page).hexdigest():
                    self.result.failed(name, "is not what the reports render to", INDEX)
            except Exception as error:  # noqa: BLE001 - see run()
                self.result.failed(name, f"cannot be rendered: {said(error)}", INDEX)
        else:
            other += 1
        if other:
            self.result.skipped(
                name, f"{other} pages were made by another renderer version; their digests were checked"
            )
        if other < len(self.reports) + 1:
            self.result.conclude(name, "every page is what the signed figures render to")

    def _check_transcripts(self) -> None:
        if self.roster is not None:
            bundle = Evidence(self.bundle, self.policy, self.roster)
            check_transcripts(self.result, bundle, [read.report for read in self.vouched], self.transcript_check)

    def _check_accounting(self) -> None:
        reports = [read.report for read in self.vouched]
        compared = 0
        previous: RoundReport | None = None
        chosen = recompute.chosen_for_pld(reports, full=self.full)
        for read, pld in zip(self.vouched, chosen, strict=True):
            if (previous.header.round if previous else 0) + 1 == read.number:
                recompute.check_history(self.result, previous, read.report, read.file)
            recompute.check_epsilon(self.result, read.report, read.file, pld=pld)
            if pld and recompute.check_figures(self.result, read.report, render.RENDERER, read.file):
                compared += 1
            previous = read.report
        if len(reports) < len(self.reports) or not reports:
            if self.reports:
                self.result.skipped(recompute.EPSILON, "figures whose signatures do not hold were not computed again")
            return
        last = reports[-1]
        self.result.conclude(recompute.HISTORY, "each hospital's reservations grow round by round; none is forgotten")
        self.result.conclude(
            recompute.EPSILON,
            f"computed again from the recorded parameters: {last.verdict.spent} at delta {last.verdict.delta}, with two"
            f" accountants in {sum(chosen)} of {len(reports)} reports"
            + ("" if all(chosen) else ", with the second alone in the others"),
        )
        if compared:
            self.result.conclude(
                recompute.FIGURES, f"every section follows from the facts in {compared} of {len(reports)} reports"
            )
            if sum(chosen) < len(reports):
                self.result.skipped(
                    recompute.FIGURES, f"{len(reports) - sum(chosen)} reports were not built again: give --full"
                )
        else:
            self.result.skipped(
                recompute.FIGURES, "the reports were made by another version; epsilon itself was computed"
            )

    def _check_heads(self) -> None:
        digests = [read.digest for read in self.reports]
        if self.head is not None:
            heads.check_head(self.result, digests, self.head)
        elif self.ledger is None:
            self.result.skipped(heads.HEAD, "newer rounds may have been withheld: give --head or --ledger to see it")
        if self.ledger is not None:
            heads.check_ledger(
                self.result,
                self.ledger,
                self.roster.hospitals if self.roster else (),
                [(read.report, read.digest) for read in self.reports],
                {read.number: read.file for read in self.reports},
            )
