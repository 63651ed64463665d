"""What a hospital refuses besides its budget: to sign a report, and to take part in a round."""

from __future__ import annotations

from fedgan_secure.errors import FedganError


class SignatureRefused(FedganError):  # noqa: N818 - a refusal is an outcome, not a defect
    """A hospital does not sign: the report differs from what it knows."""

    exit_code = 4


class SessionRefused(FedganError):  # noqa: N818 - a refusal is an outcome, not a defect
    """A hospital does not take part: what the coordinator asks for is not what the policy says."""

    exit_code = 4
