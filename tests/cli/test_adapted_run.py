"""`fedgan-secure run` with a public start, whole: a release, then rounds of the heads, and everything that may fail."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedgan_audits.accounting.accountant import epsilon, round_up
from fedgan_secure.data.phantoms.phantoms import CLASSES, GRADES
from fedgan_secure.data.reading.loading import LoadSettings, load
from fedgan_secure.federation import coordinator as coordinator_module
from fedgan_secure.federation import prepare
from fedgan_secure.federation.hospital import Hospital
from fedgan_secure.federation.released import release_ring
from fedgan_secure.heads.heads import HeadsLayout
from fedgan_secure.heads.vector import heads_spec
from fedgan_secure.models.adapted_spec import AdaptedSpec
from fedgan_secure.policy.policy import FederationPolicy
from fedgan_secure.starts.shared import digests_of
from fedgan_secure.starts.start import shipped_start
from tests.cli.adapted import PATIENTS, QUICK, cleanly, command, folders, small_models
from tests.cli.test_run import reports, reserved_rounds

pytestmark = pytest.mark.xdist_group("adapted")
TWO_OF_THREE = ["--threshold", "2"]


@pytest.fixture(scope="session")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return folders(tmp_path_factory.mktemp("pictures"), "abc")


@pytest.fixture(scope="session")
def adapted(hospitals: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three hospitals, a release and two rounds of the heads. Do not change it: copy it."""
    root = tmp_path_factory.mktemp("adapted") / "run"
    with small_models(fit_steps=2):
        done = command("run", *hospitals, *QUICK, "--rounds", "3", "--output", root)
    assert done.code == 0, done.err
    assert "The run is complete (3 of 3 rounds" in done.out
    return root


@pytest.fixture
def small() -> Iterator[pytest.MonkeyPatch]:
    with small_models() as patch:
        yield patch


def policy_of(root: Path) -> FederationPolicy:
    return FederationPolicy.parse((root / "public" / "policy.json").read_bytes())


def annex(root: Path, name: str, number: int) -> Any:
    return json.loads((root / "site" / name / "confidential" / f"round-{number:04d}.json").read_text())["annex"]


def global_vector(root: Path) -> np.ndarray:
    return np.asarray(np.load(root / "checkpoints" / "global.npy"))


# what a run leaves ----------------------------------------------------------------------------------------------


def test_it_verifies_whole_and_with_the_hospitals_keys(adapted: Path) -> None:
    cleanly(adapted)


def test_the_policy_names_the_start_and_the_release(adapted: Path) -> None:
    policy = policy_of(adapted)
    assert policy.start is not None and policy.start.digest == shipped_start().digest
    assert policy.release is not None and policy.release.noise_multiplier == 5.0
    assert policy.model["family"] == "adapted-start/1" and policy.model["classes"] == 5
    assert policy.data.preprocessing == "fundus-crop/1" and policy.average_decay == 0.0


def test_every_file_is_there_and_no_discriminator(adapted: Path) -> None:
    public = adapted / "public"
    assert {path.name for path in (public / "model").iterdir()} == {"generator.keras"}
    for number in (1, 2, 3):
        stem = f"round-{number:04d}"
        sheet = np.asarray(Image.open(public / "samples" / f"{stem}.png"))
        assert sheet.shape[0] > 5 * 64 and sheet.std() > 5
        assert (public / "transcripts" / f"{stem}.cbor").exists()
        assert all((public / "reports" / f"{stem}.{name}.sig").exists() for name in ("a", "b", "c", "coordinator"))


def test_reports_say_that_round_1_was_the_release_and_the_others_steps(adapted: Path) -> None:
    policy, found = policy_of(adapted), list[Any](reports(adapted))
    assert policy.release is not None
    dimensions = [report["aggregation"]["facts"]["dimension"] for report in found]
    heads = HeadsLayout.of(heads_spec(AdaptedSpec.from_json(policy.model))).size
    assert dimensions == [policy.release.dimension, heads, heads]
    for number, report in enumerate(found, 1):
        told = report["privacy"]["settings"]["release"]
        assert told["mechanism"]["noise_multiplier"] == 5.0 and told["mechanism"]["steps"] == 1
        assert told["dimension"] == policy.release.dimension and told["layout_sha256"] == policy.release.layout_sha256
        assert "271 features" in told["features"] and shipped_start().digest in told["features"]
        assert "public start fundus64/1" in report["data"]["facts"]["start"]
        page = (adapted / "public" / "reports" / f"round-{number:04d}.html").read_text()
        assert "release" in page and "fundus64/1" in page
    facts = [report["aggregation"]["facts"] for report in found]
    before, after = ([row[name] for row in facts] for name in ("model_before", "model_after"))
    assert before[1:] == after[:-1] and len({*before, *after}) == 4


