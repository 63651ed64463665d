"""May this run's model leave? What stands against it, from its verified reports.

A run whose evidence does not verify is never exported: nothing that could be said of its model would rest on anything.
A run that verifies and is not PASS (no privacy, a limit exceeded, a failed self-test, a last round that did not finish)
is exported only where a person in a named role overrides that, with a reason, which is kept in the bundle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedgan_audits.bundle import Bundle
from fedgan_audits.facts import RoundReport, Verification
from fedgan_audits.publishing import read_report, report_files
from fedgan_audits.verification import TranscriptCheck, public_folder, verify_run
from fedgan_secure.errors import FedganError, InputError
from fedgan_secure.policy import CLAIMS

NO_PRIVACY = "The run was made without privacy: epsilon is unbounded, and nothing limits what the model can reveal."
INTERRUPTED = "if the run was interrupted, resume it first"
REPEATABLE = "Keys and noise were repeatable (--insecure-deterministic): no figure holds."


class ExportRefused(FedganError):  # noqa: N818 - a refusal is an outcome, not a defect
    """A run that is not PASS is not exported. Exit code 3 where privacy does not allow it, 2 where it is not whole."""

    exit_code = 3


@dataclass(frozen=True)
class Override:
    """Who lets a run out that is not PASS, in which role and why; typed by whoever makes the bundle, and kept in it."""

    role: str
    reason: str
    person: str | None = None

    def __post_init__(self) -> None:
        for name, text, most in (
            ("role", self.role, 100),
            ("reason", self.reason, 2_000),
            ("person", self.person or "nobody", 200),
        ):
            if not 2 <= len(text.strip()) <= most or not text.isprintable():
                raise InputError(
                    f"the override's {name} is {text[:60]!r}; expected 2 to {most} printable characters",
                    hint='for instance --override-role "Data protection officer" --override-reason "..."',
                )
            if claim := CLAIMS.search(text):
                raise InputError(
                    f"the override's {name} says {claim.group()!r}, a claim that no document of this software makes",
                    hint="give a reference or a fact",
                )

    def to_json(self) -> dict[str, Any]:
        return {"role": self.role.strip(), "reason": self.reason.strip(), "person": self.person}


@dataclass(frozen=True)
class Judgement:
    """A run that verifies: its last report with the digest of its payload, and what stands against exporting it.

    `private` lists what its privacy does not allow, `unfinished` what is not whole; both empty: PASS.
    """

    public: Path
    verification: Verification
    report: RoundReport
    digest: str
    private: tuple[str, ...]
    unfinished: tuple[str, ...]

    @property
    def objections(self) -> tuple[str, ...]:
        """Everything that stands against an export, in sentences."""
        return self.private + self.unfinished

    @property
    def passed(self) -> bool:
        """Whether nothing stands against it."""
        return not self.objections

    def require(self, override: Override | None) -> None:
        """Refuse an export of what is not PASS, unless somebody overrides it.

        Raises:
            VerificationFailed: this version cannot check what an export needs (exit code 5); nobody overrides that.
            ExportRefused: exit code 3 or 2, with all objections.
            InputError: an override was given where there is nothing to override.
        """
        self.verification.require("it is not exported")
        if self.passed and override is not None:
            raise InputError(
                "an override was given, and nothing stands against this run", hint="leave --override-... out"
            )
        if self.passed or override is not None:
            return
        refused = ExportRefused(
            f"run {self.report.header.run_id} is not PASS, so it is not exported: {' '.join(self.objections)}",
            hint="a person may answer for it: --override-role ROLE --override-reason REASON, kept in the bundle",
        )
        if not self.private:
            refused.exit_code = 2
        raise refused


def judge(run: Path, *, trust: Sequence[Path] = (), transcript_check: TranscriptCheck | None = None) -> Judgement:
    """Verify a run (its folder, a copy of its public folder, or a bundle) and say what stands against an export.

    Raises:
        RecordInvalid: no run there, or an unusable key (exit code 2).
        InputError: no round has ended yet, or none was finished (exit code 2).
        VerificationFailed: a check fails (exit code 5).
    """
    public = public_folder(run)
    reports = report_files(public)
    if not reports:
        raise InputError(f"{run} has no report yet", hint="a report is written when a round ends")
    verification = verify_run(run, trust=tuple(trust) or None, transcript_check=transcript_check, full=True)
    if not verification.ok:
        verification.require(f"nothing is made of {run}", hint=f"see `fedgan-secure audit verify {run}`; {INTERRUPTED}")
    report, digest = read_report(Bundle(public), list(reports.values())[-1])
    private, unfinished = _objections(report, verification.run)
    return Judgement(public, verification, report, digest, private, unfinished)


def _objections(report: RoundReport, run: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    flags, verdicts = report.privacy.flags, list(run["verdicts"])
    private: list[str] = []
    if flags.no_privacy:
        private.append(NO_PRIVACY)
    if flags.insecure_deterministic:
        private.append(REPEATABLE)
    stopped = [str(number) for number, verdict in enumerate(verdicts, start=1) if verdict == "STOP"]
    if stopped and not private:
        count = "round" if len(stopped) == 1 else "rounds"
        private.append(f"The verdict of {count} {', '.join(stopped[:12])} is STOP: {report.verdict.headline}")
    unfinished: list[str] = []
    if verdicts[-1] == "INCOMPLETE":
        unfinished.append(f"The verdict of the last round is INCOMPLETE: {report.verdict.headline}")
    if run["outcome"] == "running":
        unfinished.append("The run is not over: its manifest says that rounds are left.")
    return tuple(private), tuple(unfinished)
