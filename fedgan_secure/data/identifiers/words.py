"""The identifying values of a DICOM file, and how to look for them in what is left of it."""

from __future__ import annotations

import re
import struct
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

from pydicom.errors import BytesLengthException

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


UNREADABLE = (
    BytesLengthException, ValueError, TypeError, KeyError, AttributeError, OSError, EOFError, OverflowError,
    NotImplementedError, struct.error,
)  # fmt: skip
"""What pydicom raises where the bytes of one element do not fit its kind."""
_ORDINARY = frozenset(
    re.findall(
        r"\w+",
        """abdomen adult angio archive arterial axial backup baseline batch body brain breast cardiac case cases
    chest child class classes cohort colour control copies coronal cropped data dataset dicom dicoms dicomdir
    disease downloads
    dynamic exam exams export exports eyes file files flair folder foot frame frames fundus grade hand head healthy
    heart hospital image images imaging incoming infer input instance knee label labels left lesion liver localizer
    lung lungs mammo mammography mild moderate neck negative none normal oblique original originals other output
    pancreas patient patients pelvis phantom phase picture pictures pneumonia positive processed proliferative raw
    reference renal retina right routine sagittal scan scans scout sequence series session severe shoulder site slice
    slices source spine standard station studies study subject subjects test tests testing thorax tmp train training
    transverse tumor tumour ultrasound unknown valid validation venous view views volume wrist xray""",
    )
)
_SHORTEST_NUMBER = 6
_PACKED = {"US": "H", "SS": "h", "UL": "I", "SL": "i"}
_TOKEN = re.compile(r"[^\W_]+")
_SEPARATORS = re.compile(r"[\W_]+")
_SHORTEST_JOINED = 7
"""Signs of a value that is searched for in a text whose separators are left out: words that meet may make less."""


def words_of(elements: Iterable[Any]) -> frozenset[str]:
    """Return the identifying values among a file's elements, in lower case: names (each part too), identifiers,
    institutions, birth date. A raw element is read as text."""
    words: set[str] = set()
    for element in elements:
        tag = element.tag
        if not (element.VR == "PN" or int(tag) in _IDENTIFYING):
            continue
        for value in several(element.value):
            text = normal(value.decode("latin-1") if isinstance(value, bytes) else str(value)).strip(" \0")
            parts = [text, *re.split(r"[\^=\s,;/]+", text)] if element.VR == "PN" else [text]
            if element.VR == "PN":
                tokens = _TOKEN.findall(text)
                parts += [" ".join(tokens[:2]), " ".join(tokens[1::-1])] if len(tokens) > 1 else []
            if len(joined := _SEPARATORS.sub("", text)) >= _SHORTEST_JOINED:
                parts.append(joined)
            if re.fullmatch(r"\d{8}", text):
                year, month, day = text[:4], text[4:6], text[6:]
                parts += [f"{year}-{month}-{day}", f"{year}/{month}/{day}", f"{day}.{month}.{year}"]
                parts += [f"{month}/{day}/{year}", f"{day}/{month}/{year}"]
            words |= {part for part in parts if len(part) >= SHORTEST_TEXT and part not in _COMMON}
    return frozenset(words)


def path_words(path: str) -> frozenset[str]:
    """Return what in the path of a file may name a person, in lower case: each part, and each word of it, of four signs
    or six digits or more that is no ordinary name of a folder.

    Args:
        path: relative to the folder that is read, with forward slashes.
    """
    parts = PurePosixPath(path.casefold()).parts
    stems = [*parts[:-1], *(PurePosixPath(part).stem for part in parts[-1:])]
    words = {*stems, *(word for stem in stems for word in _TOKEN.findall(stem))}
    return frozenset(
        word
        for word in words
        if len(word) >= (_SHORTEST_NUMBER if word.isdigit() else SHORTEST_TEXT)
        and not (_TOKEN.findall(word) and set(_TOKEN.findall(word)) <= _ORDINARY | _COMMON)
    )


def holds(value: Any, words: frozenset[str]) -> bool:
    """Whether a text, or bytes in UTF-8 or UTF-16, hold one of the words."""
    if isinstance(value, bytes | bytearray):
        data = bytes(value).lower()
        return any(word.encode() in data or word.encode("utf-16-le") in data for word in words)
    text = normal(str(value or ""))
    joined = _SEPARATORS.sub("", text)
    return any(word in text or (len(word) >= _SHORTEST_JOINED and word in joined) for word in words)


def normal(text: str) -> str:
    """Return a text in the form that identifying values are compared in: NFKC (ways of writing a letter, widths), no
    case."""
    return unicodedata.normalize("NFKC", text).casefold()


def short_words_of(elements: Iterable[Any]) -> frozenset[str]:
    """Return identifiers and parts of names of any length, for texts that are compared word by word, such as labels."""
    found: set[str] = set()
    for element in elements:
        if element.VR != "PN" and int(element.tag) not in _IDENTIFYING:
            continue
        for value in several(element.value):
            text = normal(value.decode("latin-1") if isinstance(value, bytes) else str(value)).strip(" \0")
            found |= {text, *(re.split(r"[\^=\s,;/]+", text) if element.VR == "PN" else ())}
    return frozenset(word for word in found if word and word not in _COMMON)


def names(text: str, words: frozenset[str]) -> bool:
    """Return whether a text is one of `words`, or has it as a word of its own."""
    plain = normal(text).strip()
    return plain in words or bool(words.intersection(_TOKEN.findall(plain)))


def is_number_of(value: Any, words: frozenset[str]) -> bool:
    """Return whether a number in text, of six signs or more, is one of the words."""
    text = str(value).strip(" \0").casefold()
    return len(text) >= _SHORTEST_NUMBER and text in words


def numbers_as_bytes(kind: str, values: list[Any]) -> bytes:
    """Return the values of an element of a binary kind (US, SS, UL or SL) as they lie in a little-endian file."""
    return struct.pack(f"<{len(values)}{_PACKED[kind]}", *values)


def walk(
    dataset: Any, prefix: str = "", inside: str | None = None, *, broken: bool = False
) -> Iterator[tuple[str, Any, str | None]]:
    """Yield every element at every depth, meta information included: its place, itself, and "D" below a sequence whose
    whole content the profile replaces.

    With `broken`, an element whose bytes do not fit its kind comes as it lies in the file, raw; else whatever
    pydicom raises for it is raised.
    """
    if not prefix and getattr(dataset, "file_meta", None) is not None:
        for element in dataset.file_meta:
            yield f"({element.tag.group:04X},{element.tag.element:04X})", element, None
    for tag in sorted(dataset.keys()):
        place = f"{prefix}({tag.group:04X},{tag.element:04X})"
        try:
            element = dataset[tag]
        except UNREADABLE:
            if not broken:
                raise
            yield place, dataset.get_item(tag), inside
            continue
        yield place, element, inside
        if element.VR == "SQ":
            action = inside or ("D" if action_of(element.tag.group, element.tag.element) == "D" else None)
            for item in element.value or ():
                yield from walk(item, place, action, broken=broken)


def several(value: Any) -> list[Any]:
    """The values of an element, none for an empty one."""
    if value is None or isinstance(value, str | bytes):
        return [value] if value else []
    return list(value) if isinstance(value, list | tuple) or type(value).__name__ == "MultiValue" else [value]
