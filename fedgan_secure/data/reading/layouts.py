"""What kind of data set a folder is, which file belongs to which patient, and what label it has.

Every layout either names the patient of each image
or says that it does not, and then only the image can be the unit of privacy.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Literal

from fedgan_secure.data.pixels.pictures import SUFFIXES, Unreadable
from fedgan_secure.data.pixels.preprocess import BY_MODALITY, CT_ABDOMEN, FUNDUS
from fedgan_secure.data.reading.layout_checks import refuse_equal_names, refuse_folders_that_are_no_classes
from fedgan_secure.data.reading.left_out import left_out, sentence
from fedgan_secure.data.reading.listing import Listing, readable
from fedgan_secure.data.reading.naming import CONFLICT, SEVERAL, Claims, NameIndex, RowKey, claim
from fedgan_secure.data.reading.people_as_classes import refuse_people_as_classes
from fedgan_secure.data.reading.plans import Item, Kinds, LayoutOptions, Plan, column_of, labels_of, require
from fedgan_secure.data.reading.tables import Table, read_columns, read_table
from fedgan_secure.errors import InputError

KNOWN_LAYOUTS = (
    "auto", "dicom", "rsna-ct", "rsna-pneumonia", "eyepacs", "aptos", "idrid", "messidor", "folders", "npz", "csv",
)  # fmt: skip
SUPPORTED_LAYOUTS = KNOWN_LAYOUTS
DR_GRADES = ("0 no DR", "1 mild", "2 moderate", "3 severe", "4 proliferative")
DEFAULT_PATTERN = r"^(?P<patient>.+?)[_-](?:L|R|OD|OS|left|right)(?:[_-]\d+)?$"
_EYE = re.compile(r"^(?P<patient>.+)_(?:left|right)$", re.IGNORECASE)
_IMAGE_COLUMNS = ("file", "path", "image", "filename", "file_name")
_PATIENT_COLUMNS = ("patient", "patient_id", "patientid")
_BY_TABLE = {
    "eyepacs": {"image", "level"},
    "aptos": {"id_code", "diagnosis"},
    "idrid": {"image name", "retinopathy grade"},
    "messidor": {"adjudicated_dr_grade"},
}
"""The columns of the table that a layout of pictures comes with."""
_LABEL_COLUMNS = ("dr_grade", "label", "class", "grade", "level", "diagnosis", "target")


def plan_folder(listing: Listing, layout: str, options: LayoutOptions, *, publish_labels: bool = True) -> Plan:
    """Plan how to read a folder in the given layout (``auto``: find out which one it is). Raises InputError.

    With `publish_labels`, as for a run, classes that look like people are refused; else the caller looks at each.
    """
    kinds = Kinds(listing)
    chosen = detect(listing, kinds) if layout == "auto" else layout
    readers: dict[str, Callable[[Listing, Kinds, LayoutOptions], Plan]] = {
        "dicom": _plan_dicom,
        "rsna-ct": _plan_rsna_ct,
        "rsna-pneumonia": _plan_rsna_pneumonia,
        "eyepacs": _plan_eyepacs,
        "aptos": _plan_aptos,
        "idrid": _plan_idrid,
        "messidor": _plan_messidor,
        "folders": _plan_folders,
        "csv": _plan_csv,
    }
    if chosen not in readers:
        raise unsupported(chosen)
    plan = readers[chosen](listing, kinds, options)
    if publish_labels:
        refuse_people_as_classes(plan)
    plan.quarantined.extend(listing.refused)
    plan.left_out = left_out(kinds.unread(), listing.hidden)
    return plan


def unsupported(layout: str) -> InputError:
    """The error for a layout that cannot be read."""
    return InputError(
        f"the layout {layout!r} is unknown; supported: {', '.join(SUPPORTED_LAYOUTS)}",
        hint="use --layout csv with column names, or arrange the images as class folders",
    )


def _columns_at_root(listing: Listing, kinds: Kinds) -> dict[str, tuple[str, ...]]:
    return {entry.path: read_columns(listing.root / entry.path) for entry in kinds.tables if entry.path.count("/") <= 1}


def detect(listing: Listing, kinds: Kinds) -> str:
    """The layout of a folder, from its names and table headers. Raises InputError when it is mixed or unknown."""
    if kinds.dicom and kinds.pictures:
        raise InputError(
            f"{listing.root} is mixed: {len(kinds.dicom)} DICOM files and {len(kinds.pictures)} other pictures; "
            "expected one kind",
            hint="name the layout (--layout dicom, folders, ...) to quarantine the other files, or separate them",
        )
    tables = _columns_at_root(listing, kinds)
    if kinds.dicom:
        return _layout_of_dicom(tables)
    found = _layout_of_pictures(listing, kinds, tables) if kinds.pictures else None
    if found is not None:
        return found
    raise _no_layout(listing, kinds)


def _layout_of_dicom(tables: dict[str, tuple[str, ...]]) -> str:
    """By the tables beside the files alone: whatever lies in a patient's folder chooses no layout."""
    beside = [set(columns) for path, columns in tables.items() if "/" not in path]
    if any({"patient_id", "any_injury"} <= columns for columns in beside):
        return "rsna-ct"
    return "rsna-pneumonia" if any({"patientid", "target"} <= columns for columns in beside) else "dicom"


