"""A run as an export takes it: verified first, then read, so that nothing is passed on that did not verify.

An export leaves the signed files behind, and whoever reads it cannot check it. So a run that fails its verification
is not exported at all, and what was not checked (keys that came with the run, a head kept elsewhere) is written into
every export.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedgan_audits.bundle import Bundle
from fedgan_audits.errors import RecordInvalid, VerificationFailed
from fedgan_audits.facts import INDEX, MANIFEST, Check, RoundReport, RunFacts, html_path, stem_of
from fedgan_audits.pages import index, languages, render
from fedgan_audits.publishing import read_manifest
from fedgan_audits.report import read_payload, sample_of
from fedgan_audits.signing import envelope
from fedgan_audits.verification import TranscriptCheck, public_folder, verify_run

_KEYS = "keys"


@dataclass(frozen=True)
class VerifiedRun:
    """A run that verified.

    `files` are the digests of all files by path below `public/`; `digests` those of the reports' payloads, oldest
    first; `last` is the newest report; `checks` are the table of the verification (PASS or NOT CHECKED).
    """

    bundle: Bundle
    facts: RunFacts
    files: Mapping[str, str]
    digests: tuple[str, ...]
    last: RoundReport
    checks: tuple[Check, ...]

    @property
    def head(self) -> str:
        """The digest of the newest report: it names that report and, through the chain, all before it."""
        return self.digests[-1]

    @property
    def passed(self) -> tuple[str, ...]:
        """The names of the checks that passed, each once, in order."""
        return tuple(dict.fromkeys(check.name for check in self.checks if check.outcome == "PASS"))

    @property
    def not_checked(self) -> tuple[Check, ...]:
        """The checks that were not made, with the reason."""
        return tuple(check for check in self.checks if check.outcome == "NOT CHECKED")

    @property
    def outside_keys(self) -> bool:
        """Whether keys from a source other than the run were given."""
        return any(check.name == _KEYS and check.outcome == "PASS" for check in self.checks)

    def statement(self) -> str:
        """What was verified when the export was made, in two sentences."""
        keys = (
            "with keys from a source other than the run"
            if self.outside_keys
            else "with the keys that came with the run: whoever altered the run could have altered them too"
        )
        left = ", ".join(dict.fromkeys(check.name for check in self.not_checked))
        return f"The run was verified when this was made, {keys}. " + (
            f"Not checked in whole or in part: {left}." if left else "Every check was made."
        )

    def foot(self, digest: str, language: str = "en") -> str:
        """What stands at the foot of a PDF made of this run: the signed report behind it, and what was verified."""
        say = languages.Voice(language).say
        keys = "verified with outside keys" if self.outside_keys else "verified with the run's own keys"
        return (
            say(
                "Run %(run)s. Made from the signed report with SHA-256 %(digest)s;",
                run=self.facts.run_id,
                digest=digest,
            )
            + f" {say(keys)}. "
            + say("This PDF is a copy and not itself signed.")
        )

    def envelope_path(self, number: int) -> str:
        """Where the signed report of a round is, below `public/`."""
        return f"reports/{stem_of(number)}.dsse.json"

    def report(self, number: int) -> RoundReport:
        """The signed report of one round. Raises RecordInvalid for a round that was not reported."""
        if not 1 <= number <= len(self.digests):
            raise RecordInvalid(
                f"there is no report of round {number}; the run has {len(self.digests)}",
                hint="Leave --round out to export the whole run.",
            )
        payload = envelope.parse(self.bundle.read(self.envelope_path(number))).payload
        if hashlib.sha256(payload).hexdigest() != self.digests[number - 1]:
            raise VerificationFailed(f"{self.envelope_path(number)} changed while it was read")
        return read_payload(payload)[0]

    def page(self, number: int | None, language: str) -> bytes:
        """The page of a round, or of the run where `number` is None.

        English: the very bytes whose digest is signed. Another language: a rendering of the same signed reports.
        """
        if language == "en":
            path = INDEX if number is None else html_path(self.report(number).header.round)
            data = self.bundle.read(path)
            if hashlib.sha256(data).hexdigest() != self.files.get(path):
                raise VerificationFailed(f"{path} changed while it was read")
            return data
        if number is not None:
            report = self.report(number)
            return render.render_round(report, self._sample(report), language)
        rows, sampled = [], None
        for counted in range(1, len(self.digests) + 1):
            report = self.report(counted)
            rows.append(index.IndexRow.of(report))
            sampled = report if sample_of(report) else sampled
        return index.render_index(self.facts, rows, self.last, self._sample(sampled), language)

    def _sample(self, report: RoundReport | None) -> bytes | None:
        listed = sample_of(report) if report is not None else None
        if listed is None:
            return None
        data = self.bundle.read(listed[0])
        if hashlib.sha256(data).hexdigest() != listed[1]:
            raise VerificationFailed(f"{listed[0]} changed while it was read")
        return data


def verified(
    path: Path,
    *,
    trust: Sequence[Path] | Mapping[str, Ed25519PublicKey] | None = None,
    transcript_check: TranscriptCheck | None = None,
) -> VerifiedRun:
    """Verify the run at `path` and read it. Arguments as for :func:`~fedgan_audits.verification.verify.verify_run`.

    Every report is built again, also in a long run. Raises VerificationFailed (exit code 5) where a check fails or an
    older renderer's pages cannot be checked, RecordInvalid (exit code 2) where `path` is no run or has no report.
    """
    result = verify_run(path, trust=trust, transcript_check=transcript_check, full=True)
    result.require("nothing is exported")
    if not result.digests:
        raise RecordInvalid("no round of this run was reported", hint="A report is written when a round ends.")
    bundle = Bundle(public_folder(path))
    manifest, files = read_manifest(envelope.parse(bundle.read(MANIFEST)).payload)
    if manifest.head != result.digests[-1]:
        raise VerificationFailed("the manifest changed while it was read")
    envelope_file = f"reports/{stem_of(len(result.digests))}.dsse.json"
    payload = envelope.parse(bundle.read(envelope_file)).payload
    if hashlib.sha256(payload).hexdigest() != result.digests[-1]:
        raise VerificationFailed(f"{envelope_file} changed while it was read")
    return VerifiedRun(bundle, manifest.run, files, result.digests, read_payload(payload)[0], tuple(result.checks))
