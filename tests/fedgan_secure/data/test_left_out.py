"""Nothing is left out without a word: what can be read is read, and what cannot is counted with what to do."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import uid

from fedgan_secure.data import LoadSettings, load
from fedgan_secure.data.deidentification import DeidentifySettings, deidentify_folder
from fedgan_secure.data.pixels.marks import is_without_mark, looks_like_dicom
from fedgan_secure.data.pixels.pictures import Unreadable, read_picture
from fedgan_secure.data.reading.findings import findings_from_dict
from fedgan_secure.data.reading.left_out import describe
from fedgan_secure.errors import InputError

from .conftest import make_dicom, noise

BUNDLED = Path(pydicom.__file__).parent / "data" / "test_files"


def _bare(syntax: str, *, meta: bool = False) -> bytes:
    """A DICOM file without preamble and mark, with its meta information or without."""
    dataset = make_dicom(noise(1, 16, 16), "ID-1", "CR")
    dataset.file_meta.TransferSyntaxUID = uid.UID(syntax)
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    whole = buffer.getvalue()
    if meta:
        return whole[132:]
    return whole[144 + int.from_bytes(whole[140:144], "little") :]


BARE = {
    "implicit": (uid.ImplicitVRLittleEndian, False),
    "explicit": (uid.ExplicitVRLittleEndian, False),
    "with meta information": (uid.ExplicitVRLittleEndian, True),
    "implicit, with meta information": (uid.ImplicitVRLittleEndian, True),
}


@pytest.mark.parametrize("kind", BARE)
@pytest.mark.parametrize("name", ["x.dcm", "IM0001", "x.IMA"])
def test_dicom_without_preamble_is_read_and_copied(kind: str, name: str, tmp_path: Path) -> None:
    syntax, meta = BARE[kind]
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / name).write_bytes(_bare(syntax, meta=meta))
    found = load(tmp_path / "s", LoadSettings(preprocessing="plain/1", image_size=28))
    assert (found.findings.patients, found.findings.images, found.findings.left_out) == (1, 1, ())
    deidentify_folder(tmp_path / "s", tmp_path / "d", DeidentifySettings(workers=1))
    (copy,) = (tmp_path / "d").rglob("*.dcm")
    dataset = pydicom.dcmread(copy)
    assert copy.read_bytes()[128:132] == b"DICM" and dataset.file_meta.TransferSyntaxUID == syntax
    assert np.array_equal(dataset.pixel_array, noise(1, 16, 16))


def test_every_dicom_file_that_pydicom_ships_is_known_without_its_preamble_and_nothing_else_is() -> None:
    known = 0
    for path in sorted(BUNDLED.rglob("*")):
        if not path.is_file():
            continue
        data = path.read_bytes()
        if data[128:132] == b"DICM":
            if path.name in ("meta_missing_tsyntax.dcm", "nested_priv_SQ.dcm"):  # no class of the standard
                continue
            known += is_without_mark(data[132:])
            assert is_without_mark(data[132:]), path.name
        else:
            bare = path.name in ("rtstruct.dcm", "ExplVR_LitEndNoMeta.dcm", "ExplVR_BigEndNoMeta.dcm")
            assert looks_like_dicom(path) == bare, path.name
    assert known > 150
    for start in (b"", b"\x08\x00", b"\x08\x00\x16\x00UI\xff\xff", bytes(4096), b"\x02\x00" * 2048, os.urandom(4096)):
        assert not is_without_mark(start)


def test_compressed_pixels_without_a_transfer_syntax_are_set_aside(tmp_path: Path) -> None:
    dataset = make_dicom(noise(1, 16, 16), "ID-1", "CR")
    dataset.compress(uid.RLELossless, generate_instance_uid=False)
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    whole = buffer.getvalue()
    (tmp_path / "x.dcm").write_bytes(whole[144 + int.from_bytes(whole[140:144], "little") :])
    with pytest.raises(InputError, match="its transfer syntax is missing"):
        load(tmp_path, LoadSettings(preprocessing="plain/1", image_size=28))


@pytest.mark.parametrize(
    ("suffix", "form"),
    [
        (".jfif", "JPEG"), (".webp", "WEBP"), (".gif", "GIF"), (".jp2", "JPEG2000"), (".j2k", "JPEG2000"),
        (".dib", "BMP"), (".JPG", "JPEG"),
    ],
)  # fmt: skip
def test_pictures_that_pillow_reads_are_read(suffix: str, form: str, tmp_path: Path) -> None:
    pixels = np.kron(noise(1, 8, 8, 3), np.ones((4, 4, 1), np.uint8))
    path = tmp_path / "class" / f"P1_L{suffix}"
    path.parent.mkdir()
    Image.fromarray(pixels).save(path, form)
    with Image.open(path) as picture:
        expected = np.asarray(picture.convert("RGB"))
    assert np.array_equal(read_picture(path)[0], expected)
    found = load(tmp_path, LoadSettings(image_size=28, layout="folders", label_names=("class",))).findings
    assert (found.images, found.quarantined, found.left_out) == (1, (), ())


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_animations_and_pages_are_set_aside_and_say_so(suffix: str, tmp_path: Path) -> None:
    first, second = (Image.fromarray(noise(seed, 16, 16, 3)) for seed in (1, 2))
    first.save(tmp_path / f"x.{suffix}", save_all=True, append_images=[second])
    with pytest.raises(Unreadable, match="several pictures"):
        read_picture(tmp_path / f"x.{suffix}")


def test_smaller_copies_within_one_file_are_no_pages(tmp_path: Path) -> None:
    first = Image.fromarray(noise(1, 16, 16, 3))
    reduced = Image.fromarray(noise(2, 8, 8, 3))
    reduced.encoderinfo = {"tiffinfo": {254: 1}}
    first.save(tmp_path / "x.tif", save_all=True, append_images=[reduced])
    first.save(tmp_path / "x.jpg", "MPO", save_all=True, append_images=[reduced])
    for name in ("x.tif", "x.jpg"):
        assert read_picture(tmp_path / name)[0].shape == (16, 16, 3)


OTHERS = {
    "p/1.dcm.gz": (".dcm.gz", "unpack it"), "all.zip": (".zip", "unpack it"), "brain.nii.gz": (".nii.gz", "unpack it"),
    "brain.nii": (".nii", "volume"), "t.mha": (".mha", "volume"), "t.nrrd": (".nrrd", "volume"),
    "slide.svs": (".svs", "slide"), "IMG_1.HEIC": (".heic", "camera"), "scan.tif.ovr": (".tif.ovr", "not needed"),
    "DICOMDIR": ("DICOMDIR", "list of DICOM files"), "grades.xlsx": (".xlsx", "CSV in UTF-8"),
    "a.npz": (".npz", "array"),
    "1.2.840.113619": ("without a suffix", "no kind of file"), "README": ("without a suffix", "no kind of file"),
    "cine.mp4": (".mp4", "film"), "notes.txt": (".txt", "document"), "x.unheard": (".unheard", "no kind of file"),
}  # fmt: skip


def test_what_is_not_read_is_counted_by_kind_with_what_to_do(tmp_path: Path, dicom_tree: Path) -> None:
    for name in OTHERS:
        (dicom_tree / name).parent.mkdir(exist_ok=True)
        (dicom_tree / name).write_bytes(b"x")
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini"):
        (dicom_tree / name).write_bytes(b"x")
    (dicom_tree / "empty").mkdir()
    found = load(dicom_tree, LoadSettings(preprocessing="plain/1", image_size=28)).findings
    rows = {row.kind: row for row in found.left_out}
    assert found.images == 10 and sum(row.files for row in found.left_out) == len(OTHERS) + 3
    for kind, words in OTHERS.values():
        assert words in rows[kind].advice
    assert rows["without a suffix"].files == 2
    assert rows["hidden, or kept by the system"].files == 3
    assert findings_from_dict(json.loads(json.dumps(found.to_dict()))) == found
    older = {key: value for key, value in found.to_dict().items() if key != "left_out"}
    assert findings_from_dict(older).left_out == ()
    result = deidentify_folder(dicom_tree, tmp_path / "d", DeidentifySettings(workers=1, reviewed=True))
    reasons = {record.source: record.reason for record in result.of("not copied")}
    assert set(reasons) == set(OTHERS)
    assert all(words in reasons[name] for name, (_, words) in OTHERS.items())


def test_archives_are_never_opened_and_a_folder_of_them_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "1.dcm.gz").write_bytes(gzip.compress(_bare(uid.ExplicitVRLittleEndian)))
    with pytest.raises(InputError, match=r"1 \.dcm\.gz: an archive, which is never opened: unpack it"):
        load(tmp_path, LoadSettings())
    assert describe("a/b.DCM.GZ")[0] == ".dcm.gz"


def test_names_that_are_no_utf8_are_read_and_written(tmp_path: Path, picture: Callable[..., None]) -> None:
    names = (b"Gef\xe4ss", b"normal", b"\x81\x9d")
    for number, name in enumerate(names):
        folder = Path(os.fsdecode(os.fsencode(tmp_path / "s") + b"/" + name))
        for patient in range(4):
            picture(folder / os.fsdecode(b"P%d%d_\xfc_L.png" % (number, patient)), number * 10 + patient)
    found = load(tmp_path / "s", LoadSettings(image_size=28, cache_dir=tmp_path / "cache"))
    assert set(found.label_names) == {"Gefäss", "normal", "\x81\x9d"}
    assert (found.findings.images, found.findings.patients) == (12, 12)
    json.dumps(found.findings.to_dict(), ensure_ascii=False)
    settings = DeidentifySettings(workers=1, reviewed=True)
    result = deidentify_folder(tmp_path / "s", tmp_path / "d", settings)
    assert result.count("written") == 12
    table = (tmp_path / "d" / "labels.csv").read_text(encoding="utf-8")
    assert table.count("Gefäss") == 4


def test_a_table_that_is_not_used_is_counted_and_the_table_of_labels_is_found_in_any_case(dicom_tree: Path) -> None:
    (dicom_tree / "Labels.csv").write_text("patient_id,label\nID-0,tumour\nID-1,healthy\n")
    (dicom_tree / "metadata.csv").write_text("a,b\n1,2\n")
    found = load(dicom_tree, LoadSettings(layout="dicom")).findings
    assert found.classes == 2
    assert [(row.kind, row.files) for row in found.left_out] == [(".csv", 1)]


def test_arrays_that_are_not_read_are_named(tmp_path: Path) -> None:
    images = np.zeros((4, 8, 8), np.uint8) + np.arange(4, dtype=np.uint8)[:, None, None]
    labels = np.array([0, 1, 0, 1])
    np.savez(tmp_path / "a.npz", x_train=images, y_train=labels, x_test=images, y_test=labels, weights=labels)
    notes = load(tmp_path / "a.npz", LoadSettings(unit="image", image_size=28, channels=1)).findings.notes
    assert any("arrays that are not read: weights, x_test, y_test" in text for text in notes)
