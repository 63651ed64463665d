"""The identifying values of a DICOM file, and how to look for them in what is left of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from fedgan_secure.data.identifiers.profile import action_of

SHORTEST_TEXT = 4
_IDENTIFYING = {
    0x00080050, 0x00080080, 0x00080081, 0x00080090, 0x00080092, 0x00080094, 0x00081010, 0x00081040, 0x00081048,
    0x00081050, 0x00081060, 0x00081070, 0x00100010, 0x00100020, 0x00100021, 0x00100030, 0x00100050, 0x00101000,
    0x00101001, 0x00101002, 0x00101005, 0x00101040, 0x00101050, 0x00101060, 0x00101090, 0x00102152, 0x00102154,
    0x00102155, 0x00102297, 0x00181000, 0x00200010, 0x00321032, 0x00321033, 0x00380010, 0x00401001,
}  # fmt: skip
"""Attributes whose values are searched for in everything that is left, besides every person's name."""
_COMMON = {"unknown", "none", "anonymous", "anonymized", "anon", "removed", "name", "patient", "test", "hospital"}


def identifying_words(original: Any) -> frozenset[str]:
    """The identifying values of a file in lower case: names (each part too), identifiers, institutions, birth date."""
    words: set[str] = set()
    for _, element, _ in walk(original):
        tag = element.tag
        if not (element.VR == "PN" or int(tag) in _IDENTIFYING):
            continue
        for value in several(element.value):
            text = str(value).strip(" \0").casefold()
            parts = [text, *re.split(r"[\^=\s,;/]+", text)] if element.VR == "PN" else [text]
            if re.fullmatch(r"\d{8}", text):
                year, month, day = text[:4], text[4:6], text[6:]
                parts += [f"{year}-{month}-{day}", f"{day}.{month}.{year}"]
                parts += [f"{month}/{day}/{year}", f"{day}/{month}/{year}"]
            words |= {part for part in parts if len(part) >= SHORTEST_TEXT and part not in _COMMON}
    return frozenset(words)


def holds(value: Any, words: frozenset[str]) -> bool:
    """Whether a text, or bytes in UTF-8 or UTF-16, hold one of the words."""
    if isinstance(value, bytes | bytearray):
        data = bytes(value).lower()
        return any(word.encode() in data or word.encode("utf-16-le") in data for word in words)
    text = str(value or "").casefold()
    return any(word in text for word in words)


def walk(dataset: Any, prefix: str = "", inside: str | None = None) -> Iterator[tuple[str, Any, str | None]]:
    """Every element at every depth, meta information included: its place, itself, and "D" below a sequence whose whole
    content the profile replaces."""
    if not prefix and getattr(dataset, "file_meta", None) is not None:
        for element in dataset.file_meta:
            yield f"({element.tag.group:04X},{element.tag.element:04X})", element, None
    for element in dataset:
        place = f"{prefix}({element.tag.group:04X},{element.tag.element:04X})"
        yield place, element, inside
        if element.VR == "SQ":
            action = inside or ("D" if action_of(element.tag.group, element.tag.element) == "D" else None)
            for item in element.value or ():
                yield from walk(item, place, action)


def several(value: Any) -> list[Any]:
    """The values of an element, none for an empty one."""
    if value is None or isinstance(value, str | bytes):
        return [value] if value else []
    return list(value) if isinstance(value, list | tuple) or type(value).__name__ == "MultiValue" else [value]
