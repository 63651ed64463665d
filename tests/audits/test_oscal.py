"""The OSCAL export is read by compliance-trestle, the tool of the OSCAL Compass project, in an environment of its own.

trestle brings some 40 packages and is no dependency of this project: `oscal/requirements.txt` locks it for this test.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedgan_audits.exports.oscal import assessment_results
from fedgan_audits.exports.verified_run import verified

from .conftest import toy_transcript_check

HERE = Path(__file__).parent / "oscal"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trestle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has compliance-trestle."""
    place = tmp_path_factory.mktemp("trestle") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    python = place / "bin" / "python"
    pip = next(
        (one for one in (sys.executable, "python3", f"{sys.base_prefix}/bin/python3")
         if subprocess.run([one, "-m", "pip", "-V"], capture_output=True).returncode == 0),
        None,
    )  # fmt: skip
    if pip is None:
        pytest.skip("no Python here has pip")
    subprocess.run(
        [pip, "-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check",
         "--require-hashes", "-r", str(HERE / "requirements.txt")],
        check=True,
    )  # fmt: skip
    return python


def read(python: Path, file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(python), str(HERE / "read.py"), str(file)], capture_output=True, text=True)


def test_trestle_reads_the_export_and_refuses_a_broken_one(trestle: Path, whole_run: Any, tmp_path: Path) -> None:
    made = assessment_results(verified(whole_run.public, transcript_check=toy_transcript_check))
    file = tmp_path / "assessment-results.json"
    file.write_text(json.dumps(made), encoding="utf-8")
    done = read(trestle, file)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(made["assessment-results"]["results"][0]["observations"])
    broken = json.loads(json.dumps(made))
    del broken["assessment-results"]["import-ap"]
    file.write_text(json.dumps(broken), encoding="utf-8")
    assert read(trestle, file).returncode != 0
