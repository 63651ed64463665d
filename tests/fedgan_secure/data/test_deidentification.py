"""De-identification: 40 places where an identifier can hide, an independent scan by the standard's own table, and what
a folder of copies must and must not be."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import JPEGBaseline8Bit, UID_dictionary, generate_uid
from tests.patience import HANG_SECONDS

from fedgan_secure.data import LoadSettings, load, pseudonym
from fedgan_secure.data.deidentification import folder
from fedgan_secure.data.deidentification.folder import DeidentifyResult, DeidentifySettings, deidentify_folder
from fedgan_secure.data.deidentification.headers import clean
from fedgan_secure.data.deidentification.keyed import Keys
from fedgan_secure.data.deidentification.residual import look_at, scan
from fedgan_secure.data.reading.layouts import DR_GRADES
from fedgan_secure.errors import InputError

from .conftest import SECRET, make_dicom, noise

NAME, GIVEN, NUMBER = "Zyxwvutsen", "Quorralina", "MRN-4711-7734"
NEEDLES = (NAME.lower(), GIVEN.lower(), NUMBER.lower(), "19370214")
KEYS = Keys(SECRET)
BUNDLED = Path(pydicom.__file__).parent / "data"


def _person() -> FileDataset:
    dataset = make_dicom(noise(1, 16, 16), NUMBER, "CT")
    dataset.PatientName, dataset.PatientBirthDate = f"{NAME}^{GIVEN}", "19370214"
    return dataset


def _in_sequence(dataset: Any, sequence: str, keyword: str, value: Any, depth: int = 1) -> None:
    item = Dataset()
    setattr(item, keyword, value)
    for _ in range(depth - 1):
        outer = Dataset()
        setattr(outer, sequence, Sequence([item]))
        item = outer
    setattr(dataset, sequence, Sequence([item]))


def _private(dataset: Any, value: Any, kind: str = "LO") -> None:
    dataset.private_block(0x0029, "VENDOR", create=True).add_new(0x10, kind, value)


def _content(dataset: Any) -> None:
    item = Dataset()
    item.ValueType, item.TextValue = "TEXT", f"seen {NAME}"
    dataset.ContentSequence = Sequence([item])


def _private_sequence(dataset: Any) -> None:
    item = Dataset()
    item.PatientComments = NAME
    _private(dataset, Sequence([item]), "SQ")


def _deep_private(dataset: Any) -> None:
    item = Dataset()
    _private(item, NAME)
    dataset.AcquisitionContextSequence = Sequence([item])


Plant = Callable[[Any], Any]
TEXT = f"for {NAME} {GIVEN}"
PLACES: dict[str, Plant] = {
    "patient name": lambda d: setattr(d, "PatientName", f"{NAME}^{GIVEN}"),
    "patient identifier": lambda d: setattr(d, "PatientID", NUMBER),
    "birth date": lambda d: setattr(d, "PatientBirthDate", "19370214"),
    "other identifiers": lambda d: setattr(d, "OtherPatientIDs", [NUMBER, "x"]),
    "other identifiers, sequence": lambda d: _in_sequence(d, "OtherPatientIDsSequence", "PatientID", NUMBER),
    "other names": lambda d: setattr(d, "OtherPatientNames", f"{NAME}^{GIVEN}"),
    "address": lambda d: setattr(d, "PatientAddress", f"{NAME} street 1"),
    "telephone": lambda d: setattr(d, "PatientTelephoneNumbers", NUMBER),
    "accession number": lambda d: setattr(d, "AccessionNumber", NUMBER),
    "referring physician": lambda d: setattr(d, "ReferringPhysicianName", NAME),
    "operators": lambda d: setattr(d, "OperatorsName", [NAME, GIVEN]),
    "institution": lambda d: setattr(d, "InstitutionName", TEXT),
    "station": lambda d: setattr(d, "StationName", NAME),
    "patient comments": lambda d: setattr(d, "PatientComments", TEXT),
    "image comments": lambda d: setattr(d, "ImageComments", TEXT),
    "study description": lambda d: setattr(d, "StudyDescription", TEXT),
    "a name in a free text that the profile keeps": lambda d: setattr(d, "ManufacturerModelName", TEXT),
    "a number in a free text that the profile keeps": lambda d: setattr(d, "ConvolutionKernel", NUMBER),
    "a code's meaning": lambda d: _in_sequence(d, "AnatomicRegionSequence", "CodeMeaning", TEXT),
    "a date of the study": lambda d: setattr(d, "StudyDate", "19370214"),
    "a date that has no row in the profile": lambda d: setattr(d, "ExpiryDate", "19370214"),
    "a name that has no row in the profile": lambda d: setattr(d, "EvaluatorName", NAME),
    "a date nested in a kept sequence": lambda d: _in_sequence(
        d, "AnatomicRegionSequence", "ContextGroupLocalVersion", "19370214"
    ),
    "a name nested in a kept sequence": lambda d: _in_sequence(
        d, "AnatomicRegionSequence", "PatientName", NAME
    ),
    "five sequences deep": lambda d: _in_sequence(d, "AnatomicRegionSequence", "PatientComments", TEXT, 5),
    "request attributes": lambda d: _in_sequence(
        d, "RequestAttributesSequence", "RequestedProcedureDescription", TEXT
    ),
    "content of a structured report": _content,
    "an encapsulated document": lambda d: setattr(d, "EncapsulatedDocument", f"%PDF {TEXT} ".encode()),
    "the title of a document": lambda d: setattr(d, "DocumentTitle", TEXT),
    "a private attribute": lambda d: _private(d, TEXT),
    "a private attribute of unknown kind": lambda d: _private(d, TEXT.encode() + b" ", "UN"),
    "a private sequence": _private_sequence,
    "a private attribute in a kept sequence": _deep_private,
    "an unknown public attribute": lambda d: d.add_new(0x0018FFFE, "UN", TEXT.encode()),
    "overlay comments": lambda d: d.add_new(0x60004000, "LT", TEXT),
    "an overlay's label": lambda d: d.add_new(0x60001500, "LO", NAME),
    "an overlay's pixels": lambda d: d.add_new(0x60023000, "OW", TEXT.encode() + b"  "),
    "curve data": lambda d: d.add_new(0x50003000, "OW", TEXT.encode() + b"  "),
    "a curve's description": lambda d: d.add_new(0x50000022, "LO", NAME),
    "an ICC profile": lambda d: setattr(d, "ICCProfile", b"\0" * 128 + TEXT.encode() + b"  "),
    "an icon": lambda d: _in_sequence(d, "IconImageSequence", "ImageComments", TEXT),
    "the application title": lambda d: setattr(d.file_meta, "SourceApplicationEntityTitle", NAME),
    "private meta information": lambda d: (
        setattr(d.file_meta, "PrivateInformationCreatorUID", "1.2.3.4"),
        setattr(d.file_meta, "PrivateInformation", TEXT.encode() + b"  "),
    ),
    "the preamble": lambda d: setattr(d, "preamble", TEXT.encode().ljust(128, b"\0")),
    "the end of a palette": lambda d: d.add_new(0x00281201, "OW", bytes(512) + TEXT.encode().ljust(32)),
    "numbers that spell a name": lambda d: d.add_new(
        0x00283006, "US", np.frombuffer(TEXT.encode().ljust(32), "<u2").tolist()
    ),
    "bytes after the pixels": lambda d: setattr(d, "PixelData", d.PixelData + TEXT.encode() + b"  "),
}  # fmt: skip
"""Where an identifier is planted in a DICOM file; pictures and file names are in the tests below."""


def _bytes(dataset: Any) -> bytes:
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _found(data: bytes) -> list[str]:
    lowered = data.lower()
    return [needle for needle in NEEDLES if needle.encode() in lowered or needle.encode("utf-16-le") in lowered]


def test_there_are_at_least_40_places() -> None:
    assert len(PLACES) >= 40


@pytest.mark.parametrize("place", PLACES)
def test_an_identifier_in_this_place_is_removed_and_would_be_found(place: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    dataset = _person()
    PLACES[place](dataset)
    data = _bytes(dataset)
    assert _found(data), "nothing was planted"
    (source / f"{NAME}.dcm").write_bytes(data)
    result = deidentify_folder(source, tmp_path / "copies", DeidentifySettings(workers=1))
    (copy,) = list((tmp_path / "copies").rglob("*.dcm"))
    assert _found(copy.read_bytes()) == []
    assert _found(str(copy).encode()) == []
    assert result.residual_scan == "PASS"

    # The same place, where the cleaning has overlooked it: the scan must say so.
    overlooked = pydicom.dcmread(copy)
    PLACES[place](overlooked)
    raw = _bytes(overlooked)
    original = pydicom.dcmread(BytesIO(data))
    before = look_at(original, f"{NAME}.dcm")
    assert scan(before, pydicom.dcmread(copy), copy.read_bytes()) == []
    assert scan(before, pydicom.dcmread(BytesIO(raw)), raw), "the residual scan saw nothing"


def test_a_number_that_is_an_identifier_is_emptied_and_others_stay(tmp_path: Path) -> None:
    dataset = _person()
    dataset.AccessionNumber, dataset.AcquisitionNumber, dataset.InstanceNumber = "47117734", 47117734, 4711
    dataset.RescaleSlope = "1.47117734"
    _save(dataset, tmp_path / "s" / "x.dcm")
    deidentify_folder(tmp_path / "s", tmp_path / "d", DeidentifySettings(workers=1))
    (copy,) = (pydicom.dcmread(path) for path in (tmp_path / "d").rglob("*.dcm"))
    assert (copy.AcquisitionNumber, copy.InstanceNumber, float(copy.RescaleSlope)) == (None, 4711, 1.47117734)


def test_uids_are_keyed_consistent_and_under_the_root_of_uuids(tmp_path: Path) -> None:
    study = generate_uid()
    for number in range(2):
        dataset = _person()
        dataset.StudyInstanceUID = study
        _in_sequence(dataset, "ReferencedImageSequence", "ReferencedSOPInstanceUID", study)
        _save(dataset, tmp_path / "s" / f"{number}.dcm")
    deidentify_folder(tmp_path / "s", tmp_path / "d", DeidentifySettings(workers=1, secret_file=_secret(tmp_path)))
    copies = [pydicom.dcmread(path) for path in sorted((tmp_path / "d").rglob("*.dcm"))]
    (uid,) = {str(copy.StudyInstanceUID) for copy in copies}
    assert uid == Keys(SECRET).uid(study) != Keys(SECRET[::-1]).uid(study)
    assert re.fullmatch(r"2\.25\.[1-9][0-9]{0,38}", uid)
    assert {str(copy.ReferencedImageSequence[0].ReferencedSOPInstanceUID) for copy in copies} == {uid}
    assert len({str(copy.SOPInstanceUID) for copy in copies}) == 2
    for copy in copies:
        assert copy.SOPInstanceUID == copy.file_meta.MediaStorageSOPInstanceUID
        assert copy.PatientID == pseudonym(SECRET, NUMBER)
        assert copy.PatientIdentityRemoved == "YES"
        assert copy.LongitudinalTemporalInformationModified == "REMOVED"
        assert copy.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
        assert "dicomfields_2026c" in str(copy.DeidentificationMethod)
        assert all(len(part) <= 64 for part in copy.DeidentificationMethod)
        assert "StudyDate" not in copy or not copy.StudyDate


def _secret(folder_: Path) -> Path:
    place = folder_ / "secret"
    place.write_bytes(SECRET)
    return place


def _save(dataset: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_bytes(dataset))
    return path


# The independent scan: nothing of the product's, only pydicom and the standard's own table.


def _standard() -> dict[str, str]:
    root = Path(os.environ.get("FEDGAN_TEST_DATA") or Path(__file__).resolve().parents[3].parent / "shared" / "data")
    place = root / "dicom" / "confidentiality_profile_attributes.json"
    if not place.exists() and os.environ.get("CI"):
        pytest.fail("the standard's own table is not here: continuous integration has it beside the checkout")
    if not place.exists():
        pytest.skip("the standard's own table is not here: set FEDGAN_TEST_DATA")
    return {row["id"]: row["basicProfile"] for row in json.loads(place.read_text(encoding="utf-8"))}


def _profile_row(tag: Any, table: dict[str, str]) -> str | None:
    if tag.group & 0xFF00 == 0x5000:
        return table["50xxxxxx"]
    if tag.group & 0xFF00 == 0x6000 and tag.element in (0x3000, 0x4000):
        return table[f"60xx{tag.element:04x}"]
    return table.get(f"{tag.group:04x}{tag.element:04x}")


def _flat(dataset: Any) -> Iterator[Any]:
    for element in dataset:
        yield element
        if element.VR == "SQ":
            for item in element.value or ():
                yield from _flat(item)


def _plain(element: Any) -> str:
    return "" if element.VR == "SQ" or element.value is None else str(element.value)


@pytest.fixture(scope="module")
def of_pydicom(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DeidentifyResult]:
    target = tmp_path_factory.mktemp("of-pydicom") / "copies"
    settings = DeidentifySettings(layout="dicom", reviewed=True, workers=1)
    return target, deidentify_folder(BUNDLED, target, settings)


def test_pydicoms_files_keep_no_profile_attribute_unchanged_and_no_private_one(
    of_pydicom: tuple[Path, DeidentifyResult],
) -> None:
    table, (target, result) = _standard(), of_pydicom
    unchanged, private, checked = [], [], 0
    for record in result.of("written"):
        before = {
            (element.tag, _plain(element)) for element in _flat(pydicom.dcmread(BUNDLED / record.source, force=True))
        }
        for element in _flat(pydicom.dcmread(target / record.target)):
            row = _profile_row(element.tag, table)
            checked += 1
            if element.tag.is_private:
                private.append((record.source, element.tag))
            if row is None or _plain(element).strip(" \0") in ("", "0", "0.0", "[]"):
                continue
            if row == "U" and _plain(element) in UID_dictionary:  # the standard's own well-known objects
                continue
            if row == "X" or (element.tag, _plain(element)) in before:
                unchanged.append((record.source, str(element.tag), row))
    assert (unchanged, private) == ([], [])
    assert checked > 3000
    assert result.count("written") > 130


def test_the_attributes_of_that_table_are_treated_as_it_says(of_pydicom: tuple[Path, DeidentifyResult]) -> None:
    """The edition that dicom-anonymizer carries has every row of the standard's table, with the same action."""
    from fedgan_secure.data.identifiers.profile import action_of

    allowed = {"X": "X", "Z": "Z", "D": "D", "U": "U", "X/Z": "Z", "X/D": "D", "Z/D": "D", "X/Z/D": "D", "X/Z/U*": "U*"}
    rows = {identifier: row for identifier, row in _standard().items() if re.fullmatch("[0-9a-f]{8}", identifier)}
    assert len(rows) > 600
    differing = {
        identifier: row
        for identifier, row in rows.items()
        if action_of(int(identifier[:4], 16), int(identifier[4:], 16)) != allowed[row]
    }
    assert differing == {}