def _layout_of_pictures(listing: Listing, kinds: Kinds, tables: dict[str, tuple[str, ...]]) -> str | None:
    named = {layout for columns in tables.values() for layout, wanted in _BY_TABLE.items() if wanted <= set(columns)}
    if len(named) > 1:
        raise InputError(
            f"the tables of {listing.root} fit several layouts: {', '.join(sorted(named))}",
            hint="name one with --layout",
        )
    if named:
        return next(iter(named))
    for path, columns in tables.items():
        if not columns:
            read_table(listing.root / path)  # says what is wrong with it
    return "folders" if all("/" in entry.path for entry in kinds.pictures) else None


def _no_layout(listing: Listing, kinds: Kinds) -> InputError:
    """The error for a folder of no known layout, with what lies there."""
    if kinds.arrays and not kinds.pictures:
        return InputError(
            f"{listing.root} holds {len(kinds.arrays)} .npz files", hint="give the path of one .npz file itself"
        )
    within = sum("/" in entry.path for entry in kinds.pictures)
    if within:
        return InputError(
            f"{within} pictures of {listing.root} lie in folders, and {len(kinds.pictures) - within} beside them",
            hint="--layout folders takes the folders as classes and sets the others aside; --layout csv takes a table",
        )
    what = f"{len(kinds.pictures)} pictures, {len(kinds.tables)} tables and {len(kinds.other)} other files"
    if kinds.other:
        what += f" ({sentence(left_out(kinds.unread(), listing.hidden))})"
    return InputError(
        f"{listing.root} is no layout that is known: {what}",
        hint="expected DICOM files, train/ID_left.jpeg with trainLabels.csv, folders named after classes, or an .npz; "
        "name one with --layout, or give columns with --layout csv",
    )


def _plan_dicom(listing: Listing, kinds: Kinds, options: LayoutOptions) -> Plan:
    plan = Plan("dicom", listing.root, names_patient=True, preprocessing=BY_MODALITY)
    table = _named_table(listing, kinds, ("labels.csv",), optional=True)
    index = NameIndex(kinds.dicom)
    matched: dict[str, int] = {}
    if table is not None:
        image = column_of(table, options.image_column, _IMAGE_COLUMNS, optional=True)
        patient = column_of(table, options.patient_column, _PATIENT_COLUMNS, optional=True)
        label = column_of(table, options.label_column, _LABEL_COLUMNS)
        key = image or patient
        if key is None or label is None:
            raise InputError(
                f"{table.name} has the columns {', '.join(table.columns)}; expected one that names the file or the "
                "patient and one with the label",
                hint="for instance: file,label",
            )
        fixed = DR_GRADES if label == "dr_grade" else None
        owner = patient if image else None
        values = labels_of(plan, table, key, label, options, fixed, patient=owner, shared=_shared(index, image))
        if image is None:
            plan.patient_labels = _by_name(values)
        elif owner is None:
            matched = _labels_by_path(plan, values, index)
        else:
            matched = _labels_by_path_and_patient(plan, values, index)
    plan.items = [Item(entry.path, "dicom", None, matched.get(entry.path, -1)) for entry in kinds.dicom]
    plan.quarantined += [(entry.path, "a picture that is not DICOM") for entry in kinds.pictures]
    return _some(plan, "DICOM files")


