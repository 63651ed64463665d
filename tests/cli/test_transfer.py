"""A run that starts from another's released model: the weights are there, the cost is said, and what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedgan_audits.errors import VerificationFailed
from fedgan_audits.signing.envelope import parse
from fedgan_secure.errors import InputError
from fedgan_secure.federation.fedavg import model_digest
from fedgan_secure.federation.prepare import Federation, Request, start
from fedgan_secure.federation.refusals import SessionRefused
from fedgan_secure.federation.run import carry_on
from fedgan_secure.federation.transfer import initial_vector, read_initial
from fedgan_secure.policy.settings import RunSettings
from tests.cli.conftest import fedgan
from tests.fedgan_secure.data.conftest import make_dicom
from tests.fedgan_secure.federation.adapted_world import Silent

PUBLIC = "drawn slices, public"


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private run of three hospitals on grey CT slices, without labels."""
    root = tmp_path_factory.mktemp("ct")
    generator = np.random.default_rng(3)
    for name in "abc":
        (root / name).mkdir()
        for number in range(6):
            pixels = generator.integers(900, 1200, (40, 40)).astype(np.uint16)
            file = make_dicom(pixels, f"{name}{number}", "CT", RescaleSlope="1", RescaleIntercept="-1024")
            file.save_as(root / name / f"{number}.dcm", enforce_file_format=True)
    folders = [word for name in "abc" for word in ("--hospital", f"{name}={root / name}")]
    done = fedgan(
        "run", *folders, "--unconditional", "--channels", "1", "--image-size", "28", "--rounds", "1",
        "--steps-per-round", "2", "--sampling-probability", "0.5", "--declared-patients", "6", "--epsilon", "20",
        "--delta", "1e-3", "--quiet", "--output", root / "run",
    )  # fmt: skip
    assert done.code == 0, done.err
    return root / "run"


def trust(run: Path) -> tuple[str]:
    """The digest of a run's newest report, as its people would tell it."""
    newest = sorted((run / "public/reports").glob("round-*.dsse.json"))[-1]
    return (hashlib.sha256(parse(newest.read_bytes()).payload).hexdigest(),)


def fundus(tmp_path: Path, source: Path, public: str | None = None, **data: object) -> Federation:
    """A colour run on fundus phantoms, prepared up to its first round."""
    settings = RunSettings.merged(
        {
            "federation": {"hospitals": 3, "rounds": 1, "steps_per_round": 1},
            "data": {"image_size": 28, "channels": 3, "phantom_patients": 8, **data},
            "privacy": {"sampling_probability": 0.3, "declared_patients": 8, "epsilon": 20.0, "delta": 1e-3},
        },
        {},
    )
    request = Request(
        settings, tmp_path / "fundus", init_from=source, init_trust=trust(source), public_pretraining=public
    )
    return start(request, None)


def test_pretrained_on_grey_ct_the_colour_fundus_model_holds_its_weights(ct: Path, tmp_path: Path) -> None:
    import keras

    from fedgan_secure.networks.vectors import named_weights

    federation = fundus(tmp_path, ct)
    layout, vector = federation.coordinator.layout, federation.coordinator.vector
    seeded = layout.initial_vector(federation.policy.initial_model.seed)
    models = [keras.models.load_model(ct / f"public/model/{name}.keras") for name in ("generator", "discriminator")]
    released = {name: np.asarray(weight) for model in models for name, weight in named_weights(model)}
    taken, left = set(), set()
    for entry in layout.entries:
        mine = vector[entry.start : entry.stop].reshape(entry.shape)
        theirs = released.get(entry.name)
        if theirs is not None and theirs.shape == entry.shape:
            assert np.array_equal(mine, theirs), f"{entry.name} is not the pretrained one"
            taken.add(entry.name)
        elif entry.name in ("generator/g_up1/kernel", "generator/g_up1/bias"):
            assert np.array_equal(mine, np.repeat(theirs, 3, axis=2 if theirs.ndim == 4 else 0)), (
                "grey paints all alike"
            )
        elif entry.name.startswith("generator") and theirs is not None:
            fresh = seeded[entry.start : entry.stop].reshape(entry.shape)
            assert np.array_equal(mine[:64], theirs[:64]), entry.name
            assert np.abs(mine[64:]).max() <= np.abs(fresh[64:]).max(), "classes of other names are drawn anew"
            taken.add(entry.name)
        else:
            assert np.array_equal(mine, seeded[entry.start : entry.stop].reshape(entry.shape))
            left.add(entry.name)
    assert {
        "generator/g_up0/kernel",
        "generator/g_dense/kernel",
        "discriminator/d_conv1/kernel",
        "discriminator/d_dense/kernel",
    } <= taken
    assert left == {
        "discriminator/d_conv0/kernel", "discriminator/d_classes/kernel", "discriminator/d_classes/bias",
        "discriminator/d_label/embeddings", "generator/g_label/embeddings",
    }  # fmt: skip
    assert not np.array_equal(vector, seeded)
    named = federation.policy.initial_model.vector_digest
    assert named == model_digest(layout.layout_hash, vector).hex()
    for hospital in federation.hospitals.values():
        kept = [entry.facts["model"] for entry in hospital.ledger.entries() if entry.kind == "start_derived"]
        assert kept == [named] and hospital.first_model() == named
    federation.coordinator.begin(seeded)
    with pytest.raises(SessionRefused, match="the model differ"):
        carry_on(federation, Silent())
    report = json.loads((ct / "public/policy.json").read_text())
    said = federation.policy.initial_model.pretraining
    assert (
        report["run_id"] in said
        and "on patients of its hospitals a, b, c at epsilon " in said
        and "per patient" in said
    )
    federation.close()


