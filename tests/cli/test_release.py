"""A run's release bundle: what is in it, that it verifies when copied, and what the export gate refuses."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest

from fedgan_audits.bundle.reading import Bundle
from fedgan_audits.errors import VerificationFailed
from fedgan_audits.facts.checks import Verification
from fedgan_audits.publishing.manifest import read_report
from fedgan_audits.verification.verify import verify_run
from fedgan_secure.errors import InputError
from fedgan_secure.policy.settings import CLAIMS
from fedgan_secure.release import releasing as module
from fedgan_secure.release.export_gate import ExportRefused, Judgement, Override, _objections
from fedgan_secure.synthesis.drawing import draw
from tests.cli.conftest import SMALL, fedgan

ROLE = ("--override-role", "Data protection officer", "--override-reason", "A baseline on phantoms, for a comparison")


@pytest.fixture(scope="module")
def bundle(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    done = fedgan("release", finished, "--trust", finished / "public" / "trust", "--output", folder / "bundle")
    assert done.code == 0, done.err
    assert "PASS" in done.out
    return folder / "bundle"


@pytest.fixture(scope="module")
def unbounded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("unbounded") / "run"
    words = [*SMALL[: SMALL.index("--epsilon")], "--delta", "1e-3"]
    done = fedgan("run", *words, "--no-privacy", "--rounds", "1", "--output", root)
    assert done.code == 0, done.err
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_bundle_verifies_where_it_was_copied_to(bundle: Path, finished: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / "elsewhere")
    done = fedgan("audit", "verify", copy, "--trust", finished / "public" / "trust")
    assert done.code == 0, done.out + done.err
    (copy / "public" / "model" / "generator.keras").write_bytes(b"other weights")
    assert not verify_run(copy).ok


def test_every_file_is_listed_and_nothing_confidential_is_among_them(bundle: Path, finished: Path) -> None:
    described = json.loads((bundle / "release.json").read_text())
    found = contents(bundle)
    assert set(described["sha256"]) == set(found) - {"release.json"}
    assert all(hashlib.sha256(found[name]).hexdigest() == digest for name, digest in described["sha256"].items())
    assert {name for name in found if not name.startswith("public/")} == {"MODEL_CARD.md", "PRIVACY.md", "release.json"}
    assert set(contents(finished / "public")) == {name.removeprefix("public/") for name in found if "/" in name}
    assert described["gate"] == "PASS" and described["override"] is None and described["phantoms"] is True


def test_card_and_statement_say_what_the_signed_report_says(bundle: Path) -> None:
    envelope = json.loads((bundle / "public/reports/round-0003.dsse.json").read_bytes())
    payload = base64.b64decode(envelope["payload"])
    report = json.loads(payload)["predicate"]
    card, statement = ((bundle / name).read_text(encoding="utf-8") for name in ("MODEL_CARD.md", "PRIVACY.md"))
    epsilon, delta = report["privacy"]["epsilon"], report["privacy"]["delta"]
    assert f"Epsilon {epsilon} at delta {delta}" in card and "phantoms that the software drew" in card
    assert f"| epsilon | {epsilon} |" in statement and f"| delta | {delta} |" in statement
    assert hashlib.sha256(payload).hexdigest() in statement and hashlib.sha256(payload).hexdigest() in card
    weights = hashlib.sha256((bundle / "public/model/generator.keras").read_bytes()).hexdigest()
    assert f"| public/model/generator.keras | {weights} |" in card
    for row in report["composition"]["hospitals"]:
        assert f"| {row['name']} | {row['spent']} |" in statement
    assert f"A patient whom two hospitals know: epsilon {report['composition']['two_hospitals']}" in statement
    assert all(text[:60] in card for text in report["verdict"]["does_not_show"])
    assert all(not CLAIMS.search(text) for text in (card, statement)), "a claim that no document makes"
    assert not re.search(r"(?<![\w.])/(?:tmp|home|root|work|Users)/", card + statement)


def test_a_bundle_made_from_a_bundle_is_the_same_to_the_byte(bundle: Path, finished: Path, tmp_path: Path) -> None:
    for source, name in ((bundle, "one"), (finished, "two")):
        module.release(source, tmp_path / name, trust=[finished / "public" / "trust"])
    first, second, made = (contents(tmp_path / "one"), contents(tmp_path / "two"), contents(bundle))
    assert first == second
    same = set(made) - {"release.json"}  # the command checked the transcripts too, and says so there
    assert {name: made[name] for name in same} == {name: first[name] for name in same}


def test_an_unbounded_run_is_refused_and_an_override_is_kept(unbounded: Path, tmp_path: Path) -> None:
    done = fedgan("release", unbounded, "--output", tmp_path / "bundle")
    assert done.code == 3 and "without privacy" in done.err and not (tmp_path / "bundle").exists()
    assert fedgan("release", unbounded, *ROLE[:2], "--output", tmp_path / "bundle").code == 2
    made = module.release(unbounded, tmp_path / "bundle", override=Override(ROLE[1], ROLE[3]))
    assert made["gate"] == "OVERRIDDEN" and made["override"]["role"] == "Data protection officer"
    for name in ("MODEL_CARD.md", "PRIVACY.md"):
        text = (tmp_path / "bundle" / name).read_text()
        assert "NOT PASS" in text and "Data protection officer" in text and "A baseline on phantoms" in text, name
    assert verify_run(tmp_path / "bundle").ok
    drawn = draw(unbounded, count=1, output=tmp_path / "images", form=None, layout="auto", label=None, seed=1)
    assert drawn["gate"] == "not PASS" and "without privacy" in drawn["objections"][0] and drawn["layout"] == "flat"
    said = json.loads((tmp_path / "images" / "provenance.json").read_text())["provenance"]
    assert said["epsilon"] == "unbounded" and "WITHOUT differential privacy" in said["statement"]


def test_a_run_that_does_not_verify_is_never_exported(copied: Path, tmp_path: Path) -> None:
    model = copied / "public" / "model" / "generator.keras"
    model.write_bytes(model.read_bytes() + b"\0")
    for override in (None, Override(ROLE[1], ROLE[3])):
        with pytest.raises(VerificationFailed, match="does not verify") as failed:
            module.release(copied, tmp_path / "bundle", override=override)
        assert failed.value.exit_code == 5
    assert not list(tmp_path.glob("*bundle*")), "something of the bundle was left"
    with pytest.raises(VerificationFailed):
        draw(copied, count=1, output=tmp_path / "images", form=None, layout="auto", label=None, seed=1)
    assert not (tmp_path / "images").exists()


def test_a_link_in_the_public_folder_is_not_followed_out_of_it(copied: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("not for release")
    (copied / "public" / "samples" / "round-0009.png").symlink_to(secret)
    with pytest.raises(VerificationFailed, match="symbolic link"):
        module.release(copied, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_wrong_requests_are_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing stands against"):
        module.release(finished, tmp_path / "x", override=Override("Officer", "no need of it"))
    with pytest.raises(InputError, match="inside the folder"):
        module.release(finished, finished / "public" / "bundle")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(InputError, match="not empty"):
        module.release(finished, tmp_path / "full")
    for role, reason in (("x", "a good reason"), ("Officer", ""), ("Officer", "it is anonymous"), ("Of\nficer", "why")):
        with pytest.raises(InputError, match="the override's"):
            Override(role, reason)
    assert not (tmp_path / "x").exists()


def test_an_unfinished_run_is_refused_with_exit_code_2(copied: Path, tmp_path: Path) -> None:
    report, digest = read_report(Bundle(copied / "public"), "reports/round-0003.dsse.json")
    for verdicts, outcome, code in (
        (["PASS", "PASS", "INCOMPLETE"], "complete", 2),
        (["PASS"], "running", 2),
        (["PASS", "STOP", "PASS"], "complete", 3),
    ):
        private, unfinished = _objections(report, {"verdicts": verdicts, "outcome": outcome})
        judged = Judgement(copied / "public", Verification(), report, digest, private, unfinished)
        with pytest.raises(ExportRefused) as refused:
            judged.require(None)
        assert refused.value.exit_code == code, verdicts
        judged.require(Override("Officer", "on my own account"))
    assert _objections(report, {"verdicts": ["INCOMPLETE", "PASS"], "outcome": "complete"}) == ((), ())
