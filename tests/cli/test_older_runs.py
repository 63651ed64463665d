"""What may be made of a run that an older version wrote: it verifies, and nothing of it leaves unchecked."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from fedgan_audits.errors import VerificationFailed
from fedgan_secure.release.export_gate import Override, judge
from tests.cli.conftest import fedgan

VECTORS = Path(__file__).resolve().parents[1] / "vectors"
NO = "this version cannot check the run in whole, so"


@pytest.fixture(params=["report-version-0", "report-version-1"])
def old(request: Any, tmp_path: Path) -> Path:
    """Two rounds of three hospitals as version 73650c3, or one before it, wrote them, with their keys in `trust`."""
    with tarfile.open(VECTORS / f"{request.param}.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def test_verification_says_what_it_lacks_and_what_that_closes(old: Path) -> None:
    done = fedgan("audit", "verify", old / "public", "--trust", old / "trust")
    assert done.code == 0, done.out
    assert "3 pages were made by an older renderer" in done.out
    assert "2 checks close sign-offs, exports and releases" in done.out
    found = json.loads(fedgan("audit", "verify", old / "public", "--trust", old / "trust", "--json").out)
    assert found["ok"] and not found["releasable"]


@pytest.mark.parametrize("form", ["html", "oscal", "article-30"])
def test_it_is_not_exported(old: Path, form: str) -> None:
    done = fedgan("audit", "export", old / "public", "--format", form, "--trust", old / "trust")
    assert done.code == 5 and not done.out
    assert f"{NO} nothing is exported" in done.err and "with the version of fedgan-secure that made the run" in done.err


def test_it_is_not_signed_off(old: Path, tmp_path: Path) -> None:
    from fedgan_protocols import Identity

    key = tmp_path / "identity.pem"
    Identity.generate().save(key)
    before = sorted(path.name for path in (old / "public").rglob("*"))
    done = fedgan("audit", "sign-off", old / "public", "--round", "1", "--key", key, "--role", "Privacy officer")
    assert done.code == 5 and f"{NO} round 1 is not signed off" in done.err
    assert sorted(path.name for path in (old / "public").rglob("*")) == before


def test_it_is_not_released_whoever_answers_for_it(old: Path) -> None:
    judged = judge(old / "public", trust=[old / "trust"])
    for override in (None, Override("Data protection officer", "It is urgent.")):
        with pytest.raises(VerificationFailed, match=f"{NO} it is not exported") as refused:
            judged.require(override)
        assert refused.value.exit_code == 5