def test_pixels_of_the_copies_are_those_of_the_originals(of_pydicom: tuple[Path, DeidentifyResult]) -> None:
    target, result = of_pydicom
    compared = 0
    for record in result.of("written"):
        original = pydicom.dcmread(BUNDLED / record.source, force=True)
        if "PixelData" in original and "embedded-sequence-delimiter" not in record.source:  # nobody can decode that
            copy = pydicom.dcmread(target / record.target)
            assert np.array_equal(original.pixel_array, copy.pixel_array), record.source
            compared += 1
    assert compared > 60


def test_what_is_set_aside_has_its_reason(of_pydicom: tuple[Path, DeidentifyResult]) -> None:
    _, result = of_pydicom
    reasons = {Path(record.source).name: record.reason for record in result.of("set aside")}
    assert "DICOMDIR lists the original files" in reasons["DICOMDIR-bigEnd"]
    assert "truncated" in reasons["MR_truncated.dcm"]
    assert "mark DICM is missing" in reasons["no_meta.dcm"]
    assert "file format that may hold text" in reasons["GDCMJ2K_TextGBR.dcm"]
    assert "same SOPInstanceUID" in " ".join(reasons.values())
    assert all(reasons.values())


# The folder of copies.


def _tree(root: Path, dicom_tree: Path) -> Path:
    shutil.copytree(dicom_tree, root)
    (root / "labels.csv").write_text("patient,label\n" + "".join(f"ID-{n},{'ab'[n % 2]}\n" for n in range(5)))
    return root


