"""`fedgan-secure run`, whole: what it leaves, what it refuses, and what survives a kill."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import SMALL, fedgan
from tests.patience import HANG_SECONDS


def reports(root: Path) -> list[dict[str, object]]:
    """The predicates of all reports, in order (unverified: `audit verify` is tested on its own)."""
    import base64

    found = []
    for path in sorted((root / "public" / "reports").glob("*.dsse.json")):
        envelope = json.loads(path.read_text())
        found.append(json.loads(base64.b64decode(envelope["payload"]))["predicate"])
    return found


def reserved_rounds(root: Path, name: str) -> list[int]:
    """The rounds of its run that a hospital's ledger shows as spent."""
    from fedgan_audits.ledger.ledger import Ledger

    run_id = json.loads((root / "run.json").read_text())["run_id"]
    with Ledger.open(root / "site" / name / "ledger.sqlite", read_only=True) as kept:
        return sorted(kept.reservations(run_id))


def test_every_file_of_the_run_directory_is_there(finished: Path) -> None:
    public = finished / "public"
    expected = ["policy.json", "index.html", "manifest.dsse.json", "model/generator.keras", "model/discriminator.keras"]
    for number in (1, 2, 3):
        stem = f"round-{number:04d}"
        expected += [f"reports/{stem}.dsse.json", f"reports/{stem}.pae", f"reports/{stem}.html"]
        expected += [f"reports/{stem}.{name}.sig" for name in ("a", "b", "c", "coordinator")]
        expected += [f"transcripts/{stem}.cbor", f"samples/{stem}.png"]
    expected += [f"trust/{name}.pub.pem" for name in ("a", "b", "c", "coordinator")]
    assert sorted(expected) == sorted(str(p.relative_to(public)) for p in public.rglob("*") if p.is_file())
    for name in "abc":
        site = finished / "site" / name
        assert site.stat().st_mode & 0o777 == 0o700
        for part in ("identity.pem", "ledger.sqlite", "journal", "cache", "confidential/round-0003.json"):
            assert (site / part).exists(), part
    assert json.loads((finished / "run.json").read_text())["status"] == "complete"


def test_nothing_secret_or_counted_is_public(finished: Path) -> None:
    """No private key, no pseudonym and no realised number of the annex is anywhere below public/."""
    texts = {path: path.read_bytes() for path in (finished / "public").rglob("*") if path.is_file()}
    for name in "abc":
        site = finished / "site" / name
        annex = json.loads((site / "confidential" / "round-0001.json").read_text())
        secrets = [annex["salt"].encode(), bytes.fromhex(annex["salt"]), (site / "pseudonym.key").read_bytes()]
        pem = (site / "identity.pem").read_text().splitlines()[1].encode()
        for path, data in texts.items():
            assert not any(secret in data for secret in [*secrets, pem, b"PRIVATE KEY", b"PHANTOM-"]), path


def test_epsilon_never_passes_the_target_and_rises(finished: Path) -> None:
    spent = [float(str(report["verdict"]["spent"])) for report in reports(finished)]  # type: ignore[index]
    assert spent == sorted(spent) and spent[-1] <= 20.0 and spent[0] < spent[-1]


def test_it_verifies_whole_and_copied_alone(finished: Path, tmp_path: Path) -> None:
    assert fedgan("audit", "verify", finished, "--trust", finished / "public" / "trust").code == 0
    keys = shutil.copytree(finished / "public" / "trust", tmp_path / "keys")
    alone = shutil.copytree(finished / "public", tmp_path / "alone")
    assert fedgan("audit", "verify", alone, "--trust", keys).code == 0
    ledger = finished / "site" / "b" / "ledger.sqlite"
    done = fedgan("audit", "verify", alone, "--trust", keys, "--ledger", ledger)
    assert done.code == 0, done.out


