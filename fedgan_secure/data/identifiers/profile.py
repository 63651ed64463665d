"""The Basic Application Level Confidentiality Profile (DICOM PS3.15, Table E.1-1) as dicom-anonymizer carries it.

The package's default table is that of 2023; the edition named here is asked for by name. An action is one of the
standard's codes: X remove, Z empty or a dummy, D a dummy, U a new UID; a compound is resolved to the stronger that
keeps a valid object (Z for X/Z, D where D is among the choices).
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib import metadata
from typing import Literal

PROFILE_EDITION = "dicomfields_2026c"
Action = Literal["X", "Z", "D", "U", "U*"]
_RESOLVED: dict[str, Action] = {
    "D_TAGS": "D",
    "Z_TAGS": "Z",
    "X_TAGS": "X",
    "U_TAGS": "U",
    "Z_D_TAGS": "D",
    "X_Z_TAGS": "Z",
    "X_D_TAGS": "D",
    "X_Z_D_TAGS": "D",
    "X_Z_U_STAR_TAGS": "U*",
}


@cache
def _tables() -> tuple[dict[tuple[int, int], Action], tuple[tuple[int, int, int, int], ...]]:
    from dicomanonymizer.dicomfields_selector import (  # type: ignore[import-untyped]
        dicom_anonymization_database_selector,
    )

    database = dicom_anonymization_database_selector(PROFILE_EDITION)
    single: dict[tuple[int, int], Action] = {}
    repeating: list[tuple[int, int, int, int]] = []
    for category, action in _RESOLVED.items():
        for tag in database[category]:
            if len(tag) == 2:
                single[tag] = action
            elif action == "X":
                repeating.append(tag)
            else:
                raise ValueError(f"a repeating group with the action {action} is not known here")
    return single, tuple(repeating)


def action_of(group: int, element: int) -> Action | None:
    """What the profile does to an attribute; None where it has no row (the attribute is kept)."""
    single, repeating = _tables()
    found = single.get((group, element))
    if found is not None:
        return found
    for wanted_group, wanted_element, group_mask, element_mask in repeating:
        if group & group_mask == wanted_group & group_mask and element & element_mask == wanted_element & element_mask:
            return "X"
    return None


@cache
def profile_digest() -> str:
    """SHA-256 over the table in use, in hexadecimal: two copies of the same edition can be compared by it."""
    single, repeating = _tables()
    rows = sorted([f"{group:04X},{element:04X}", action] for (group, element), action in single.items())
    text = json.dumps([rows, sorted(repeating)], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def anonymizer_version() -> str:
    """The version of dicom-anonymizer that carries the table."""
    return metadata.version("dicom-anonymizer")
