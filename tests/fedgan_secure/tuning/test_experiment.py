"""EXPERIMENT.toml: what is read from it, and how it is refused."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from fedgan_secure.errors import BudgetRefused, InputError
from fedgan_secure.tuning import space as spaces
from fedgan_secure.tuning.experiment import Experiment

PATIENTS = """
[search]
trains_on = "patients"
{search}
[patients]
site_dir = "sites"
[space.privacy]
noise_multiplier = [2.0, 3.0]
[settings.data]
hospital = {{ north = "n", south = "s", west = "w" }}
[settings.privacy]
declared_patients = 50
"""


def read(tmp_path: Path, text: str) -> Experiment:
    path = tmp_path / "experiment.toml"
    path.write_text(text)
    return Experiment.read(path)


def test_the_shipped_example_is_free_and_says_what_the_defaults_are(tmp_path: Path) -> None:
    text = resources.files("fedgan_cli").joinpath("experiment.toml").read_text(encoding="utf-8")
    found = read(tmp_path, text)
    assert not found.charged
    assert found.trials == 12
    assert found.minimise
    assert list(found.parsed) == ["privacy.epsilon", "privacy.l2_clip_norm", "training.discriminator_learning_rate"]
    uncommented = text.replace('# charge = "composition" ', 'charge = "composition" ')
    assert read(tmp_path, uncommented).search == found.search


def test_every_key_that_can_be_searched_reaches_the_settings(tmp_path: Path) -> None:
    found = read(tmp_path, "[space.privacy]\nl2_clip_norm = [1.0]\n")
    values: dict[str, Any] = {
        "privacy.l2_clip_norm": 2.0, "privacy.sampling_probability": 0.5, "federation.rounds": 3,
        "federation.steps_per_round": 4, "training.steps_per_generator_step": 5,
        "training.discriminator_learning_rate": 0.1, "training.generator_learning_rate": 0.2, "training.latent_dim": 9,
    }  # fmt: skip
    for noise in ("privacy.noise_multiplier", "privacy.epsilon"):
        settings = found.settings_of({**values, noise: 1.5})
        for dotted, value in {**values, noise: 1.5}.items():
            section, key = dotted.split(".")
            assert getattr(getattr(settings, section), key) == value
    assert set(values) | {"privacy.noise_multiplier", "privacy.epsilon"} == set(spaces.KEYS)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[space.privacy]\nl2_clip = [1.0]\n", "privacy.l2_clip cannot be searched"),
        ("[space.privacy]\nl2_clip_norm = []\n", "privacy.l2_clip_norm"),
        ("[space.privacy]\nl2_clip_norm = [1.0, 1.0]\n", "listed twice"),
        ("[space.privacy]\nl2_clip_norm = [true]\n", "privacy.l2_clip_norm"),
        ("[space.privacy]\nl2_clip_norm = [-1.0]\n", "privacy.l2_clip_norm"),
        ("[space.federation]\nrounds = [1.5]\n", "whole"),
        ("[space.privacy]\nl2_clip_norm = { low = 2.0, high = 1.0 }\n", "low < high"),
        ("[space.privacy]\nl2_clip_norm = { low = 0.0, high = 1.0, log = true }\n", "logarithmic"),
        ("[space.privacy]\nepsilon = [1.0]\nnoise_multiplier = [1.0]\n", "both searched"),
        ('[space]\n[search]\nmethod = "grid"\n', "nothing to search"),
        ('[space.privacy]\nepsilon = { low = 1.0, high = 2.0 }\n[search]\nmethod = "grid"\n', "has a range"),
        ('[space.privacy]\nepsilon = [1.0]\n[search]\nmethod = "grid"\ntrials = 3\n', "leave trials out"),
        ('[space.privacy]\nepsilon = [1.0]\n[search]\nmethod = "best"\n', "search.method"),
        ('[space.privacy]\nepsilon = [1.0]\n[search]\ncharge = "winner_alone"\n', "costs nothing anyway"),
        ("[space.privacy]\nepsilon = [1.0]\n[search]\nmean_trials = 3.0\n", "winner_alone draws"),
        ('[space.privacy]\nepsilon = [1.0]\n[search]\ntrains_on = "patients"\n', "[patients] is missing"),
        ('[space.privacy]\nepsilon = [1.0]\n[public]\ndataset = "p"\nstatement = "anyone may"\n', "[public] is given"),
        ('[space.privacy]\nepsilon = [1.0]\n[objective]\nmetric = "realism"\n', "measured_on = public"),
        ('[space.privacy]\nepsilon = [1.0]\n[objective]\nmeasured_on = "public"\n', "dataset"),
        ("[space.privacy]\nepsilon = [1.0]\n[settings.federation]\nround = 3\n", "federation.round"),
        ('[space.privacy]\nepsilon = [1.0]\nname = "../x"\n', "name"),
        ("colour = 3\n[space.privacy]\nepsilon = [1.0]\n", "colour"),
    ],
)
def test_a_wrong_key_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, text)
    assert named in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("place", ["patients", "test"])
def test_an_objective_on_the_sensitive_test_set_is_refused(tmp_path: Path, place: str) -> None:
    with pytest.raises(BudgetRefused, match="would read the patients' own images") as caught:
        read(tmp_path, f'[space.privacy]\nepsilon = [1.0]\n[objective]\nmeasured_on = "{place}"\n')
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("search", "named"),
    [
        ('charge = "winner_alone"\nmethod = "grid"\nmean_trials = 3.0', "needs method = random"),
        ('charge = "winner_alone"\nmethod = "bayes"\nmean_trials = 3.0', "needs method = random"),
        ('charge = "winner_alone"\ntrials = 3', "takes mean_trials"),
        ('charge = "winner_alone"', "needs mean_trials"),
    ],
)
def test_the_theorem_is_used_only_for_what_it_covers(tmp_path: Path, search: str, named: str) -> None:
    with pytest.raises(InputError, match=named):
        read(tmp_path, PATIENTS.format(search=search))
    assert read(tmp_path, PATIENTS.format(search='charge = "winner_alone"\nmean_trials = 3.0')).winner_alone


def test_on_phantoms_no_folder_of_patients_is_touched(tmp_path: Path) -> None:
    (tmp_path / "federation.toml").write_text(
        '[data]\nhospital = { north = "n", south = "s", west = "w", east = "e", mid = "m" }\nlabel_names = ["0", "1"]\n'
        "[privacy]\ndeclared_patients = 75\nepsilon_cap = 9.0\n"
    )
    found = read(tmp_path, 'base = "federation.toml"\n[space.privacy]\nepsilon = [1.0]\n')
    settings = found.trial_settings({"privacy.epsilon": 1.0}, 3)
    assert settings.data.hospital == {} and settings.data.dataset is None and settings.data.label_names is None
    assert settings.federation.hospitals == 5
    assert settings.data.phantom_patients == 75
    assert settings.privacy.epsilon_cap is None
    assert settings.seed == 3
    own = found.settings_of({"privacy.epsilon": 1.0})
    assert own.data.hospital["north"] == tmp_path / "n"
    assert own.privacy.epsilon_cap == 9.0


def test_draws_are_of_the_space_and_of_the_seed_alone() -> None:
    space = spaces.parse(
        {
            "privacy": {"l2_clip_norm": [1.0, 4.0], "epsilon": {"low": 1.0, "high": 8.0, "log": True}},
            "federation": {"rounds": {"low": 2, "high": 6, "step": 2}},
        }
    )
    drawn = spaces.draws(space, 200, 7)
    assert drawn == spaces.draws(space, 200, 7) != spaces.draws(space, 200, 8)
    assert {one["privacy.l2_clip_norm"] for one in drawn} == {1.0, 4.0}
    assert {one["federation.rounds"] for one in drawn} == {2, 4, 6}
    assert all(1.0 <= one["privacy.epsilon"] <= 8.0 for one in drawn)
    below = sum(one["privacy.epsilon"] < 8.0**0.5 for one in drawn)
    assert 70 < below < 130  # on the logarithmic scale half of them


def test_a_search_is_of_networks_that_are_trained_from_a_seed(tmp_path: Path) -> None:
    """What a search varies is not trained in a run with a public start: its settings say so, and another is refused."""
    text = '[search]\nmethod = "grid"\n[space.privacy]\nepsilon = [2.0, 8.0]\n[settings.training]\n{}\n'
    for given in ("", 'start = "none"'):
        found = read(tmp_path, text.format(given))
        assert found.settings_of({"privacy.epsilon": 2.0}).training.start == "none"
        assert found.trial_settings({"privacy.epsilon": 2.0}, 1).training.start == "none"
    with pytest.raises(InputError, match=r"training\.start is 'fundus64/1'") as refused:
        read(tmp_path, text.format('start = "fundus64/1"')).settings_of({"privacy.epsilon": 2.0})
    assert "leave training.start out" in refused.value.hint
