"""What can hide in and around the pixels of a DICOM file: text burned in, overlays in unused bits, bytes that no
decoder shows. Burned-in text is never looked for and never painted over: a file that may hold some is set aside.
"""

from __future__ import annotations

import re
from typing import Any

from fedgan_secure.data.identifiers.words import several

BURNED_IN = "its header says that text is burned into the pixels"
FEATURES = "its header says that the person can be recognised from the pixels"
NOT_SAID = "a picture of a kind that often has text burned in, and its header does not say that there is none"
OVERLAY = "an overlay is stored in the unused bits of its pixels"
RISKY_MODALITIES = frozenset({"US", "IVUS", "XA", "RF", "SC", "OT", "XC", "GM", "SM", "ES", "OP", "OPT", "DMS", "DG"})
RISKY_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.7",  # secondary capture
    "1.2.840.10008.5.1.4.1.1.6",  # ultrasound
    "1.2.840.10008.5.1.4.1.1.3",  # ultrasound, several frames
    "1.2.840.10008.5.1.4.1.1.12",  # angiography and fluoroscopy
    "1.2.840.10008.5.1.4.1.1.77.1",  # photographs and video through lenses
)
_CAPTURED = (
    "ConversionType", "SecondaryCaptureDeviceID", "SecondaryCaptureDeviceManufacturer", "VideoImageFormatAcquired",
    "DateOfSecondaryCapture", "HardcopyCreationDeviceID",
)  # fmt: skip
_GREY = frozenset({"CT", "MR", "CR", "DX", "MG", "PT", "NM", "IO", "PX"})
_PAGE = re.compile(
    r"(?<![A-Z])(?:SCREEN[ _-]?(?:SAVES?|SHOTS?|CAPTURES?)|DOSE[ _-]?(?:REPORT|INFO|PAGE|SHEET|SUMMARY|RECORD|LOG)"
    r"|(?:PATIENT|EXAM|SCAN)[ _-]?PROTOCOL|CT_SOM\d* PROT|REPORT|LOGBOOK|WORKSHEET)(?![A-Z])"
)
"""What vendors call pages of text among images: in (0008,0008), in frame types, and in descriptions of series. LOW DOSE
and SNAPSHOT are names of techniques there."""
_PAGE_TYPES = frozenset({"DOSE", "SNAPSHOT", "CAPTURE", "SUMMARY", "PROTOCOL"})
_FRAMES_LOOKED_AT = 8


def risk(dataset: Any) -> str:
    """Why a file's pixels may name the patient, or "" where the header gives no reason to think so.

    Only a header that says nothing (:data:`NOT_SAID`) can be answered by a person who has looked at the pictures.
    """
    if "PixelData" not in dataset:
        return ""
    burned = str(dataset.get("BurnedInAnnotation", None) or "").strip().upper()
    if burned == "YES":
        return BURNED_IN
    if str(dataset.get("RecognizableVisualFeatures", None) or "").strip().upper() == "YES":
        return FEATURES
    for tag in dataset.keys():  # noqa: SIM118 - iterating over a data set would parse every element
        if tag.group & 0xFF00 == 0x6000 and tag.element == 0x0102 and int(dataset[tag].value or 0) != 0:
            return OVERLAY
    return NOT_SAID if burned != "NO" and is_risky(dataset) else ""


def is_risky(dataset: Any) -> bool:
    """Return whether files of this kind often have text burned in.

    By modality or class (ultrasound, capture, angiography, photographs), as a converted or captured picture, or, in any
    class, as a page that was made and not measured: a screen save, a dose page, a protocol, whatever is secondary, and
    colour where the modality measures grey values.
    """
    modality = _upper(dataset.get("Modality", None))
    sop_class = str(dataset.get("SOPClassUID", None) or "")
    return (
        modality in RISKY_MODALITIES
        or any(sop_class == root or sop_class.startswith(root + ".") for root in RISKY_CLASSES)
        or any(_upper(dataset.get(keyword, None)) for keyword in _CAPTURED)
        or _is_page(dataset)
        or (modality in _GREY and int(dataset.get("SamplesPerPixel", None) or 1) > 1)
    )


def _is_page(dataset: Any) -> bool:
    """Whether the type of the image or of a frame, or the description of its series, is that of a page."""
    types = [dataset.get("ImageType", None)]
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for item in (dataset.get(groups, None) or ())[:_FRAMES_LOOKED_AT]:
            types += [inner[0].get("FrameType", None) for inner in _frame_types(item)]
    if any(_is_type_of_a_page(several(value)) for value in types):
        return True
    return _PAGE.search(_upper(dataset.get("SeriesDescription", None))) is not None


def _frame_types(item: Any) -> list[Any]:
    return [
        element.value for element in item if element.VR == "SQ" and element.value and "FrameType" in element.value[0]
    ]


def _is_type_of_a_page(values: list[Any]) -> bool:
    words = [_upper(value) for value in values]
    return words[1:2] == ["SECONDARY"] or any(word in _PAGE_TYPES or _PAGE.search(word) for word in words)


def _upper(value: Any) -> str:
    return str(value or "").strip(" \0").upper()
