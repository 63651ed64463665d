"""A patient who withdraws: left out of every later round, told in the hospital's own annex alone."""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydicom
import pytest

from fedgan_secure.data.patients import PatientDataset, pseudonym
from fedgan_secure.data.reading.loading import LoadSettings, load
from fedgan_secure.errors import InputError
from fedgan_secure.federation import prepare
from fedgan_secure.federation.run import carry_on
from fedgan_secure.policy.settings import RunSettings
from fedgan_secure.site.withdrawals import FILE, TEXT, TEXT_NOBODY, Asked, note_people, standing, take_effect, withdraw
from tests.cli.conftest import fedgan
from tests.fedgan_secure.data.conftest import make_dicom

SECRET = bytes(range(32))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "pseudonym.key").write_bytes(SECRET)
    return tmp_path


@pytest.fixture
def dicom() -> Callable[..., Any]:
    return make_dicom


def patients(*names: str) -> PatientDataset:
    """Two images each."""
    count = 2 * len(names)
    return PatientDataset(
        np.arange(count * 4, dtype=np.uint8).reshape(count, 2, 2, 1),
        np.full(count, -1),
        np.repeat(np.arange(len(names)), 2),
        0,
        [pseudonym(SECRET, name) for name in names],
    )


def test_a_withdrawn_patient_is_gone_with_all_images_and_the_others_stay(site: Path) -> None:
    assert withdraw(site, ["P2", "p4"]).new == 2
    found = take_effect(site, patients("P1", "P2", "P3", "p4"), "run", 5)
    assert found.patients.pseudonyms == (pseudonym(SECRET, "P1"), pseudonym(SECRET, "P3"))
    assert np.array_equal(found.patients.images, patients("P1", "P2", "P3", "p4").images[[0, 1, 4, 5]])
    assert [(row["asked"], row["left_out"]) for row in found.incidents] == [(2, 2)]


def test_a_layout_that_folds_case_finds_the_patient_too(site: Path) -> None:
    withdraw(site, ["P2"])
    assert take_effect(site, patients("p1", "p2"), "run", 1).patients.pseudonyms == (pseudonym(SECRET, "p1"),)


def test_the_annex_has_a_row_once_a_run(site: Path) -> None:
    withdraw(site, ["nobody"])
    held = patients("P1", "P2")
    told = [len(take_effect(site, held, run, number).incidents) for run in ("one", "two") for number in (3, 4)]
    assert told == [1, 0, 1, 0]
    assert take_effect(site, held, "one", 4).patients is held
    withdraw(site, ["P1"])
    rows = [take_effect(site, held, "one", number).incidents for number in (5, 5, 6)]
    assert [[(row["asked"], row["left_out"]) for row in of] for of in rows] == [[(1, 1)], [(1, 1)], []]


def test_the_list_is_the_owners_alone_and_holds_no_identifier(site: Path) -> None:
    withdraw(site, ["Doe^Jane-4711"])
    text = (site / FILE).read_text()
    assert "4711" not in text and "Doe" not in text
    assert stat.S_IMODE((site / FILE).stat().st_mode) == 0o600
    assert withdraw(site, ["Doe^Jane-4711", "other"]).new == 1


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"format": 2}', '{"withdrawn": [{"pseudonyms": ["x"], "told": "2026-01-01"}]}']
)
def test_a_list_that_cannot_be_read_is_never_taken_for_an_empty_one(site: Path, text: str) -> None:
    (site / FILE).write_text(text)
    for use in (lambda: withdraw(site, ["P1"]), lambda: take_effect(site, patients("P1"), "run", 1)):
        with pytest.raises(InputError) as caught:
            use()
        assert FILE in str(caught.value) and caught.value.hint
    assert (site / FILE).read_text() == text


def test_a_folder_that_is_no_site_and_a_nameless_patient_are_refused(tmp_path: Path) -> None:
    done = fedgan("data", "withdraw", tmp_path, "P1")
    assert done.code == 2 and "pseudonym.key" in done.err and "--exclude-patient" in done.err
    (tmp_path / "pseudonym.key").write_bytes(SECRET)
    assert fedgan("data", "withdraw", tmp_path, " ").code == 2
    done = fedgan("data", "withdraw", tmp_path, "P1", "--json")
    assert json.loads(done.out)["new"] == 1 and "P1" not in (tmp_path / FILE).read_text()


@pytest.mark.parametrize("given", ["ID-2", "id-2", "  ID-2 ", "Id-2\t"])
@pytest.mark.parametrize("unit", ["patient", "image"])
def test_whoever_withdraws_is_left_out_however_written_and_whatever_the_unit(
    site: Path, dicom: Callable[..., Any], unit: Literal["patient", "image"], given: str
) -> None:
    """Two pictures each of ID-0 to ID-3; the annex counts what was left out."""
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 32), np.uint8)
        dicom(pixels, f"ID-{number // 2}").save_as(site / f"{number}.dcm", enforce_file_format=True)
    read = load(site, LoadSettings(layout="dicom", unit=unit, secret=SECRET))
    note_people(site, read.people)
    assert withdraw(site, [given]) == Asked(asked=1, found=1, new=1)
    assert withdraw(site, ["ID-2"]) == Asked(asked=1, found=1, new=0)
    found = take_effect(site, read.dataset, "run", 1)
    assert len(found.patients) == 6 and found.patients.patients == {"patient": 3, "image": 6}[unit]
    gone = {index for index, name in enumerate(read.dataset.people) if name == pseudonym(SECRET, "id-2")}
    kept = [index for index in range(8) if int(read.dataset.patient[index]) not in gone]
    assert np.array_equal(found.patients.images, read.dataset.images[kept])
    (row,) = found.incidents
    assert row == {
        "kind": "withdrawal", "text": TEXT, "asked": 1, "found": 1, "left_out": {"patient": 1, "image": 2}[unit],
    }  # fmt: skip


