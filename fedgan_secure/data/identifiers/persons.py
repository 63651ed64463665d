"""Whether two identifiers are one person, or one identifier is no person: the rules of every layout.

A merged person is not covered by the epsilon that is reported, and a split one is covered for each part alone
(docs/privacy.md). So identifiers are one patient where they differ in nothing but how they are written, a placeholder
is nobody, and what may be one person but need not be is said and not decided.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from fedgan_secure.data.patients import normal_identifier

PLACEHOLDERS = frozenset(
    {"nan", "na", "n/a", "#n/a", "none", "null", "nil", "nat", "<na>", "unknown", "unk", "undefined", "anonymous",
     "anonymized", "anonymised", "anonym", "anon", "deidentified", "de-identified", "removed", "redacted", "missing",
     "empty", "unbekannt", "inconnu", "patient", "patientid", "patient id", "patient_id", "name", "id", "0", "00",
     "000", "0000", "xxx", "xxxx", "no id", "noid", "default", "tbd"}
)  # fmt: skip
"""What stands where an identifier should, in the form of `normal_identifier`: files of several people may share it."""
PLACEHOLDER = "its patient is given as {!r}, which is a placeholder: nobody knows whose it is"
COUNTED = frozenset({"eyepacs", "folders", "messidor", "rsna-ct", "rsna-pneumonia"})
"""Layouts whose patients stand in names of files and folders, where people count from 0."""
_ZEROS = re.compile(r"(?<![0-9])0+(?=[0-9])")
_DECIMALS = re.compile(r"(?<=[0-9])\.0+$")
_SEPARATORS = re.compile(r"[\W_]+")


def is_placeholder(identifier: str, *, counted: bool = False) -> bool:
    """Return whether an identifier is a placeholder, so that nobody knows whose the file is.

    Args:
        identifier: as the data have it.
        counted: patients are counted off there (in names of files, in arrays of numbers): 0 is one of them.
    """
    text = normal_identifier(identifier)
    if counted and text.isdigit():
        return False
    return text in PLACEHOLDERS or not any(sign.isalnum() for sign in text)


def look_alike(identifiers: Iterable[str]) -> list[tuple[str, ...]]:
    """Return groups of identifiers that differ by leading zeros, a trailing ".0" or separators alone.

    Args:
        identifiers: of different patients.

    Returns:
        Sorted groups of two or more; each may be one person or several.
    """
    groups: dict[str, list[str]] = {}
    for one in identifiers:
        plain = _SEPARATORS.sub("", _ZEROS.sub("", _DECIMALS.sub("", normal_identifier(one))))
        groups.setdefault(plain, []).append(one)
    return sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1)
