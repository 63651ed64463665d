"""Which identifiers the headers of files hold: names of attributes and numbers of files, never a value.

Looked at is the outermost level of a DICOM header, by the table of the confidentiality profile, and EXIF and the other
headers of pictures. What is counted here was not taken over: the loaders keep pixels and a keyed pseudonym.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import ExifTags, Image
from pydicom.datadict import keyword_for_tag

from fedgan_secure.data.identifiers import burned_in as pixels
from fedgan_secure.data.identifiers.profile import action_of

BURNED = {
    pixels.BURNED_IN: "says that text is burned in",
    pixels.FEATURES: "says that the person can be recognised",
    pixels.OVERLAY: "an overlay in the unused bits of the pixels",
    pixels.NOT_SAID: "does not say, and is of a kind that often has text burned in",
}
SAYS_NO = "says that no text is burned in"
SELDOM = "does not say, and is of a kind that seldom has text burned in"
OUTSIDE = "a picture outside DICOM: nothing says"
_GROUPS = {0x8769: "Exif", 0x8825: "GPS"}
_HARMLESS_EXIF = {
    "Orientation", "XResolution", "YResolution", "ResolutionUnit", "ColorSpace", "ExifVersion", "ImageWidth",
    "ImageLength", "PixelXDimension", "PixelYDimension", "ExifImageWidth", "ExifImageHeight", "ComponentsConfiguration",
    "YCbCrPositioning", "FlashPixVersion", "ExifOffset", "GPSInfo", "BitsPerSample", "Compression",
    "PhotometricInterpretation", "StripOffsets", "SamplesPerPixel", "RowsPerStrip", "StripByteCounts",
    "PlanarConfiguration", "SampleFormat", "Predictor", "SubIFDs", "NewSubfileType", "TileWidth", "TileLength",
    "TileOffsets", "TileByteCounts",
}  # fmt: skip


@dataclass(frozen=True)
class HeaderFacts:
    """One file: the identifying attributes that hold something (DICOM keywords, ``EXIF ...``), and its pixel risk."""

    names: tuple[str, ...] = ()
    private: bool = False
    pixel_risk: str = ""
    declared_removed: bool = False


@dataclass(frozen=True)
class IdentifierCounts:
    """Numbers of files: by attribute, with private attributes, by pixel risk, and that say they are de-identified."""

    files: int = 0
    attributes: Mapping[str, int] = field(default_factory=dict)
    private: int = 0
    pixel_risk: Mapping[str, int] = field(default_factory=dict)
    declared_removed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """A dictionary of JSON types."""
        return {
            "files": self.files,
            "attributes": dict(self.attributes),
            "private": self.private,
            "pixel_risk": dict(self.pixel_risk),
            "declared_removed": self.declared_removed,
        }


class IdentifierCounter:
    """Adds up the facts of many files."""

    def __init__(self) -> None:
        self._names: Counter[str] = Counter()
        self._risk: Counter[str] = Counter()
        self._files = self._private = self._removed = 0

    def add(self, facts: HeaderFacts) -> None:
        self._files += 1
        self._names.update(facts.names)
        self._risk[facts.pixel_risk] += 1
        self._private += facts.private
        self._removed += facts.declared_removed

    def counts(self) -> IdentifierCounts:
        return IdentifierCounts(
            self._files,
            dict(sorted(self._names.items())),
            self._private,
            {name: count for name, count in sorted(self._risk.items()) if name},
            self._removed,
        )


def dicom_facts(dataset: Any) -> HeaderFacts:
    """The facts of a DICOM data set; elements are not parsed for it, so that loading stays fast."""
    names, private = [], False
    for tag in dataset.keys():  # noqa: SIM118 - iterating over a data set would parse every element
        if tag.is_private:
            private = True
        elif action_of(tag.group, tag.element) is not None and _holds_something(dataset.get_item(tag)):
            names.append(keyword_for_tag(tag) or f"({tag.group:04X},{tag.element:04X})")
    risk = pixels.risk(dataset)
    if not risk:
        said = str(dataset.get("BurnedInAnnotation", None) or "").strip().upper() == "NO"
        described = SAYS_NO if said else SELDOM
    else:
        described = BURNED[risk]
    removed = str(dataset.get("PatientIdentityRemoved", None) or "").strip().upper() == "YES"
    return HeaderFacts(tuple(names), private, described, removed)


def _holds_something(element: Any) -> bool:
    value = element.value
    if isinstance(value, bytes):
        return bool(value.strip(b" \0"))
    return value is not None and (not hasattr(value, "__len__") or len(value) > 0)


def picture_facts(image: Image.Image) -> HeaderFacts:
    """The facts of an open picture: the names of its EXIF fields and of the other headers that Pillow knows."""
    exif = image.getexif()
    names = {f"EXIF {ExifTags.TAGS.get(tag, f'{tag:#06x}')}" for tag in exif}
    for group, label in _GROUPS.items():
        known = ExifTags.GPSTAGS if label == "GPS" else ExifTags.TAGS
        names |= {f"EXIF {known.get(tag, f'{label} {tag:#06x}')}" for tag in exif.get_ifd(group)}
    names = {name for name in names if name.removeprefix("EXIF ") not in _HARMLESS_EXIF}
    for key, label in (("comment", "JPEG comment"), ("xmp", "XMP"), ("icc_profile", "ICC profile"),
                       ("photoshop", "Photoshop/IPTC block")):  # fmt: skip
        if image.info.get(key):
            names.add(label)
    if getattr(image, "text", None):
        names.add("PNG text")
    return HeaderFacts(tuple(sorted(names)), False, OUTSIDE)


def counts_from_dict(stored: Mapping[str, Any]) -> IdentifierCounts:
    """The inverse of :meth:`IdentifierCounts.to_dict`. Raises KeyError or TypeError for anything else."""
    return IdentifierCounts(**stored)
