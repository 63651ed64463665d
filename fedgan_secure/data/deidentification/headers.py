"""Clean one DICOM data set by the confidentiality profile, at every depth, and then by stricter rules of our own.

Order: the profile's action on every attribute, into every sequence that is kept; private attributes and those that no
dictionary knows go; whatever is left of the kinds person name, date, time, date-time and age goes; every UID that is
not the standard's own becomes a keyed one; a text or bytes in which an identifying value of this file stands (a name in
a comment) is emptied. Then the attributes that say what was done (PS3.15 E.1, CID 7050) are written
and the meta information is made anew. `Pixel Data` itself is the matter of :mod:`streams` and :mod:`shuttered`.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from pydicom.datadict import dictionary_has_tag, dictionary_VR, repeater_has_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.uid import UID

from fedgan_secure.data.deidentification.keyed import Keys
from fedgan_secure.data.identifiers.profile import PROFILE_EDITION, action_of, anonymizer_version
from fedgan_secure.data.identifiers.words import UNREADABLE, holds, is_number_of, numbers_as_bytes, several

IMPLEMENTATION_UID = "2.25.268573149420911423710982345203719832917"
IMPLEMENTATION_NAME = "FEDGAN_SECURE"
CODE = ("113100", "DCM", "Basic Application Confidentiality Profile")
DUMMY = "REMOVED"
DUMMIES: dict[str, Any] = {
    **dict.fromkeys(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT"), DUMMY),
    "AS": "000Y",
    "DA": "19000101",
    "DT": "19000101000000.000000+0000",
    "TM": "000000.00",
    "UR": "http://removed.invalid",
    **dict.fromkeys(("DS", "IS"), "0"),
    **dict.fromkeys(("US", "SS", "UL", "SL", "UV", "SV", "FL", "FD"), 0),
    **dict.fromkeys(("OB", "OW", "OF", "OD", "OL", "OV", "UN"), b"REMOVED "),
}
_SEARCHED = frozenset(
    {"AE", "CS", "LO", "LT", "SH", "ST", "UC", "UR", "UT", "OB", "OW", "OF", "OD", "OL", "OV", "UN"}
)  # fmt: skip
_NUMBERS = re.compile(r"\s*[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?\s*\0?")
_PIXEL_GROUPS = (0x0028, 0x5400, 0x7FE0)
_FREE = frozenset({"AE", "LO", "LT", "SH", "ST", "UC", "UR", "UT"})
UNFIT = "values that do not fit their kind"
IDENTIFYING_KINDS = frozenset({"PN", "DA", "TM", "DT", "AS"})
ALWAYS_REMOVED: dict[tuple[int, int], str] = {
    (0x0028, 0x2000): "ICC profile: it may hold text",
    (0x7FE0, 0x0001): "offset table",
    (0x7FE0, 0x0002): "offset table",
}
MAXIMUM_DEPTH = 64


class TooDeepError(ValueError):
    """Sequences nested deeper than :data:`MAXIMUM_DEPTH`."""


def clean(dataset: Any, keys: Keys, path: str, words: frozenset[str], of_path: frozenset[str]) -> Counter[str]:
    """Clean `dataset` in place, its meta information included.

    Args:
        dataset: as it was read; an element whose bytes do not fit its kind is removed, emptied or replaced as the
            profile says, and removed where the profile keeps it.
        keys: of the hospital.
        path: relative to the folder; it names the instance where its own UID is missing.
        words: the identifying values of the file, which no text or bytes may hold.
        of_path: words of its path, which no free text may hold.

    Returns:
        How many attributes were treated, by rule.

    Raises:
        ValueError: for what pydicom cannot parse or this cannot clean; then nothing of it may be written.
    """
    identifier = str(dataset.get("PatientID", None) or "").strip(" \0")
    done: Counter[str] = Counter()
    _level(dataset, keys, done, 0)
    _scrub(dataset, words, words | of_path, done)
    _describe(dataset, keys.patient(identifier) if identifier else "")
    _meta(dataset, keys, path)
    return done


def _level(dataset: Any, keys: Keys, done: Counter[str], depth: int) -> None:
    if depth > MAXIMUM_DEPTH:
        raise TooDeepError("sequences nested too deeply")
    for tag in list(dataset.keys()):
        if _strictly_removed(tag):
            del dataset[tag]
            done["private, unknown or overlay"] += 1
            continue
        action = action_of(tag.group, tag.element)
        if action is not None:
            done["profile"] += 1
        if action == "X":
            del dataset[tag]
            continue
        try:
            element = dataset[tag]
        except UNREADABLE:
            _unfit(dataset, tag, done, dummy=action == "D")
            continue
        if action == "Z":
            _empty(element)
        elif action == "D":
            _replace(dataset, element, keys, done, depth)
        else:
            _keep(dataset, element, keys, done, depth)


def _keep(dataset: Any, element: DataElement, keys: Keys, done: Counter[str], depth: int) -> None:
    """What the profile keeps or gives a new UID: into its items, unless our own rules remove it."""
    tag = element.tag
    action = action_of(tag.group, tag.element)
    if element.VR == "SQ":
        for item in element.value or ():
            _level(item, keys, done, depth + 1)
    elif element.VR == "UN" or (action is None and element.VR in IDENTIFYING_KINDS):
        del dataset[tag]
        done["dates, names, ages and unknown kinds beyond the profile"] += 1
    elif element.VR == "UI" and not (tag.group == 0x0008 and tag.element == 0x0016):
        _new_uids(element, keys)
    elif element.VR in ("IS", "DS") and not all(_NUMBERS.fullmatch(str(one)) for one in several(element.value)):
        _unfit(dataset, tag, done, dummy=False)


def _unfit(dataset: Any, tag: BaseTag, done: Counter[str], *, dummy: bool) -> None:
    """An attribute whose value does not fit its kind: a dummy of the kind that the dictionary names, or nothing."""
    if tag.group in _PIXEL_GROUPS:
        raise ValueError("an attribute that describes the pixels does not fit its kind")
    del dataset[tag]
    kind = dictionary_VR(tag)
    if dummy and kind in DUMMIES:
        dataset.add_new(tag, kind, DUMMIES[kind])
    done[UNFIT] += 1


def _strictly_removed(tag: BaseTag) -> bool:
    return (
        tag.is_private
        or tag.element == 0
        or tag.group in (0x0000, 0x0002, 0x0004)
        or tag.group & 0xFF00 == 0x6000
        or (tag.group, tag.element) in ALWAYS_REMOVED
        or not (dictionary_has_tag(tag) or repeater_has_tag(tag))
    )


def _empty(element: DataElement) -> None:
    element.value = Sequence([]) if element.VR == "SQ" else element.empty_value


def _new_uids(element: DataElement, keys: Keys) -> None:
    value = element.value
    if value is None or value == "":
        return
    element.value = [keys.uid(str(one)) for one in value] if element.VM > 1 else keys.uid(str(value))


def _replace(dataset: Any, element: DataElement, keys: Keys, done: Counter[str], depth: int) -> None:
    """D: a dummy of the same kind. In a sequence every attribute of every item gets one (PS3.15 E.1.1)."""
    if element.VR == "SQ":
        if depth > MAXIMUM_DEPTH:
            raise TooDeepError("sequences nested too deeply")
        for item in element.value or ():
            for tag in list(item.keys()):
                done["profile"] += 1
                if _strictly_removed(tag):
                    del item[tag]
                    continue
                try:
                    inner = item[tag]
                except UNREADABLE:
                    _unfit(item, tag, done, dummy=True)
                    continue
                _replace(item, inner, keys, done, depth + 1)
    elif element.VR == "UI":
        _new_uids(element, keys)
    elif element.VR in DUMMIES:
        element.value = DUMMIES[element.VR]
    else:
        del dataset[element.tag]


def _scrub(dataset: Any, words: frozenset[str], of_text: frozenset[str], done: Counter[str]) -> None:
    for element in list(dataset):
        if element.VR == "SQ":
            for item in element.value or ():
                _scrub(item, words, of_text, done)
        elif element.tag.group not in (0x5400, 0x7FE0) and tells(element, words, of_text):
            element.value = element.empty_value
            done["text that held an identifying value"] += 1


def tells(element: Any, words: frozenset[str], of_text: frozenset[str]) -> bool:
    """Return whether a value tells who the patient is: a text or bytes with one of the words, or a number that is one.

    Args:
        element: of any kind but a sequence.
        words: looked for in every kind.
        of_text: looked for in free texts: codes and bytes hold ordinary words and chance.
    """
    values = several(element.value)
    if element.VR in ("IS", "DS"):
        return any(is_number_of(value, words) for value in values)
    if element.VR in ("US", "SS", "UL", "SL"):
        return len(values) > 1 and holds(numbers_as_bytes(element.VR, values), words)
    if element.VR not in _SEARCHED:
        return False
    wanted = of_text if element.VR in _FREE else words
    return any(holds(value, wanted) for value in values)


def _describe(dataset: Any, pseudonym: str) -> None:
    dataset.PatientID = pseudonym
    dataset.PatientName = ""
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = [
        "DICOM PS3.15 Basic Application Confidentiality Profile",
        f"table {PROFILE_EDITION} of dicom-anonymizer {anonymizer_version()}",
    ]
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = CODE
    dataset.DeidentificationMethodCodeSequence = Sequence([code])
    dataset.LongitudinalTemporalInformationModified = "REMOVED"


def _meta(dataset: Any, keys: Keys, path: str) -> None:
    """Meta information anew: no application title, no private part, no preamble."""
    old = dataset.file_meta
    named = keys.uid(str(old.get("MediaStorageSOPInstanceUID", "") or f"file {path}"))
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(str(old.TransferSyntaxUID))
    meta.MediaStorageSOPClassUID = UID(str(dataset.get("SOPClassUID", None) or old.get("MediaStorageSOPClassUID", "")))
    meta.MediaStorageSOPInstanceUID = UID(str(dataset.get("SOPInstanceUID", "") or named))
    meta.ImplementationClassUID = UID(IMPLEMENTATION_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_NAME
    dataset.file_meta = meta
    dataset.preamble = bytes(128)
