"""Settings: what wins over what, and errors that name the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedgan_cli.init import template
from fedgan_secure.errors import InputError
from fedgan_secure.policy.settings import RunSettings


def test_the_template_says_the_same_as_no_file_at_all(tmp_path: Path) -> None:
    path = tmp_path / "federation.toml"
    path.write_text(template())
    assert RunSettings.merged(RunSettings.read(path), {}).model_dump(exclude={"privacy": {"epsilon"}}) == (
        RunSettings.merged({}, {}).model_dump(exclude={"privacy": {"epsilon"}})
    )


def test_a_mark_of_utf8_at_the_start_of_the_file_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "federation.toml"
    path.write_bytes("seed = 7\n[federation]\nrounds = 5\n".encode("utf-8-sig"))
    assert path.read_bytes()[:3] == b"\xef\xbb\xbf"
    assert RunSettings.merged(RunSettings.read(path), {}).federation.rounds == 5


def test_every_key_of_every_section_is_in_the_template() -> None:
    text = template()
    for name, field in RunSettings.model_fields.items():
        if hasattr(field.annotation, "model_fields"):
            for key in field.annotation.model_fields:
                assert f"{key} =" in text or f"[{name}.{key}]" in text, f"{name}.{key}"


def test_the_command_line_wins_over_the_file() -> None:
    raw = {
        "federation": {"rounds": 5},
        "privacy": {"epsilon": 3.0},
        "data": {"hospital": {"a": "x", "b": "y", "c": "z"}},
    }
    merged = RunSettings.merged(
        raw, {"federation.rounds": 7, "privacy.noise_multiplier": 1.5, "data.dataset": "images"}
    )
    assert merged.federation.rounds == 7
    assert merged.privacy.noise_multiplier == 1.5 and merged.privacy.epsilon is None
    assert merged.data.dataset == Path("images") and not merged.data.hospital
    assert raw["privacy"] == {"epsilon": 3.0}


@pytest.mark.parametrize(
    ("raw", "key"),
    [
        ({"federation": {"rounds": 0}}, "federation.rounds"),
        ({"federation": {"round": 3}}, "federation.round"),
        ({"data": {"image_size": 63}}, "data.image_size"),
        ({"data": {"partition": "dirichlet:-1"}}, "data.partition"),
        ({"data": {"hospital": {"coordinator": "x"}}}, "data.hospital"),
        ({"data": {"hospital": {"../up": "x"}}}, "data.hospital"),
        ({"privacy": {"epsilon": 3, "noise_multiplier": 1}}, "privacy"),
        ({"privacy": {"noise_placement": "distributed", "no_privacy": True}}, "privacy"),
        ({"privacy": {"no_privacy": True, "epsilon": 1}}, "privacy"),
        ({"privacy": {"delta": 0.7}}, "privacy.delta"),
        ({"seed": -1}, "seed"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_an_error_names_its_key(raw: dict[str, object], key: str) -> None:
    with pytest.raises(InputError) as caught:
        RunSettings.merged(raw, {}, source="federation.toml")
    assert key in str(caught.value) and caught.value.exit_code == 2 and caught.value.hint


def test_a_file_that_is_not_toml_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        RunSettings.read(tmp_path / "absent.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("rounds = = 3")
    with pytest.raises(InputError, match="not TOML"):
        RunSettings.read(broken)
    broken.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot read"):
        RunSettings.read(broken)


def test_paths_in_a_file_start_at_the_file(tmp_path: Path) -> None:
    path = tmp_path / "federation.toml"
    path.write_text('[data]\ndataset = "images"\n')
    assert RunSettings.merged(RunSettings.read(path), {}).data.dataset == tmp_path / "images"


def test_kept_settings_name_places_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run goes on from another folder: what it was given by relative paths must still be found."""
    for name in ("own.npz", "none", "fundus64/1"):  # files of the names that mean something else are not meant
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"a start")
    known = ("fundus64/1", "none")
    monkeypatch.chdir(tmp_path)
    given = {"data.hospital": {"a": "one", "b": "two", "c": "three"}, "training.start": "own.npz"}
    kept = RunSettings.merged({}, given).resolved(known)
    assert kept.data.hospital == {"a": tmp_path / "one", "b": tmp_path / "two", "c": tmp_path / "three"}
    assert kept.training.start == str(tmp_path / "own.npz")
    whole = RunSettings.merged({}, {"data.dataset": "all", "training.start": "fundus64/1"}).resolved(known)
    assert (whole.data.dataset, whole.training.start) == (tmp_path / "all", "fundus64/1")
    assert RunSettings.merged(kept.model_dump(mode="json", exclude_none=True), {}) == kept
    for none in ({}, {"training.start": "none"}):
        assert RunSettings.merged({}, none).resolved(known) == RunSettings.merged({}, none)