def _settings(tmp_path: Path, **more: Any) -> DeidentifySettings:
    return DeidentifySettings(workers=1, secret_file=_secret(tmp_path), **more)


def test_the_copies_train_as_the_originals_did(tmp_path: Path, dicom_tree: Path) -> None:
    source = _tree(tmp_path / "Ann Other", dicom_tree)
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    result = deidentify_folder(source, tmp_path / "d", _settings(tmp_path, reviewed=True))
    assert (result.count("written"), result.layout, result.table) == (10, "dicom", "labels.csv")
    originals = load(source, LoadSettings(secret=SECRET)).dataset
    copies = load(tmp_path / "d", LoadSettings(secret=SECRET))
    assert (copies.layout, copies.dataset.patients, copies.label_names) == ("dicom", 5, ("a", "b"))

    def pictures(dataset: Any) -> set[tuple[bytes, int]]:
        return {(dataset.pixels([n])[0].tobytes(), int(dataset.labels[n])) for n in range(len(dataset))}

    assert pictures(copies.dataset) == pictures(originals)
    assert {path: path.read_bytes() for path in source.rglob("*") if path.is_file()} == before
    assert not any(b"ID-" in path.read_bytes() for path in (tmp_path / "d").rglob("*") if path.is_file())
    assert b"ID-" not in str(sorted((tmp_path / "d").rglob("*"))).encode()


