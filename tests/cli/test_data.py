from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from fedgan_cli.data import command
from fedgan_cli.main import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    train = tmp_path / "set" / "train"
    train.mkdir(parents=True)
    for number in range(6):
        pixels = np.random.default_rng(number // 5 * number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        side = ("left", "right")[number % 2]
        Image.fromarray(pixels + np.uint8(number % 5)).save(train / f"{number // 2}_{side}.jpeg")
    (train / "3_left.jpeg").write_bytes((train / "0_left.jpeg").read_bytes())
    (train / "4_left.jpeg").write_text("broken")
    rows = "\n".join(f"{path.stem},{index % 3}" for index, path in enumerate(sorted(train.glob("[0-2]*"))))
    (tmp_path / "set" / "trainLabels.csv").write_text(f"image,level\n{rows}\n9_left,1\n")
    return tmp_path / "set"


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(command, ["check", *arguments])


def test_the_table_for_people(folder: Path) -> None:
    result = _run(str(folder), "--quiet")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert "  layout                                  eyepacs" in lines
    assert "  patients                                4" in lines
    assert "  images                                  7" in lines
    assert "  train/4_left.jpeg: not a picture in a known format (JPEG, PNG, TIFF, BMP)" in lines
    assert "  train/0_left.jpeg = train/3_left.jpeg" in lines
    assert "images without label (1)" in lines
    assert "labels without image (1)" in lines
    assert "  9_left" in lines
    assert any(line.startswith("  0 no DR") and line.endswith("#") for line in lines)


def test_json_is_the_only_thing_on_stdout(folder: Path) -> None:
    result = _run(str(folder), "--json")
    found = json.loads(result.stdout)
    assert (found["patients"], found["images"], found["layout"]) == (4, 7, "eyepacs")
    assert found["quarantined"] == [
        {"path": "train/4_left.jpeg", "reason": "not a picture in a known format (JPEG, PNG, TIFF, BMP)"}
    ]
    assert found["duplicate_patients"] == [["0", "3"]]
    assert "reading images" in result.stderr


def test_settings_reach_the_loader(folder: Path) -> None:
    found = json.loads(
        _run(str(folder), "--json", "--unit", "image", "--image-size", "28", "--channels", "1",
             "--preprocessing", "plain/1", "--exclude-patient", "0").stdout
    )  # fmt: skip
    assert (found["unit"], found["patients"], found["image_size"], found["channels"]) == ("image", 5, 28, 1)
    assert (found["preprocessing"], found["excluded_found"]) == ("plain/1", ["0"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "does not exist"),
        (["{folder}", "--layout", "messidor"], "known but not read yet"),
        (["{folder}", "--layout", "dicom"], "no image in the layout dicom"),
        (["{folder}", "--preprocessing", "other"], "the preprocessing is 'other'"),
        (["{folder}", "--image-size", "32"], "32"),
    ],
)
def test_mistakes_end_with_2_a_message_and_no_trace(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["data", "check", *(text.format(folder=folder) for text in arguments)])
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_control_characters_in_a_file_name_do_not_reach_the_terminal(folder: Path) -> None:
    (folder / "train" / "a\x1b[31mb.jpeg").write_text("x")
    result = _run(str(folder), "--quiet")
    assert "\x1b" not in result.stdout
    assert "a\ufffd[31mb.jpeg" in result.stdout


def test_help_ends_with_an_example() -> None:
    for arguments in (["--help"], ["check", "--help"]):
        text = CliRunner().invoke(command, arguments).output
        assert "Example:" in text
        assert text.rstrip().splitlines()[-1].strip().startswith("fedgan-secure data check")


def test_no_tensorflow_is_loaded(folder: Path) -> None:
    code = (
        "import sys\nfrom fedgan_cli.main import main\n"
        f"try:\n    main(['data', 'check', {str(folder)!r}, '--quiet'])\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "bad = {'tensorflow', 'keras', 'scipy', 'dp_accounting'} & set(sys.modules)\n"
        "assert not bad, bad\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
