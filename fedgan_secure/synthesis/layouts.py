"""What a folder of generated images is called in each layout: file names and label tables, as the loaders read them.

A classifier that was written for a data set trains on the generated one unchanged. Identifiers say ``synthetic``, so
that a file that was taken out of its folder is not mistaken for a patient's. Every image has an identifier of its own:
no two generated images are of one person. What a generator does not know (boxes, organs, oedema) stays empty.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from fedgan_secure.data.reading import DR_GRADES, KNOWN_LAYOUTS
from fedgan_secure.errors import InputError

FLAT = "flat"
LAYOUTS = (FLAT, *(name for name in KNOWN_LAYOUTS if name != "auto"))
FORMS = ("png", "jpeg", "dicom", "npz")
ARRAYS = "synthetic.npz"
_PICTURES = ("png", "jpeg")
_FORMS_OF: dict[str, tuple[str, ...]] = {
    FLAT: ("png", "jpeg", "dicom"),
    "csv": ("png", "jpeg", "dicom"),
    "dicom": ("dicom",),
    "rsna-ct": ("dicom",),
    "rsna-pneumonia": ("dicom",),
    "eyepacs": ("jpeg", "png"),
    "aptos": _PICTURES,
    "idrid": ("jpeg", "png"),
    "messidor": _PICTURES,
    "folders": _PICTURES,
    "npz": ("npz",),
}
"""The file types of each layout, its own one first."""
_CLASSES = {"rsna-ct": 2, "rsna-pneumonia": 2, "eyepacs": 5, "aptos": 5, "idrid": 5, "messidor": 5}
_SUFFIX = {"png": ".png", "jpeg": ".jpg", "dicom": ".dcm"}

Rows = list[tuple[str, ...]]


@dataclass(frozen=True)
class Tree:
    """Relative paths of the images in order (none for arrays, which are one file); tables by path, header first."""

    layout: str
    form: str
    files: tuple[str, ...]
    tables: dict[str, Rows] = field(default_factory=dict)


def forms_of(layout: str) -> tuple[str, ...]:
    """The file types that a layout has, its own one first. Raises InputError for an unknown layout."""
    if layout not in _FORMS_OF:
        raise InputError(f"the layout is {layout!r}, expected one of {', '.join(LAYOUTS)}", hint="see --layout")
    return _FORMS_OF[layout]


def plan_tree(
    layout: str, form: str, count: int, labels: Sequence[int] | None, names: Sequence[str] | None = None
) -> Tree:
    """Name `count` images of a layout.

    Args:
        layout: one of LAYOUTS.
        form: one of :func:`forms_of` the layout.
        labels: the class of every image, or None.
        names: the run's label vocabulary; None: the numbers themselves.

    Raises:
        InputError: the layout does not have this form, cannot do without labels, or has fewer classes.
    """
    if form not in forms_of(layout):
        raise InputError(
            f"the layout {layout} has no {form} files, expected {' or '.join(forms_of(layout))}",
            hint="leave --format out, or give --layout flat",
        )
    most = _CLASSES.get(layout)
    known = 0 if labels is None else len(names) if names else max(map(int, labels), default=0) + 1
    if most is not None and known > most:
        raise InputError(
            f"the layout {layout} has {most} classes, and this generator has {known}",
            hint="give --layout csv, folders or flat",
        )
    words = None if labels is None else [_word(int(label), names) for label in labels]
    numbers = None if labels is None else [_number(int(label), names) for label in labels]
    digits = max(5, len(str(count)))
    made = [f"{number:0{digits}d}" for number in range(1, count + 1)]
    suffix = _SUFFIX.get(form, "")
    if layout == FLAT:
        files = tuple(f"{name}{suffix}" for name in made)
        if labels is None or words is None:
            return Tree(layout, form, files)
        rows = zip(files, (str(int(label)) for label in labels), words, strict=True)
        return Tree(layout, form, files, {"labels.csv": [("file", "label", "label_name"), *rows]})
    ids = [f"synthetic{name}" for name in made]
    if layout == "npz":
        return Tree(layout, form, ())
    if layout == "folders":
        if words is None:
            raise InputError(
                "the layout folders names every image's class, and this generator takes no label",
                hint="give --layout flat",
            )
        for word in words:
            _check_folder(word)
        return Tree(layout, form, tuple(f"{word}/{one}_L{suffix}" for word, one in zip(words, ids, strict=True)))
    return _with_table(layout, form, ids, suffix, words, numbers, names)


def _with_table(
    layout: str,
    form: str,
    ids: list[str],
    suffix: str,
    words: list[str] | None,
    numbers: list[str] | None,
    vocabulary: Sequence[str] | None,
) -> Tree:
    """The layouts that have a table of labels."""
    value = numbers or [""] * len(ids)
    header: tuple[str, ...]
    rows: Iterable[tuple[str, ...]]
    if layout in ("csv", "dicom"):
        files, table = [f"{one}{suffix}" for one in ids], "labels.csv"
        if words is None:
            header, rows = ("file",), ((file,) for file in files)
        elif layout == "dicom" and tuple(vocabulary or ()) == DR_GRADES:
            header, rows = ("file", "dr_grade"), zip(files, value, strict=True)
        else:
            header, rows = ("file", "label"), zip(files, words, strict=True)
        if words is None and layout == "dicom":
            return Tree(layout, form, tuple(files))
    elif layout == "rsna-ct":
        files, table = [f"train_images/{one}/1/1{suffix}" for one in ids], "train.csv"
        header, rows = ("patient_id", "any_injury"), zip(ids, value, strict=True)
    elif layout == "rsna-pneumonia":
        files, table = [f"stage_2_train_images/{one}{suffix}" for one in ids], "stage_2_train_labels.csv"
        header = ("patientId", "x", "y", "width", "height", "Target")
        rows = ((one, "", "", "", "", label) for one, label in zip(ids, value, strict=True))
    elif layout == "eyepacs":
        names = [f"{one}_left" for one in ids]
        files, table = [f"train/{name}{'.jpeg' if form == 'jpeg' else suffix}" for name in names], "trainLabels.csv"
        header, rows = ("image", "level"), zip(names, value, strict=True)
    elif layout == "aptos":
        files, table = [f"train_images/{one}{suffix}" for one in ids], "train.csv"
        header, rows = ("id_code", "diagnosis"), zip(ids, value, strict=True)
    elif layout == "idrid":
        names = [f"IDRiD_{one}" for one in ids]
        files, table = [f"{name}{suffix}" for name in names], "labels.csv"
        header = ("Image name", "Retinopathy grade", "Risk of macular edema ")
        rows = ((name, label, "") for name, label in zip(names, value, strict=True))
    else:
        files, table = [f"images/{one}{suffix}" for one in ids], "messidor_data.csv"
        header = ("image_id", "adjudicated_dr_grade", "adjudicated_dme", "adjudicated_gradable")
        rows = ((f"{one}{suffix}", label, "", "1") for one, label in zip(ids, value, strict=True))
    return Tree(layout, form, tuple(files), {table: [header, *rows]})


def _word(label: int, names: Sequence[str] | None) -> str:
    return names[label] if names is not None and 0 <= label < len(names) else str(label)


def _number(label: int, names: Sequence[str] | None) -> str:
    """The label in a column of whole numbers: the class itself where the vocabulary holds numbers, else its index."""
    word = _word(label, names)
    return word if re.fullmatch(r"\d{1,6}", word) else str(label)


def _check_folder(name: str) -> None:
    if not name or name.startswith(".") or any(char in name for char in '/\\\0<>:"|?*') or not name.isprintable():
        raise InputError(f"the label {name!r} cannot name a folder", hint="give --layout csv or flat")
