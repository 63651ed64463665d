"""An auditor's machine: requirements/verify.txt, the wheel without its dependencies, a copied folder, keys by letter.

Installing takes a network or pip's cache, so in an ordinary checkout the test skips unless FEDGAN_MINIMAL is set; in CI
it never does.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from benchmarks.audit_trail.trail import Trail

from fedgan_audits.report.reading import read_payload
from fedgan_audits.signing import envelope

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.xdist_group("tampering")


@dataclass(frozen=True)
class Delivery:
    """What an auditor is sent: a copied public folder, and keys by another way."""

    public: Path
    keys: Path


@pytest.fixture(scope="module")
def delivery(tmp_path_factory: pytest.TempPathFactory) -> Delivery:
    root = tmp_path_factory.mktemp("delivery")
    trail = Trail(root / "run", 2, 3)
    for number in (1, 2):
        trail.add(number, quick=False)
    trail.close(2)
    public, keys = root / "mail" / "public", root / "letter"
    shutil.copytree(trail.public, public)
    keys.mkdir()
    for name, identity in {**trail.identities, "coordinator": trail.coordinator}.items():
        (keys / f"{name}.pub.pem").write_bytes(identity.public_pem())
    shutil.rmtree(trail.public.parent)
    return Delivery(public, keys)


@pytest.fixture(scope="module")
def auditor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `fedgan-secure` of an environment that holds only what verification needs."""
    if not os.environ.get("FEDGAN_CI") and not os.environ.get("FEDGAN_MINIMAL"):
        pytest.skip("installs packages: set FEDGAN_MINIMAL to run it; CI always does")
    place = tmp_path_factory.mktemp("auditor") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    python = str(place / "bin" / "python")
    candidates = [sys.executable, f"{sys.base_prefix}/bin/python3", shutil.which("python3") or sys.executable]
    pip = next(
        (one for one in candidates if subprocess.run([one, "-m", "pip", "-V"], capture_output=True).returncode == 0),
        None,
    )
    if pip is None:
        pytest.fail("no Python here has pip, which installs what an auditor needs")
    install = [pip, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "--require-hashes", "-r", str(ROOT / "requirements/verify.txt")], check=True)
    subprocess.run([*install, "--no-deps", "--no-build-isolation", str(ROOT)], check=True)
    return place / "bin" / "fedgan-secure"


def clean() -> dict[str, str]:
    """An environment in which nothing of this checkout can be found."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL"))}


def test_a_copied_folder_verifies_where_nothing_else_is_installed(auditor: Path, delivery: Delivery) -> None:
    words = [str(auditor), "audit", "verify", str(delivery.public), "--trust", str(delivery.keys), "--json"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=delivery.keys, env=clean())
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert {check["name"] for check in found["checks"] if check["outcome"] == "NOT CHECKED"} == {"head"}
    assert found["run"]["rounds"] == 2
    page = delivery.public / "reports/round-0002.html"
    kept = page.read_bytes()
    page.write_bytes(kept.replace(b"PASS", b"STOP", 1))
    assert subprocess.run(words, capture_output=True, cwd=delivery.keys, env=clean()).returncode == 5
    page.write_bytes(kept)


def test_nothing_heavy_is_there(auditor: Path) -> None:
    code = "import importlib.util as u; print([n for n in ('tensorflow', 'keras', 'pydicom', 'PIL') if u.find_spec(n)])"
    python = auditor.with_name("python")
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, cwd="/", env=clean(), check=True)
    assert done.stdout.strip() == "[]"
    where = "import fedgan_audits; print(fedgan_audits.__file__)"
    done = subprocess.run([str(python), "-c", where], capture_output=True, text=True, cwd="/", env=clean(), check=True)
    assert str(auditor.parents[1]) in done.stdout


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl command on this machine")
def test_openssl_alone_verifies_a_signature_with_the_command_that_the_report_prints(delivery: Delivery) -> None:
    for number in (1, 2):
        file = delivery.public / f"reports/round-{number:04d}.dsse.json"
        report, _ = read_payload(envelope.parse(file.read_bytes()).payload)
        printed = report.verification.commands[1]
        page = file.with_name(f"round-{number:04d}.html").read_text(encoding="utf-8")
        told = page.replace('<span class="nowrap">', "").replace("</span>", "")
        assert f"<pre>{printed}</pre>" in told
        words = shlex.split(printed.replace("KEYS/", f"{delivery.keys}/"))
        done = subprocess.run(words, capture_output=True, text=True, cwd=delivery.public)
        assert done.returncode == 0 and "Verified Successfully" in done.stdout, done.stdout + done.stderr
        signed = delivery.public / f"reports/round-{number:04d}.pae"
        kept = signed.read_bytes()
        signed.write_bytes(kept.replace(b'"PASS"', b'"STOP"', 1))
        assert subprocess.run(words, capture_output=True, cwd=delivery.public).returncode != 0
        signed.write_bytes(kept)
