"""One patient more: in every layout and with both units, what becomes of the others stays as it was.

What a plan says of a file (used or not, whose, which label, which preprocessing) is compared here; what decoding makes
of it depends on the file and the plan alone (`decode_batch` takes one file at a time), and DICOM files of mixed kinds
go through it below.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fedgan_secure.data.conftest import make_dicom

from fedgan_secure.data.pixels.preprocess import of_file
from fedgan_secure.data.reading.decode import DecodeSettings, decode_batch
from fedgan_secure.data.reading.layouts import plan_folder
from fedgan_secure.data.reading.listing import list_folder
from fedgan_secure.data.reading.plans import LayoutOptions, Plan
from fedgan_secure.errors import InputError

Unit = Literal["patient", "image"]
Outcome = tuple[str | None, str | None, str] | None
EXAMPLES = settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))

MODALITIES = ("CT", "MR", "OP", "CR", "US", "")
GRADES = ("0", "1", "2", "3", "4")
NAMES = st.sampled_from(["a", "b", "c1", "d_left", "d_right", "e_L", "f_R", "image", "train_images", "0"])
PATIENT = st.fixed_dictionaries(
    {
        "modality": st.sampled_from(MODALITIES),
        "label": st.sampled_from(GRADES),
        "files": st.lists(NAMES, min_size=1, max_size=3, unique=True),
        "odd": st.sampled_from(["", "", "", "elsewhere", "other-suffix", "no-label", "other-kind"]),
        "stranger": st.booleans(),
    }
)
PEOPLE = st.lists(PATIENT, min_size=2, max_size=4)


class Tree:
    """A folder in one layout, and the paths of each patient."""

    def __init__(self, root: Path) -> None:
        self.root, self.rows, self.paths = root, [], []
        self.root.mkdir()

    def file(self, path: str) -> None:
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"x")
        self.paths.append(path)

    def table(self, name: str, header: str) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text("\n".join([header, *self.rows]) + "\n")


def _place(patient: dict[str, Any], usual: str) -> str:
    return "elsewhere/x/" if patient["odd"] == "elsewhere" else usual


def build(layout: str, root: Path, people: list[dict[str, Any]]) -> list[list[str]]:
    """Write the tree of some patients; returns every patient's paths. What a patient writes is their own alone."""
    tree, owned = Tree(root), []
    for number, patient in enumerate(people):
        tree.paths = []
        ident, odd = f"p{number}", patient["odd"]
        labelled = odd != "no-label"
        for name in patient["files"]:
            stem = f"{ident}{name}"
            picture = f"{stem}{'.jpeg' if odd == 'other-suffix' else '.png'}"
            other = odd == "other-kind"
            if layout == "dicom":
                tree.file(f"{_place(patient, '')}{ident}/{name}.{'png' if other else 'dcm'}")
                tree.rows += [f"{ident}/{name}.dcm,{patient['label']}"] * labelled
            elif layout == "rsna-ct":
                tree.file(f"{_place(patient, f'train_images/{ident}/')}1/{name}.{'png' if other else 'dcm'}")
            elif layout == "rsna-pneumonia":
                tree.file(f"{_place(patient, 'stage_2_train_images/')}{stem}.{'png' if other else 'dcm'}")
                tree.rows += [f"{stem},{int(patient['label']) % 2}"] * labelled
            elif layout in ("eyepacs", "messidor"):
                eye = f"{ident}_{'left' if name < 'c' else 'right'}" if not patient["stranger"] else stem
                if f"{_place(patient, 'train/')}{eye}.png" in tree.paths:
                    continue
                tree.file(f"{_place(patient, 'train/')}{eye}.{'dcm' if other else 'png'}")
                tree.rows += [f"{eye},{patient['label']}"] * labelled
            elif layout in ("aptos", "idrid"):
                tree.file(f"{_place(patient, 'images/')}{stem}.{'dcm' if other else 'png'}")
                tree.rows += [f"{stem},{patient['label']}"] * labelled
            elif layout == "folders":
                tree.file(f"{'' if odd == 'elsewhere' else 'class' + patient['label'] + '/'}{picture}")
            else:
                tree.file(f"{_place(patient, 'images/')}{stem}.{'dcm' if other else 'png'}")
                owner = "" if patient["stranger"] else ident
                tree.rows += [f"{stem},{owner},{patient['label']}"] * labelled
        if layout == "rsna-ct" and labelled:
            tree.rows.append(f"{ident},{int(patient['label']) % 2}")
        owned.append(tree.paths)
    headers = {
        "dicom": ("labels.csv", "file,dr_grade"),
        "rsna-ct": ("train.csv", "patient_id,any_injury"),
        "rsna-pneumonia": ("stage_2_train_labels.csv", "patientId,Target"),
        "eyepacs": ("trainLabels.csv", "image,level"),
        "aptos": ("train.csv", "id_code,diagnosis"),
        "idrid": ("t.csv", "Image name,Retinopathy grade"),
        "messidor": ("grades.csv", "image_id,adjudicated_dr_grade"),
        "csv": ("t.csv", "file,patient,label"),
    }
    if layout in headers:
        tree.table(*headers[layout])
    if layout == "messidor":
        pairs = [(f"p{number}_left.png", f"p{number}_right.png") for number in range(len(people))]
        (root / "pairs.csv").write_text("left,right\n" + "".join(f"{left},{right}\n" for left, right in pairs))
    return owned


