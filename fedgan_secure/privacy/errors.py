"""What the private step refuses."""

from __future__ import annotations

from fedgan_secure.errors import InputError


class PrivacyRefused(InputError):  # noqa: N818 - a refusal is an outcome, not a defect
    """A model, loss or setting under which the stated guarantee would not hold (exit code 2)."""