def test_pictures_lose_every_header_and_their_names_and_keep_pixels_patients_and_labels(
    tmp_path: Path, eyepacs_tree: Path
) -> None:
    train = eyepacs_tree / "train"
    exif = Image.Exif()
    exif[0x010E], exif[0x9003] = NAME, "1937:02:14 00:00:00"
    pixels = np.kron(noise(5, 12, 10, 3), np.ones((4, 4, 1), np.uint8))
    icc = b"\0" * 128 + NAME.encode()
    Image.fromarray(pixels).save(train / "1_left.jpeg", exif=exif, comment=NAME, icc_profile=icc, xmp=NAME.encode())
    with (train / "1_left.jpeg").open("ab") as file:
        file.write(NAME.encode())
    png = Image.fromarray(pixels)
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_text("Author", NAME)
    text.add_itxt("Comment", NAME)
    png.save(train / f"{NAME}_right.png", pnginfo=text, exif=exif)
    assert (train / "1_left.jpeg").read_bytes().count(NAME.encode()) >= 4
    result = deidentify_folder(eyepacs_tree, tmp_path / "d", _settings(tmp_path, reviewed=True))
    assert (result.count("written"), result.layout, result.count("not copied")) == (9, "eyepacs", 1)
    copies = sorted((tmp_path / "d").rglob("*.png"))
    assert len(copies) == 9
    for path in (tmp_path / "d").rglob("*"):
        assert _found(str(path).encode()) == []
        assert path.is_dir() or _found(path.read_bytes()) == []
    assert all(Image.open(path).info == {} for path in copies)
    settings = LoadSettings(layout="csv", secret=SECRET, preprocessing="fundus-crop/1", label_names=DR_GRADES)
    loaded = load(tmp_path / "d", settings).dataset
    original = load(eyepacs_tree, LoadSettings(secret=SECRET)).dataset
    assert (loaded.patients, len(loaded)) == (original.patients, len(original)) == (5, 9)
    assert sorted(loaded.patient_labels().tolist()) == sorted(original.patient_labels().tolist())
    assert {p.tobytes() for p in loaded.images} == {p.tobytes() for p in original.images}


