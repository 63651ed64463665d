"""`fedgan-secure tune` as a user runs it: real trials on phantoms, a comparison, and the chosen settings run."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import dp_accounting
import pytest

from fedgan_audits.accounting import accountant
from fedgan_audits.ledger.ledger import Ledger
from fedgan_secure.data.phantoms.phantoms import GRADES, PhantomSettings, write_hospitals
from tests.cli.conftest import fedgan

TINY = """
name = "tiny"
[search]
method = "grid"
workers = 1
[space.privacy]
epsilon = [2.0, 8.0]
[space.training]
steps_per_generator_step = [2]
[settings.data]
image_size = 28
phantom_patients = 10
[settings.federation]
hospitals = 3
rounds = 2
steps_per_round = 1
[settings.privacy]
sampling_probability = 0.3
declared_patients = 10
delta = 1e-3
"""


@pytest.mark.slow
def test_a_free_search_is_compared_and_its_choice_runs(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)
    dry = fedgan("tune", "tiny.toml", "--dry-run", "--json", cwd=tmp_path)
    assert json.loads(dry.out)["free"] is True and json.loads(dry.out)["trials"] == 2
    done = fedgan("tune", "tiny.toml", "--output", "found", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "This search is free" in done.err
    assert "2 of 2 trials scored" in done.out
    report = fedgan("tune", "report", "found", "--json", cwd=tmp_path)
    assert report.code == 0, report.err
    written = json.loads(report.out)
    page = (tmp_path / written["page"]).read_text()
    assert "The search was free" in page and "Pareto front" in page and "data:image/png" in page
    chosen = tomllib.loads((tmp_path / written["federation"]).read_text())
    assert chosen["training"]["steps_per_generator_step"] == 2
    assert chosen["privacy"]["epsilon"] == written["setting"]["privacy.epsilon"]
    run = fedgan("run", written["federation"], "--rounds", "1", "--output", "run", "--json", cwd=tmp_path)
    assert run.code == 0, run.err
    assert float(json.loads(run.out)["epsilon"]["a"]) <= chosen["privacy"]["epsilon"]
    policy = json.loads((tmp_path / "run" / "public" / "policy.json").read_text())
    assert policy["training"]["steps_per_generator_step"] == 2
    again = fedgan("tune", "tiny.toml", "--output", "found", cwd=tmp_path)
    assert again.code == 2 and "--resume" in again.err


def test_the_example_is_written_once(tmp_path: Path) -> None:
    assert fedgan("tune", "init", cwd=tmp_path).code == 0
    again = fedgan("tune", "init", cwd=tmp_path)
    assert again.code == 2 and "exists already" in again.err
    bad = (tmp_path / "experiment.toml").read_text().replace('method = "random"', 'method = "luck"')
    (tmp_path / "bad.toml").write_text(bad)
    done = fedgan("tune", "bad.toml", cwd=tmp_path)
    assert done.code == 2 and "search.method" in done.err


PATIENTS = """
name = "killed"
[search]
method = "random"
trials = 30
workers = 2
trains_on = "patients"
[patients]
site_dir = "sites"
[space.privacy]
noise_multiplier = [2.0, 3.0, 4.0]
l2_clip_norm = [1.0, 4.0]
sampling_probability = [0.2, 0.3]
[space.federation]
steps_per_round = [1, 2]
[space.training]
discriminator_learning_rate = { low = 1e-4, high = 2e-3, log = true }
[settings.data]
image_size = 28
layout = "dicom"
preprocessing = "fundus-crop/1"
hospital = { north = "data/north", south = "data/south", west = "data/west" }
[settings.federation]
rounds = 2
[settings.privacy]
declared_patients = 10
delta = 1e-3
"""


def test_a_dry_run_says_what_a_cap_will_refuse_and_writes_nothing(tmp_path: Path) -> None:
    for name in ("north", "south", "west"):
        (tmp_path / "data" / name).mkdir(parents=True)
    listed = PATIENTS.replace("discriminator_learning_rate = { low = 1e-4, high = 2e-3, log = true }", "")
    listed = listed.replace("[space.training]\n", "")
    (tmp_path / "e.toml").write_text(listed)
    (tmp_path / "capped.toml").write_text(
        listed.replace("[settings.privacy]\n", "[settings.privacy]\nepsilon_cap = 0.5\n")
    )
    free = fedgan("tune", "e.toml", "--dry-run", "--json", cwd=tmp_path)
    assert free.code == 0, free.err
    charge = json.loads(free.out)["charge"]
    assert charge["epsilon"] > 0.5 and charge["two_hospitals"] > charge["epsilon"] and charge["several_images"] == {}
    refused = fedgan("tune", "capped.toml", "--dry-run", cwd=tmp_path)
    assert refused.code == 3 and "refuses the search" in refused.err and "is charged epsilon" in refused.out
    assert json.loads(fedgan("tune", "capped.toml", "--dry-run", "--json", cwd=tmp_path).out)["refused"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["capped.toml", "data", "e.toml"]


def _rows(study: Path, query: str) -> list[tuple[object, ...]]:
    try:
        with sqlite3.connect(f"file:{study}?mode=ro", uri=True) as db:
            return db.execute(query).fetchall()
    except sqlite3.Error:
        return []


@pytest.mark.slow
def test_thirty_real_trials_killed_twice_are_the_same_and_paid_once(tmp_path: Path) -> None:
    folders = write_hospitals(
        tmp_path / "data", ("north", "south", "west"), PhantomSettings(patients=10, image_size=28, seed=5)
    )
    assert folders["north"] == tmp_path / "data" / "north"
    text = PATIENTS.replace("[settings.federation]", f"label_names = {json.dumps(list(GRADES))}\n[settings.federation]")
    (tmp_path / "e.toml").write_text(text)
    study = tmp_path / "found" / "study.sqlite"
    fixed = (
        "SELECT t.number, a.value_json FROM trials t JOIN trial_system_attributes a ON a.trial_id = t.trial_id "
        "WHERE a.key LIKE 'fixed_params%' ORDER BY 1"
    )
    before: list[tuple[object, ...]] = []
    arguments = ["tune", "e.toml", "--output", "found"]
    for least in (7, 18):
        with (tmp_path / f"said-{least}.txt").open("wb") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "fedgan_cli.main", *arguments], cwd=tmp_path, stderr=said, env=dict(os.environ)
            )
        waited = time.monotonic() + 1200
        while process.poll() is None and time.monotonic() < waited:
            if len(_rows(study, "SELECT 1 FROM trials WHERE state = 'COMPLETE'")) >= least:
                break
            time.sleep(0.5)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL, (tmp_path / f"said-{least}.txt").read_text()[-3000:]
        now = _rows(study, fixed)
        assert len(now) == 30 and before in ([], now)
        before = now
        arguments = ["tune", "--resume", "found"]
    done = fedgan(*arguments, cwd=tmp_path, timeout=3000)
    assert done.code == 0 and "30 of 30 trials scored" in done.out, done.err
    assert _rows(study, fixed) == before
    settings = [json.loads(str(text)) for _, text in before]
    event = dp_accounting.ComposedDpEvent(
        [
            dp_accounting.SelfComposedDpEvent(
                dp_accounting.PoissonSampledDpEvent(
                    one["privacy.sampling_probability"], dp_accounting.GaussianDpEvent(one["privacy.noise_multiplier"])
                ),
                2 * one["federation.steps_per_round"],
            )
            for one in settings
        ]
    )
    independent = dp_accounting.pld.PLDAccountant().compose(event).get_epsilon(1e-3)
    for name in folders:
        with Ledger.open(tmp_path / "sites" / name / "ledger.sqlite", read_only=True) as ledger:
            assert [entry.kind for entry in ledger.entries()] == ["opened", "reserved", "search_finished"]
            assert accountant.epsilon(ledger.mechanisms(), 1e-3) == pytest.approx(independent, abs=1e-3)
    for place in (tmp_path / "found" / "trials").glob("*/seed-1/site/north/ledger.sqlite"):
        with Ledger.open(place, read_only=True) as ledger:
            assert len(ledger.mechanisms()) <= 2  # a killed round is not run again