def _plan_rsna_ct(listing: Listing, kinds: Kinds, options: LayoutOptions) -> Plan:
    plan = Plan("rsna-ct", listing.root, names_patient=True, preprocessing=CT_ABDOMEN)
    table = _named_table(listing, kinds, ("train.csv",), optional=True)
    by_patient: dict[str, int] = {}
    if table is not None:
        key, label = require(table, "patient_id"), require(table, "any_injury")
        by_patient = _by_name(labels_of(plan, table, key, label, options, ("no injury", "injury")))
    seen = set()
    for entry in kinds.dicom:
        parts = entry.path.split("/")
        if len(parts) != 4 or parts[0] != "train_images":
            plan.quarantined.append((entry.path, "expected train_images/PATIENT/SERIES/INSTANCE.dcm"))
            continue
        seen.add(parts[1])
        plan.items.append(Item(entry.path, "dicom", parts[1], by_patient.get(parts[1], -1)))
    plan.labels_without_image = sorted(set(by_patient) - seen)
    plan.quarantined += [(entry.path, "a picture that is not DICOM") for entry in kinds.pictures]
    return _some(plan, "train_images/PATIENT/SERIES/INSTANCE.dcm")


def _plan_rsna_pneumonia(listing: Listing, kinds: Kinds, options: LayoutOptions) -> Plan:
    plan = Plan("rsna-pneumonia", listing.root, names_patient=True)
    plan.notes.append("in this data set a patientId names one examination; a person may have several")
    plan.unit_remark = (
        "in this data set the identifier of a patient names one examination, so one person may count several times"
    )
    table = _named_table(listing, kinds, ("stage_2_train_labels.csv",), optional=True)
    labels: dict[str, int] = {}
    if table is not None:
        key, label = require(table, "patientid"), require(table, "target")
        labels = _by_name(labels_of(plan, table, key, label, options, ("no opacity", "opacity")))
    seen = set()
    for entry in kinds.dicom:
        stem = PurePosixPath(entry.path).stem
        seen.add(stem)
        plan.items.append(Item(entry.path, "dicom", stem, labels.get(stem, -1)))
    plan.labels_without_image = sorted(set(labels) - seen)
    plan.quarantined += [(entry.path, "a picture that is not DICOM") for entry in kinds.pictures]
    return _some(plan, "stage_2_train_images/PATIENTID.dcm")


def _plan_eyepacs(listing: Listing, kinds: Kinds, options: LayoutOptions) -> Plan:
    plan = Plan("eyepacs", listing.root, names_patient=True, preprocessing=FUNDUS)
    table = _table_with(listing, kinds, {"image", "level"}, "trainLabels.csv with the columns image,level")
    index = NameIndex(kinds.pictures)
    labels = labels_of(plan, table, "image", "level", options, DR_GRADES, shared=_shared(index, "image"))

    def patient_of(stem: str) -> str:
        match = _EYE.match(stem)
        if match is None:
            raise Unreadable("the file name is not ID_left or ID_right")
        return match["patient"].casefold()

    _add_pictures(plan, kinds, options, _labels_by_path(plan, labels, index), patient_of)
    return _some(plan, "train/ID_left.jpeg and ID_right.jpeg")


