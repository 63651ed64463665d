"""Errors that a user can cause or must act on, each with its exit code and a hint on what to do next.

Exit codes (the command line's): 2 the request or the input is wrong; 3 refused, the privacy budget does not allow it;
4 the run ended because rounds were aborted; 5 verification failed. A message says what was found and what was
expected; it never contains a secret.
"""

from __future__ import annotations


class FedganError(Exception):
    """Base of this package's errors.

    ``str(error)`` says what was found and what was expected; ``hint`` says what to do next; ``exit_code`` is what the
    command returns.
    """

    exit_code: int = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class InputError(FedganError):
    """The request or the input is wrong: a folder, a file, a setting or a combination of them."""

    exit_code = 2


class BudgetRefused(FedganError):  # noqa: N818 - a refusal is an outcome, not a defect
    """The privacy budget does not allow what was asked."""

    exit_code = 3


class RoundsAborted(FedganError):  # noqa: N818 - names the outcome
    """A run ended because its rounds were aborted."""

    exit_code = 4
