"""`fedgan-secure run --start moments`, whole: one release, a Gaussian for every class, and everything that may fail."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedgan_audits.accounting.accountant import epsilon, round_up
from fedgan_secure.data.phantoms.phantoms import PhantomSettings, write_hospitals
from fedgan_secure.data.reading.loading import LoadSettings, load
from fedgan_secure.federation.families import moments_family
from fedgan_secure.federation.families.choosing import family_of
from fedgan_secure.federation.families.moments_family import GENERATOR, _one_sided
from fedgan_secure.federation.released import release_ring, release_round
from fedgan_secure.models.errors import ModelError
from fedgan_secure.moments.basis import coefficients
from fedgan_secure.moments.layout import MomentsLayout
from fedgan_secure.moments.start import moments_start
from fedgan_secure.networks.keras_file import KerasForm, keras_bytes
from fedgan_secure.networks.moments_generator import TABLES_GRID, TABLES_SLACK
from fedgan_secure.policy.policy import FederationPolicy
from fedgan_secure.statistics.grids import free_bits, on_grid
from fedgan_secure.synthesis.loading import read_network
from tests.cli.adapted import cleanly, command
from tests.cli.test_run import reports

pytestmark = pytest.mark.xdist_group("moments")
PATIENTS, SIZE = 8, 28
KIND = ["--image-size", str(SIZE), "--channels", "1", "--start", "moments"]
OPTIONS = [*KIND, "--declared-patients", str(PATIENTS), "--delta", "1e-3", "--quiet"]


@pytest.fixture(scope="session")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    made = write_hospitals(
        tmp_path_factory.mktemp("grey"), tuple("abc"), PhantomSettings(patients=PATIENTS, image_size=SIZE, seed=3)
    )
    return [word for name, place in made.items() for word in ("--hospital", f"{name}={place}")]


@pytest.fixture(scope="session")
def released(hospitals: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three hospitals and their release. Do not change it: copy it."""
    root = tmp_path_factory.mktemp("moments") / "run"
    done = command("run", *hospitals, *OPTIONS, "--epsilon", "8", "--output", root)
    assert done.code == 0, done.err
    assert "The run is complete (1 of 1 rounds" in done.out
    return root


def policy_of(root: Path) -> FederationPolicy:
    return FederationPolicy.parse((root / "public" / "policy.json").read_bytes())


def family(root: Path) -> moments_family.MomentsFamily:
    found = family_of(policy_of(root), moments_start(SIZE, 1))
    assert isinstance(found, moments_family.MomentsFamily)
    return found


def vector_of(root: Path) -> np.ndarray:
    return np.asarray(np.load(root / "checkpoints" / "global.npy"))


# what a run leaves ------------------------------------------------------------------------------------------------


def test_it_verifies_whole_and_its_epsilon_is_that_of_the_one_release(released: Path) -> None:
    cleanly(released)
    policy = policy_of(released)
    assert policy.start is not None and policy.start.name == "moments/1" and policy.rounds == 1
    assert policy.release is not None and policy.release.record() == policy.mechanism_record()
    assert policy.training == {} and policy.release.dimension == policy.release.release_layout().dimension
    (report,) = list[Any](reports(released))
    assert report["verdict"]["spent"] == round_up(epsilon([policy.release.record()], policy.mechanism.delta))
    assert float(report["verdict"]["spent"]) <= 8


def test_nothing_but_the_generator_is_published(released: Path) -> None:
    assert [path.name for path in (released / "public" / "model").iterdir()] == ["generator.keras"]


def test_cards_and_reports_say_what_the_pictures_are_made_of(released: Path, tmp_path: Path) -> None:
    done = command("release", released, "--output", tmp_path / "bundle")
    assert done.code == 0, done.err
    card = (tmp_path / "bundle" / "MODEL_CARD.md").read_text()
    assert "A picture is a sum of 14 x 14 cosines".lower() in card.lower() and "standard_normal((8, 196))" in card
    assert "nothing is trained" in card
    for text in (card, (tmp_path / "bundle" / "PRIVACY.md").read_text(), json.dumps(list(reports(released)))):
        assert "lesion" not in text.lower() and "frozen public network" not in text and "heads" not in text


def test_pictures_are_drawn_from_it_and_it_opens_from_its_policy(released: Path, tmp_path: Path) -> None:
    done = command("generate", released, "--count", "10", "--layout", "folders", "--output", tmp_path / "made")
    assert done.code == 0, done.err
    made = sorted((tmp_path / "made").rglob("*.png"))
    pictures = [np.asarray(Image.open(path)) for path in made if path.parent != tmp_path / "made"]
    assert len(pictures) == 10 and {picture.shape for picture in pictures} == {(SIZE, SIZE)}
    model = read_network(released / "public" / GENERATOR)
    assert [variable.shape for variable in model.weights] != []


