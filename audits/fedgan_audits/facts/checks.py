"""The outcome of a verification: a table of checks, each PASS, FAIL or NOT CHECKED."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fedgan_audits.errors import VerificationFailed

Outcome = Literal["PASS", "FAIL", "NOT CHECKED"]


_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_LONGEST = 600


def shown(text: str) -> str:
    """`text` as a terminal may show it: what a bundle says is quoted, so nothing in it may move the cursor."""
    clean = _UNPRINTABLE.sub(lambda found: found.group().encode("unicode_escape").decode("ascii"), text)
    return clean if len(clean) <= _LONGEST else clean[:_LONGEST] + " [...]"


def said(error: Exception) -> str:
    """What an error says of itself, shortened."""
    return str(error)[:300] or type(error).__name__


def _told(check: Check) -> str:
    return f"{check.name}: {check.file}: {check.detail}" if check.file else f"{check.name}: {check.detail}"


@dataclass(frozen=True)
class Check:
    """One check: its name, its outcome, the file it is about ("" for the run as a whole) and a sentence.

    `closing`: it was not made (NOT CHECKED), and as long as it was not, nothing of the run is signed off, exported or
    released.
    """

    name: str
    outcome: Outcome
    file: str
    detail: str
    closing: bool = False


@dataclass
class Verification:
    """All checks of one run, in the order in which they were made."""

    run: Mapping[str, Any] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    digests: tuple[str, ...] = ()
    """The digests of the reports, oldest first: the chain."""

    @property
    def ok(self) -> bool:
        """Whether no check failed. Checks that were not made do not count."""
        return not any(check.outcome == "FAIL" for check in self.checks)

    @property
    def closing(self) -> tuple[Check, ...]:
        """The checks that were not made and without which nothing may be signed off, exported or released."""
        return tuple(check for check in self.checks if check.closing)

    def require(
        self, refused: str, hint: str = "See `fedgan-secure audit verify` for everything that is wrong."
    ) -> None:
        """Let only a run through that verified in whole; `refused` says what is not done else ("nothing is exported").

        Raises:
            VerificationFailed: a check failed, or one that closes this gate was not made (exit code 5).
        """
        wrong = next((check for check in self.checks if check.outcome == "FAIL"), None)
        if wrong is not None:
            raise VerificationFailed(f"the run does not verify, so {refused}: {_told(wrong)}", hint=hint)
        if self.closing:
            raise VerificationFailed(
                f"this version cannot check the run in whole, so {refused}: {_told(self.closing[0])}",
                hint="Do it with the version of fedgan-secure that made the run; its reports name it (section A).",
            )

    @property
    def exit_code(self) -> int:
        """0, or 5 when a check failed."""
        return 0 if self.ok else 5

    def passed(self, name: str, detail: str, file: str = "") -> None:
        self.checks.append(Check(name, "PASS", shown(file), shown(detail)))

    def failed(self, name: str, detail: str, file: str = "") -> None:
        self.checks.append(Check(name, "FAIL", shown(file), shown(detail)))

    def skipped(self, name: str, detail: str, file: str = "", *, closing: bool = False) -> None:
        self.checks.append(Check(name, "NOT CHECKED", shown(file), shown(detail), closing))

    def has_failed(self, name: str) -> bool:
        """Whether a check of this name failed."""
        return any(check.name == name and check.outcome == "FAIL" for check in self.checks)

    def conclude(self, name: str, detail: str, file: str = "") -> None:
        """Note a PASS unless a check of this name has failed already."""
        if not self.has_failed(name):
            self.passed(name, detail, file)

    def arrange(self, order: Sequence[str]) -> None:
        """Show checks of one name together, names in this order; within a name nothing moves."""
        place = {name: index for index, name in enumerate(order)}
        self.checks.sort(key=lambda check: place.get(check.name, len(place)))

    def to_dict(self) -> dict[str, Any]:
        """The whole outcome for `--json`."""
        return {
            "ok": self.ok,
            "releasable": self.ok and not self.closing,
            "run": dict(self.run),
            "checks": [
                {"name": check.name, "outcome": check.outcome, "file": check.file, "detail": check.detail}
                for check in self.checks
            ],
        }
