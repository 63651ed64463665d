"""A run whose mechanism is broken on purpose: it ends, says so everywhere, and does not go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedgan_cli.main import main
from fedgan_secure.privacy.integer_noise import DiscreteGaussian
from fedgan_secure.privacy.noise import GaussianStream
from tests.cli.conftest import SMALL, Done
from tests.cli.test_run import reports, reserved_rounds

Command = Callable[..., Done]


@pytest.fixture
def fedgan(capfd: pytest.CaptureFixture[str]) -> Command:
    """The command in this process, so that a fault can be planted in it."""

    def run(*arguments: str | Path) -> Done:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(one) for one in arguments])
        said = capfd.readouterr()
        assert "Traceback" not in said.out + said.err
        return Done(int(ended.value.code or 0), said.out, said.err)

    return run


def test_every_report_of_a_sound_run_says_what_was_tested(finished: Path) -> None:
    (first, *_, last) = reports(finished)
    section: Any = last["mechanism"]
    assert [line["name"] for line in section["self_tests"]][:3] == ["clip_probe", "divisor_probe", "noise_probe"]
    passed = {line["name"]: line["passed"] for line in section["self_tests"]}
    for name in ("clip_probe", "divisor_probe", "noise_probe", "rows", "sum_bound", "noise_mean", "noise_variance"):
        assert passed[name] == ["a", "b", "c"], name
    assert not any(line["failed"] for line in section["self_tests"])
    assert not passed["batch_sizes"]  # six steps of ten patients show nothing yet
    assert 0 < float(section["self_test_delta"]) < 1e-20
    assert first["mechanism"]["self_tests"]  # type: ignore[index]
    page = (finished / "public" / "reports" / "round-0003.html").read_text()
    assert "the divisor is the public one" in page and "Not assessed at" in page
    public = b"".join(path.read_bytes() for path in (finished / "public").rglob("*") if path.is_file())
    assert b"log_evidence" not in public and b"noise_mean_square" not in public
    annex = json.loads((finished / "site" / "a" / "confidential" / "round-0003.json").read_text())["annex"]
    assert annex["training"]["self_tests"]["coins"] == 60 and annex["training"]["self_tests"]["noise_values"] > 0


@pytest.mark.parametrize("placement", ["per_hospital", "distributed"])
def test_a_run_without_the_noise_that_it_records_ends_and_never_goes_on(
    placement: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fedgan: Command
) -> None:
    root = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(GaussianStream, "normal", lambda self, size: np.zeros(size, np.float32))
        patch.setattr(DiscreteGaussian, "draw", lambda self, size: np.zeros(size, np.int64))
        done = fedgan("run", *SMALL, "--rounds", "3", "--output", root, "--noise-placement", placement)
    assert done.code == 4, done.err
    assert "self-test failed: noise_variance" in done.err + done.out
    (report,) = reports(root)
    verdict: Any = report["verdict"]
    assert verdict["verdict"] == "INCOMPLETE" and not verdict["may_continue"]
    assert report["header"]["abort_code"] == "self-test"  # type: ignore[index]
    line = next(one for one in report["mechanism"]["self_tests"] if one["name"] == "noise_variance")  # type: ignore[index]
    assert line["failed"] == ["a"]
    assert not list((root / "public" / "model").glob("*.keras"))
    verified = fedgan("audit", "verify", root, "--trust", root / "public" / "trust")
    assert verified.code == 5 and "noise_variance failed" in verified.out
    again = fedgan("run", "--resume", root)  # the fault is mended; what happened is not undone
    assert again.code == 4 and "noise_variance" in again.out + again.err, again.err
    assert len(reports(root)) == 1 and reserved_rounds(root, "a") == [1]


def test_counts_that_cannot_be_read_are_an_error_with_a_next_step(copied: Path, fedgan: Command) -> None:
    place = copied / "site" / "b" / "self-tests.json"
    assert place.stat().st_mode & 0o777 == 0o600
    place.write_text('{"failed": 3}')
    info = json.loads((copied / "run.json").read_text())
    (copied / "run.json").write_text(json.dumps({**info, "status": "running"}))
    done = fedgan("run", "--resume", copied)
    assert done.code == 2 and "self-tests" in done.err and "backup" in done.err
