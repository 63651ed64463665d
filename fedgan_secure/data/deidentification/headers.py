"""Clean one DICOM data set by the confidentiality profile, at every depth, and then by stricter rules of our own.

Order: the profile's action on every attribute, into every sequence that is kept; private attributes and those that no
dictionary knows go; whatever is left of the kinds person name, date, time, date-time and age goes; every UID that is
not the standard's own becomes a keyed one; a text or bytes in which an identifying value of this file stands (a name in
a comment) is emptied. Then the attributes that say what was done (PS3.15 E.1, CID 7050) are written
and the meta information is made anew. `Pixel Data` itself is :mod:`pixels`' matter.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from pydicom.datadict import dictionary_has_tag, repeater_has_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.uid import UID

from fedgan_secure.data.deidentification.keyed import Keys
from fedgan_secure.data.identifiers.profile import PROFILE_EDITION, action_of, anonymizer_version
from fedgan_secure.data.identifiers.words import holds, identifying_words, several

IMPLEMENTATION_UID = "2.25.268573149420911423710982345203719832917"
IMPLEMENTATION_NAME = "FEDGAN_SECURE"
CODE = ("113100", "DCM", "Basic Application Confidentiality Profile")
DUMMY = "REMOVED"
DUMMIES: dict[str, Any] = {
    **dict.fromkeys(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT"), DUMMY),
    "AS": "000Y",
    "DA": "00010101",
    "DT": "00010101010101.000000+0000",
    "TM": "000000.00",
    "UR": "http://removed.invalid",
    **dict.fromkeys(("DS", "IS"), "0"),
    **dict.fromkeys(("US", "SS", "UL", "SL", "UV", "SV", "FL", "FD"), 0),
    **dict.fromkeys(("OB", "OW", "OF", "OD", "OL", "OV", "UN"), b"REMOVED "),
}
_SEARCHED = frozenset({"AE", "CS", "LO", "LT", "SH", "ST", "UC", "UR", "UT", "OB", "UN"})
IDENTIFYING_KINDS = frozenset({"PN", "DA", "TM", "DT", "AS"})
ALWAYS_REMOVED: dict[tuple[int, int], str] = {
    (0x0028, 0x2000): "ICC profile: it may hold text",
    (0x7FE0, 0x0001): "offset table",
    (0x7FE0, 0x0002): "offset table",
}
MAXIMUM_DEPTH = 64


class TooDeepError(ValueError):
    """Sequences nested deeper than :data:`MAXIMUM_DEPTH`."""


def clean(dataset: Any, keys: Keys, path: str) -> Counter[str]:
    """Clean `dataset` in place, its meta information included; how many attributes were treated, by rule.

    `path` (relative to the folder) names the instance where its own UID is missing.

    Raises ValueError for what pydicom cannot parse or this cannot clean; then nothing of it may be written.
    """
    identifier = str(dataset.get("PatientID", None) or "").strip(" \0")
    words = identifying_words(dataset)
    done: Counter[str] = Counter()
    _level(dataset, keys, done, 0)
    _scrub(dataset, words, done)
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
        element = dataset[tag]
        action = action_of(tag.group, tag.element)
        if action == "X":
            del dataset[tag]
        elif action == "Z":
            _empty(element)
        elif action == "D":
            _replace(dataset, element, keys, done, depth)
        elif element.VR == "SQ":
            for item in element.value or ():
                _level(item, keys, done, depth + 1)
        elif element.VR == "UN" or (action is None and element.VR in IDENTIFYING_KINDS):
            del dataset[tag]
            done["dates, names, ages and unknown kinds beyond the profile"] += 1
        elif element.VR == "UI" and not (tag.group == 0x0008 and tag.element == 0x0016):
            _new_uids(element, keys)
        if action is not None:
            done["profile"] += 1


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
                if _strictly_removed(tag):
                    del item[tag]
                else:
                    _replace(item, item[tag], keys, done, depth + 1)
                done["profile"] += 1
    elif element.VR == "UI":
        _new_uids(element, keys)
    elif element.VR in DUMMIES:
        element.value = DUMMIES[element.VR]
    else:
        del dataset[element.tag]


def _scrub(dataset: Any, words: frozenset[str], done: Counter[str]) -> None:
    for element in list(dataset):
        if element.VR == "SQ":
            for item in element.value or ():
                _scrub(item, words, done)
        elif (
            element.VR in _SEARCHED
            and element.tag.group not in (0x5400, 0x7FE0)
            and any(holds(value, words) for value in several(element.value))
        ):
            element.value = element.empty_value
            done["text that held an identifying value"] += 1


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
