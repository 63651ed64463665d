"""One patient or two: how an identifier is written makes no other person of it, and a placeholder is nobody."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgan_secure.data.identifiers.persons import is_placeholder, look_alike
from fedgan_secure.data.patients import normal_identifier
from fedgan_secure.data.reading.loading import LoadSettings, load
from fedgan_secure.errors import InputError

Picture = Callable[..., None]
Make = Callable[..., Any]
WRITTEN = ["P01", "p01", " P01 ", "P01\u00a0", "P\u200b01", "P01\0", "\ufeffP01", "\uff3001"]


def table(root: Path, picture: Picture, patients: list[str]) -> Path:
    for number in range(len(patients)):
        picture(root / f"{number}.png", number)
    rows = [f'{number}.png,"{one}",{number % 2}' for number, one in enumerate(patients)]
    (root / "t.csv").write_text("\n".join(["file,patient,label", *rows]) + "\n", encoding="utf-8")
    return root


@pytest.mark.parametrize("other", WRITTEN[1:])
def test_one_patient_however_it_is_written(tmp_path: Path, picture: Picture, other: str) -> None:
    if "\0" in other:
        pytest.skip("a table has no NUL; arrays and DICOM have, below")
    result = load(table(tmp_path, picture, ["P01", other, "P02"]), LoadSettings(layout="csv"))
    assert result.dataset.patients == 2 and result.dataset.patient.tolist() == [0, 0, 1]
    assert len(set(result.dataset.people)) == 2


def test_letters_of_two_parts_are_the_letters_of_one(tmp_path: Path, picture: Picture) -> None:
    apart = unicodedata.normalize("NFD", "Müller-1")
    result = load(table(tmp_path, picture, ["Müller-1", apart, "MÜLLER-1"]), LoadSettings(layout="csv"))
    assert result.dataset.patients == 1


def test_padded_arrays_hold_the_same_patients(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 20, 20), np.uint8)
    path = tmp_path / "a.npz"
    np.savez(path, images=images, labels=np.array([0, 1, 0, 1]), patient=np.array(["P1", "P1 ", "p1", "P2"]))
    assert load(path, LoadSettings(image_size=28, channels=1)).dataset.patients == 2


@pytest.mark.parametrize(
    "nobody",
    [
        "nan",
        "NA",
        "N/A",
        "None",
        "ANONYMOUS",
        "Anonymized",
        "unknown",
        "0",
        "---",
        "?",
        " nan ",
        "00000000",
        "NO_ID",
        "no-id",
        "(none)",
        "Anonymous^",
        "de identified",
        "99999999",
    ],
)
def test_a_placeholder_makes_no_patient_of_many(tmp_path: Path, picture: Picture, nobody: str) -> None:
    root = table(tmp_path, picture, ["P01", nobody, nobody, "P02"])
    result = load(root, LoadSettings(layout="csv"))
    assert (result.dataset.patients, len(result.dataset)) == (2, 2)
    assert [path for path, _ in result.findings.quarantined] == ["1.png", "2.png"]
    assert "placeholder" in result.findings.quarantined[0][1]
    assert len(load(root, LoadSettings(layout="csv", unit="image")).dataset) == 4


def test_a_dicom_file_of_nobody_is_set_aside(tmp_path: Path, dicom: Make) -> None:
    for number, (name, patient) in enumerate((("a", "P1"), ("b", "ANONYMOUS"), ("c", "p1 "))):
        dicom(np.full((20, 20), 10 * number, np.uint8), patient).save_as(tmp_path / f"{name}.dcm")
    result = load(tmp_path, LoadSettings())
    assert (result.dataset.patients, len(result.dataset)) == (1, 2)
    assert "placeholder" in dict(result.findings.quarantined)["b.dcm"]


def test_numbers_in_an_array_count_as_they_are(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 20), np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.array([0, 1, 0]), patient=np.array([0, 1, 0]))
    assert load(tmp_path / "a.npz", LoadSettings(image_size=28, channels=1)).dataset.patients == 2
    np.savez(tmp_path / "b.npz", images=images, labels=np.array([0, 1, 0]), patient=np.array(["nan", "P1", "nan"]))
    found = load(tmp_path / "b.npz", LoadSettings(image_size=28, channels=1))
    assert found.dataset.patients == 1 and len(found.findings.quarantined) == 2


def test_where_everybody_is_nobody_it_is_said(tmp_path: Path, picture: Picture) -> None:
    with pytest.raises(InputError, match="placeholder"):
        load(table(tmp_path, picture, ["nan", "nan"]), LoadSettings(layout="csv"))


def test_what_may_be_one_person_is_named_and_not_merged(tmp_path: Path, picture: Picture) -> None:
    result = load(table(tmp_path, picture, ["12", "12.0", "012", "P-1", "P1", "Q7"]), LoadSettings(layout="csv"))
    assert result.dataset.patients == 6
    (note,) = [note for note in result.findings.notes if "leading zeros" in note]
    assert note.startswith("2 groups") and "012 and 12" in note and "P-1 and P1" in note


@given(
    st.text(max_size=20), st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]), st.sampled_from(["", " ", "\u200b", "\0"])
)
def test_the_form_of_an_identifier_is_settled(text: str, form: str, sign: str) -> None:
    """Normalising twice is normalising once, and neither Unicode's form nor what has no width changes it."""
    normal = normal_identifier(text)
    assert normal_identifier(normal) == normal
    assert normal_identifier(unicodedata.normalize(form, text) + sign) == normal  # type: ignore[arg-type]


