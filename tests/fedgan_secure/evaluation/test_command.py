"""`fedgan-secure evaluate`: help, JSON, and the plain word that epsilon does not cover it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from fedgan_cli.evaluate import WARNING, command
from fedgan_secure.models.spec import ModelSpec
from fedgan_secure.networks.vectors import VectorLayout, save_models

SPEC = ModelSpec(28, 1, 2, 4, (8, 6), (6, 8), 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    public = folder / "run" / "public"
    public.mkdir(parents=True)
    save_models(VectorLayout.of(SPEC).initial_vector(1), SPEC, public / "model")
    policy = {"model": SPEC.to_json(), "data": {"preprocessing": "plain/1", "label_names": ["0", "1"]}}
    (public / "policy.json").write_text(json.dumps(policy))
    rng = np.random.default_rng(0)
    np.savez(
        folder / "real.npz",
        images=rng.integers(0, 255, (60, 28, 28, 1)).astype(np.uint8),
        labels=(np.arange(60) % 2).astype(np.int64),
    )
    return folder


def arguments(folder: Path) -> list[str]:
    return [
        *(str(folder / "run"), "--real", str(folder / "real.npz"), "--unit", "image"),
        *("--count", "50", "--seeds", "1", "--steps", "10"),
    ]


@pytest.fixture(scope="module")
def measured(folder: Path) -> Result:
    done = CliRunner().invoke(command, [*arguments(folder), "--json"])
    assert done.exit_code == 0, done.output
    return done


def test_json_is_one_object_and_says_what_it_is_not(measured: Result) -> None:
    result = json.loads(measured.stdout)
    assert result["warning"] == WARNING
    assert "NOT covered" in WARNING
    assert 0 <= result["tstr"]["tstr"] <= 1
    assert {"coverage", "recall", "spread", "colour_distance"} <= set(result["diversity"])
    assert "measuring the pictures" in measured.stderr


@pytest.mark.parametrize("classes", [True, False])
def test_text_for_people_carries_the_warning(
    folder: Path, measured: Result, classes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = json.loads(measured.stdout)
    if not classes:
        result |= {"tstr": None, "tstr_missing_because": "the real images have no labels"}
    monkeypatch.setattr("fedgan_secure.evaluation.evaluate_run", lambda *_: result)
    done = CliRunner().invoke(command, arguments(folder))
    assert done.exit_code == 0, done.output
    assert WARNING in done.stderr
    assert done.stdout.startswith(result["sentence"])
    assert all(name in done.stdout for name in ("TSTR", "Coverage", "Recall", "Spread", "Realism"))
    assert ("TSTR not assessed: the real images have no labels" in done.stdout) == (not classes)


def test_help_ends_with_examples() -> None:
    done = CliRunner().invoke(command, ["--help"])
    assert done.exit_code == 0
    assert "Examples:" in done.output
