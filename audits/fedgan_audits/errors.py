"""What can go wrong in this room, as exceptions that know their exit code and what to do next.

Every message says what was found and what was expected; `hint` says what to do. Exit codes: 2 the request or the
input is wrong; 3 refused, the privacy budget does not allow it; 5 verification failed.
"""

from __future__ import annotations


class AuditError(Exception):
    """Base of this room's errors.

    `exit_code` is the process exit code of the command line, `hint` one sentence on what to do next.
    """

    exit_code: int = 2
    default_hint: str = ""

    def __init__(self, message: str, *, hint: str | None = None, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.hint: str = self.default_hint if hint is None else hint
        if exit_code is not None:
            self.exit_code = exit_code


class RecordInvalid(AuditError):  # noqa: N818 - named after what happened
    """A record, policy or other input does not have the form that was expected."""

    default_hint = "Correct the value that the message names."


class NotAccounted(AuditError):  # noqa: N818 - named after what happened
    """A mechanism whose privacy cost this accountant does not prove; it never guesses."""

    default_hint = "Use noise_placement 'per_hospital' with Poisson sampling and add/remove-one neighbours."


class UnreachableTarget(AuditError):  # noqa: N818 - named after what happened
    """No noise within the bounds reaches the epsilon that was asked for.

    `nearest_epsilon` is the smallest epsilon that can be reached with the same steps, sampling and delta (it may be
    infinite).
    """

    default_hint = "Ask for a larger epsilon or delta, fewer steps or rounds, or a smaller sampling probability."

    def __init__(self, message: str, *, nearest_epsilon: float, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.nearest_epsilon = nearest_epsilon


class BudgetRefused(AuditError):  # noqa: N818 - named after what happened
    """A hospital's ledger refuses a reservation that would exceed its cap.

    `spent` is the epsilon composed over the whole ledger so far, `asked` the epsilon with the reservation included
    (never the sum of two epsilons), `cap` the hospital's own limit, all at the same delta.
    """

    exit_code = 3
    default_hint = "The budget of these patients is used up to the hospital's cap; nothing was spent by this request."

    def __init__(self, message: str, *, spent: float, asked: float, cap: float, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.spent = spent
        self.asked = asked
        self.cap = cap


class LedgerError(AuditError):
    """A ledger cannot be used as asked: wrong hospital or version, another writer, no room, a second reservation."""


class LedgerCorrupt(AuditError):  # noqa: N818 - named after what happened
    """A ledger's hash chain, or the file that holds it, is damaged; `entry` is the first bad entry, where known."""

    exit_code = 5
    default_hint = "Keep the file as it is for an inquiry and restore the ledger from a copy; do not start a new one."

    def __init__(self, message: str, *, entry: int | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.entry = entry


class VerificationFailed(AuditError):  # noqa: N818 - named after what happened
    """Evidence does not verify: a signature, a digest, a chain or a recomputed figure differs."""

    exit_code = 5
    default_hint = "Do not rely on this run's reports until the difference is explained."