def test_epsilon_is_that_of_what_was_reserved(adapted: Path) -> None:
    policy, found = policy_of(adapted), list[Any](reports(adapted))
    delta = policy.mechanism.delta
    assert found[0]["verdict"]["spent"] == round_up(epsilon([policy.record_of(1)], delta))
    assert found[-1]["verdict"]["spent"] == round_up(epsilon(policy.scheduled_records(), delta))
    spent = [float(report["verdict"]["spent"]) for report in found]
    assert spent[0] < spent[1] < spent[2]


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_the_annex_of_the_release_says_what_was_clipped_and_tested(adapted: Path, name: str) -> None:
    training = annex(adapted, name, 1)["training"]
    assert 0.0 <= training["clip_fraction"] <= 1.0 and training["patients"] == PATIENTS
    assert training["patients_not_finite"] == 0 and training["clamped_coordinates"] == 0
    assert 0.9 * 5.0 < training["noise_deviation"] < 1.1 * 5.0
    assert set(training["self_tests"]["outcomes"].values()) <= {"PASS", "NOT ASSESSED"}
    assert training["self_tests"]["outcomes"]["noise_probe"] == "PASS"
    steps = annex(adapted, name, 3)["training"]
    assert steps["clamped_coordinates"] == 0 and "PASS" in steps["self_tests"]["outcomes"].values()
    kept = adapted / "site" / name
    assert {path.name for path in kept.rglob("*self-tests*")} == {"self-tests.json", "release-self-tests.json"}


def test_the_release_is_in_the_model_and_the_heads_moved_on(adapted: Path) -> None:
    policy, vector = policy_of(adapted), global_vector(adapted)
    assert policy.release is not None
    assert vector[policy.release.dimension] == 3 and vector[: policy.release.dimension].any()
    deviation = vector[: policy.release.dimension].std()
    assert 0.5 * 5 * 3**0.5 < deviation < 2 * 5 * 3**0.5  # of so few patients it is nearly noise alone


def test_pictures_are_drawn_from_it(adapted: Path, tmp_path: Path) -> None:
    done = command("generate", adapted, "--count", "6", "--seed", "1", "--format", "png", "--output", tmp_path / "one")
    assert done.code == 0, done.err
    same = command("generate", adapted, "--count", "6", "--seed", "1", "--format", "png", "--output", tmp_path / "two")
    assert same.code == 0
    images = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.png"))
    assert len(images) >= 6
    for image in images:
        assert (tmp_path / "one" / image).read_bytes() == (tmp_path / "two" / image).read_bytes()
    sizes = [Image.open(tmp_path / "one" / image).size for image in images]
    assert sizes.count((64, 64)) == 6


def test_nothing_is_trained_further_from_it(adapted: Path, hospitals: list[str], tmp_path: Path) -> None:
    done = command("run", *hospitals, *QUICK, "--rounds", "2", "--init-from", adapted, "--output", tmp_path / "more")
    assert done.code == 2 and "adapted a public start" in done.err
    assert "--start with the same public start" in done.err and not (tmp_path / "more").exists()


def test_a_run_that_is_complete_is_resumed_without_doing_anything(adapted: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(adapted, tmp_path / "copy"))
    done = command("run", "--resume", copy, "--quiet")
    assert done.code == 0, done.err
    assert np.array_equal(global_vector(copy), global_vector(adapted))


# what may fail --------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process ended here."""


