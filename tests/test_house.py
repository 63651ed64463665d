"""The laws of the house: who may import whom, read from the syntax tree, and what the command line loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import HANG_SECONDS

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {
    "fedgan_secure": ROOT / "fedgan_secure",
    "fedgan_protocols": ROOT / "protocols" / "fedgan_protocols",
    "fedgan_audits": ROOT / "audits" / "fedgan_audits",
    "fedgan_cli": ROOT / "cli" / "fedgan_cli",
}
FORBIDDEN = {
    "fedgan_protocols": {
        "fedgan_secure",
        "fedgan_audits",
        "fedgan_cli",
        "tensorflow",
        "keras",
        "random",
        "pydantic",
    },
    "fedgan_audits": {"fedgan_secure", "fedgan_protocols", "fedgan_cli", "tensorflow", "keras", "random"},
    "fedgan_secure": {"fedgan_cli", "click", "rich", "random"},
    "fedgan_cli": set(),
}
PROTOCOLS_MAY = {"numpy", "cryptography", "cbor2", "fedgan_protocols"}
SIZE_LIMIT = 500


def files(room: str) -> list[Path]:
    found = sorted(ROOMS[room].rglob("*.py"))
    assert found, room
    return found


def imported(path: Path) -> set[str]:
    """Top-level names of every import anywhere in a file, lazy ones included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_lies_below_it(room: str) -> None:
    broken = {
        str(path.relative_to(ROOT)): sorted(found)
        for path in files(room)
        if (found := imported(path) & FORBIDDEN[room])
    }
    assert broken == {}


def test_protocols_need_three_libraries_and_no_more() -> None:
    standard = sys.stdlib_module_names
    for path in files("fedgan_protocols"):
        assert imported(path) - standard <= PROTOCOLS_MAY, path


@pytest.mark.parametrize(
    "folder",
    [
        ROOMS["fedgan_protocols"],
        *(ROOMS["fedgan_secure"] / room for room in ("privacy", "dpsgd", "federation", "training", "site")),
    ],
)
def test_secrets_and_noise_never_come_from_a_statistical_generator(folder: Path) -> None:
    """No `random`, `numpy.random`, `tf.random` or `keras.random`, but for what trains on fakes alone (training.py)."""
    for path in sorted(folder.rglob("*.py")):
        if path.name == "training.py" and path.parent.name == "training":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr == "random" and isinstance(node.value, ast.Name):
                assert node.value.id not in {"np", "numpy", "tf", "tensorflow", "keras"}, f"{path}:{node.lineno}"
            if isinstance(node, ast.ImportFrom) and node.module in {"numpy", "tensorflow", "keras"}:
                assert all(alias.name != "random" for alias in node.names), f"{path}:{node.lineno}"


@pytest.mark.parametrize("room", ROOMS)
def test_files_stay_small_and_say_what_they_are_for(room: str) -> None:
    for path in files(room):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= SIZE_LIMIT, path
        assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"
        assert path.stem not in {"utils", "helpers", "manager", "common", "misc"}, path


def test_sibling_distributions_cannot_collide() -> None:
    """Only prefixed packages are shipped: a top-level `cli` or `audits` would overwrite another vendor's."""
    import tomllib

    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert all(Path(package).name.startswith("fedgan_") for package in wheel["packages"])


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["run", "--help"], ["audit", "verify", "--help"], ["plan", "--help"], ["data", "--help"]],
)
def test_help_loads_no_tensorflow(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom fedgan_cli.main import cli\n"
        "try:\n    cli.main(sys.argv[1:], standalone_mode=False)\nexcept SystemExit:\n    pass\n"
        "heavy = {'tensorflow', 'keras', 'dp_accounting', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=HANG_SECONDS
    )
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_the_lock_names_no_registry_and_every_package_has_a_hash() -> None:
    for lock in sorted((ROOT / "requirements").glob("*.txt")):
        text = lock.read_text(encoding="utf-8")
        options = {line.split()[0] for line in text.splitlines() if line.startswith("-")}
        assert not options and "http" not in text, (lock, options)
        blocks = [line for line in text.splitlines() if line and not line.startswith((" ", "#", "    "))]
        assert blocks and all(line.endswith("\\") for line in blocks), lock
    assert not (ROOT / "uv.lock").exists()
