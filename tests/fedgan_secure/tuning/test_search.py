"""The driver of a search: killed and resumed, charged once, refused in time. Trials are replaced here."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fedgan_audits.accounting import accountant
from fedgan_audits.accounting.mechanism import MechanismRecord, SearchMechanism
from fedgan_audits.errors import BudgetRefused as CapRefused
from fedgan_audits.errors import UnreachableTarget
from fedgan_audits.ledger.ledger import Ledger
from fedgan_secure.errors import BudgetRefused, InputError
from fedgan_secure.tuning import search as searching
from fedgan_secure.tuning.directory import SearchDirectory
from fedgan_secure.tuning.experiment import Experiment
from fedgan_secure.tuning.outcome import Tried, front, read
from fedgan_secure.tuning.report import federation_toml, write_report
from fedgan_secure.tuning.trial import Job, run_trial
from fedgan_secure.tuning.workers import WorkerEnded
from tests.patience import wait_until

FAKE = (sys.executable, str(Path(__file__).parent / "fake_worker.py"))
NAMES = ("north", "south", "west")
DRIVE = """
import sys
from pathlib import Path
from fedgan_secure.tuning import search
from fedgan_secure.tuning.directory import SearchDirectory
class Display:
    def update(self, task, done, total): print(task, done, total, flush=True)
    def note(self, text): print(text, flush=True)
search.carry_on(SearchDirectory.open(Path(sys.argv[1])), Display(), command=sys.argv[2:])
"""


class Display:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def update(self, task: str, done: int, total: int) -> None:
        self.lines.append(f"{task} {done} of {total}")

    def note(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(autouse=True)
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "log"
    monkeypatch.setenv("FEDGAN_FAKE_LOG", str(place))
    return place


def experiment(tmp_path: Path, *, on: str = "patients", cap: float | None = None, **search: Any) -> Experiment:
    for name in NAMES:
        (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
    raw: dict[str, Any] = {
        "search": {"trains_on": on, "method": "grid", "workers": 2, **search},
        "space": {"privacy": {"noise_multiplier": [2.0, 3.0, 4.0], "l2_clip_norm": [1.0, 4.0]}},
        "settings": {
            "data": {"hospital": {name: str(tmp_path / "data" / name) for name in NAMES}, "image_size": 28},
            "federation": {"rounds": 2, "steps_per_round": 2},
            "privacy": {"declared_patients": 10, "sampling_probability": 0.2, "delta": 1e-3},
        },
    }
    if cap is not None:
        raw["settings"]["privacy"]["epsilon_cap"] = cap
    if on == "patients":
        raw["patients"] = {"site_dir": str(tmp_path / "sites")}
    return Experiment.checked(raw, "test")


def reserved(tmp_path: Path, name: str = "north") -> list[MechanismRecord]:
    path = tmp_path / "sites" / name / "ledger.sqlite"
    if not path.exists():
        return []
    with Ledger.open(path, read_only=True) as ledger:
        return list(ledger.mechanisms())


def completed(directory: SearchDirectory) -> int:
    try:
        with closing(sqlite3.connect(f"file:{directory.study}?mode=ro", uri=True)) as db:
            return int(db.execute("SELECT COUNT(*) FROM trials WHERE state = 'COMPLETE'").fetchone()[0])
    except sqlite3.Error:
        return 0


def has_come_to(least: int, directory: SearchDirectory, driver: subprocess.Popen[bytes]) -> bool:
    """Whether so many trials are complete, or the driver ended before."""
    return completed(directory) >= least or driver.poll() is not None


def has_ended(process: int) -> bool:
    """Whether a process is gone, or waits for whoever started it to take notice."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def independent(directory: SearchDirectory) -> float:
    """The epsilon of every trial in the study, composed by dp-accounting itself."""
    import dp_accounting

    found = read(directory).tried
    event = dp_accounting.ComposedDpEvent(
        [
            dp_accounting.SelfComposedDpEvent(
                dp_accounting.PoissonSampledDpEvent(
                    0.2, dp_accounting.GaussianDpEvent(float(one.setting["privacy.noise_multiplier"]))
                ),
                4,
            )
            for one in found
        ]
    )
    return float(dp_accounting.pld.PLDAccountant().compose(event).get_epsilon(1e-3))


