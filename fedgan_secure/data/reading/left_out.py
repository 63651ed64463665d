"""Files of a folder that no layout reads: counted by kind, each kind with what to do. None of them is ever opened."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import NamedTuple

HIDDEN = "hidden, or kept by the system"
NO_SUFFIX = "without a suffix"
OTHERWISE = "no kind of file that is read here: where it is a picture, save it as PNG or DICOM"
_ADVICE = {
    "an archive, which is never opened: unpack it and give the folder": ".gz .tgz .zip .tar .7z .rar .bz2 .xz .zst",
    "a volume of a format for research: save its slices as DICOM or PNG": ".nii .mha .mhd .nrrd .nhdr .hdr .img .mnc",
    "a slide of several resolutions: save the parts to train on as PNG": ".svs .ndpi .scn .mrxs .vsi .czi",
    "a camera's format: save it as PNG or JPEG": ".heic .heif .avif .raw .cr2 .cr3 .nef .arw .dng .jxl .psd",
    "a film: save the frames to train on as PNG": ".mp4 .avi .mov .mpg .mpeg .mkv .wmv .webm .m4v",
    "an array: put it into an .npz file with its labels, and give the path of that file": ".npy .npz .mat .h5 .hdf5",
    "a table that is not read: save it as CSV in UTF-8 where it holds labels": ".xlsx .xls .xlsm .ods .json",
    "a table that this layout does not use: --layout and the columns say which one holds the labels": ".csv .tsv",
    "a document: nothing of it is read": ".txt .pdf .doc .docx .rtf .md .html .htm .xml .log .ini .yaml .yml",
    "smaller copies that a viewer keeps beside a picture: not needed": ".ovr .aux .rrd .thumb",
}  # fmt: skip
_BY_SUFFIX = {suffix: advice for advice, suffixes in _ADVICE.items() for suffix in suffixes.split()}
_LIST_OF_FILES = "a list of DICOM files and their patients: the files themselves are read where they lie"
_SYSTEM = "nothing to do"
_SUFFIX = re.compile(r"\.(?=[0-9]*[a-z])[a-z0-9]{1,8}")
_PACKED = frozenset({".gz", ".bz2", ".xz", ".zst", ".ovr"})


class LeftOut(NamedTuple):
    """One kind of file that is not read: what it is called, how many there are, and what to do."""

    kind: str
    files: int
    advice: str


def left_out(paths: Iterable[str], hidden: int) -> tuple[LeftOut, ...]:
    """Count the files of a folder that are neither pictures nor tables.

    Args:
        paths: of those files, relative to the folder.
        hidden: how many files and folders were not even listed.

    Returns:
        A row for each suffix (two for packed files, as in .nii.gz), the commonest first, and one for what is hidden.
    """
    counted = Counter(describe(path) for path in paths)
    rows = [LeftOut(kind, files, advice) for (kind, advice), files in counted.items()]
    rows.sort(key=lambda row: (-row.files, row.kind))
    if hidden:
        rows.append(LeftOut(HIDDEN, hidden, _SYSTEM))
    return tuple(rows)


def describe(path: str) -> tuple[str, str]:
    """Return what kind of file this is by its name, and what to do with it."""
    name = PurePosixPath(path.lower())
    if name.name == "dicomdir":
        return "DICOMDIR", _LIST_OF_FILES
    last = name.suffix
    if not _SUFFIX.fullmatch(last):
        return NO_SUFFIX, OTHERWISE
    before = PurePosixPath(name.stem).suffix
    kind = before + last if last in _PACKED and _SUFFIX.fullmatch(before) else last
    return kind, _BY_SUFFIX.get(last, OTHERWISE)


def sentence(rows: tuple[LeftOut, ...], most: int = 3) -> str:
    """Return the commonest kinds with their numbers and what to do, for a message; "" without any."""
    return "; ".join(f"{row.files} {row.kind}: {row.advice}" for row in rows[:most])