def test_it_is_evaluated_and_attacked_like_other_runs(released: Path, hospitals: list[str]) -> None:
    real = hospitals[1].split("=", 1)[1]
    done = command("evaluate", released, "--real", real, "--seeds", "1", "--steps", "10", "--count", "50", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["tstr"] is not None
    attacked = command("attack", released, "--games", "60", "--json", "--quiet")
    assert attacked.code == 0, attacked.err
    found = json.loads(attacked.out)
    assert found["release"]["games"] == 60 and found["step"] is None


def test_without_noise_the_means_are_those_of_the_images(hospitals: list[str], tmp_path: Path) -> None:
    root = tmp_path / "run"
    done = command("run", *hospitals, *OPTIONS, "--no-privacy", "--unconditional", "--unit", "image", "--output", root)
    assert done.code == 0, done.err
    layout = policy_of(root).release.release_layout()  # type: ignore[union-attr]
    assert isinstance(layout, MomentsLayout) and layout.blocks == 1
    pixels = np.concatenate(
        [
            (data := load(Path(place.split("=", 1)[1]), LoadSettings(image_size=SIZE, channels=1)).dataset).pixels(
                np.arange(len(data))
            )
            for place in hospitals[1::2]
        ]
    )
    own = coefficients(layout, pixels).astype(np.float64)
    a, b, c = layout.scales
    lengths = np.square(own).sum(axis=1)
    weights = np.minimum(1.0, 1 / np.sqrt(a**2 + b**2 * lengths + c**2 * lengths**2))
    moments = family(root).layout.moments(vector_of(root), family(root).noise)
    assert moments.count[0] == pytest.approx(weights.sum(), rel=1e-5)
    assert np.allclose(moments.mean[0], weights @ own / weights.sum(), atol=1e-5)
    cleanly(root)


@pytest.mark.parametrize("placement", ["distributed"])
def test_hospitals_may_share_the_noise(hospitals: list[str], tmp_path: Path, placement: str) -> None:
    root = tmp_path / "run"
    done = command("run", *hospitals, *OPTIONS, "--epsilon", "8", "--noise-placement", placement, "--output", root)
    assert done.code == 0, done.err
    policy = policy_of(root)
    assert policy.ring_bits == 64 and policy.release is not None and policy.release.shares is not None
    (report,) = list[Any](reports(root))
    assert report["verdict"]["spent"] == round_up(epsilon([policy.record_of(1)], policy.mechanism.delta))
    cleanly(root)


# what hospitals sign ----------------------------------------------------------------------------------------------


def changed(root: Path, change: Any) -> tuple[moments_family.MomentsFamily, np.ndarray, dict[str, bytes], bytes]:
    """A family, its vector, files of which `change` altered the weights (name, values), and what they draw."""
    own, vector = family(root), vector_of(root)
    model = own.generator(vector)
    form = KerasForm.of(model)
    weights = form.weights_of(keras_bytes(model))
    assert weights is not None
    other = [change(variable.path, values) for variable, values in zip(model.weights, weights, strict=True)]
    with pytest.MonkeyPatch.context() as patch:
        model.set_weights(other)
        patch.setattr(own, "generator", lambda vector: model)
        return family(root), vector, {GENERATOR: form.file(other)}, own.sheet(vector)


def test_the_honest_file_is_signed_and_one_from_another_machines_last_digits_too(released: Path) -> None:
    own, vector, files, sheet = changed(released, lambda name, values: values)
    assert own.objections(vector, files, sheet) == []
    moments = own.layout.moments(vector, own.noise)
    exact = moments.root.reshape(len(moments.root), -1)
    near = exact + 1e-9 * np.sign(exact)  # rounds elsewhere only where it lies in the middle
    _, _, files, sheet = changed(
        released,
        lambda name, values: on_grid(near, TABLES_GRID) if "root" in name else values,
    )
    assert own.objections(vector, files, sheet) == []


@pytest.mark.parametrize("where", ["m_mean", "m_root", "m_basis"])
@pytest.mark.parametrize("by", [TABLES_GRID, 2.0**-20, -0.25])
def test_a_number_that_is_not_the_sums_own_is_objected_to(released: Path, where: str, by: float) -> None:
    def one(name: str, values: np.ndarray) -> np.ndarray:
        if where not in name:
            return values
        other = values.copy()
        other.reshape(-1)[0] += np.float32(by)
        assert not np.array_equal(other, values)
        return other

    own, vector, files, sheet = changed(released, one)
    assert any(where in text for text in own.objections(vector, files, sheet))


def test_a_root_that_is_not_symmetric_is_objected_to_and_little_can_be_chosen_freely(released: Path) -> None:
    """The two places of a pair hold one number, and few numbers lie near the middle between two grid points."""
    moments = family(released).layout.moments(vector_of(released), family(released).noise)
    assert np.array_equal(moments.root, moments.root.transpose(0, 2, 1))
    upper = moments.root[:, *np.triu_indices(moments.root.shape[1])]
    free = free_bits(upper, TABLES_GRID, TABLES_SLACK) + free_bits(moments.mean, TABLES_GRID, TABLES_SLACK)
    assert free < upper.size / 200  # far below one picture of 28 x 28 pixels, 6,272 bits
    assert free < 1_000
    assert _one_sided(np.float32([[0, 1, 1, 0]]), (1, 2, 2)) == 0 and _one_sided(np.float32([[0, 1, 2, 0]]), (1, 2, 2))


def test_pictures_in_the_tables_or_behind_the_weights_are_objected_to(released: Path) -> None:
    picture = np.random.default_rng(1).integers(0, 256, SIZE * SIZE).astype(np.float32) / 255

    def hidden(name: str, values: np.ndarray) -> np.ndarray:
        other = values.copy()
        if "m_root" in name:
            other[0, : picture.size] = picture
        return other

    own, vector, files, sheet = changed(released, hidden)
    assert own.objections(vector, files, sheet)
    honest = own.files(vector)[GENERATOR]
    assert own.objections(vector, {GENERATOR: honest + b"a photograph"}, sheet)
    assert own.objections(vector, {GENERATOR: honest, "model/discriminator.keras": honest}, sheet)
    assert honest.count(b"g_image") > 0
    renamed = honest.replace(b"g_image", b"a_photo")
    assert any("more than its weights" in text for text in own.objections(vector, {GENERATOR: renamed}, sheet))
    assert own.objections(vector, {GENERATOR: honest}, sheet[:-30])


def test_a_coordinator_that_publishes_another_gaussian_gets_no_signature(
    hospitals: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedgan_secure.federation import coordinator as coordinator_module

    honest = coordinator_module.concluded

    def tampered(*arguments: Any) -> np.ndarray:
        vector = honest(*arguments)
        vector[3] += np.float32(1e-3)
        return vector

    monkeypatch.setattr(coordinator_module, "concluded", tampered)
    done = command("run", *hospitals, *OPTIONS, "--epsilon", "8", "--output", tmp_path / "run")
    assert done.code == 4 and "3 of 3 hospitals did not sign" in done.out


# what may fail ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["noise off", "noise halved", "clip off", "a class left out", "squares left out"])
def test_a_release_that_is_not_the_recorded_one_ends_the_run_and_nothing_leaves(
    hospitals: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    from fedgan_protocols.session import ClientSession

    given: list[int] = []
    monkeypatch.setattr(ClientSession, "provide_input", lambda self, *vectors: given.append(1))
    honest_sum, honest_noise = release_round.release_sum, release_ring.add_noise

    def summed(layout: MomentsLayout, images: Any, clip_norm: float) -> Any:
        found = honest_sum(layout, images, 1e5 * clip_norm if fault == "clip off" else clip_norm)
        blocks = found.total.reshape(layout.blocks, layout.width)
        if fault == "a class left out":
            blocks[-1] = 0
        if fault == "squares left out":
            blocks[:, 1 + layout.features :] = 0
        return found

    def noised(total: np.ndarray, normal: np.ndarray, record: Any) -> np.ndarray:
        share = {"noise off": 0.0, "noise halved": 0.5}.get(fault, 1.0)
        return honest_noise(total, (share * normal).astype(np.float32), record)

    monkeypatch.setattr(release_round, "release_sum", summed)
    monkeypatch.setattr(release_ring, "add_noise", noised)
    done = command("run", *hospitals, *OPTIONS, "--epsilon", "8", "--output", tmp_path / "run")
    assert done.code == 4 and "self-test failed" in done.out and given == []
    assert not list((tmp_path / "run" / "public" / "model").iterdir())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--rounds", "2"], "one release"),
        (["--spare-rounds", "1"], "one release"),
        (["--steps-per-round", "5"], "steps_per_round"),
        (["--epsilon", "3", "--release-noise", "2"], "leave one of them out"),
    ],
)
def test_options_that_a_release_alone_would_ignore_are_refused(
    hospitals: list[str], tmp_path: Path, options: list[str], says: str
) -> None:
    done = command("run", *hospitals, *OPTIONS, *options, "--output", tmp_path / "run")
    assert done.code == 2 and says in done.err and "Traceback" not in done.err


def test_a_policy_or_a_file_of_another_kind_is_refused(released: Path, tmp_path: Path) -> None:
    policy = policy_of(released)
    with pytest.raises(ModelError):
        family_of(policy, None)
    with pytest.raises(ModelError):
        family_of(policy, moments_start(64, 1))
    shutil.copytree(released / "public", tmp_path / "public")
    place = tmp_path / "public" / "policy.json"
    told = json.loads(place.read_text())
    for change in ({"order": 15}, {"order": 13}, {"classes": 900}, {"image_size": 512}, {"more": 1}):
        place.write_text(json.dumps({**told, "model": {**told["model"], **change}}))
        with pytest.raises(ModelError):
            read_network(tmp_path / "public" / GENERATOR)