def test_a_search_that_is_killed_twice_tries_the_same_and_pays_once(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = searching.begin(experiment(tmp_path), tmp_path / "search")
    for least in (1, 3):
        monkeypatch.setenv("FEDGAN_FAKE_HOLD", str(least))
        process = subprocess.Popen([sys.executable, "-c", DRIVE, str(directory.root), *FAKE], stdout=subprocess.PIPE)
        wait_until(partial(has_come_to, least, directory, process))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert completed(directory) == least
    workers = [json.loads(line)[1] for line in log.read_text().splitlines()]
    wait_until(lambda: all(map(has_ended, workers)))  # no orphan goes on: it ended when its parent did
    monkeypatch.delenv("FEDGAN_FAKE_HOLD")
    display = Display()
    outcome = searching.carry_on(directory, display, command=FAKE)
    assert (outcome.tried, outcome.scored) == (6, 6)
    found = read(directory)
    settings = {tuple(one.setting.values()) for one in found.tried}
    assert settings == {(noise, clip) for noise in (2.0, 3.0, 4.0) for clip in (1.0, 4.0)}
    for name in NAMES:
        (mechanism,) = reserved(tmp_path, name)
        assert isinstance(mechanism, SearchMechanism)
        assert accountant.epsilon([mechanism], 1e-3) == pytest.approx(independent(directory), abs=1e-3)
    assert any("is charged epsilon" in line for line in display.lines)
    assert found.best is not None and found.best.setting == {
        "privacy.noise_multiplier": 2.0,
        "privacy.l2_clip_norm": 1.0,
    }
    again = searching.carry_on(directory, display, command=FAKE)
    assert again == outcome
    assert len(reserved(tmp_path)) == 1


@pytest.mark.parametrize("unit", ["patient", "image"])
def test_the_page_says_what_it_cost_whoever_is_not_one_unit_in_one_hospital(tmp_path: Path, unit: str) -> None:
    raw = experiment(tmp_path, trains_on="patients").model_dump(mode="json", exclude_none=True)
    raw["settings"]["data"]["unit"] = unit
    directory = searching.begin(Experiment.checked(raw, "test"), tmp_path / "search")
    searching.carry_on(directory, Display(), command=FAKE)
    page = write_report(directory, tmp_path / "report").page.read_text()
    (mechanism,) = reserved(tmp_path)
    assert mechanism.unit == unit
    both = accountant.epsilon_two_hospitals([mechanism], 1e-3)
    assert both > accountant.epsilon([mechanism], 1e-3)
    assert f"Epsilon for one {unit} that two hospitals hold" in page and accountant.round_up(both) in page
    four = accountant.round_up(accountant.epsilon_k_images([mechanism], 1e-3, 4))
    assert (f"Epsilon for a patient with 4 images</dt><dd>{four}" in page) == (unit == "image")


def test_the_page_says_which_trials_lost_a_round_and_that_a_search_is_not_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = searching.begin(experiment(tmp_path, on="phantoms"), tmp_path / "search")
    monkeypatch.setenv("FEDGAN_FAKE_LOST", "1")
    searching.carry_on(directory, Display(), command=FAKE)
    page = write_report(directory, tmp_path / "report").page.read_text()
    assert "each lost a round for good" in page and "(chosen), 1 round lost" in page and "NOT COMPLETE" not in page
    directory.write({**directory.read(), "status": "running"})
    page = write_report(directory, tmp_path / "report").page.read_text()
    assert "THE SEARCH IS NOT COMPLETE. 6 of 6 trials have a score" in page


def test_a_search_whose_delta_was_changed_is_not_the_one_that_was_paid(tmp_path: Path) -> None:
    directory = searching.begin(experiment(tmp_path), tmp_path / "search")
    searching.carry_on(directory, Display(), command=FAKE)
    info = directory.read()
    info["experiment"]["settings"]["privacy"]["delta"] = 1e-2
    directory.write({**info, "status": "running"})
    with pytest.raises(InputError, match="holds another charge"):
        searching.carry_on(directory, Display(), command=FAKE)


def test_what_a_search_keeps_is_its_owners_alone(tmp_path: Path) -> None:
    directory = searching.begin(experiment(tmp_path, on="phantoms"), tmp_path / "search")
    display = Display()
    searching.carry_on(directory, display, command=FAKE)
    assert stat.S_IMODE(directory.root.stat().st_mode) == 0o700
    for path in (directory.info, directory.study, *directory.root.glob("worker-*.log")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert "This search is free: it trains on phantoms, drawn images of nobody." in display.lines
    assert not (tmp_path / "sites").exists()


def test_a_cap_refuses_before_the_first_trial_and_charges_nobody(tmp_path: Path, log: Path) -> None:
    wanted = experiment(tmp_path, cap=0.5)
    directory = searching.begin(wanted, tmp_path / "search")
    with pytest.raises(CapRefused, match=r"over its cap of 0\.5") as caught:
        searching.carry_on(directory, Display(), command=FAKE)
    assert caught.value.exit_code == 3
    assert not log.exists()
    assert [reserved(tmp_path, name) for name in NAMES] == [[], [], []]
    with Ledger.open(tmp_path / "sites" / "north" / "ledger.sqlite", read_only=True) as ledger:
        assert [entry.kind for entry in ledger.entries()] == ["opened", "refused"]


def test_one_hospitals_refusal_leaves_the_others_uncharged(tmp_path: Path) -> None:
    site = tmp_path / "sites" / "west"
    site.mkdir(parents=True)
    used = MechanismRecord(sampling_probability=0.2, noise_multiplier=1.0, steps=300, l2_clip_norm=1, unit="patient")
    with Ledger.open(site / "ledger.sqlite", hospital="west", create=True) as ledger:
        ledger.reserve("earlier", 1, used, 1e-3)
    directory = searching.begin(experiment(tmp_path, cap=8.0), tmp_path / "search")
    with pytest.raises(CapRefused, match="hospital west refuses"):
        searching.carry_on(directory, Display(), command=FAKE)
    assert [reserved(tmp_path, name) for name in ("north", "south")] == [[], []]


def winner_experiment(tmp_path: Path, mean: float = 6.0) -> Experiment:
    return experiment(tmp_path, method="random", charge="winner_alone", mean_trials=mean)


def test_the_number_of_trials_is_secret_and_the_winner_stands_alone(tmp_path: Path, log: Path) -> None:
    directory = searching.begin(winner_experiment(tmp_path), tmp_path / "search")
    info = directory.read()
    directory.write({**info, "secret": {"trials": 7, "draws": 5}})
    display = Display()
    outcome = searching.carry_on(directory, display, command=FAKE)
    assert (outcome.tried, outcome.scored) == (None, None)
    assert len(log.read_text().splitlines()) == 7
    charge = searching.begin_charge(winner_experiment(tmp_path))
    assert charge is not None
    assert display.lines == [charge.sentence()]  # nothing that depends on the number
    (mechanism,) = reserved(tmp_path)
    assert isinstance(mechanism, SearchMechanism)
    assert mechanism.search.charge == "winner_alone" and mechanism.search.trials is None
    assert len(mechanism.search.settings) == 3  # the space, not what was drawn
    written = write_report(directory, tmp_path / "report")
    page = written.page.read_text()
    found = read(directory)
    assert len(found.tried) == 1 and found.failed is None
    assert "a secret number, 6 on average" in page
    assert "Minutes" not in page and "Every trial" not in page and "Trial" not in page.replace("Trials", "")
    assert written.to_json()["trial"] is None
    with pytest.raises(InputError, match="only the winner"):
        write_report(directory, tmp_path / "report", trial=0)


def test_a_secret_number_is_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a search is stopped between the draw and its trials: else one could draw until it fits."""
    directory = searching.begin(winner_experiment(tmp_path), tmp_path / "search")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(searching.spaces, "draws", stop)
    monkeypatch.setattr(searching.selection, "draw_trials", lambda mean, shape: 5)
    with pytest.raises(KeyboardInterrupt):
        searching.carry_on(directory, Display(), command=FAKE)
    first = directory.read()["secret"]
    assert first["trials"] == 5
    monkeypatch.setattr(searching.selection, "draw_trials", lambda mean, shape: 6)
    with pytest.raises(KeyboardInterrupt):
        searching.carry_on(directory, Display(), command=FAKE)
    assert directory.read()["secret"] == first
    with pytest.raises(InputError, match="not complete"):
        read(directory)


def test_a_search_that_learns_is_charged_for_whatever_it_chooses(tmp_path: Path) -> None:
    wanted = experiment(tmp_path, method="bayes", trials=5)
    directory = searching.begin(wanted, tmp_path / "search")
    outcome = searching.carry_on(directory, Display(), command=FAKE)
    assert (outcome.tried, outcome.scored) == (5, 5)
    (mechanism,) = reserved(tmp_path)
    assert isinstance(mechanism, SearchMechanism)
    assert (mechanism.search.charge, mechanism.search.trials) == ("any_of", 5)
    worst = MechanismRecord(sampling_probability=0.2, noise_multiplier=2.0, steps=20, l2_clip_norm=1, unit="patient")
    assert accountant.epsilon([mechanism], 1e-3) >= accountant.epsilon([worst], 1e-3) >= independent(directory) - 1e-3


def test_a_worker_that_dies_leaves_a_search_that_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = searching.begin(experiment(tmp_path, on="phantoms"), tmp_path / "search")
    monkeypatch.setenv("FEDGAN_FAKE_FAILS", "0002")
    with pytest.raises(WorkerEnded, match="exit code 9"):
        searching.carry_on(directory, Display(), command=FAKE)
    monkeypatch.delenv("FEDGAN_FAKE_FAILS")
    assert searching.carry_on(directory, Display(), command=FAKE).scored == 6


def test_public_images_that_are_a_hospitals_are_refused(tmp_path: Path) -> None:
    wanted = experiment(tmp_path, on="phantoms")
    (tmp_path / "data" / "north" / "a.png").write_bytes(b"pixels")
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    (copy / "b.png").write_bytes(b"pixels")
    for place in (tmp_path / "data" / "north", tmp_path / "data", copy):
        objective = wanted.objective.model_copy(update={"measured_on": "public", "dataset": place})
        with pytest.raises(BudgetRefused, match="is not public") as caught:
            searching.begin(wanted.model_copy(update={"objective": objective}), tmp_path / "search")
        assert caught.value.exit_code == 3
    (copy / "b.png").write_bytes(b"others")
    objective = wanted.objective.model_copy(update={"measured_on": "public", "dataset": copy})
    searching.begin(wanted.model_copy(update={"objective": objective}), tmp_path / "search")


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("declared_patients", None, "privacy.declared_patients"),
        ("noise_placement", "distributed", "noise_placement"),
    ],
)
def test_a_search_on_patients_that_cannot_be_accounted_is_refused(
    tmp_path: Path, key: str, value: Any, named: str
) -> None:
    wanted = experiment(tmp_path)
    settings = json.loads(json.dumps(wanted.settings))
    settings["privacy"].pop(key, None)
    if value is not None:
        settings["privacy"][key] = value
    with pytest.raises(InputError, match=named):
        searching.begin(wanted.model_copy(update={"settings": settings}), tmp_path / "search")
    assert not (tmp_path / "search").exists()


def test_a_target_out_of_reach_is_refused_before_anything_is_charged(tmp_path: Path) -> None:
    wanted = experiment(tmp_path)
    settings = json.loads(json.dumps(wanted.settings))
    settings["privacy"]["delta"] = 1e-9
    changed = {"space": {"privacy": {"epsilon": [1e-9]}}, "settings": settings}
    with pytest.raises(UnreachableTarget, match="within reach"):
        searching.begin(wanted.model_copy(update=changed), tmp_path / "search")
    assert not (tmp_path / "search").exists()


def test_a_trial_that_would_do_more_than_was_reserved_does_nothing(tmp_path: Path) -> None:
    wanted = experiment(tmp_path, on="phantoms")
    settings = wanted.trial_settings({"privacy.noise_multiplier": 2.0}, 1).model_dump(mode="json", exclude_none=True)
    job = Job(tmp_path / "run", settings, wanted.objective.model_dump(mode="json"), 1, (0.2, 2.0, 3))
    with pytest.raises(InputError, match="more than was reserved"):
        run_trial(job)
    for name in ("a", "b", "c"):
        with Ledger.open(tmp_path / "run" / "site" / name / "ledger.sqlite", read_only=True) as ledger:
            assert ledger.mechanisms() == ()


def test_the_same_folder_is_not_searched_twice(tmp_path: Path) -> None:
    wanted = experiment(tmp_path, on="phantoms")
    searching.begin(wanted, tmp_path / "search")
    with pytest.raises(InputError, match="not empty") as caught:
        searching.begin(wanted, tmp_path / "search")
    assert "--resume" in caught.value.hint


def tried(number: int, epsilon: float | None, *scores: float) -> Tried:
    return Tried(number, {"privacy.noise_multiplier": 2.0}, scores, epsilon, 1e-3, 2.0, 0.2, 4, 0.1, ())


def test_the_front_has_what_nothing_beats() -> None:
    found = [tried(0, 1.0, 5.0), tried(1, 2.0, 6.0), tried(2, 2.0, 4.0), tried(3, 4.0, 4.0), tried(4, None, 1.0)]
    assert [one.number for one in front(found, minimise=True)] == [0, 2, 4]
    assert [one.number for one in front(found, minimise=False)] == [0, 1]


def test_an_interval_over_seeds_is_students() -> None:
    assert tried(0, 1.0, 5.0).interval is None
    low, high = tried(0, 1.0, 1.0, 2.0, 3.0).interval or (0, 0)
    assert (low, high) == pytest.approx((2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5))


def test_the_chosen_settings_are_the_federations_own(tmp_path: Path) -> None:
    wanted = experiment(tmp_path, on="phantoms", seeds=2)
    text = federation_toml(wanted, tried(0, 1.0, 5.0))
    assert str(tmp_path / "data" / "north") in text
    assert "noise_multiplier = 2.0" in text and "phantom" not in text
    assert os.linesep in text
