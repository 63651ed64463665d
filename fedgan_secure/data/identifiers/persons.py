"""Whether two identifiers are one person, or one identifier is no person: the rules of every layout.

A merged person is not covered by the epsilon that is reported, and a split one is covered for each part alone
(docs/privacy.md). So identifiers are one patient where they differ in nothing but how they are written, a placeholder
is nobody, and what may be one person but need not be is said and not decided.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from fedgan_secure.data.patients import normal_identifier

PLACEHOLDERS = frozenset(
    {"nan", "na", "n/a", "#n/a", "none", "null", "nil", "nat", "<na>", "unknown", "unk", "undefined", "anonymous",
     "anonymized", "anonymised", "anonym", "anon", "deidentified", "de-identified", "removed", "redacted", "missing",
     "empty", "unbekannt", "inconnu", "patient", "patientid", "patient id", "patient_id", "name", "id", "0", "00",
     "no id", "default", "tbd", "unnamed", "not available", "unknown patient", "no name", "test patient"}
)  # fmt: skip
"""What stands where an identifier should, in the form of `normal_identifier`: files of several people may share it."""
_PLAIN_PLACEHOLDERS = frozenset(re.sub(r"[\W_]+", "", word) for word in PLACEHOLDERS) - {""}
"""The same without separators: no-id, NO_ID and (none) are as much nobody as "no id" and "none"."""
_SAME_DIGIT = re.compile(r"0+|9{8,}|x{3,}")
PLACEHOLDER = "its patient is given as {!r}, which is a placeholder: nobody knows whose it is"
COUNTED = frozenset({"eyepacs", "folders", "messidor", "rsna-ct", "rsna-pneumonia"})
"""Layouts whose patients stand in names of files and folders, where people count from 0."""
_ZEROS = re.compile(r"(?<![0-9])0+(?=[0-9])")
_DECIMALS = re.compile(r"(?<=[0-9])\.0+$")
_SEPARATORS = re.compile(r"[\W_]+")
_WORD = re.compile(r"[^\W_]+")
SHORTEST = 3
"""Letters or digits of a word that may be somebody's name."""
_VISIT = re.compile(
    r"(?<=[0-9a-z])[\W_]+(?:(?:19|20)[0-9]{2}(?:[01][0-9][0-3][0-9])?|[0-9]{2}[01][0-9][0-3][0-9]|"
    r"(?:v|visit|visite|fu|follow[\W_]*up|t|tp|timepoint|ses|session|baseline|m|month|wk|week|y|year)[\W_]*[0-9]*)$"
)
"""The end of an identifier that names a year, a date or a visit."""
HEADERS = {
    "PatientName": "names",
    "PatientSex": "sexes",
    "PatientBirthDate": "birth dates",
    "IssuerOfPatientID": "issuers",
}
"""DICOM attributes that are the same in all files of one person, and what to call several of them."""


def is_placeholder(identifier: str, *, counted: bool = False) -> bool:
    """Return whether an identifier is a placeholder, so that nobody knows whose the file is.

    Args:
        identifier: as the data have it.
        counted: patients are counted off there (in names of files, in arrays of numbers): 0 is one of them.
    """
    text = normal_identifier(identifier)
    if counted and text.isdigit():
        return False
    plain = _SEPARATORS.sub("", text)
    return plain in _PLAIN_PLACEHOLDERS or _SAME_DIGIT.fullmatch(plain) is not None or not plain


def look_alike(identifiers: Iterable[str]) -> list[tuple[str, ...]]:
    """Return groups of identifiers that differ by leading zeros, a trailing ".0", separators, or a visit alone.

    Args:
        identifiers: of different patients.

    Returns:
        Sorted groups of two or more; each may be one person or several.
    """
    groups: dict[str, list[str]] = {}
    for one in identifiers:
        without = _VISIT.sub("", normal_identifier(one))
        plain = _SEPARATORS.sub("", _ZEROS.sub("", _DECIMALS.sub("", without)))
        groups.setdefault(plain, []).append(one)
    return sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1)


def marks_of(dataset: Any, key: bytes) -> dict[str, bytes]:
    """Return what a DICOM header says of the person besides the identifier, as keyed digests, to be compared alone.

    Args:
        dataset: the header.
        key: of one loading, forgotten after it.

    Returns:
        Attribute of HEADERS -> 16 bytes; attributes that say nothing are left out. Names are compared without case,
        width of characters and separators.
    """
    marks = {}
    for attribute in HEADERS:
        text = unicodedata.normalize("NFKC", str(dataset.get(attribute, None) or "")).casefold()
        if plain := _SEPARATORS.sub(" ", text).strip():
            marks[attribute] = hmac.new(key, f"{attribute} {plain}".encode(), hashlib.sha256).digest()[:16]
    return marks


def word_marks(text: str, key: bytes) -> frozenset[bytes]:
    """Return the words of a text, of three letters or digits or more, as keyed digests of 16 bytes.

    Args:
        text: an identifier, a name or the name of a class.
        key: of one loading, forgotten after it.
    """
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    return frozenset(
        hmac.new(key, f"word {word}".encode(), hashlib.sha256).digest()[:16] for word in words if len(word) >= SHORTEST
    )


def words_of_person(dataset: Any, identifier: str, key: bytes) -> frozenset[bytes]:
    """Return the words of an identifier and of the name in a DICOM header, as `word_marks` makes them."""
    return word_marks(f"{identifier} {dataset.get('PatientName', None) or ''}", key)


class SeveralPeople:
    """Which identifiers stand for several people by the headers of their files."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, set[bytes]]] = {}

    def add(self, identifier: str, marks: Mapping[str, bytes]) -> None:
        """Take one file's marks."""
        own = self._seen.setdefault(identifier, {})
        for attribute, mark in marks.items():
            own.setdefault(attribute, set()).add(mark)

    def found(self) -> tuple[tuple[str, str], ...]:
        """Return (identifier, what differs), such as ("P1", "2 names, 2 birth dates"), sorted by identifier."""
        rows = []
        for identifier, own in sorted(self._seen.items()):
            several = [f"{len(own[one])} {word}" for one, word in HEADERS.items() if len(own.get(one, ())) > 1]
            if several:
                rows.append((identifier, ", ".join(several)))
        return tuple(rows)