def _plan_aptos(listing: Listing, kinds: Kinds, options: LayoutOptions) -> Plan:
    plan = Plan("aptos", listing.root, names_patient=False, preprocessing=FUNDUS)
    table = _table_with(listing, kinds, {"id_code", "diagnosis"}, "train.csv with the columns id_code,diagnosis")
    index = NameIndex(kinds.pictures)
    labels = labels_of(plan, table, "id_code", "diagnosis", options, DR_GRADES, shared=_shared(index, "id_code"))
    _add_pictures(plan, kinds, options, _labels_by_path(plan, labels, index), None)
    return _some(plan, "train_images/ID.png")


def _plan_idrid(listing: Listing, kinds: Kinds, options: LayoutOptions) -> Plan:
    plan = Plan("idrid", listing.root, names_patient=False, preprocessing=FUNDUS)
    wanted = {"image name", "retinopathy grade"}
    table = _table_with(listing, kinds, wanted, "a CSV with the columns Image name,Retinopathy grade")
    index, key = NameIndex(kinds.pictures), "image name"
    refuse_equal_names(listing, kinds)
    labels = labels_of(plan, table, key, "retinopathy grade", options, DR_GRADES, shared=_shared(index, key))
    _add_pictures(plan, kinds, options, _labels_by_path(plan, labels, index), None)
    return _some(plan, "IDRiD_001.jpg")


def _plan_messidor(listing: Listing, kinds: Kinds, options: LayoutOptions) -> Plan:
    """Grades in one table, and in another, without a column image_id, the two images of every exam."""
    wanted = {"image_id", "adjudicated_dr_grade"}
    table = _table_with(listing, kinds, wanted, "a CSV with the columns image_id,adjudicated_dr_grade")
    exams: dict[str, str] = {}
    crooked: list[tuple[str, str]] = []
    by_stem = {PurePosixPath(entry.path).stem.casefold() for entry in kinds.pictures}
    for path, columns in _columns_at_root(listing, kinds).items():
        if "image_id" in columns or len(columns) < 2:
            continue
        sheet = kinds.read(listing, path)
        crooked += sheet.set_aside()
        pairs = [columns[:2], *(tuple(row[column] for column in columns[:2]) for row in sheet.rows)]
        for pair in pairs:
            left, right = (PurePosixPath(name.strip()).stem.casefold() for name in pair)
            if {left, right} & by_stem:
                exam = min(exams.get(left, left), exams.get(right, right), left, right)
                exams.update({left: exam, right: exam})
    plan = Plan("messidor", listing.root, names_patient=bool(exams), preprocessing=FUNDUS, unusable_labels=crooked)
    index = NameIndex(kinds.pictures)
    key = "image_id"
    labels = labels_of(plan, table, key, "adjudicated_dr_grade", options, DR_GRADES, shared=_shared(index, key))
    if not exams:
        plan.notes.append("there is no pairing sheet (a CSV with the two images of every exam): no patient is named")
    else:
        plan.unit_remark = "in this data set an examination of two eyes stands for a patient"

    def patient_of(stem: str) -> str:
        if stem.casefold() not in exams:
            raise Unreadable("the pairing sheet does not name it")
        return exams[stem.casefold()]

    _add_pictures(plan, kinds, options, _labels_by_path(plan, labels, index), patient_of if exams else None)
    return _some(plan, "images with a table of grades and a pairing sheet")


