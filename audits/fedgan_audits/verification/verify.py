"""Checking a run from its public folder alone.

Nothing in the bundle is trusted before it is verified: files are read with bounds and without following links,
envelopes must be canonical, and every figure is computed again. Every check ends in the result's table, so that a
failure names its file and the rest is still checked.

What the folder cannot show is that its newest rounds were withheld: without a head kept elsewhere (`head`) or a
hospital's ledger (`ledger`), that check reads NOT CHECKED.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedgan_audits import canonical_json
from fedgan_audits.bundle import Bundle, UnreadableFileError, is_stray
from fedgan_audits.errors import AuditError, RecordInvalid
from fedgan_audits.facts import MANIFEST, POLICY, Manifest, Verification, is_published
from fedgan_audits.publishing import read_manifest, signing_off
from fedgan_audits.signing import COORDINATOR, Roster, Trust, envelope, load_trust, public_key, public_keys, roster
from fedgan_audits.verification import heads, recompute, round_checks, sign_offs
from fedgan_audits.verification import keys_in_use as key_standing
from fedgan_audits.verification import whole_run as standing
from fedgan_audits.verification.keys_in_use import SignedReport
from fedgan_audits.verification.round_checks import Ground, RoundChecks, signed_by
from fedgan_audits.verification.transcripts import TRANSCRIPTS, TranscriptCheck, TranscriptContext

__all__ = ["TranscriptCheck", "TranscriptContext", "Verification", "public_folder", "read_roster", "verify_run"]

ORDER = (
    "files", "policy", "keys", key_standing.KEY_STANDING, "manifest", round_checks.SCHEMA,
    standing.SIGNATURES, round_checks.CHAIN,
    standing.POLICY_CONTENT, standing.RELEASE, standing.WHOLENESS, standing.MODELS, standing.SELF_TESTS,
    standing.VERDICTS, round_checks.OPENSSL, round_checks.ARTEFACTS, round_checks.PAGES, TRANSCRIPTS, recompute.HISTORY,
    recompute.EPSILON, recompute.FIGURES, round_checks.TIMES, signing_off.SIGN_OFFS, heads.HEAD, heads.LEDGER,
)  # fmt: skip
"""The checks in the order in which they are shown; each round is read once, so they are not made in it."""
MAX_POLICY_BYTES = 16 * 2**20
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_TRUST = re.compile(r"trust/(.+)\.pub\.pem\Z")


def public_folder(path: Path) -> Path:
    """The public folder of a run, or the folder itself; raises RecordInvalid where it is neither, or could be both.

    A folder that is a run and holds another would let one be verified and the other be read.
    """
    found = [
        place
        for place in (path, path / "public")
        if place.is_dir() and any((place / name).exists() for name in (MANIFEST, POLICY, "reports"))
    ]
    if len(found) > 1:
        raise RecordInvalid(
            f"{path} holds the files of a run and, below public/, those of another: which one is meant?",
            hint="Give the folder that you want verified, and look at no other.",
        )
    if found and found[0] != path and found[0].is_symlink():
        raise RecordInvalid(f"{found[0]} is a link, not a folder", hint="Give the folder that it leads to.")
    if found:
        return found[0]
    raise RecordInvalid(
        f"{path} holds no run: expected a run's folder, or a copy of its public folder with {MANIFEST} in it",
        hint="Give the folder that `fedgan-secure run` printed, such as runs/2026-03-02-1.",
    )


def read_roster(public: Path, trust: Sequence[Path] = ()) -> Roster:
    """The roster of a run's policy, with the keys of `trust` where given; raises AuditError where it cannot be read."""
    policy = canonical_json.parse_canonical(Bundle(public).read(POLICY, MAX_POLICY_BYTES))
    return roster(policy, load_trust(trust) if trust else None)


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
    trusted = None if trust is None else Trust.of(trust) if isinstance(trust, Mapping) else load_trust(trust)
    own = not isinstance(trust, Mapping) and any(
        place.resolve().is_relative_to(folder.resolve()) for place in trust or () for folder in (path, public)
    )
    return _Verifier(Bundle(public), trusted, transcript_check, ledger, head, full, own_keys=own).run()


