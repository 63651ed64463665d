"""Small whole runs, made once, for the tests that look at what a run leaves behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.patience import HANG_SECONDS

SMALL = [
    "--hospitals", "3", "--phantom-patients", "10", "--image-size", "28", "--steps-per-round", "2",
    "--sampling-probability", "0.3", "--declared-patients", "10", "--epsilon", "20", "--delta", "1e-3",
]  # fmt: skip


@dataclass(frozen=True)
class Done:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str


def fedgan(*arguments: str | Path, cwd: Path | None = None, timeout: float = HANG_SECONDS) -> Done:
    """Run the command as a user would, in a process of its own."""
    environment = {**os.environ, "TF_NUM_INTRAOP_THREADS": "2", "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-m", "fedgan_cli.main", *map(str, arguments)],
        capture_output=True, text=True, timeout=timeout, cwd=cwd, env=environment,
    )  # fmt: skip
    assert "Traceback" not in done.stderr + done.stdout, done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three hospitals and three rounds on phantoms. Do not change it: take `copied`."""
    root = tmp_path_factory.mktemp("finished") / "run"
    done = fedgan("run", *SMALL, "--rounds", "3", "--output", root)
    assert done.code == 0, done.err
    return root


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be tampered with."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))