def test_a_hospital_drops_out_of_the_release_and_a_kill_in_round_2_is_survived(
    small: pytest.MonkeyPatch, hospitals: list[str], tmp_path: Path
) -> None:
    root, train = tmp_path / "run", Hospital.train

    def killed(self: Hospital, progress: Any) -> np.ndarray:
        vector = train(self, progress)
        if self.name == "b" and self.ledger.reservations(self.run_id).keys() == {1, 2}:
            raise Killed
        return vector

    small.setattr(Hospital, "train", killed)
    with pytest.raises(Killed):
        command("run", *hospitals, *QUICK, *TWO_OF_THREE, "--rounds", "3", "--drop", "c@1", "--output", root)
    small.setattr(Hospital, "train", train)
    first = reports(root)
    assert len(first) == 1
    before = global_vector(root)
    done = command("run", "--resume", root, "--quiet")
    assert done.code == 0, done.err
    found = list[Any](reports(root))
    assert [report["header"]["status"] for report in found] == ["complete", "incomplete", "complete"]
    assert found[0] == first[0] and found[0]["aggregation"]["facts"]["survivors"] == ["a", "b"]
    assert all(reserved_rounds(root, name) == [1, 2, 3] for name in "abc")
    policy = policy_of(root)
    assert policy.release is not None
    size, after = policy.release.dimension + 1, global_vector(root)
    assert before[size - 1] == 2 and np.array_equal(before[:size], after[:size])
    assert not np.array_equal(before[size:], after[size:])
    cleanly(root)


def test_where_the_release_was_aborted_the_heads_go_on_without_it(
    small: pytest.MonkeyPatch, hospitals: list[str], tmp_path: Path
) -> None:
    root = tmp_path / "run"
    drops = ["--drop", "b@1", "--drop", "c@1"]
    done = command("run", *hospitals, *QUICK, *TWO_OF_THREE, "--rounds", "2", *drops, "--output", root)
    assert done.code == 0, done.err
    found = list[Any](reports(root))
    assert [report["header"]["status"] for report in found] == ["incomplete", "complete"]
    policy, vector = policy_of(root), global_vector(root)
    assert policy.release is not None and not vector[: policy.release.dimension + 1].any()
    assert found[-1]["verdict"]["spent"] == round_up(epsilon(policy.scheduled_records(), policy.mechanism.delta))
    assert command("generate", root, "--count", "1", "--output", tmp_path / "one").code == 0
    cleanly(root)


def test_hospitals_do_not_sign_a_release_that_is_not_the_sum_they_received(
    small: pytest.MonkeyPatch, hospitals: list[str], tmp_path: Path
) -> None:
    honest = coordinator_module.concluded

    def tampered(*arguments: Any) -> np.ndarray:
        vector = honest(*arguments)
        vector[3] += np.float32(1e-3)
        return vector

    small.setattr(coordinator_module, "concluded", tampered)
    done = command("run", *hospitals, *QUICK, "--rounds", "2", "--output", tmp_path / "run")
    assert done.code == 4 and "3 of 3 hospitals did not sign" in done.out
    (report,) = list[Any](reports(tmp_path / "run"))
    assert "not what the sum leads to" in json.dumps(report)
    assert not list((tmp_path / "run" / "public" / "reports").glob("round-0001.[abc].sig"))


def test_a_release_without_its_noise_ends_the_run_and_nothing_leaves(
    small: pytest.MonkeyPatch, hospitals: list[str], tmp_path: Path
) -> None:
    from fedgan_protocols.session import ClientSession

    root = tmp_path / "run"
    given: list[int] = []
    small.setattr(release_ring, "add_noise", lambda total, noise, record: total)
    small.setattr(ClientSession, "provide_input", lambda self, *vectors: given.append(1))
    done = command("run", *hospitals, *QUICK, "--rounds", "2", "--output", root)
    assert done.code == 4 and "self-test failed: noise" in done.out and given == []
    (report,) = list[Any](reports(root))
    assert report["header"]["abort_code"] == "self-test" and report["header"]["status"] == "incomplete"
    assert not list((root / "public" / "model").iterdir())
    small.undo()
    again = command("run", "--resume", root, "--quiet")
    assert again.code == 4 and "self-test failed" in again.out and len(reports(root)) == 1
    assert "[ok]   policy" in command("audit", "verify", root).out


def test_a_cap_that_the_release_exceeds_refuses_before_anything_is_spent(
    small: pytest.MonkeyPatch, hospitals: list[str], tmp_path: Path
) -> None:
    root = tmp_path / "run"
    small.setattr(Hospital, "train", lambda self, progress: pytest.fail("a hospital trained"))
    done = command("run", *hospitals, *QUICK, "--rounds", "2", "--epsilon-cap", "0.3", "--output", root)
    assert done.code == 3 and "round 1 did not take place" in done.out
    assert all(reserved_rounds(root, name) == [] for name in "abc") and reports(root) == []


