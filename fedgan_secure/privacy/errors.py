"""What the private step refuses, and what it finds out about itself."""

from __future__ import annotations

from fedgan_secure.errors import FedganError, InputError


class PrivacyRefused(InputError):  # noqa: N818 - a refusal is an outcome, not a defect
    """A model, loss or setting under which the stated guarantee would not hold (exit code 2)."""


class MechanismContradicted(FedganError):  # noqa: N818 - a finding is an outcome, not a defect
    """What was done to patients is not what the accountant was told (exit code 4).

    The message names the tests and holds no figure of theirs: figures belong to the confidential annex.

    Attributes:
        tests: names of the tests that failed, `fedgan_audits.facts.self_tests.TestName`.
    """

    exit_code = 4

    def __init__(self, tests: tuple[str, ...]) -> None:
        super().__init__(
            f"the mechanism contradicts what the accountant was told: self-test failed: {', '.join(tests)}",
            hint="nothing of this step was released; the figures are in the hospital's confidential annex. Do not go "
            "on with this software or these settings before the cause is found",
        )
        self.tests = tests
