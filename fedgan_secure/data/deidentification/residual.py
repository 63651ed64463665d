"""Search a written file for what should not be in it: a second look, at the bytes that were written.

Every attribute at every depth is held against the profile's table and against the values of the original: what the
profile treats must have changed, no private attribute may be left, and no identifying value of the original may stand
in any text or bytes (long ones in the pixels' bytes too). A finding names attributes, never values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pydicom.dataelem import RawDataElement

from fedgan_secure.data.deidentification.headers import DUMMIES, tells
from fedgan_secure.data.deidentification.keyed import is_registered
from fedgan_secure.data.identifiers.profile import action_of
from fedgan_secure.data.identifiers.words import holds, path_words, several, short_words_of, walk, words_of

_LONG = 8
"""Shorter words occur in megabytes of pixels by chance."""
_PIXELS = {(0x7FE0, 0x0010), (0x7FE0, 0x0008), (0x7FE0, 0x0009), (0x5400, 0x1010)}
_DUMMIES = {
    DUMMIES["UR"],
    "",
    "REMOVED",
    "000Y",
    "19000101",
    "19000101000000.000000+0000",
    "000000.00",
    "0",
    "0.0",
    "REMOVED ",
}
_OUR_CODE = "(0012,0064)"
_NAMES = {"PN", "DA", "DT", "TM", "AS"}


@dataclass(frozen=True)
class Finding:
    """One thing that should not be there: why, and where, as ``(gggg,eeee)`` from the outermost sequence inwards."""

    reason: str
    place: str


@dataclass(frozen=True)
class Original:
    """What must not stand in a copy: identifying values, words of the path, and UIDs not named by the standard.

    `short`: identifiers and parts of names of any length, for labels.
    """

    words: frozenset[str] = field(repr=False)
    of_path: frozenset[str] = field(repr=False)
    uids: frozenset[str] = field(repr=False)
    short: frozenset[str] = field(default=frozenset(), repr=False)


def look_at(dataset: Any, path: str) -> Original:
    """Return what a file holds that must not stand in its copy, before anything of it is changed.

    Args:
        dataset: as it was read; an element whose bytes do not fit its kind counts as text where it identifies.
        path: relative to the folder.
    """
    elements = [element for _, element, _ in walk(dataset, broken=True)]
    kinds = {str(dataset.get("SOPClassUID", None) or ""), str(dataset.file_meta.get("MediaStorageSOPClassUID", ""))}
    uids = {
        str(value)
        for element in elements
        if element.VR == "UI" and not isinstance(element, RawDataElement)
        for value in several(element.value)
        if not is_registered(str(value))
    }
    return Original(words_of(elements), path_words(path), frozenset(uids - kinds), short_words_of(elements))


def scan(original: Original, written: Any, raw: bytes) -> list[Finding]:
    """Return what is left in `written` (a data set read again from the bytes `raw`) of what `original` held.

    Args:
        original: what the file held (:func:`look_at`).
        written: the copy.
        raw: the copy's bytes.

    Returns:
        Findings; [] is a pass.

    Raises:
        ValueError: or whatever else pydicom raises where an element of the copy cannot be parsed.
    """
    words, of_text, uids = original.words, original.words | original.of_path, original.uids
    long_words = frozenset(word for word in words if len(word) >= _LONG)
    findings = [Finding(reason, "file") for reason in _file_level(written, raw)]
    for place, element, inside in walk(written):
        group, number = element.tag.group, element.tag.element
        values = [str(one) for one in several(element.value)] if element.VR != "SQ" else []
        if element.tag.is_private:
            findings.append(Finding("a private attribute", place))
        elif group & 0xFF00 == 0x6000:
            findings.append(Finding("an overlay", place))
        action = inside or action_of(group, number)
        mine = (group, number) in ((0x0012, 0x0062), (0x0012, 0x0063), (0x0028, 0x0303))
        mine |= (group, number) == (0x0010, 0x0020) and all(re.fullmatch("[0-9a-f]{32}", value) for value in values)
        if element.VR in ("OB", "OW", "UN", "OF", "OD", "OL", "OV"):
            in_pixels = (group, number) in _PIXELS
            if holds(element.value, long_words if in_pixels else words):
                findings.append(Finding("an identifying value of the original in bytes", place))
            continue
        ours = mine or group == 0x0002 or place.startswith(_OUR_CODE)
        if element.VR != "SQ" and not ours and tells(element, words, of_text):
            findings.append(Finding("an identifying value of the original in another attribute", place))
        found = (_wrong_value(value, element.VR, action, uids, mine=mine) for value in values)
        findings += [Finding(reason, place) for reason in found if reason is not None]
    return findings


def _wrong_value(value: str, kind: str, action: str | None, uids: frozenset[str], *, mine: bool) -> str | None:
    """What is wrong with one value of a copy, or None.

    Args:
        value: as text.
        kind: its VR.
        action: the profile's for its attribute or for a sequence around it.
        uids: of the original.
        mine: the attribute is one that de-identification itself writes.
    """
    if value.strip(" \0") in _DUMMIES:
        return None
    if action == "X":
        return "an attribute that the profile removes"
    if kind == "UI" and action is not None and not (value.startswith("2.25.") or is_registered(value)):
        return "a UID that the profile replaces"
    if action is not None and kind != "UI" and not mine:
        return "an attribute that the profile changes, with a value that is no dummy"
    if kind in _NAMES:
        return "a name, date, time or age"
    return "a UID of the original" if value in uids else None


def _file_level(written: Any, raw: bytes) -> Iterator[str]:
    if raw[:128].strip(b"\0"):
        yield "a preamble that is not zero"
    for keyword in ("SourceApplicationEntityTitle", "SendingApplicationEntityTitle", "ReceivingApplicationEntityTitle",
                    "PrivateInformation", "PrivateInformationCreatorUID"):  # fmt: skip
        if keyword in written.file_meta:
            yield f"{keyword} in the meta information"
    codes = written.get("DeidentificationMethodCodeSequence", None)
    if written.get("PatientIdentityRemoved", None) != "YES" or not codes:
        yield "the attributes that say what was done are missing"