def test_the_reports_of_the_new_run_state_what_pretraining_cost(ct: Path) -> None:
    from fedgan_audits.report.report import build_report
    from tests.audits.conftest import Run

    statement = read_initial(ct, no_privacy=False, trust=trust(ct)).statement
    run = Run(ct.parent / "audit")
    record = run.record(1)
    told = build_report(record.model_copy(update={"data": record.data.model_copy(update={"pretraining": statement})}))
    (line,) = set(told.privacy.accesses_covered) - set(build_report(record).privacy.accesses_covered)
    assert line.startswith("Pretraining: run ") and "epsilon" in line and "delta" in line and "ledger lists it" in line


def test_what_is_not_verified_or_not_pass_or_not_alike_is_refused(
    ct: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(ct, tmp_path / "copy"))
    policy = copy / "public" / "policy.json"
    policy.write_bytes(policy.read_bytes().replace(b'"threshold":3', b'"threshold":2'))
    with pytest.raises(VerificationFailed, match="does not verify"):
        read_initial(copy, no_privacy=False, trust=trust(copy))
    for name in ("compliant", "x"):
        with pytest.raises(InputError, match="--public-pretraining"):
            read_initial(ct, no_privacy=False, declared_public=name, trust=trust(ct))
    with pytest.raises(InputError, match="another architecture: latent_dim 64 there, 32 here"):
        initial = read_initial(ct, no_privacy=False, trust=trust(ct))
        from dataclasses import replace

        from fedgan_secure.networks.vectors import VectorLayout

        other = replace(initial.spec, latent_dim=32)
        initial_vector(VectorLayout.of(other), 0, initial, other)
    from fedgan_secure.federation import transfer

    def with_verdict(word: str) -> None:
        real = transfer.verify_run

        def changed(*words: object, **more: object) -> object:
            found = real(ct, trust=None, transcript_check=None, head=trust(ct)[0])
            found.run = {**found.run, "verdicts": [word]}
            return found

        monkeypatch.setattr(transfer, "verify_run", changed)

    for word in ("STOP", "INCOMPLETE"):
        with monkeypatch.context():
            with_verdict(word)
            with pytest.raises(InputError, match=f"verdict of its last round is {word}, expected PASS"):
                read_initial(ct, no_privacy=False, trust=trust(ct))
            monkeypatch.undo()


def test_whose_model_it_is_has_to_come_from_elsewhere(ct: Path, tmp_path: Path) -> None:
    """A bundle vouches for nobody: whoever makes one signs it with keys of their own."""
    elsewhere = Path(shutil.copytree(ct / "public/trust", tmp_path / "keys"))
    assert read_initial(ct, no_privacy=False, trust=(str(elsewhere),)).run_id
    for given, said in (
        ((), "nothing says whose model that is"),
        ((str(ct / "public/trust"),), "keys lie in the run itself"),
        ((str(tmp_path / "none"),), "no such file or folder"),
        (("0" * 64, "1" * 64), "several digests"),
    ):
        with pytest.raises(InputError, match=said) as caught:
            read_initial(ct, no_privacy=False, trust=given)
        assert caught.value.hint
    with pytest.raises(VerificationFailed, match="does not verify: head"):
        read_initial(ct, no_privacy=False, trust=("0" * 64,))
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    for name in ("a", "b", "c", "coordinator"):
        key = Ed25519PrivateKey.generate().public_key()
        (stranger / f"{name}.pub.pem").write_bytes(
            key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
    with pytest.raises(VerificationFailed, match="does not verify: keys"):
        read_initial(ct, no_privacy=False, trust=(str(stranger),))


def test_public_pretraining_is_declared_and_said(ct: Path) -> None:
    said = read_initial(ct, no_privacy=False, declared_public=PUBLIC, trust=trust(ct)).statement
    assert f"on images that the operator declares public ({PUBLIC})" in said and "patients" not in said


def test_colour_becomes_grey_by_the_mean() -> None:
    from fedgan_secure.federation.transfer import _recoloured

    colour = np.arange(4 * 4 * 3 * 2, dtype=np.float32).reshape(4, 4, 3, 2)
    assert np.allclose(_recoloured(colour, (4, 4, 1, 2)), colour.mean(axis=2, keepdims=True))
    assert _recoloured(colour, (5, 5, 1, 2)).shape == colour.shape, (
        "what differs in more than the colours is left alone"
    )
