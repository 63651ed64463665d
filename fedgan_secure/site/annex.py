"""The confidential annex of a round: what a hospital keeps for itself, and the commitment that a report may show.

The commitment is SHA-256(32-byte salt || canonical annex): without the salt a few small numbers could be guessed from
a bare digest.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rfc8785

from fedgan_audits.report import commit_annex
from fedgan_secure.storage import read_json, write_bytes


def write_annex(place: Path, annex: Mapping[str, Any]) -> None:
    """Write an annex with a fresh salt (mode 0600); whole or absent."""
    body = rfc8785.dumps({"salt": secrets.token_bytes(32).hex(), "annex": dict(annex)})
    write_bytes(place, body, private=True)


def read_annex(place: Path) -> Any:
    """Return the annex with its salt, as kept; None where there is none."""
    return read_json(place, "the confidential annex") if place.exists() else None


def commitment_of(place: Path) -> str | None:
    """Return the commitment to an annex, from the annex itself; None where there is none."""
    kept = read_annex(place)
    if kept is None:
        return None
    return commit_annex(bytes.fromhex(kept["salt"]), rfc8785.dumps(kept["annex"]))


def plain(value: Any) -> Any:
    """Return numpy and non-finite numbers as canonical JSON takes them."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**53:
        return str(value)
    return value
