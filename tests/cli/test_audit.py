"""`fedgan-secure audit`: what it prints, its exit codes, and that it never loads TensorFlow."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TENSORFLOW_FREE = (
    "import sys; from fedgan_cli.main import main\n"
    "try:\n    main(sys.argv[1:])\n"
    "finally:\n    assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules, 'TensorFlow was loaded'\n"
)


def audit(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", TENSORFLOW_FREE, "audit", *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture(scope="module")
def builders() -> ModuleType:
    """The audits room's builders of signed runs."""
    place = Path(__file__).parents[1] / "audits" / "conftest.py"
    spec = importlib.util.spec_from_file_location("audits_builders", place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run(builders: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A signed run whose rounds were all killed before a transcript was made: no protocol is needed to make it."""
    from fedgan_audits.facts.records import RoundRecord
    from fedgan_audits.report.report import build_round

    made = builders.Run(tmp_path_factory.mktemp("audit") / "run", rounds=2)
    for number in (1, 2):
        values = made.record(number).model_dump()
        values["header"].update(status="incomplete", killed=True, abort_code="interrupted")
        values["aggregation"].update(survivors=(), transcript_sha256=None, model_after=None, sum_sha256=None)
        values["aggregation"].update(model_before="7" * 64)
        values["artefacts"] = [entry for entry in values["artefacts"] if entry["kind"] in ("policy", "model")]
        for hospital in values["hospitals"]:
            hospital.update(took_part=False, receipt="not due")
        draft = build_round(RoundRecord.model_validate(values))
        made.publish(draft)
        made.drafts.append(draft)
    for folder in ("transcripts", "samples"):
        for file in (made.public / folder).iterdir():
            file.unlink()
    made.close("ended early", "Both rounds were interrupted.")
    return made


def test_show_prints_the_verdict_and_every_hospital(run: Any) -> None:
    done = audit("show", run.folder)
    assert done.returncode == 0, done.stderr
    assert "round 2 of 2: INCOMPLETE" in done.stdout
    spent = run.drafts[1].report.composition.hospitals[0].spent
    assert done.stdout.count(spent) >= 4
    assert str(run.public / "reports/round-0002.html") in done.stdout
    assert "not checked" in done.stderr


def test_show_as_json_is_one_object(run: Any) -> None:
    done = audit("show", run.folder, "--round", "1", "--json")
    shown = json.loads(done.stdout)
    assert shown["round"] == 1 and shown["verdict"]["verdict"] == "INCOMPLETE" and shown["verified"] is False
    assert shown["digest"] == run.drafts[0].digest
    assert [row["name"] for row in shown["hospitals"]] == ["a", "b", "c", "d"]


def test_verify_passes_and_says_what_was_not_checked(run: Any, tmp_path: Path) -> None:
    keys = run.trust(tmp_path / "keys")
    done = audit("verify", run.public, "--trust", keys)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Everything that was checked fits." in done.stdout and "NOT CHECKED" in done.stdout
    loud = audit("verify", run.public)
    assert loud.returncode == 0 and "KEYS WERE TAKEN FROM THE BUNDLE ITSELF" in loud.stdout
    head = audit("verify", run.folder, "--trust", keys, "--head", run.drafts[1].digest, "--full", "--json")
    result = json.loads(head.stdout)
    assert result["ok"] is True
    assert {check["name"]: check["outcome"] for check in result["checks"]}["head"] == "PASS"


def test_verify_fails_with_5_and_names_the_file(run: Any, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "public"
    shutil.copytree(run.public, copy)
    page = copy / "reports/round-0001.html"
    page.write_bytes(page.read_bytes().replace(b"INCOMPLETE", b"PASS", 1))
    done = audit("verify", copy)
    assert done.returncode == 5
    assert "[FAIL]" in done.stdout and "reports/round-0001.html" in done.stdout
    assert "VERIFICATION FAILED" in done.stdout
    as_json = audit("verify", copy, "--json")
    assert as_json.returncode == 5
    assert any(check["file"] == "reports/round-0001.html" for check in json.loads(as_json.stdout)["checks"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show", "absent"), "holds no run"),
        (("verify", "absent"), "holds no run"),
        (("show", "RUN", "--round", "7"), "no report of round 7"),
        (("verify", "RUN", "--head", "xyz"), "64 lowercase"),
        (("verify", "RUN", "--trust", "absent"), "does not exist"),
        (("verify", "RUN", "--trust", "RUN/public/policy.json"), "not a public key"),
    ],
)
def test_wrong_requests_exit_with_2(run: Any, arguments: tuple[str, ...], said: str) -> None:
    words = [word.replace("RUN", str(run.folder)) for word in arguments]
    done = audit(*words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert said in done.stderr


def test_the_protocol_refuses_a_transcript_that_is_none(builders: ModuleType, tmp_path: Path) -> None:
    whole = builders.Run(tmp_path / "run", rounds=1).all_rounds()
    done = audit("verify", whole.folder)
    assert done.returncode == 5
    assert "transcripts/round-0001.cbor" in done.stdout


@pytest.fixture(scope="module")
def aggregated(builders: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes the context of a real transcript, with h4 gone before its input and a report that `changes` falsify."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from fedgan_audits.facts.records import RoundRecord
    from fedgan_audits.report.report import build_report
    from fedgan_audits.verification.transcripts import TranscriptContext

    place = Path(__file__).parents[1] / "protocols" / "conftest.py"
    spec = importlib.util.spec_from_file_location("protocols_builders", place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    federation = module.Lab().federation(n=5, t=3)
    # h4 leaves before its input, h5 before its receipt
    result = federation.result(drops={"h4": "masked-input", "h5": "receipt"})
    assert result.receipts["h1"] == "ok" != result.receipts["h5"]
    names = federation.parameters.names
    keys = {name: Ed25519PrivateKey.generate() for name in names}
    made = builders.Run(tmp_path_factory.mktemp("audit") / "real", rounds=1, names=names, keys=keys)

    def make(**changes: Any) -> TranscriptContext:
        values = made.record(1).model_dump()
        values["aggregation"].update(
            threshold=3,
            dimension=5,
            survivors=result.survivors,
            dropouts=tuple(result.dropped),
            sum_sha256=result.sum_digests[0].hex(),
            model_before=federation.models[0].hex(),
            session=federation.parameters.session.hex(),
        )
        for hospital in values["hospitals"]:
            drop = result.drops.get(hospital["name"])
            took_part = hospital["name"] in result.survivors
            signed = result.receipts.get(hospital["name"]) == "ok"
            hospital.update(
                took_part=took_part,
                receipt="signed" if signed else "missing" if took_part else "not due",
                dropped_at=drop.stage if drop else None,
                drop_reason=drop.code if drop else None,
            )
            hospital.update(changes.get(hospital["name"], {}))
        values["aggregation"].update(changes.get("aggregation", {}))
        values["privacy"].update(changes.get("privacy", {}))
        values["header"].update(changes.get("header", {}))
        return TranscriptContext(
            data=result.transcript,
            policy={},
            policy_sha256=federation.parameters.policy_hash.hex(),
            run_id="r",
            round=1,
            hospitals={name: federation.identities[name].public_key for name in names},
            coordinator=federation.parameters.server_public_key,
            report=build_report(RoundRecord.model_validate(values)),
        )

    return make


def test_a_faithful_report_fits_its_transcript(aggregated: Any) -> None:
    from fedgan_secure.transcript_check import check_transcript

    assert check_transcript(aggregated()) == "round 1, last stage receipt"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"h5": {"receipt": "signed"}}, "the receipt of h5"),
        ({"h1": {"receipt": "missing"}}, "the receipt of h1"),
        ({"h4": {"dropped_at": None, "drop_reason": None}}, "the stage at which h4 dropped out"),
        ({"h4": {"drop_reason": "invented"}}, "the reason why h4 dropped out"),
        ({"h1": {"dropped_at": "unmasking"}}, "the stage at which h1 dropped out"),
        ({"aggregation": {"dropouts": ()}}, "the list of drop-outs"),
        ({"aggregation": {"dropouts": ("h1", "h4", "h5")}}, "the list of drop-outs"),
    ],
)
def test_receipts_and_drop_outs_are_those_of_the_transcript(aggregated: Any, changes: Any, said: str) -> None:
    from fedgan_protocols import ProtocolError
    from fedgan_secure.transcript_check import check_transcript

    with pytest.raises(ProtocolError, match=said):
        check_transcript(aggregated(**changes))


def test_a_release_with_shared_noise_is_one_sum(aggregated: Any) -> None:
    """The steps of a round are many sums where noise is shared; the release, which is round 1, is one."""
    from fedgan_audits.accounting.mechanism import DistributedMechanism, NoiseShares
    from fedgan_audits.facts.records import ReleaseFacts, spending
    from fedgan_protocols import ProtocolError
    from fedgan_secure.transcript_check import check_transcript

    shares = NoiseShares(threshold=3, colluders=1, grid_step=1e-3, dimension=5)
    steps = DistributedMechanism(
        sampling_probability=0.1, noise_multiplier=1.4, steps=20, l2_clip_norm=1, unit="patient", shares=shares
    )
    noisy = steps.model_copy(update={"sampling_probability": 1.0, "steps": 1})
    release = ReleaseFacts(
        mechanism=noisy, statistic="A sum.", dimension=5, layout_sha256="a" * 64, features="Frozen ones."
    )
    plain = aggregated().report.aggregation.facts.sum_sha256
    of_sums = {"sum_sha256": hashlib.sha256(bytes.fromhex(plain)).hexdigest()}
    said = {"unit": "patient", "noise_placement": "distributed", "planned": steps, "images_per_patient": 1}

    def hospitals(mechanism: DistributedMechanism) -> dict[str, Any]:
        reserved = {"reserved": mechanism, "this_run": spending([(1, mechanism)])}
        return {f"h{number}": reserved for number in range(1, 6)}

    header = {"rounds_scheduled": 2}
    released = {**said, "release": release}
    whole = aggregated(header=header, privacy=released, **hospitals(noisy))
    assert check_transcript(whole) == "round 1, last stage receipt"
    with pytest.raises(ProtocolError, match="digests of the sums"):
        check_transcript(aggregated(header=header, aggregation=of_sums, privacy=released, **hospitals(noisy)))
    with pytest.raises(ProtocolError):
        check_transcript(aggregated(header=header, aggregation=of_sums, privacy=said, **hospitals(steps)))
