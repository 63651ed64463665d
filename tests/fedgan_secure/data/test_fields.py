"""What a report lists as read is what the loaders ask a file for, and no field that names a person beside the one."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.datadict import keyword_for_tag, tag_for_keyword

from fedgan_secure.data.phantoms.phantoms import PhantomSettings, write_hospitals
from fedgan_secure.data.pixels import dicom
from fedgan_secure.data.reading import fields
from fedgan_secure.data.reading.layouts import SUPPORTED_LAYOUTS
from fedgan_secure.federation.rounds import fields_read

LISTED = {fields.DICOM_IDENTIFIER, *fields.DICOM_KIND, *fields.DICOM_PIXELS}


def keywords_in_source() -> set[str]:
    """Every DICOM keyword that the readers of DICOM name, as a string or as an attribute."""
    named: set[str] = set()
    for name in ("dicom", "levels", "shutters", "stored", "tables"):
        tree = ast.parse(Path(dicom.__file__).with_name(f"{name}.py").read_text(encoding="utf-8"))
        named |= {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        named |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return {name for name in named if name[:1].isupper() and tag_for_keyword(name) is not None}


def test_the_list_is_what_the_loader_names() -> None:
    assert keywords_in_source() == LISTED | {"TransferSyntaxUID"}  # of the decoding, and asked for by name


def test_reading_a_file_asks_for_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_hospitals(tmp_path, ("a",), PhantomSettings(patients=8, image_size=28, seed=1), None)["a"]
    file = sorted(folder.glob("*.dcm"))[0]
    whole = pydicom.dcmread(file)
    whole.PatientName, whole.PatientBirthDate, whole.InstitutionName = "DOE^JOHN", "19700101", "SOMEWHERE"
    whole.save_as(file)
    asked: set[str] = set()
    plain_item, plain_get = pydicom.Dataset.__getitem__, pydicom.Dataset.get

    def item(self: Any, key: Any) -> Any:
        if not isinstance(key, slice):
            asked.add(keyword_for_tag(key))
        return plain_item(self, key)

    def get(self: Any, key: Any, default: Any = None) -> Any:
        asked.add(key if isinstance(key, str) else keyword_for_tag(key))
        return plain_get(self, key, default)

    monkeypatch.setattr(pydicom.Dataset, "__getitem__", item)
    monkeypatch.setattr(pydicom.Dataset, "get", get)
    header, frames = dicom.read_dicom(file, hounsfield_window=False)
    assert header.patient_id and len(list(frames)) == 1
    assert {"PatientID", "Rows"} <= asked, "nothing was watched"
    assert asked <= LISTED | set(fields.DICOM_DECODING) | set(fields.DICOM_FINDINGS)


def test_every_layout_has_its_list() -> None:
    assert set(fields.FIELDS) == set(SUPPORTED_LAYOUTS) - {"auto"}
    both = fields_read(("dicom", "rsna-ct", "dicom"))
    assert len(set(both)) == len(both) and all(0 < len(field) <= 200 for field in both)
    with pytest.raises(KeyError):
        fields_read(("unheard-of",))
