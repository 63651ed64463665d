"""`fedgan-secure attack` as a user gives it: a small run attacked, a page, and refusals with what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from click.testing import CliRunner

from fedgan_cli.main import cli
from fedgan_secure.attacks.verdict import Guesses, Verdict
from fedgan_secure.policy.policy import FederationPolicy
from tests.cli.conftest import fedgan


def test_a_run_is_attacked_and_not_refuted(finished: Path, tmp_path: Path) -> None:
    page = tmp_path / "out" / "attack.html"
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    done = fedgan("attack", finished, "--canaries", "32", "--html", page, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert 1 <= found["steps"] <= 6 and found["canaries"] == 32 and found["outcome"] != "refuted"
    assert found["claimed"]["epsilon"] <= 20 and found["claimed"]["delta"] == 1e-3
    assert 0 <= found["least_epsilon"] <= found["ceiling"] <= 4 and found["confidence"] == 0.95
    assert [row["guesses"] for row in found["guesses"]] == [32, 8, 4, 8]
    assert "Attack on run" in page.read_text()
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*")}  # a run is left as it was


def test_people_get_a_sentence_and_what_it_does_not_say(finished: Path) -> None:
    done = fedgan("attack", finished, "--canaries", "16", "--steps", "2", "--quiet")
    assert done.code == 0, done.err
    assert done.out.startswith("NOT TESTED: at most") and "did not refute a training without noise either" in done.out
    assert "A lower bound proves nothing good" in done.err and "2/2" not in done.err


def test_a_refuted_proof_ends_with_exit_code_5(finished: Path) -> None:
    row = Guesses(32, 32, 64, 3.0, 3.0, 1e-12)
    verdict = Verdict(
        epsilon=1.0, delta=1e-6, claimed=(0.8, 1e-3), control=True, steps=6, canaries=64, others=10, rows=(row,),
        roc=((0.0, 0.0), (0.0, 1.0), (1.0, 1.0)), area=1.0, seconds=1.0,
    )  # fmt: skip
    with patch("fedgan_secure.attacks.attack_run", return_value=verdict):
        done = CliRunner().invoke(cli, ["attack", str(finished), "--json"])
    assert getattr(done.exception, "exit_code", done.exit_code) == 5
    assert "REFUTED" in str(done.exception) and json.loads(done.stdout)["outcome"] == "refuted"


@pytest.mark.parametrize("place", ["file/x.html", "folder"])
def test_a_page_that_cannot_be_written_is_refused_at_once(finished: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("a file")
    (tmp_path / "folder").mkdir()
    with patch("fedgan_secure.attacks.attack_run", side_effect=AssertionError("the work began")):
        done = CliRunner().invoke(cli, ["attack", str(finished), "--html", str(tmp_path / place)])
    assert getattr(done.exception, "exit_code", done.exit_code) == 2, done.output


@pytest.mark.parametrize(
    ("case", "said"),
    [("nothing", "no such run"), ("unfinished", "no round of it was finished"), ("shared", "only per_hospital noise"),
     ("no noise", "without noise"), ("damaged", "cannot be read as a Keras"), ("another", "bytes, expected")],
)  # fmt: skip
def test_what_cannot_be_attacked_is_refused(finished: Path, tmp_path: Path, case: str, said: str) -> None:
    public = tmp_path / "copy"
    shutil.copytree(finished / "public", public)
    if case == "nothing":
        shutil.rmtree(public)
    if case == "unfinished":
        (public / "model" / "generator.keras").unlink()
    model = public / "model" / "generator.keras"
    if case == "damaged":
        data = bytearray(model.read_bytes())
        data[len(data) // 2] ^= 1
        model.write_bytes(data)
    if case == "another":
        shutil.copy(public / "model" / "discriminator.keras", model)
    read = FederationPolicy.parse

    def changed(data: bytes) -> Any:
        policy = read(data)
        if case == "shared":
            mechanism = policy.mechanism.model_copy(update={"noise_placement": "distributed"})
            return policy.model_copy(update={"mechanism": mechanism})
        if case == "no noise":
            return policy.model_copy(update={"flags": policy.flags.model_copy(update={"no_privacy": True})})
        return policy

    with patch.object(FederationPolicy, "parse", changed):
        done = CliRunner().invoke(cli, ["attack", str(public)])
    assert getattr(done.exception, "exit_code", done.exit_code) == 2
    assert said in str(done.exception)
