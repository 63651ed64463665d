"""What a file manager leaves in a public folder is remarked on; anything else that nobody listed is a failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedgan_audits.bundle.reading import ODD_NAME, is_stray
from fedgan_audits.verification.verify import verify_run
from tests.audits.conftest import Run

STRAYS = (".DS_Store", "reports/Thumbs.db", "samples/desktop.ini", "model/._generator.keras", "reports/DESKTOP.INI")
OTHERS = ("reports/Thumbs.db.exe", "DS_Store", "model/.generator.keras", "reports/._", "desktop.ini.html", "x.db")


def outcomes(bundle: Path, run: Run, tmp_path: Path) -> tuple[int, dict[str, list[str]]]:
    """The exit code, and what is said of the files by outcome."""
    result = verify_run(bundle, trust=[run.trust(tmp_path / "keys")])
    said: dict[str, list[str]] = {}
    for check in result.checks:
        if check.name == "files":
            said.setdefault(check.outcome, []).append(f"{check.file} {check.detail}")
    return result.exit_code, said


def test_strays_are_remarked_on(bundle: Path, whole_run: Run, tmp_path: Path) -> None:
    for path in STRAYS:
        (bundle / path).write_bytes(b"left behind")
    code, said = outcomes(bundle, whole_run, tmp_path)
    assert code == 0 and said.keys() == {"PASS", "NOT CHECKED"}
    (remark,) = said["NOT CHECKED"]
    assert all(path in remark for path in STRAYS) and "vouched for by nobody" in remark


@pytest.mark.parametrize("path", OTHERS)
def test_anything_else_stays_a_failure(bundle: Path, whole_run: Run, tmp_path: Path, path: str) -> None:
    (bundle / path).write_bytes(b"added")
    code, said = outcomes(bundle, whole_run, tmp_path)
    assert code == 5 and len(said["FAIL"]) == 1


def test_a_link_or_a_folder_of_such_a_name_stays_a_failure(bundle: Path, whole_run: Run, tmp_path: Path) -> None:
    (bundle / ".DS_Store").symlink_to(bundle / "policy.json")
    assert outcomes(bundle, whole_run, tmp_path)[0] == 5
    (bundle / ".DS_Store").unlink()
    (bundle / "._folder").mkdir()
    (bundle / "._folder" / "file").write_bytes(b"added")
    assert outcomes(bundle, whole_run, tmp_path)[0] == 5
    assert is_stray("a/._b", ODD_NAME) and not is_stray("a/._b", "a symbolic link; expected a plain file")


def test_they_are_in_no_manifest_and_stop_no_run(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", rounds=1)
    for path in (".DS_Store", "Thumbs.db"):
        (run.public / path).write_bytes(b"left behind")
    run.all_rounds()
    (run.public / "Thumbs.db").write_bytes(b"looked into again")
    (run.public / ".DS_Store").unlink()
    code, said = outcomes(run.public, run, tmp_path)
    assert code == 0 and any("Thumbs.db" in text for text in said["NOT CHECKED"])
