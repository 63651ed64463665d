"""Children of the product: they run nothing that lies in the current folder, and get a small environment."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedgan_secure.child_processes import child_environment, inherited
from fedgan_secure.data.pixels.gdcm_process import CRASHED, Decoder
from fedgan_secure.data.pixels.preprocess import PLAIN
from fedgan_secure.data.reading.decode import Decoded, DecodeSettings
from fedgan_secure.data.reading.parallel import map_batches
from fedgan_secure.data.reading.plans import Item
from fedgan_secure.tuning.workers import COMMAND, Worker, WorkerEnded

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("fedgan_secure", "protocols/fedgan_protocols", "audits/fedgan_audits", "cli/fedgan_cli")
PLANTED = (
    "random", "PIL", "numpy", "json", "struct", "select", "pydicom", "gdcm", "pickle", "signal", "socket", "tempfile",
    "subprocess", "cryptography", "pydantic", "scipy", "tensorflow", "keras", "fedgan_secure", "sitecustomize",
)  # fmt: skip
"""Twenty names that a worker, or what it imports, looks for."""


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of images in which modules of twenty names and an empty folder `dl` lie; a module leaves its name in
    the folder `executed`."""
    folder, executed = tmp_path / "images", tmp_path / "executed"
    folder.mkdir()
    executed.mkdir()
    for name in PLANTED:
        (folder / f"{name}.py").write_text(f"open({str(executed / name)!r}, 'w').close()\n")
    (folder / "dl").mkdir()
    for number in range(8):
        Image.fromarray(np.full((16, 16, 3), 20 * number, np.uint8)).save(folder / f"{number}.png")
    monkeypatch.chdir(folder)
    # what `export PYTHONPATH=$PYTHONPATH:/elsewhere` leaves where nothing was set: an empty entry, the current folder
    kept = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", *kept, "."]))
    return executed


def executed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_workers_that_read_images_run_nothing_that_lies_beside_them(planted: Path) -> None:
    settings = DecodeSettings(Path.cwd(), PLAIN, 16, 3, frozenset(), needs_patient=False)
    items = [Item(path=f"{number}.png", kind="picture", patient=None) for number in range(8)]
    batches = map_batches("fedgan_secure.data.reading.decode:decode_batch", settings, items, batch=2, workers=2)
    results = [result for batch in batches for result in batch]
    assert executed(planted) == []
    assert [type(result) for result in results] == [Decoded] * 8
    assert all(result.images is not None for result in results)


def test_the_decoder_runs_nothing_that_lies_beside_the_images(planted: Path) -> None:
    decoder = Decoder()
    parameters = {
        "columns": 4, "rows": 4, "samples": 1, "photometric": "MONOCHROME2", "syntax": "1.2.840.10008.1.2.4.90",
        "allocated": 8, "stored": 8, "representation": 0,
    }  # fmt: skip
    try:
        with pytest.raises(ValueError, match="GDCM does not decode the frame") as raised:
            decoder.decode(b"no codestream", parameters)
    finally:
        decoder.close()
    assert CRASHED not in str(raised.value)
    assert executed(planted) == []


def test_a_worker_of_a_search_runs_nothing_that_lies_in_the_current_folder(planted: Path, tmp_path: Path) -> None:
    worker = Worker(COMMAND, 1, tmp_path / "log")
    with pytest.raises(WorkerEnded):
        worker.ask({"no": "job"})
    assert executed(planted) == []
    assert "KeyError" in (tmp_path / "log").read_text()  # it came as far as the job, with the product's own modules


@pytest.mark.parametrize("room", ROOMS)
def test_whatever_starts_a_process_starts_it_by_these_rules(room: str) -> None:
    """Every start in the tree has `env=child_environment(...)`, and its command is of `python_command`."""
    starters = {"Popen", "run", "call", "check_call", "check_output", "getoutput", "getstatusoutput"}
    for path in sorted((ROOT / room).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                outside = names & {"ProcessPoolExecutor", "multiprocessing", "multiprocessing.pool", "pty", "Process"}
                assert not outside, f"{path}:{node.lineno} starts processes by other means: {sorted(outside)}"
                assert not (isinstance(node, ast.ImportFrom) and node.module == "subprocess"), f"{path}:{node.lineno}"
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
            assert not (
                owner == "os" and node.func.attr.startswith(("exec", "spawn", "posix_spawn", "system", "popen"))
            )
            if owner == "subprocess" and node.func.attr in starters:
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert given.get("env", "").startswith("child_environment("), f"{path}:{node.lineno}"
                command = ast.unparse(node.args[0])
                assert command.startswith("python_command(") or (path.name == "workers.py" and COMMAND[1] == "-P")


def test_a_child_inherits_no_more_than_is_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {
        "HOME": "/home/a", "LC_ALL": "C", "CUDA_VISIBLE_DEVICES": "0", "TF_ENABLE_ONEDNN_OPTS": "1", "FEDGAN_X": "1",
        "AWS_SECRET_ACCESS_KEY": "secret", "PYTHONSTARTUP": "/x.py", "PYTHONHOME": "/x", "LD_PRELOAD": "/x.so",
        "PATH": "/usr/bin::bin:.:/bin", "PYTHONPATH": ":/src:../lib", "LD_LIBRARY_PATH": ":",
    }  # fmt: skip
    assert inherited(here) == {
        "HOME": "/home/a", "LC_ALL": "C", "CUDA_VISIBLE_DEVICES": "0", "TF_ENABLE_ONEDNN_OPTS": "1", "FEDGAN_X": "1",
        "PATH": "/usr/bin:/bin", "PYTHONPATH": "/src",
    }  # fmt: skip
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert child_environment()["OMP_NUM_THREADS"] == "7"
    assert child_environment(OMP_NUM_THREADS="1")["OMP_NUM_THREADS"] == "1"
    assert child_environment()["PYTHONSAFEPATH"] == "1"