def _plan_csv(listing: Listing, kinds: Kinds, options: LayoutOptions) -> Plan:
    if len(kinds.tables) != 1:
        raise InputError(
            f"{listing.root} holds {len(kinds.tables)} CSV files; the layout csv needs exactly one",
            hint="keep one table with a column for the image, and name the columns",
        )
    table = kinds.read(listing, kinds.tables[0].path)
    image = column_of(table, options.image_column, _IMAGE_COLUMNS)
    label = column_of(table, options.label_column, _LABEL_COLUMNS, optional=True)
    patient = column_of(table, options.patient_column, _PATIENT_COLUMNS, optional=True)
    plan = Plan("csv", listing.root, names_patient=patient is not None, preprocessing=BY_MODALITY)
    index = NameIndex(sorted(kinds.pictures + kinds.dicom, key=lambda entry: entry.path))
    labels: dict[RowKey, int] = {}
    if label is None:
        plan.unusable_labels += table.set_aside()
    else:
        shared = _shared(index, None if patient else image)
        labels = labels_of(plan, table, str(image), label, options, None, patient=patient, shared=shared)
    rows = [(row[str(image)], row[patient] if patient else "") for row in table.rows]
    claims = claim(rows, index, needs_patient=patient is not None)
    _report(plan, claims)
    for path, row in claims.files.items():
        if options.unit == "patient" and patient is not None and not row[1]:
            plan.quarantined.append((path, f"the column {patient} is empty in its row"))
            continue
        kind: Literal["dicom", "picture"] = "picture" if PurePosixPath(path).suffix.lower() in SUFFIXES else "dicom"
        plan.items.append(Item(path, kind, row[1] or None, labels.get(row, -1)))
    unnamed = [entry.path for entry in kinds.pictures + kinds.dicom if entry.path not in claims.files]
    plan.quarantined += [(path, f"{table.name} has no row for it") for path in unnamed]
    plan.items.sort(key=lambda item: item.path)
    return _some(plan, f"files named in the column {image} of {table.name}")


def _plan_folders(listing: Listing, kinds: Kinds, options: LayoutOptions) -> Plan:
    if options.label_names is None:
        refuse_folders_that_are_no_classes(listing, kinds)
    found = sorted({readable(entry.path.split("/")[0]) for entry in kinds.pictures if "/" in entry.path}, key=_natural)
    names = options.label_names or tuple(found)
    pattern = _compile(options.patient_pattern or DEFAULT_PATTERN)
    matches = {entry.path: _patient(pattern, PurePosixPath(entry.path).stem) for entry in kinds.pictures}
    plan = Plan("folders", listing.root, names_patient=any(matches.values()), label_names=names)
    plan.labels_fixed = options.label_names is not None
    if options.patient_pattern and not plan.names_patient:
        raise InputError(
            f"the patient pattern {options.patient_pattern!r} matches no file name",
            hint="it is a regular expression on the name without suffix, with a group named patient: "
            r"'(?P<patient>Patient\d+)_[LR]'",
        )
    for entry in kinds.pictures:
        folder, _, rest = entry.path.partition("/")
        folder = readable(folder)
        if not rest:
            plan.quarantined.append((entry.path, "it lies outside the class folders"))
        elif folder not in names:
            plan.quarantined.append((entry.path, f"its folder is not one of the {len(names)} classes"))
        elif options.unit == "patient" and plan.names_patient and not matches[entry.path]:
            plan.quarantined.append((entry.path, "the patient pattern does not match its name"))
        else:
            plan.items.append(Item(entry.path, "picture", matches[entry.path], names.index(folder)))
    plan.quarantined += [(entry.path, "DICOM among class folders of pictures") for entry in kinds.dicom]
    if options.label_names is None:
        plan.notes.append("the classes are the names of the folders found here")
    if kinds.tables:
        plan.notes.append(f"{len(kinds.tables)} tables lie here and were not used: class folders need none")
    return _some(plan, "CLASS/PatientNNN_L.jpg")


def _patient(pattern: re.Pattern[str], stem: str) -> str | None:
    """The identifier in a file name, in one case: patterns ignore case, so P01_L and p01_R are one patient."""
    match = pattern.search(stem)
    if match is None:
        return None
    named = match.groupdict().get("patient") or (match.group(1) if pattern.groups else match.group(0))
    return named.casefold() if named else None


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise InputError(
            f"the patient pattern {pattern!r} is not a regular expression ({error})",
            hint=r"for instance '(?P<patient>Patient\d+)_[LR]'",
        ) from None


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part.lower()) for part in re.findall(r"\d+|\D+", name)]


