"""What goes wrong in the protocol: one exception that carries a code, a culprit and what to do next.

Nothing secret ever enters a message: an error names participants, stages, sizes and public digests only.
"""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """Why a message was refused or a round aborted; the values appear in transcripts and reports."""

    MALFORMED = "malformed"
    TOO_LARGE = "too-large"
    BAD_SIGNATURE = "bad-signature"
    WRONG_SESSION = "wrong-session"
    WRONG_ROSTER = "wrong-roster"
    WRONG_SENDER = "wrong-sender"
    OUT_OF_ORDER = "stage-out-of-order"
    TRANSCRIPT_MISMATCH = "transcript-mismatch"
    POLICY_MISMATCH = "policy-mismatch"
    PARAMETERS_MISMATCH = "parameters-mismatch"
    POLICY_FLOOR = "policy-floor"
    MODEL_MISMATCH = "model-mismatch"
    DUPLICATE_KEY = "duplicate-key"
    DUPLICATE_MEMBER = "duplicate-member"
    BAD_KEY = "bad-key"
    OWN_MESSAGE_ALTERED = "own-message-altered"
    EXCLUDED = "excluded"
    SET_GREW = "set-grew"
    DECLARED_DEAD = "declared-dead"
    TOO_FEW = "too-few"
    INCONSISTENT = "inconsistent"
    SEALED_SHARE_ALTERED = "sealed-share-altered"
    BAD_SHARE_DEALER = "bad-share-dealer"
    BAD_SHARE_RESPONDER = "bad-share-responder"
    CONFLICTING = "conflicting-message"
    RESULT_MISMATCH = "result-mismatch"
    DEADLINE = "deadline"
    NO_ANSWER = "no-answer"
    NO_INPUT = "no-input"
    BAD_INPUT = "bad-input"
    BAD_PARAMETERS = "bad-parameters"
    HEADROOM = "headroom"
    ENTROPY = "entropy"
    JOURNAL = "journal"
    KEY_FILE = "key-file"
    ABORTED = "aborted"


HINTS: dict[Code, str] = {
    Code.TOO_FEW: "the round is spent; start the next one when enough members are reachable",
    Code.POLICY_MISMATCH: "compare the policy files: every member and the server must hold the same signed policy",
    Code.PARAMETERS_MISMATCH: "compare threshold, ring, vector lengths and round number with the signed policy",
    Code.MODEL_MISMATCH: "members were given different models; do not go on with this server before it is explained",
    Code.INCONSISTENT: "members were shown different sets; keep the transcript and ask the server's operator",
    Code.DEADLINE: "the round is spent; the next scheduled round may start",
}


class ProtocolError(Exception):
    """A round, or one message of it, was refused.

    Attributes: `code` (a :class:`Code`), `culprit` (a member's name, ``"server"``, or ``""`` when nobody can be
    named), `hint` (what to do next) and `exit_code` (4: a round was aborted).
    """

    exit_code: int = 4

    def __init__(self, code: Code, message: str, *, culprit: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.culprit = culprit
        self.hint = hint or HINTS.get(code, "")

    def __str__(self) -> str:
        blame = f" (culprit: {self.culprit})" if self.culprit else ""
        return f"{self.message} [{self.code.value}]{blame}"


class ParameterError(ProtocolError):
    """Parameters, a key file or an encoding were refused before anything was sent (exit code 2)."""

    exit_code = 2


class JournalError(ProtocolError):
    """The journal cannot vouch for what was already released, so nothing more is released."""
