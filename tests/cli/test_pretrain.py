"""`pretrain` on the command line: what it refuses at once, and a whole small training with a kill in it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from fedgan_cli.pretrain import command
from fedgan_secure.errors import InputError
from fedgan_secure.starts import read_start

TOY = ["--pictures", "40", "--feature-steps", "3", "--steps", "4", "--seed", "2", "--name", "toy/1"]


def refused(*arguments: str | Path) -> InputError:
    error = CliRunner().invoke(command, [str(value) for value in arguments]).exception
    assert isinstance(error, InputError), error
    return error


def test_mixtures_and_existing_files_are_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    output = tmp_path / "start.npz"
    assert "no folder was given" in str(refused("--output", output, "--public-source", "mine"))
    assert "no folder was given" in str(refused("--output", output, "--channels", "1"))
    assert "no such folder" in str(refused("--output", tmp_path / "none" / "start.npz"))
    output.write_bytes(b"")
    assert "exists already" in str(refused("--output", output))
    (tmp_path / "pictures").mkdir()
    error = refused(tmp_path / "pictures", "--output", tmp_path / "other.npz")
    assert "not declared public" in str(error) and "--public-source" in error.hint


@pytest.mark.slow
def test_a_killed_pretraining_goes_on_and_ends(tmp_path: Path) -> None:
    """Compiles every training function, several times: minutes."""
    arguments = [
        sys.executable,
        "-m",
        "fedgan_cli.main",
        "pretrain",
        *TOY,
        "--json",
        "--output",
        tmp_path / "start.npz",
    ]
    parts = tmp_path / "start.npz.parts"
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not (parts / "features.npz").exists():
            assert process.poll() is None
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    assert not (tmp_path / "start.npz").exists()
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=600, check=True)
    made = json.loads(done.stdout)
    start = read_start(tmp_path / "start.npz")
    assert (start.name, start.digest, start.statement) == ("toy/1", made["digest"], made["statement"])
    assert "WITHOUT privacy" in done.stderr and "training the public generator, part 2: 2/2" in done.stderr
    assert not parts.exists()