class _Verifier:
    """One pass over one bundle."""

    def __init__(
        self,
        bundle: Bundle,
        trusted: Trust | None,
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
        self.strays: set[str] = set()
        self.policy: Mapping[str, Any] = {}
        self.roster: Roster | None = None
        self.manifest: Manifest | None = None
        self.manifest_signers: frozenset[str] = frozenset()

    def run(self) -> Verification:
        for name, step in (
            ("files", self._list_files),
            ("policy", self._read_policy),
            ("keys", self._check_keys),
            ("manifest", self._check_manifest),
        ):
            self._guarded(name, step)
        ground = Ground(
            self.bundle, self.files, self.policy, self.roster, self.manifest, self.transcript_check, self.full
        )
        hospitals = self.roster.hospitals if self.roster else ()
        compared = heads.LedgerComparison(self.result, self.ledger, hospitals) if self.ledger is not None else None
        rounds = RoundChecks(ground, self.result, compared)
        rounds.run()
        if self.roster is not None and self.roster.statements:
            listed, facts = self.roster, self.manifest.run if self.manifest else None
            self._guarded(
                key_standing.KEY_STANDING,
                lambda: key_standing.check(self.result, listed, rounds.signed, self.manifest_signers, facts),
            )
        self._guarded("keys", lambda: self._check_signers(rounds.signed))
        digests = [digest for _, digest, _ in rounds.chain]
        if self.head is not None:
            heads.check_head(self.result, digests, self.head)
        elif self.ledger is None:
            self.result.skipped(heads.HEAD, "newer rounds may have been withheld: give --head or --ledger to see it")
        if compared is not None:
            stands = self.manifest.run if self.manifest else None
            self._guarded(heads.LEDGER, lambda: compared.conclude(stands))
        run_id = rounds.last.header.run_id if rounds.last else None
        self._guarded(
            signing_off.SIGN_OFFS,
            lambda: sign_offs.check(self.result, self.bundle, self.files, self.roster, digests, run_id),
        )
        self.result.arrange(ORDER)
        self.result.digests = tuple(digests)
        self.result.run = {
            "run_id": run_id,
            "rounds": len(rounds.chain),
            "outcome": self.manifest.run.outcome if self.manifest else None,
            "head": digests[-1] if digests else None,
            "epsilon": rounds.last.verdict.spent if rounds.last else None,
            "verdicts": [verdict for _, _, verdict in rounds.chain],
        }
        return self.result

    def _guarded(self, name: str, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as error:  # noqa: BLE001 - whatever hostile content breaks is a failure, never a crash
            self.result.failed(name, f"the check could not be made ({type(error).__name__}): unexpected content")

    def _list_files(self) -> None:
        for path, problem in self.bundle.walk():
            if is_stray(path, problem):
                self.strays.add(path)
            if problem is None:
                try:
                    self.files[path] = self.bundle.digest(path)
                    continue
                except UnreadableFileError as error:
                    problem = error.problem
            if path not in self.strays:
                self.result.failed("files", problem, path)

    def _read(self, name: str, file: str, limit: int | None = None) -> bytes | None:
        try:
            return self.bundle.read(file) if limit is None else self.bundle.read(file, limit)
        except UnreadableFileError as error:
            self.result.failed(name, error.problem, error.file)
            return None

    def _read_policy(self) -> None:
        data = self._read("policy", POLICY, MAX_POLICY_BYTES)
        if data is None:
            return
        try:
            self.policy = canonical_json.parse_canonical(data)
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
            known = listed.histories[who]
            which = "the one that you trust"
            if len(known.keys) > 1:
                which = (
                    f"one of the {len(known.keys)} that you trust by their statements; is a newer statement missing?"
                )
            self.result.failed(name, f"the policy's key for {who} is not {which}", POLICY)
        for file, text in self.trusted.findings if self.trusted else ():
            self.result.failed(name, text, file)
        self._check_key_files(listed)
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

    def _check_key_files(self, listed: Roster) -> None:
        """Every key in `trust/` is the one that counts for whoever it is named after."""
        for file in self.files:
            found = _TRUST.match(file)
            if found is None:
                continue
            who, data = found.group(1), self._read("keys", file, 2**20)
            try:
                key = public_key(data or b"", "it")
                if who not in listed.keys or public_keys.fingerprint(key) != public_keys.fingerprint(listed.keys[who]):
                    self.result.failed("keys", "differs from the policy or from the key that you trust", file)
            except AuditError as error:
                self.result.failed("keys", str(error), file)

    def _check_signers(self, reports: Sequence[SignedReport]) -> None:
        """Keys that only stand in a policy vouch for nothing: one of those that are trusted has signed everything."""
        if self.trusted is None or self.own_keys or self.roster is None or not self.roster.outside:
            return
        outside = self.roster.outside
        text = "no key that you trust has signed it, whatever the policy lists"
        if self.manifest is not None and not self.manifest_signers & outside:
            self.result.failed("keys", text, MANIFEST)
        for report in reports:
            if not report.signers & outside:
                self.result.failed("keys", text, report.file)
        strangers = sorted(set(self.trusted.keys) - set(self.roster.keys))
        if strangers:
            self.result.skipped("keys", f"you gave keys that this run does not name: {', '.join(strangers[:12])}")

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
        signers = signed_by(self.result, self.roster, name, MANIFEST, parsed, required=(COORDINATOR,))
        self.manifest_signers = frozenset(signers)
        if self.roster is not None:
            standing.check_manifest_signers(self.result, signers, self.roster.hospitals, self.policy)
        self._compare_files({entry.path: entry.size for entry in manifest.files}, subjects)
        self.result.conclude(name, f"signed; the run is {manifest.run.outcome}: {manifest.run.reason}", MANIFEST)
        self.result.conclude("files", f"{len(subjects)} files, each as listed in the manifest")
        if strays := sorted(self.strays - subjects.keys()):
            text = "left by a file manager, listed nowhere and vouched for by nobody"
            self.result.skipped("files", f"{', '.join(strays[:12])}: {text}")

    def _compare_files(self, sizes: Mapping[str, int], subjects: Mapping[str, str]) -> None:
        """Hold the files here against those that the manifest lists, by size and digest."""
        for path in sorted(subjects.keys() - self.files.keys()):
            self.result.failed("files", "missing; the manifest lists it", path)
        for path in sorted(path for path in subjects if not is_published(path)):
            self.result.failed("files", "no run publishes a file of this name", path)
        for path in sorted(self.files.keys() - subjects.keys() - self.strays - {MANIFEST}):
            if path.startswith(signing_off.FOLDER):
                continue  # a review comes after the manifest: each is checked by its own signature
            self.result.failed("files", "not listed in the manifest (added later, or the run was interrupted)", path)
        for path in sorted(subjects.keys() & self.files.keys()):
            if self.files[path] != (sizes[path], subjects[path]):
                self.result.failed("files", "changed since the manifest was signed", path)