def outcomes(plan: Plan, unit: Unit, modality: dict[str, str]) -> dict[str, Outcome]:
    """path -> (whose it is, its label's name, its preprocessing), None for a file that is not used."""
    if unit == "patient" and not plan.names_patient:
        return {}
    found: dict[str, Outcome] = {}
    for item in plan.items:
        owner = item.patient if unit == "patient" else None
        name = plan.label_names[item.label] if item.label >= 0 else None
        kind = modality.get(item.path, "") if item.kind == "dicom" else None
        found[item.path] = (owner, name, of_file(plan.preprocessing, kind))
    return found


@contextmanager
def folder() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp())
    try:
        yield place
    finally:
        shutil.rmtree(place)


LAYOUTS = ("dicom", "rsna-ct", "rsna-pneumonia", "eyepacs", "aptos", "idrid", "messidor", "folders", "csv")
PLAIN_PATIENT = {"modality": "CT", "label": "1", "files": ["e_L", "f_R"], "odd": "", "stranger": False}


NAMES_NOBODY = ("aptos", "idrid")
CASES = [(layout, "image") for layout in LAYOUTS]
CASES += [(layout, "patient") for layout in LAYOUTS if layout not in NAMES_NOBODY]


@pytest.mark.parametrize(("layout", "unit"), CASES)
@EXAMPLES
@given(people=PEOPLE, more=PATIENT)
def test_one_patient_more_changes_nothing_of_the_others(
    layout: str, unit: Unit, people: list[dict[str, Any]], more: dict[str, Any]
) -> None:
    options = LayoutOptions(
        unit=unit, label_names=tuple(f"class{grade}" for grade in GRADES) if layout == "folders" else None
    )
    # so that neither tree is empty; where the image is the unit, nothing else need name a patient
    people = [{**PLAIN_PATIENT, "files": ["a"]} if unit == "image" else PLAIN_PATIENT, *people]
    with folder() as root:
        before_paths = build(layout, root / "before", people)
        build(layout, root / "after", [*people, more])
        modality = {path: one["modality"] for one, paths in zip(people, before_paths, strict=True) for path in paths}
        before = outcomes(plan_folder(list_folder(root / "before"), layout, options), unit, modality)
        after = outcomes(plan_folder(list_folder(root / "after"), layout, options), unit, modality)
    assert before
    theirs = [path for paths in before_paths for path in paths]
    assert {path: after.get(path) for path in theirs} == {path: before.get(path) for path in theirs}


def _file(modality: str) -> bytes:
    stored = (np.arange(1024, dtype=np.int16).reshape(32, 32) * 3 - 900).astype(np.int16)
    made = make_dicom(
        stored, modality=modality or "OT", RescaleSlope="1", RescaleIntercept="0", WindowCenter="100", WindowWidth="900"
    )
    if not modality:
        made.Modality = ""
    file = io.BytesIO()
    made.save_as(file, enforce_file_format=True)
    return file.getvalue()


FILES = {modality: _file(modality) for modality in MODALITIES}


@EXAMPLES
@given(kinds=st.lists(st.sampled_from(MODALITIES), min_size=1, max_size=4), first=st.sampled_from(MODALITIES))
def test_one_file_of_another_kind_moves_no_pixel_of_the_others(kinds: list[str], first: str) -> None:
    with folder() as root:
        for number, kind in enumerate(kinds):
            (root / f"m{number}.dcm").write_bytes(FILES[kind])

        def decoded() -> dict[str, bytes | None]:
            plan = plan_folder(list_folder(root), "dicom", LayoutOptions())
            own = DecodeSettings(plan.root, plan.preprocessing, 28, 1, frozenset(), needs_patient=True)
            results = zip(plan.items, decode_batch(own, plan.items), strict=True)
            return {item.path: None if one.images is None else one.images.tobytes() for item, one in results}

        before = decoded()
        (root / "a-first.dcm").write_bytes(FILES[first])
        after = decoded()
    assert any(pixels is not None for pixels in after.values())
    assert {path: after[path] for path in before} == before


def test_the_layout_found_is_that_of_the_tables_beside_the_files(tmp_path: Path) -> None:
    """A patient's own files, wherever they lie and whatever tables are among them, choose no other layout."""
    for place in ("train_images/p1/1/a.dcm", "p2/b.dcm"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(FILES["CT"])
    (tmp_path / "train.csv").write_text("patient_id,any_injury\np1,0\n")
    assert plan_folder(list_folder(tmp_path), "auto", LayoutOptions()).layout == "rsna-ct"
    (tmp_path / "train.csv").unlink()
    (tmp_path / "p2" / "list.csv").write_text("patientId,Target\np2,1\n")
    assert plan_folder(list_folder(tmp_path), "auto", LayoutOptions()).layout == "dicom"


def test_tables_of_two_layouts_are_not_chosen_between(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "1_left.png").write_bytes(b"x")
    (tmp_path / "a.csv").write_text("image,level\n1_left,0\n")
    (tmp_path / "b.csv").write_text("id_code,diagnosis\n1_left,0\n")
    with pytest.raises(InputError, match="aptos, eyepacs"):
        plan_folder(list_folder(tmp_path), "auto", LayoutOptions())


def test_a_picture_beside_the_class_folders_is_said(tmp_path: Path) -> None:
    for name in ("a/1_L.png", "b/2_L.png", "cover.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match=r"2 pictures of .* lie in folders, and 1 beside them"):
        plan_folder(list_folder(tmp_path), "auto", LayoutOptions())