@pytest.mark.parametrize(
    ("change", "reviewed", "reason"),
    [
        ({"BurnedInAnnotation": "YES"}, True, "text is burned into"),
        ({"RecognizableVisualFeatures": "YES"}, True, "the person can be recognised"),
        ({"Modality": "US"}, False, "often has text burned in"),
        ({"Modality": "XA"}, False, "often has text burned in"),
        ({"Modality": "OP"}, False, "often has text burned in"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, False, "often has text burned in"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.5.1"}, False, "often has text burned in"),
        ({"Modality": "US"}, True, None),
        ({"Modality": "US", "BurnedInAnnotation": "NO"}, False, None),
        ({}, False, None),
    ],
)
def test_pixels_that_may_hold_text_are_set_aside(
    tmp_path: Path, change: dict[str, str], reviewed: bool, reason: str | None
) -> None:
    _save(_person(), tmp_path / "s" / "good.dcm")
    dataset = _person()
    for keyword, value in change.items():
        setattr(dataset, keyword, value)
    if "SOPClassUID" in change:
        dataset.file_meta.MediaStorageSOPClassUID = change["SOPClassUID"]
    _save(dataset, tmp_path / "s" / "x.dcm")
    result = deidentify_folder(tmp_path / "s", tmp_path / "d", _settings(tmp_path, reviewed=reviewed))
    aside = {record.source: record.reason for record in result.of("set aside")}
    assert (reason is None and aside == {}) or (set(aside) == {"x.dcm"} and str(reason) in aside["x.dcm"])


def test_an_overlay_in_unused_bits_is_set_aside(tmp_path: Path) -> None:
    dataset = _person()
    dataset.add_new(0x60000102, "US", 12)
    _save(dataset, tmp_path / "s" / "x.dcm")
    with pytest.raises(InputError, match="overlay is stored in the unused bits"):
        deidentify_folder(tmp_path / "s", tmp_path / "d", _settings(tmp_path, reviewed=True))


def test_comments_and_exif_inside_jpeg_frames_are_taken_out(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = NAME
    buffer = BytesIO()
    pixels = np.kron(noise(3, 4, 4), np.ones((8, 8), np.uint8))
    Image.fromarray(pixels).save(buffer, "JPEG", exif=exif, comment=NAME)
    dataset = _person()
    dataset.Rows = dataset.Columns = 32
    dataset.BurnedInAnnotation = "NO"
    dataset.PixelData = encapsulate([buffer.getvalue()])
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    path = _save(dataset, tmp_path / "s" / "x.dcm")
    assert path.read_bytes().count(NAME.encode()) >= 3
    deidentify_folder(tmp_path / "s", tmp_path / "d", _settings(tmp_path))
    (copy,) = (tmp_path / "d").rglob("*.dcm")
    assert _found(copy.read_bytes()) == []
    assert np.array_equal(pydicom.dcmread(copy).pixel_array, pydicom.dcmread(path).pixel_array)


def test_two_files_with_one_sop_instance_uid(tmp_path: Path) -> None:
    first = _person()
    _save(first, tmp_path / "s" / "a.dcm")
    _save(first, tmp_path / "s" / "b.dcm")
    other = _person()
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = first.SOPInstanceUID
    other.PixelData = noise(9, 16, 16).tobytes()
    _save(other, tmp_path / "s" / "c.dcm")
    result = deidentify_folder(tmp_path / "s", tmp_path / "d", _settings(tmp_path))
    outcomes = {record.source: (record.outcome, record.reason) for record in result.records}
    assert outcomes["a.dcm"] == ("written", "")
    assert outcomes["b.dcm"] == ("duplicate", "")
    assert outcomes["c.dcm"][0] == "set aside" and "same SOPInstanceUID" in outcomes["c.dcm"][1]
    assert len(list((tmp_path / "d").rglob("*.dcm"))) == 1


def test_a_cut_off_run_goes_on_and_writes_what_a_whole_one_would(
    tmp_path: Path, dicom_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = deidentify_folder(dicom_tree, tmp_path / "whole", _settings(tmp_path, reviewed=True))

    def cut(task: str, done: int, total: int) -> None:
        if done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deidentify_folder(dicom_tree, tmp_path / "d", _settings(tmp_path, reviewed=True), cut)
    manifest = tmp_path / "d-confidential" / "manifest.jsonl"
    lines = manifest.read_bytes().splitlines(keepends=True)
    assert len(lines) == 9  # the header and eight files
    manifest.write_bytes(b"".join(lines[:-1]) + lines[-1][:40])  # killed while it wrote a line: the copy is there
    (tmp_path / "d" / "dicom" / ".writing-torn").write_bytes(b"half a file")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "d").rglob("*.dcm")}
    assert len(times) == 8
    resumed = deidentify_folder(dicom_tree, tmp_path / "d", _settings(tmp_path, reviewed=True))
    assert resumed.resumed and resumed.count("written") == 10
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())

    def content(root: Path) -> dict[str, bytes]:
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    assert content(tmp_path / "d") == content(tmp_path / "whole")
    assert [record.target_sha256 for record in resumed.records] == [record.target_sha256 for record in whole.records]
    treated: list[int] = []
    monkeypatch.setattr(folder, "map_batches", lambda *args, **_: treated.append(len(args[2])) or iter(()))
    deidentify_folder(dicom_tree, tmp_path / "d", _settings(tmp_path, reviewed=True))
    assert treated == [0]