def test_a_name_that_nobody_has_is_never_reported_as_done(site: Path) -> None:
    held = patients("P1", "P2", "P3")
    assert withdraw(site, ["P7"]) == Asked(asked=1, found=None, new=1)  # nothing was read for this site yet
    note_people(site, (pseudonym(SECRET, f"p{number}") for number in (1, 2, 3)))
    assert standing(site) == Asked(asked=1, found=0, new=0)
    (row,) = take_effect(site, held, "run", 1).incidents
    assert (row["asked"], row["found"], row["left_out"], row["text"]) == (1, 0, 0, TEXT_NOBODY)
    before = (site / FILE).read_bytes()
    with pytest.raises(InputError, match=r"asked 3, found 1: .* number 1, 3; nothing was written") as caught:
        withdraw(site, ["P8", "P2", "Doe^Jane"])
    assert "--unknown-ok" in str(caught.value.hint) and "Doe" not in str(caught.value)
    assert (site / FILE).read_bytes() == before
    assert withdraw(site, ["P8", "P2", "p2"], unknown_ok=True) == Asked(asked=2, found=1, new=2)
    assert standing(site) == Asked(asked=3, found=1, new=0)
    told = take_effect(site, held, "run", 2)
    assert told.patients.patients == 2 and told.incidents[0]["text"] == f"{TEXT}. {TEXT_NOBODY}"
    assert (told.incidents[0]["asked"], told.incidents[0]["found"], told.incidents[0]["left_out"]) == (2, 1, 1)


def test_a_list_written_before_identifiers_had_one_form_holds_as_it_did(site: Path) -> None:
    names = [pseudonym(SECRET, form) for form in ("P2", "p2")]
    entry = {"pseudonyms": names, "told": "2026-01-01T00:00:00Z", "since": {}}
    (site / FILE).write_text(json.dumps({"format": 1, "withdrawn": [entry]}))
    assert take_effect(site, patients("P1", "P2"), "run", 1).patients.patients == 1
    assert withdraw(site, ["P2"]).new == 0


def test_the_command_says_how_many_were_found_and_refuses_an_unknown_name(site: Path) -> None:
    note_people(site, [pseudonym(SECRET, "p1")])
    done = fedgan("data", "withdraw", site, "P1", "P9")
    assert done.code == 2 and "asked 2, found 1" in done.err and not (site / FILE).exists()
    done = fedgan("data", "withdraw", site, "P1", "P9", "--unknown-ok")
    assert done.code == 0 and "Asked 2, found 1" in done.out
    done = fedgan("data", "withdraw", site, "P1", "--json")
    assert json.loads(done.out) == {"site": str(site), "asked": 1, "found": 1, "new": 0, "known_before": 1}


class Withdrawing:
    """A display that withdraws two of a hospital's patients when the first round has been published."""

    def __init__(self, run: Path) -> None:
        self.run = run
        found = sorted((run / "phantoms" / "b").rglob("*.dcm"))
        self.names = sorted({str(pydicom.dcmread(path, stop_before_pixels=True).PatientID) for path in found})[:2]

    def update(self, task: str, done: int, total: int) -> None:
        """Nothing is shown."""

    def note(self, text: str) -> None:
        if text.startswith("round 1 of"):
            assert withdraw(self.run / "site" / "b", self.names) == Asked(2, 2, 2)


@pytest.mark.parametrize("placement", ["per_hospital", pytest.param("distributed", marks=pytest.mark.slow)])
def test_a_run_that_is_going_on_leaves_them_out_from_the_next_round_on(tmp_path: Path, placement: str) -> None:
    wanted: dict[str, Any] = {
        "federation.rounds": 2, "federation.hospitals": 4, "federation.steps_per_round": 1, "data.image_size": 28,
        "data.phantom_patients": 8, "privacy.sampling_probability": 0.3, "privacy.declared_patients": 8,
        "privacy.epsilon": 20.0, "privacy.delta": 1e-3, "privacy.noise_placement": placement,
    }  # fmt: skip
    root = tmp_path / "run"
    federation = prepare.start(prepare.Request(RunSettings.merged({}, wanted), root), None)
    try:
        assert carry_on(federation, Withdrawing(root)).status == "complete"
    finally:
        federation.close()
    annexes = {
        (name, number): json.loads((root / "site" / name / "confidential" / f"round-000{number}.json").read_text())[
            "annex"
        ]
        for name in "abcd"
        for number in (1, 2)
    }
    assert [annexes["b", number]["patients"] for number in (1, 2)] == [8, 6]
    assert all(annexes[name, number]["patients"] == 8 for name in "acd" for number in (1, 2))
    rows = {place: annex["incidents"] for place, annex in annexes.items() if annex["incidents"]}
    assert list(rows) == [("b", 2)] and rows["b", 2][0]["kind"] == "withdrawal" and rows["b", 2][0]["left_out"] == 2
    facts = [json.loads(path.read_bytes()) for path in sorted((root / "public" / "reports").glob("*.dsse.json"))]
    reports = [json.loads(base64.b64decode(envelope["payload"]))["predicate"] for envelope in facts]
    assert [report["incidents"]["incidents"] for report in reports] == [[], []]
    assert fedgan("audit", "verify", root, "--trust", root / "public" / "trust").code == 0