def _by_name(labels: dict[RowKey, int]) -> dict[str, int]:
    return {name: value for (name, _), value in labels.items()}


def _shared(index: NameIndex, image: str | None) -> Callable[[str], bool] | None:
    """Whether a name that tells no patient fits several files (None: rows are told apart in another way)."""
    return None if image is None else lambda name: len({*index.exact(name), *index.bare(name)}) > 1


def _report(plan: Plan, claims: Claims) -> None:
    plan.labels_without_image += [name for name, _ in claims.missing]
    plan.unusable_labels += [(name, CONFLICT) for name, _ in claims.conflicting]
    if claims.several:
        plan.notes.append(SEVERAL)


def _labels_by_path(plan: Plan, labels: dict[RowKey, int], index: NameIndex) -> dict[str, int]:
    claims = claim(labels, index)
    _report(plan, claims)
    return {path: labels[row] for path, row in claims.files.items()}


def _labels_by_path_and_patient(plan: Plan, labels: dict[RowKey, int], index: NameIndex) -> dict[str, int]:
    """Labels of full paths; what a row says of a bare name holds for the files whose header names its patient."""
    matched: dict[str, int] = {}
    for (name, patient), value in labels.items():
        exact, bare = index.exact(name), index.bare(name)
        for path in dict.fromkeys(exact + bare):
            plan.file_labels.setdefault((path, patient), value)
        free = [path for path in exact if path not in matched]
        matched.update(dict.fromkeys(free, value))
        if not exact and not bare:
            plan.labels_without_image.append(name)
        elif exact and not free and len(bare) <= 1:
            plan.unusable_labels.append((name, CONFLICT))
    return matched


def _add_pictures(
    plan: Plan,
    kinds: Kinds,
    options: LayoutOptions,
    found: dict[str, int],
    patient_of: Callable[[str], str] | None,
) -> None:
    """Add every picture; one whose name tells no patient is set aside where the patient is the unit, and only there."""
    for entry in kinds.pictures:
        try:
            patient = patient_of(PurePosixPath(entry.path).stem) if patient_of else None
        except Unreadable as reason:
            if options.unit == "patient":
                plan.quarantined.append((entry.path, str(reason)))
                continue
            patient = None
        plan.items.append(Item(entry.path, "picture", patient, found.get(entry.path, -1)))
    plan.quarantined += [(entry.path, "DICOM in a layout of pictures") for entry in kinds.dicom]


def _named_table(listing: Listing, kinds: Kinds, names: tuple[str, ...], *, optional: bool) -> Table | None:
    for entry in kinds.tables:
        if entry.path.lower() in names:
            return kinds.read(listing, entry.path)
    if optional:
        return None
    raise InputError(f"{listing.root} has no {' or '.join(names)}", hint="put the label table beside the images")


def _table_with(listing: Listing, kinds: Kinds, columns: set[str], expected: str) -> Table:
    fitting = [path for path, found in _columns_at_root(listing, kinds).items() if columns <= set(found)]
    if len(fitting) == 1:
        return kinds.read(listing, fitting[0])
    if not fitting:
        raise InputError(
            f"{listing.root} has no label table; expected {expected}", hint="check the path and the layout"
        )
    raise InputError(
        f"{listing.root} has {len(fitting)} tables that could hold the labels: {', '.join(sorted(fitting)[:4])}",
        hint="give a folder with the images of one table (a training set, say) and that table alone",
    )


def _some(plan: Plan, expected: str) -> Plan:
    if not plan.items:
        counted = f"; {len(plan.quarantined)} files were set aside" if plan.quarantined else ""
        raise InputError(
            f"{plan.root} has no image in the layout {plan.layout}{counted}; expected {expected}",
            hint="check the path and --layout",
        )
    return plan