def test_nothing_is_overwritten_and_places_are_checked(tmp_path: Path, dicom_tree: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("x")
    settings = _settings(tmp_path, reviewed=True)
    cases = [
        (dicom_tree, "lies inside the source"),
        (dicom_tree / "below", "lies inside the source"),
        (tmp_path / "full", "not empty"),
        (tmp_path / "file", "is a file"),
        (tmp_path, "lies inside the source, or the source in it"),
    ]
    for target, message in cases:
        with pytest.raises(InputError, match=message) as caught:
            deidentify_folder(dicom_tree, target, settings)
        assert caught.value.hint
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"
    deidentify_folder(dicom_tree, tmp_path / "d", settings)
    (tmp_path / "secret").write_bytes(SECRET[::-1])
    with pytest.raises(InputError, match="begun with another secret"):
        deidentify_folder(dicom_tree, tmp_path / "d", settings)
    (tmp_path / "secret").write_bytes(b"short")
    with pytest.raises(InputError, match="5 bytes, expected at least 16"):
        deidentify_folder(dicom_tree, tmp_path / "d", settings)


def test_two_processes_never_write_one_manifest(tmp_path: Path, dicom_tree: Path) -> None:
    settings = _settings(tmp_path, reviewed=True)
    seen: list[str] = []

    def meanwhile(task: str, done: int, total: int) -> None:
        if not seen:
            with pytest.raises(InputError, match="another process is writing") as caught:
                deidentify_folder(dicom_tree, tmp_path / "d", settings)
            seen.append(str(caught.value))

    deidentify_folder(dicom_tree, tmp_path / "d", settings, meanwhile)
    assert len(seen) == 1


def test_secret_and_manifest_are_the_hospitals_alone(tmp_path: Path, dicom_tree: Path) -> None:
    result = deidentify_folder(dicom_tree, tmp_path / "d", DeidentifySettings(workers=1, reviewed=True))
    assert stat.S_IMODE(result.confidential.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in result.confidential.iterdir()}
    assert modes == {"manifest.jsonl": 0o600, "secret.key": 0o600}
    secret = (result.confidential / "secret.key").read_bytes()
    assert len(secret) == 32
    for place in (result.confidential / "manifest.jsonl", *[p for p in (tmp_path / "d").rglob("*") if p.is_file()]):
        assert secret not in place.read_bytes() and secret.hex().encode() not in place.read_bytes()
    assert secret.hex() not in repr(Keys(secret)) and "secret" not in repr(Keys(secret))


def test_hostile_files_and_links_are_set_aside_and_the_rest_goes_on(tmp_path: Path, dicom_tree: Path) -> None:
    good = (dicom_tree / "p0" / "0.dcm").read_bytes()
    start = good.index(b"\x10\x00\x10\x00PN")
    item = bytes.fromhex("feff00e0ffffffff")
    sequence = bytes.fromhex("08004011") + b"SQ\0\0" + bytes.fromhex("ffffffff")
    (dicom_tree / "deep.dcm").write_bytes(good[:start] + (sequence + item) * 20_000 + good[start:])
    (dicom_tree / "cut.dcm").write_bytes(good[:-300])
    (dicom_tree / "zero.dcm").write_bytes(b"")
    outside = tmp_path / "outside.dcm"
    outside.write_bytes(good)
    (dicom_tree / "link.dcm").symlink_to(outside)
    result = deidentify_folder(dicom_tree, tmp_path / "d", _settings(tmp_path, reviewed=True))
    aside = {record.source: record.reason for record in result.of("set aside")}
    assert set(aside) == {"deep.dcm", "cut.dcm", "zero.dcm", "link.dcm"}
    assert "nested too deeply" in aside["deep.dcm"]
    assert "truncated" in aside["cut.dcm"]
    assert "symbolic link" in aside["link.dcm"]
    assert result.count("written") == 10


def test_a_file_that_the_scan_objects_to_is_never_written(
    tmp_path: Path, dicom_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedgan_secure.data.deidentification import headers

    real = headers.clean

    def careless(dataset: Any, keys: Keys, path: str, *words: Any) -> Any:
        done = real(dataset, keys, path, *words)
        if path == "p0/0.dcm":
            dataset.InstitutionName = "somewhere"
        return done

    monkeypatch.setattr(headers, "clean", careless)
    result = deidentify_folder(dicom_tree, tmp_path / "d", _settings(tmp_path, reviewed=True))
    (record,) = result.of("set aside")
    assert "residual scan found an attribute that the profile changes" in record.reason
    assert "(0008,0080)" in record.reason
    assert "somewhere" not in record.reason
    assert result.to_dict()["withheld_by_residual_scan"] == 1
    assert len(list((tmp_path / "d").rglob("*.dcm"))) == 9


def test_cleaning_does_not_depend_on_the_order_or_number_of_runs() -> None:
    once, twice = _person(), _person()
    twice.SOPInstanceUID = twice.file_meta.MediaStorageSOPInstanceUID = once.SOPInstanceUID
    clean(once, KEYS, "x", frozenset(), frozenset())
    clean(twice, KEYS, "y", frozenset(), frozenset())
    assert _bytes(once) == _bytes(twice)


def test_what_replaces_a_value_is_valid_to_an_independent_reader(tmp_path: Path) -> None:
    """dciodvfy finds no value in a copy that its kind does not allow; it did find the year 1 that stood for dates."""
    reader = shutil.which("dciodvfy")
    if reader is None:
        if os.environ.get("FEDGAN_REQUIRE_DICOM_TOOLS"):
            pytest.fail("no dciodvfy, and FEDGAN_REQUIRE_DICOM_TOOLS is set")
        pytest.skip("no dciodvfy (Debian package dicom3tools)")
    made = make_dicom(noise(1, 16, 16), patient="P1", modality="MR")
    made.StudyDate = made.SeriesDate = made.AcquisitionDate = made.ContentDate = "20200102"
    made.StudyTime = made.ContentTime = "101112"
    made.AcquisitionDateTime, made.PatientBirthDate, made.PatientAge, made.PatientSex = (
        "20200102101112",
        "",
        "050Y",
        "F",
    )
    made.StudyID, made.AccessionNumber, made.ReferringPhysicianName = "1", "A1", "Doe^Jane"
    made.InstitutionName, made.OperatorsName = "somewhere", "Roe^Richard"
    (tmp_path / "in").mkdir()
    made.save_as(tmp_path / "in" / "1.dcm", enforce_file_format=True)
    deidentify_folder(tmp_path / "in", tmp_path / "out", DeidentifySettings(workers=1))
    (copy,) = (tmp_path / "out" / "dicom").glob("*.dcm")
    written = pydicom.dcmread(copy)
    dates = [element for element in written.iterall() if element.VR in ("DA", "DT", "TM", "AS") and element.value]
    assert dates, "nothing was replaced"
    done = subprocess.run([reader, str(copy)], capture_output=True, text=True, timeout=HANG_SECONDS)
    assert [line for line in done.stderr.splitlines() if "invalid" in line.lower()] == []


@pytest.mark.parametrize(
    ("value", "name", "text"),
    [
        ("P1", "Kim^Lee", "KIM LEE"),
        ("P1", "\u5c71\u7530^\u592a\u90ce", "\u5c71\u7530 \u592a\u90ce"),
        ("P1", "Mu\u0308ller^Eva", "M\u00fcller"),
        ("P1", "Jameson^Ann", "\uff2a\uff21\uff2d\uff25\uff33\uff2f\uff2e"),
        ("PAT-00-17", "Doe^Jane", "PAT0017"),
    ],
)
def test_a_value_is_found_however_it_is_written(value: str, name: str, text: str) -> None:
    """In any width, with a letter in two signs or one, and without its separators."""
    from fedgan_secure.data.identifiers.words import holds, words_of

    made = make_dicom(noise(1, 8, 8), patient=value)
    made.SpecificCharacterSet = "ISO_IR 192"
    made.PatientName = name
    words = words_of(made)
    assert holds(f"seen by {text}, twice", words)
    assert not holds("a coronal view of the left knee", words)


def test_a_label_that_is_a_short_name_or_identifier_is_withheld(tmp_path: Path) -> None:
    labels = ["P77", "Kim", "\u5c71\u7530", "well"]
    (tmp_path / "in").mkdir()
    rows = ["file,label"]
    for number, (patient, name) in enumerate(
        [("P77", "Doe^Jane"), ("Q2", "Kim^Lee"), ("Q3", "\u5c71\u7530^\u592a\u90ce"), ("Q4", "")]
    ):
        made = make_dicom(noise(number, 16, 16), patient=patient, modality="MR")
        made.SpecificCharacterSet = "ISO_IR 192"
        made.PatientName = name
        made.save_as(tmp_path / "in" / f"{number}.dcm", enforce_file_format=True)
        rows.append(f"{number}.dcm,{labels[number]}")
    (tmp_path / "in" / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    deidentify_folder(tmp_path / "in", tmp_path / "out", DeidentifySettings(layout="dicom", workers=1))
    written = (tmp_path / "out" / "labels.csv").read_text(encoding="utf-8")
    assert "well" in written and not any(label in written for label in labels[:3])
