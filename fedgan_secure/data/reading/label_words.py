"""Labels that are no classes, or one class written twice: what a vocabulary that nobody declared may hide."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

_MISSING = frozenset({"nan", "na", "n/a", "#n/a", "null", "nil", "nat", "<na>", "-", "--", "?", "."})
_DOUBTFUL = frozenset(
    {"none", "unknown", "unk", "other", "missing", "ungradable", "undefined", "ignore", "tbd", "invalid"}
)
_FEWEST = 16
"""Vocabularies of numbers below this size are not asked for gaps."""


def says_nothing(text: str) -> bool:
    """Return whether a label is what programs write for a missing value: no class, as an empty cell is none."""
    return _plain(text) in _MISSING


def label_notes(counts: Mapping[str, int]) -> list[str]:
    """Return what a person should look at in a collected vocabulary.

    Args:
        counts: class -> number of images, classes without an image included.

    Returns:
        A sentence each for classes that differ in nothing but how they are written, for words that may stand for a
        missing value, and for a largest number that stands alone.
    """
    notes = []
    alike: dict[str, list[str]] = {}
    for name in counts:
        alike.setdefault(_plain(name), []).append(name)
    twice = [names for names in alike.values() if len(names) > 1]
    if twice:
        shown = "; ".join(" and ".join(f"{name!r} ({counts[name]})" for name in names) for names in twice[:3])
        notes.append(f"{len(twice)} classes are written in several ways and were taken for different ones: {shown}")
    doubtful = [name for name in counts if _plain(name) in _DOUBTFUL]
    if doubtful:
        notes.append(
            f"the labels {', '.join(map(repr, doubtful[:3]))} may stand for a missing value, and are classes here: "
            "declare the classes (data.label_names) to set them aside"
        )
    numbers = [name for name in counts if name.isdigit()]
    empty = sum(counts[name] == 0 for name in numbers)
    if len(numbers) == len(counts) >= _FEWEST and 2 * empty > len(numbers):
        notes.append(
            f"the largest label is {numbers[-1]}, and {empty} of the {len(numbers)} classes up to it have no image: "
            "where it says that there is no label, declare the classes (data.label_names)"
        )
    return notes


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