def test_ordinary_identifiers_are_no_placeholders() -> None:
    for one in ("1", "10", "P0", "Na1", "Anna", "None-1", "x", "X1", "unknown-17"):
        assert not is_placeholder(one), one
    assert look_alike(["A1", "A01", "B", "b2"]) == [("A01", "A1")] and look_alike([]) == []


def test_one_identifier_of_several_people_is_said(dicom: Make, tmp_path: Path) -> None:
    """By name, sex, birth date or issuer, within the identifier; how a name is written makes no other person."""
    files = [
        ("P1", {"PatientName": "Doe^Jane", "PatientSex": "F", "PatientBirthDate": "19500101"}),
        ("p1 ", {"PatientName": "DOE^JANE^", "PatientSex": "F", "PatientBirthDate": "19500101"}),
        ("P2", {"PatientName": "Doe^Jane", "PatientSex": "F", "IssuerOfPatientID": "north"}),
        ("P2", {"PatientName": "Roe^Richard", "PatientSex": "M", "IssuerOfPatientID": "south"}),
        ("P3", {"PatientName": "", "PatientBirthDate": "19600101"}),
        ("P3", {"PatientName": "Poe^Paul", "PatientBirthDate": "19610101"}),
    ]
    for number, (patient, header) in enumerate(files):
        made = dicom(np.full((8, 8), number, np.uint8), patient=patient)
        made.PatientName = ""
        for name, value in header.items():
            setattr(made, name, value)
        made.save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
    settings = LoadSettings(secret=b"s" * 32, cache_dir=tmp_path / ".cache")
    for _ in ("read", "from the cache"):
        findings = load(tmp_path, settings).findings
        assert findings.several_people == (("p2", "2 names, 2 sexes, 2 issuers"), ("p3", "2 birth dates"))
        assert not any(name in str(findings.to_dict()) for name in ("Jane", "Richard", "Paul", "north"))


VISITS = [
    ("P01_2019", "P01_2021"), ("P01-20190305", "P01-20211224"), ("P01", "P01_V2"), ("p1 visit 1", "p1 visit 2"),
    ("a_t0", "a_t1"), ("b_M06", "b_M12"), ("c_wk12", "c_wk24"), ("d_190101", "d_200101"),
]  # fmt: skip


@pytest.mark.parametrize("pair", VISITS)
def test_visits_of_one_person_are_named(pair: tuple[str, str]) -> None:
    assert look_alike([*pair, "P02_2019"]) == [tuple(sorted(pair))]


def test_numbers_that_count_people_are_no_visits() -> None:
    assert look_alike(["P_1", "P_2", "site1_12", "site1_13", "2019", "2021", "1999_7"]) == []