def test_a_hospital_with_one_of_the_starts_own_pictures_is_refused_before_anything_is_spent(
    small: pytest.MonkeyPatch, hospitals: list[str], tmp_path: Path
) -> None:
    wanted = LoadSettings(
        layout="dicom", image_size=64, channels=3, preprocessing="fundus-crop/1", label_names=GRADES, classes=CLASSES
    )
    images = load(Path(hospitals[3].removeprefix("b=")), wanted).dataset
    own = replace(shipped_start(), picture_digests=digests_of(images.pixels(np.array([2]))))
    small.setattr(prepare, "start_of", lambda *given, **more: own)
    root = tmp_path / "run"
    done = command("run", *hospitals, *QUICK, "--rounds", "2", "--output", root)
    assert done.code == 2 and "hospital b: 1 of these images are among the public pictures" in done.err
    assert not root.exists()


def test_the_release_alone_without_privacy_and_without_classes(
    small: pytest.MonkeyPatch, hospitals: list[str], tmp_path: Path
) -> None:
    root = tmp_path / "run"
    done = command(
        "run", *hospitals, "--declared-patients", "8", "--delta", "1e-3", "--no-privacy", "--unconditional", "--quiet",
        "--preprocessing", "fundus-crop/1",
        "--output", root,
    )  # fmt: skip
    assert done.code == 0, done.err
    policy = policy_of(root)
    assert policy.rounds == 1 and policy.release is not None and policy.release.noise_multiplier == 0
    assert policy.release.record() == policy.mechanism_record() and policy.model["classes"] == 0
    total = global_vector(root)[: policy.release.dimension]
    layout = policy.release.release_layout()
    # without noise the sum is exact: every patient's images together count one in the histogram of colours
    colours = total[layout.blocks * layout.width :] / layout.colour_weight
    assert colours.min() >= -1e-4 and 0 < colours.sum() <= 3 * PATIENTS + 1e-2
    assert list[Any](reports(root))[0]["verdict"]["verdict"] == "STOP"
    cleanly(root)
    assert command("generate", root, "--count", "2", "--output", tmp_path / "two").code == 0


def test_a_release_alone_whose_noise_the_hospitals_share(
    small: pytest.MonkeyPatch, hospitals: list[str], tmp_path: Path
) -> None:
    """Its one sum is verified as such: with shared noise only the rounds of steps have a sum for every step."""
    root = tmp_path / "run"
    options = ["--declared-patients", str(PATIENTS), "--delta", "1e-3", "--release-noise", "5", "--quiet"]
    options += ["--noise-placement", "distributed", "--rounds", "1", "--preprocessing", "fundus-crop/1"]
    done = command("run", *hospitals, *options, "--output", root)
    assert done.code == 0, done.err
    policy = policy_of(root)
    assert policy.release is not None and policy.release.shares is not None and not policy.is_stepwise(1)
    (report,) = list[Any](reports(root))
    assert report["verdict"]["spent"] == round_up(epsilon([policy.record_of(1)], policy.mechanism.delta))
    cleanly(root)


@pytest.mark.slow
def test_noise_that_the_hospitals_share(
    small: pytest.MonkeyPatch, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Four hospitals, three of which finish a round; one leaves the release and comes back for the steps."""
    root = tmp_path / "run"
    four = folders(tmp_path_factory.mktemp("four"), "abcd")
    options = ["--noise-placement", "distributed", "--rounds", "3", "--drop", "d@1"]
    done = command("run", *four, *QUICK, *options, "--output", root)
    assert done.code == 0, done.err
    policy, found = policy_of(root), list[Any](reports(root))
    assert policy.distributed is not None and policy.release is not None and policy.release.shares is not None
    assert [report["header"]["status"] for report in found] == ["complete"] * 3
    assert [len(report["aggregation"]["facts"]["survivors"]) for report in found] == [3, 4, 4]
    assert found[-1]["verdict"]["spent"] == round_up(epsilon(policy.scheduled_records(), policy.mechanism.delta))
    assert found[0]["aggregation"]["facts"]["dimension"] == policy.release.dimension
    assert found[1]["aggregation"]["facts"]["dimension"] == policy.distributed.shares.dimension
    training = annex(root, "a", 1)["training"]
    assert set(training["self_tests"]["outcomes"].values()) <= {"PASS", "NOT ASSESSED"}
    assert (root / "checkpoints" / "optimiser.npz").exists()
    cleanly(root)
    assert command("generate", root, "--count", "2", "--output", tmp_path / "two").code == 0
