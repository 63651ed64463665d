"""Search a written file for what should not be in it: a second look, at the bytes that were written.

Every attribute at every depth is held against the profile's table and against the values of the original: what the
profile treats must have changed, no private attribute may be left, and no identifying value of the original may stand
in any text or bytes (long ones in the pixels' bytes too). A finding names attributes, never values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fedgan_secure.data.deidentification.keyed import is_registered
from fedgan_secure.data.identifiers.profile import action_of
from fedgan_secure.data.identifiers.words import holds, identifying_words, several, walk

_LONG = 8
"""Shorter words occur in megabytes of pixels by chance."""
_PIXELS = {(0x7FE0, 0x0010), (0x7FE0, 0x0008), (0x7FE0, 0x0009), (0x5400, 0x1010)}
_DUMMIES = {"", "REMOVED", "000Y", "00010101", "00010101010101.000000+0000", "000000.00", "0", "0.0", "REMOVED "}
_TEXT = {"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"}
_NAMES = {"PN", "DA", "DT", "TM", "AS"}


@dataclass(frozen=True)
class Finding:
    """One thing that should not be there: why, and where, as ``(gggg,eeee)`` from the outermost sequence inwards."""

    reason: str
    place: str


def scan(original: Any, written: Any, raw: bytes) -> list[Finding]:
    """What is left in `written` (a data set read again from the bytes `raw`) of what `original` held. [] is a pass."""
    words = identifying_words(original)
    long_words = frozenset(word for word in words if len(word) >= _LONG)
    kinds = {str(original.get("SOPClassUID", None) or ""), str(original.file_meta.get("MediaStorageSOPClassUID", ""))}
    uids = {
        str(value)
        for _, element, _ in walk(original)
        if element.VR == "UI"
        for value in several(element.value)
        if not is_registered(str(value))
    } - kinds
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
        for value in values:
            if value.strip(" \0") in _DUMMIES:
                continue
            if action == "X":
                findings.append(Finding("an attribute that the profile removes", place))
            elif element.VR == "UI" and action is not None and not (value.startswith("2.25.") or is_registered(value)):
                findings.append(Finding("a UID that the profile replaces", place))
            elif action is not None and element.VR != "UI" and not mine:
                findings.append(Finding("an attribute that the profile changes, with a value that is no dummy", place))
            elif element.VR in _NAMES:
                findings.append(Finding("a name, date, time or age", place))
            elif value in uids:
                findings.append(Finding("a UID of the original", place))
            elif element.VR in _TEXT and not mine and holds(value, words):
                findings.append(Finding("an identifying value of the original in another attribute", place))
    return findings


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
