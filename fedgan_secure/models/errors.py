"""What can be wrong with a model's description, its weights or its file."""

from __future__ import annotations

from fedgan_secure.errors import InputError


class ModelError(InputError):
    """A model specification, weight vector or model file that cannot be used (exit code 2)."""
