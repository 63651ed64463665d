"""The 18 identifiers of 45 CFR 164.514(b)(2)(i)(A)-(R), and what can be said of each for the data that train.

A row says one of three things. Removed: headers of the files hold it, and the loaders do not take it over. Absent: no
header that was looked at holds it. Cannot determine: it may stand in the pixels, in a label or in a place that has no
field of its own. Rows are evidence for a person who decides; they are no determination.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from fedgan_secure.data.identifiers import identifiers
from fedgan_secure.data.identifiers.identifiers import IdentifierCounts

Status = Literal["removed", "absent", "cannot determine"]
SOURCE = "45 CFR 164.514(b)(2)(i)"
_ROWS: dict[str, tuple[str, str]] = {
    "A": (
        "Names",
        r"(?<!Protocol)(?<!ROI)(?<!Set)(?<!Plan)(?<!Entity)(?<!Template)Names?$|NameOf|Physician|Author|Artist|Copyright",
    ),
    "B": (
        "Geographic subdivisions smaller than a State",
        r"Address|Region|Country|Residence|Institution|Location|GPS|CenterName|SiteName|SponsorName|CommitteeName",
    ),
    "C": ("Dates directly related to an individual, and ages over 89", r"Date|Time(?!Point)|Age$"),
    "D": ("Telephone numbers", r"Telephone"),
    "E": ("Fax numbers", r"Fax"),
    "F": ("Electronic mail addresses", r"Telecom|Email"),
    "G": ("Social security numbers", r"SocialSecurity"),
    "H": ("Medical record numbers", r"^(Other)?PatientID|IssuerOfPatientID|MedicalRecord"),
    "I": ("Health plan beneficiary numbers", r"Insurance|HealthPlan"),
    "J": ("Account numbers", r"Accession|Admission|Account|ServiceEpisode"),
    "K": ("Certificate and license numbers", r"Certificate|License"),
    "L": ("Vehicle identifiers and serial numbers", r"Vehicle"),
    "M": (
        "Device identifiers and serial numbers",
        r"Station(Name|AETitle)|AETitle|Device(UID|ID)|DetectorID|GantryID|CassetteID|PlateID|GeneratorID|SerialNumber|"
        r"UDISequence|MachineName|^EXIF (Make|Model)$",
    ),
    "N": ("Web Universal Resource Locators", r"UR[LI]"),
    "O": ("Internet Protocol addresses", r"IPAddress|NetworkID"),
    "P": ("Biometric identifiers, finger and voice prints included", r"Biometric"),
    "Q": ("Full-face photographs and comparable images", r"FullFace"),
    "R": ("Any other unique identifying number, characteristic or code", r""),
}
_FIRST_TO_CLAIM = "DEFNOICJMBAGHKLPQR"
"""An attribute stands in the first row that claims it: the telephone of a physician is a telephone, not a name."""
_PIXEL_TEXT = {
    "P": "Images of an eye, and other anatomy, may single a person out; no loader can tell.",
    "Q": "Whether a picture, or a head rebuilt from slices, shows a face is not looked at.",
    "R": "UIDs and other codes in headers are not taken over. What is burned into pixels is not looked for, and a rare "
    "finding may itself single a person out.",
}


@dataclass(frozen=True)
class SafeHarborRow:
    """One identifier: its letter and name, the status, the attributes with the number of files, and a remark."""

    letter: str
    identifier: str
    status: Status
    attributes: tuple[tuple[str, int], ...]
    remark: str


def rows(counts: IdentifierCounts) -> tuple[SafeHarborRow, ...]:
    """The 18 rows for files with these counts. Every attribute that was found stands in exactly one row."""
    found: dict[str, list[tuple[str, int]]] = {letter: [] for letter in _ROWS}
    for attribute, count in sorted(counts.attributes.items()):
        letter = next(one for one in _FIRST_TO_CLAIM if re.search(_ROWS[one][1], attribute))
        found[letter].append((attribute, count))
    return tuple(_row(letter, name, tuple(found[letter]), counts) for letter, (name, _) in _ROWS.items())


def _row(letter: str, name: str, found: tuple[tuple[str, int], ...], counts: IdentifierCounts) -> SafeHarborRow:
    if letter in _PIXEL_TEXT:
        return SafeHarborRow(letter, name, "cannot determine", found, _PIXEL_TEXT[letter])
    harmless = (identifiers.SAYS_NO, identifiers.SELDOM)
    risky = sum(count for kind, count in counts.pixel_risk.items() if kind not in harmless)
    if risky and letter in "ABCH":
        remark = f"{risky} files may have text burned into their pixels, where this often stands."
        return SafeHarborRow(letter, name, "cannot determine", found, remark)
    if found:
        remark = "The loaders keep a keyed pseudonym instead." if letter == "H" else "The loaders do not take it over."
        return SafeHarborRow(letter, name, "removed", found, remark)
    remark = "No header that was looked at holds it."
    if counts.private:
        remark += f" {counts.private} files hold private attributes, which may; the loaders take none over."
    return SafeHarborRow(letter, name, "absent", found, remark)