def test_one_changed_byte_in_any_file_is_found_and_named(copied: Path) -> None:
    from fedgan_audits.verification.verify import verify_run
    from fedgan_secure.transcript_check import check_transcript

    trust = [shutil.copytree(copied / "public" / "trust", copied.parent / "keys")]
    for path in sorted(p for p in (copied / "public").rglob("*") if p.is_file()):
        whole = path.read_bytes()
        broken = bytearray(whole)
        broken[len(whole) // 2] ^= 0x01
        path.write_bytes(bytes(broken))
        found = verify_run(copied / "public", trust=trust, transcript_check=check_transcript)
        assert found.exit_code == 5, path
        named = [check.file + check.detail for check in found.checks if check.outcome == "FAIL"]
        assert any(path.name in text for text in named), (path, named)
        path.write_bytes(whole)
    assert verify_run(copied / "public", trust=trust, transcript_check=check_transcript).exit_code == 0


def test_verification_loads_no_tensorflow(finished: Path) -> None:
    code = (
        "import sys\nfrom fedgan_cli.main import cli\n"
        "code = cli.main(sys.argv[1:], standalone_mode=False)\n"
        "assert not code, code\nassert 'tensorflow' not in sys.modules and 'keras' not in sys.modules\n"
    )
    arguments = ["audit", "verify", str(finished), "--trust", str(finished / "public" / "trust")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=HANG_SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_json_is_one_object_and_the_rest_is_on_stderr(tmp_path: Path) -> None:
    done = fedgan("run", *SMALL, "--rounds", "1", "--output", tmp_path / "run", "--json")
    said = json.loads(done.out)
    assert done.code == 0 and said["status"] == "complete" and set(said["epsilon"]) == {"a", "b", "c"}
    assert float(said["epsilon"]["a"]) <= 20.0


SIGNALLED = """
import json, os, sys
from pathlib import Path
from fedgan_cli.main import main
from fedgan_secure.interruption import Interruption

state, number, plain, looked = Path(sys.argv[1]), int(sys.argv[2]), Interruption.check, []

def check(self):
    now = json.loads(state.read_text())
    if now["next_round"] == 2 and now["started"]:
        looked.append(now)
        if len(looked) == 3:
            os.kill(os.getpid(), number)
    plain(self)

Interruption.check = check
main(["run", *sys.argv[3:]])
"""
"""A run that sends itself a signal at its third look at the interruption in round 2: between two training steps, when
everybody has reserved. From outside a slow machine would miss the round."""


def start_and_signal(root: Path, number: signal.Signals, *more: str) -> int:
    """Start a run of three rounds that gets a signal in round 2; its exit code."""
    command = [
        sys.executable,
        "-c",
        SIGNALLED,
        str(root / "checkpoints" / "state.json"),
        str(int(number)),
        *SMALL,
        *more,
    ]
    command += ["--rounds", "3", "--output", str(root)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=HANG_SECONDS)
    assert all(reserved_rounds(root, name) == [1, 2] for name in "abc")
    return done.returncode


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_kill_in_round_two_is_resumed_and_stays_spent(number: signal.Signals, tmp_path: Path) -> None:
    root = tmp_path / "run"
    code = start_and_signal(root, number)
    if number is signal.SIGKILL:
        assert code == -signal.SIGKILL
    else:
        assert code == 130
        assert [report["verdict"]["verdict"] for report in reports(root)] == ["PASS", "INCOMPLETE"]  # type: ignore[index]
        assert fedgan("audit", "verify", root, "--trust", root / "public" / "trust").code == 0
    done = fedgan("run", "--resume", root)
    assert done.code == 0, done.err
    found = reports(root)
    assert [report["verdict"]["verdict"] for report in found] == ["PASS", "INCOMPLETE", "PASS"]  # type: ignore[index]
    assert float(found[-1]["verdict"]["spent"]) <= 20.0  # type: ignore[index]
    assert fedgan("audit", "verify", root, "--trust", root / "public" / "trust").code == 0
    assert reserved_rounds(root, "a") == [1, 2, 3]
    again = fedgan("run", "--resume", root)
    assert again.code == 0 and "complete already" in again.err
    assert [r["header"]["round"] for r in reports(root)] == [1, 2, 3]  # type: ignore[index]


def test_a_cap_ends_the_run_in_order(tmp_path: Path) -> None:
    """The third round would pass the cap: exit 3, two whole rounds, reports that verify, nothing reserved for it."""
    free = fedgan("run", *SMALL, "--rounds", "3", "--output", tmp_path / "free", "--json")
    assert free.code == 0, free.err
    by_round = [float(str(r["verdict"]["spent"])) for r in reports(tmp_path / "free")]  # type: ignore[index]
    cap = (by_round[1] + by_round[2]) / 2
    root = tmp_path / "run"
    done = fedgan("run", *SMALL, "--rounds", "3", "--epsilon-cap", f"{cap:.3f}", "--output", root)
    assert done.code == 3, done.err
    assert f"cap {float(f'{cap:.3f}'):g}, left " in done.out
    assert [r["verdict"]["verdict"] for r in reports(root)] == ["PASS", "STOP"]  # type: ignore[index]
    assert fedgan("audit", "verify", root, "--trust", root / "public" / "trust").code == 0
    from fedgan_audits.ledger.ledger import Ledger

    assert reserved_rounds(root, "a") == [1, 2]
    with Ledger.open(root / "site" / "a" / "ledger.sqlite", read_only=True) as kept:
        assert any(entry.kind == "refused" for entry in kept.entries())
    assert (root / "public" / "model" / "generator.keras").exists()


def test_a_drop_out_is_survived_and_one_too_many_aborts(tmp_path: Path) -> None:
    four = [*SMALL]
    four[four.index("--hospitals") + 1] = "4"
    root = tmp_path / "run"
    done = fedgan(
        "run", *four, "--rounds", "4", "--output", root,
        "--drop", "b@1", "--drop", "c@2:unmasking", "--drop", "a@3", "--drop", "d@3:share-keys",
    )  # fmt: skip
    assert done.code == 0, done.err
    found = reports(root)
    assert found[0]["aggregation"]["facts"]["survivors"] == ["a", "c", "d"]  # type: ignore[index]
    assert found[2]["verdict"]["verdict"] == "INCOMPLETE"  # type: ignore[index]
    assert found[3]["verdict"]["verdict"] == "PASS"  # type: ignore[index]
    assert fedgan("audit", "verify", root, "--trust", root / "public" / "trust").code == 0
    last = tmp_path / "last"
    done = fedgan("run", *SMALL, "--rounds", "1", "--output", last, "--drop", "a@1")
    assert done.code == 4 and "round 1 of 1: aborted" in done.err and "--spare-rounds" in done.err, done.err


def test_one_site_directory_counts_all_its_runs(tmp_path: Path, finished: Path) -> None:
    sites = tmp_path / "sites"
    for name in ("one", "two"):
        done = fedgan("run", *SMALL, "--rounds", "1", "--site-dir", sites, "--output", tmp_path / name)
        assert done.code == 0, done.err
    first, second = reports(tmp_path / "one")[0], reports(tmp_path / "two")[0]
    assert first["header"]["run_id"] != second["header"]["run_id"]  # type: ignore[index]
    from fedgan_audits.ledger.ledger import Ledger

    with Ledger.open(sites / "a" / "ledger.sqlite", read_only=True) as kept:
        assert len(kept.mechanisms()) == 2
    # Its keys last over the runs, the coordinator's among them; those of a run without it are others.
    assert fedgan("audit", "verify", tmp_path / "two", "--trust", tmp_path / "one" / "public" / "trust").code == 0
    assert fedgan("audit", "verify", tmp_path / "two", "--trust", finished / "public" / "trust").code == 5


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--threshold", "4"], "threshold"),
        (["--threshold", "1"], "threshold"),
        (["--hospitals", "2"], "hospitals"),
        (["--dataset", "/nonexistent"], "nonexistent"),
        (["--hospital", "north"], "NAME=PATH"),
        (["--hospital", "a=/x", "--hospital", "b=/y"], "at least 3"),
        (["--partition", "sorted"], "partition"),
        (["--epsilon", "1e-6", "--delta", "1e-9"], "smallest epsilon within reach"),
        (["--noise-placement", "distributed", "--hospitals", "5", "--threshold", "3"], "no hospital may collude"),
        (["--insecure-deterministic", "--site-dir", "sites"], "--site-dir"),
        (["--drop", "z@1"], "no hospital 'z'"),
        (["--drop", "a@1:lunch"], "no stage"),
        (["--seed", "-1"], "seed"),
        (["--delta", "0.3"], "at most 1/10"),
        (["--exclude-patient", "nobody"], "asked 1, found 0"),
        (["--epsilon", "3", "--noise-multiplier", "1"], "noise_multiplier"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_written(
    arguments: list[str], expected: str, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    base = [] if "--dataset" in arguments or "--hospital" in arguments else SMALL
    done = fedgan("run", *base, *arguments, "--output", output)
    assert done.code == 2, done.err
    assert expected in done.err and ("hint:" in done.err or "Usage" in done.err)
    assert not output.exists()


def test_an_output_that_holds_another_run_is_left_alone(finished: Path) -> None:
    before = (finished / "run.json").read_bytes()
    done = fedgan("run", *SMALL, "--output", finished)
    assert done.code == 2 and "already holds a run" in done.err
    assert (finished / "run.json").read_bytes() == before


def test_resume_takes_nothing_else_and_wants_a_run(finished: Path, tmp_path: Path) -> None:
    assert fedgan("run", "--resume", tmp_path / "none").code == 2
    done = fedgan("run", "--resume", finished, "--rounds", "9")
    assert done.code == 2 and "rounds" in done.err


def test_no_privacy_is_loud(tmp_path: Path) -> None:
    arguments = [item for item in SMALL if item not in ("--epsilon", "20")]
    done = fedgan("run", *arguments, "--rounds", "1", "--no-privacy", "--output", tmp_path / "run")
    assert done.code == 0, done.err
    assert "unbounded" in done.out and "switched off" in done.out
    assert "unbounded" in (tmp_path / "run" / "public" / "reports" / "round-0001.html").read_text()


def test_a_run_can_start_from_another(finished: Path, tmp_path: Path) -> None:
    start = ["run", *SMALL, "--rounds", "1", "--init-from", finished]
    done = fedgan(*start, "--output", tmp_path / "next")
    assert done.code == 2 and "nothing says whose model that is" in done.err and not (tmp_path / "next").exists()
    head = json.loads(fedgan("audit", "verify", finished, "--json").out)["run"]["head"]
    done = fedgan(*start, "--trust", head, "--output", tmp_path / "next")
    assert done.code == 0, done.err
    assert fedgan("audit", "verify", tmp_path / "next").code == 0
    policy = json.loads((tmp_path / "next" / "public" / "policy.json").read_text())
    assert policy["initial_model"]["from_run"] == json.loads((finished / "run.json").read_text())["run_id"]
    missing = fedgan("run", *SMALL, "--init-from", tmp_path / "nothing", "--output", tmp_path / "other")
    assert missing.code == 2 and "init-from" in missing.err


def test_images_come_out_as_png_and_dicom(finished: Path, tmp_path: Path) -> None:
    import pydicom

    assert fedgan("generate", finished, "--count", "7", "--output", tmp_path / "png").code == 0
    assert len(list((tmp_path / "png").glob("[0-9]*.png"))) == 7
    done = fedgan(
        "generate", finished, "--count", "3", "--format", "dicom", "--label", "4", "--output", tmp_path / "dcm"
    )
    assert done.code == 0, done.err
    first = pydicom.dcmread(sorted((tmp_path / "dcm").glob("*.dcm"))[0])
    assert first[0x0008, 0x001C].value == "YES" and first.PatientID.startswith("SYNTHETIC-")
    assert fedgan("generate", finished, "--count", "1", "--label", "nine", "--output", tmp_path / "x").code == 2
    assert fedgan("generate", finished, "--count", "1", "--output", tmp_path / "png").code == 2


def test_init_writes_a_file_that_runs_and_never_overwrites(tmp_path: Path) -> None:
    assert fedgan("init", cwd=tmp_path).code == 0
    assert fedgan("init", cwd=tmp_path).code == 2
    done = fedgan("run", tmp_path / "federation.toml", *SMALL, "--rounds", "1", "--output", tmp_path / "run")
    assert done.code == 0, done.err


def test_doctor_finds_what_is_there() -> None:
    done = fedgan("doctor", "--json")
    said = json.loads(done.out)
    assert done.code == 0 and said["ok"]
    assert {"tensorflow", "TensorFlow loads", "entropy"} <= {item["what"] for item in said["findings"]}
