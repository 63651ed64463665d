"""A patient who withdraws: left out of every later round, told in the hospital's own annex alone."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from fedgan_secure.data.patients import PatientDataset, pseudonym
from fedgan_secure.errors import InputError
from fedgan_secure.federation import prepare
from fedgan_secure.federation.run import carry_on
from fedgan_secure.federation.withdrawals import FILE, take_effect, withdraw
from fedgan_secure.settings import RunSettings
from tests.cli.conftest import fedgan

SECRET = bytes(range(32))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "pseudonym.key").write_bytes(SECRET)
    return tmp_path


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
    assert withdraw(site, ["P2", "p4"]) == 2
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
    assert withdraw(site, ["Doe^Jane-4711", "other"]) == 1


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
            assert withdraw(self.run / "site" / "b", self.names) == 2


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
