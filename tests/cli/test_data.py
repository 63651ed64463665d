from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.core import ParameterSource
from click.testing import CliRunner, Result
from PIL import Image

from fedgan_cli.data import command
from fedgan_cli.main import main
from fedgan_cli.run import command as run_command
from fedgan_secure.child_processes import child_environment, python_command
from fedgan_secure.data.reading import LoadSettings
from fedgan_secure.errors import InputError
from tests.fedgan_secure.data.conftest import make_dicom, noise
from tests.patience import HANG_SECONDS


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
    assert "  train/4_left.jpeg: not a picture in a known format (JPEG, PNG, TIFF, BMP, WebP, GIF, JPEG 2000)" in lines
    assert "  train/0_left.jpeg = train/3_left.jpeg" in lines
    assert "images without label (1)" in lines
    assert "labels without image (1)" in lines
    assert "  9_left" in lines
    assert any(line.startswith("  0 no DR") and line.endswith("#") for line in lines)


def _next(*arguments: str) -> dict[str, Any]:
    """The options of the `run` command in the last line, as click reads them; only those that were given."""
    line = _run(*arguments, "--quiet").stdout.splitlines()[-1]
    words = shlex.split(line)
    assert words[:2] == ["fedgan-secure", "run"]
    context = run_command.make_context("run", words[2:])
    given = [name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    return {name: context.params[name] for name in given}


def test_the_last_line_is_the_command_to_run_next(folder: Path, tmp_path: Path) -> None:
    place = (tmp_path / "set").rename(tmp_path / "it's a set")
    assert _next(str(place)) == {"dataset": str(place), "layout": "eyepacs"}
    arguments = [str(place), "--unit", "image", "--image-size", "28", "--channels", "1", "--exclude-patient", "3"]
    assert _next(*arguments, "--preprocessing", "plain/1") == {
        "dataset": str(place), "layout": "eyepacs", "unit": "image", "image_size": "28", "channels": "1",
        "exclude_patient": ("3",), "preprocessing": "plain/1",
    }  # fmt: skip


def test_a_name_that_nobody_has_is_passed_on_as_such(folder: Path) -> None:
    given = _next(str(folder), "--exclude-patient", "nobody", "--unknown-ok")
    assert given["exclude_patient"] == ("nobody",) and given["unknown_ok"] is True


def test_columns_that_were_named_are_named_to_the_run_and_reach_its_loader(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "trainLabels.csv").write_text("pic,who,what\ntrain/0_left.jpeg,p,a\ntrain/1_left.jpeg,q,b\n")
    columns = {"image_column": "pic", "patient_column": "who", "label_column": "what"}
    words = [word for name, column in columns.items() for word in (f"--{name.replace('_', '-')}", column)]
    assert _next(str(folder), "--layout", "csv", *words) == {"dataset": str(folder), "layout": "csv", **columns}

    def caught(path: Path, settings: LoadSettings, *_: object) -> None:
        raise InputError(f"{settings.image_column} {settings.patient_column} {settings.label_column}")

    monkeypatch.setattr("fedgan_secure.federation.sources.load", caught)
    made = ["--dataset", str(folder), "--layout", "csv", *words, "--output", str(folder.parent / "run"), "--quiet"]
    with pytest.raises(InputError, match="pic who what"):
        run_command.main(made, standalone_mode=False)


def test_json_is_the_only_thing_on_stdout(folder: Path) -> None:
    result = _run(str(folder), "--json")
    found = json.loads(result.stdout)
    assert (found["patients"], found["images"], found["layout"]) == (4, 7, "eyepacs")
    assert found["quarantined"] == [
        {
            "path": "train/4_left.jpeg",
            "reason": "not a picture in a known format (JPEG, PNG, TIFF, BMP, WebP, GIF, JPEG 2000)",
        }
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


def test_an_unknown_name_to_exclude_is_refused_or_said(folder: Path) -> None:
    done = _run(str(folder), "--exclude-patient", "0", "--exclude-patient", "77")
    assert done.exit_code != 0 and "asked 2, found 1" in str(done.exception) and "number 2" in str(done.exception)
    done = _run(str(folder), "--exclude-patient", " 0", "--exclude-patient", "77", "--unknown-ok")
    assert done.exit_code == 0 and "1 patients" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "does not exist"),
        (["{folder}", "--layout", "messidor"], "no label table; expected a CSV with the columns image_id"),
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
    assert "fedgan-secure data deidentify" in CliRunner().invoke(command, ["deidentify", "--help"]).output


def test_no_tensorflow_is_loaded(folder: Path) -> None:
    code = (
        "import sys\nfrom fedgan_cli.main import main\n"
        f"try:\n    main(['data', 'check', {str(folder)!r}, '--quiet'])\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "bad = {'tensorflow', 'keras', 'scipy', 'dp_accounting'} & set(sys.modules)\n"
        "assert not bad, bad\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG_SECONDS)
    assert done.returncode == 0, done.stderr


# Identifiers, the page, and de-identified copies.

VALUES = ("Zyxwvutsen", "MRN-4711", "19370214", "Saint Elsewhere")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Four CT slices of two patients with telling headers, one ultrasound picture and one file that is no DICOM."""
    root = tmp_path / "archive"
    for number in range(5):
        dataset = make_dicom(noise(number, 24, 24), f"MRN-4711-{number // 2}", "US" if number == 4 else "CT")
        dataset.PatientName, dataset.PatientBirthDate = "Zyxwvutsen^Quorralina", "19370214"
        dataset.InstitutionName = "Saint Elsewhere"
        dataset.DeviceSerialNumber = "Zyxwvutsen 7"
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
        dataset.private_block(0x0029, "VENDOR", create=True).add_new(0x10, "LO", "Zyxwvutsen")
        (root / "d").mkdir(parents=True, exist_ok=True)
        dataset.save_as(root / "d" / f"{number}.dcm", enforce_file_format=True)
    (root / "d" / "broken.dcm").write_bytes(b"x" * 300)
    return root


def test_identifiers_are_counted_by_attribute_and_no_value_is_shown(archive: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = _run(str(archive), "--json", "--html", str(page), "--preprocessing", "plain/1")
    found = json.loads(result.stdout)
    assert found["identifiers"]["attributes"]["PatientName"] == 5
    assert found["identifiers"]["attributes"]["InstitutionName"] == 5
    assert found["identifiers"]["private"] == 5
    risk = found["identifiers"]["pixel_risk"]
    assert sorted(risk.values()) == [1, 4]
    rows = {row["letter"]: row for row in found["safe_harbor"]}
    assert "".join(rows) == "ABCDEFGHIJKLMNOPQR"
    assert {row["status"] for row in rows.values()} == {"removed", "absent", "cannot determine"}
    assert rows["C"]["attributes"] == [{"name": "PatientBirthDate", "files": 5}]
    assert rows["A"]["status"] == "cannot determine"  # the ultrasound picture may have it burned in
    assert (rows["M"]["status"], rows["N"]["status"]) == ("removed", "absent")
    assert rows["Q"]["status"] == "cannot determine"
    text = page.read_text(encoding="utf-8")
    terminal = _run(str(archive), "--preprocessing", "plain/1")
    assert "(A) Names: cannot determine: PatientName 5" in terminal.stdout
    for shown in (result.stdout, result.stderr, terminal.stdout, terminal.stderr, text):
        assert not [value for value in VALUES if value in shown]
    assert "<script" not in text and "http" not in text.replace("http-equiv", "")
    assert "broken.dcm" in text and "mark DICM is missing" in text
    assert page.stat().st_mode & 0o777 == 0o600


def test_exif_is_counted_by_name(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x013B], exif[0x8827] = "Zyxwvutsen", 100
    exif.get_ifd(0x8769)[0x9003] = "1937:02:14 00:00:00"
    exif.get_ifd(0x8825)[2] = (1.0, 2.0, 3.0)
    Image.new("RGB", (40, 40)).save(folder / "train" / "2_right.jpeg", exif=exif, comment=b"Zyxwvutsen")
    result = _run(str(folder), "--json")
    found = json.loads(result.stdout)["identifiers"]["attributes"]
    wanted = ("EXIF Artist", "EXIF DateTimeOriginal", "EXIF GPSLatitude", "JPEG comment")
    assert [found.get(name) for name in wanted] == [1, 1, 1, 1]
    assert not [value for value in VALUES if value in result.stdout + result.stderr]


def test_a_page_that_cannot_be_written_is_an_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["data", "check", str(folder), "--html", str(folder / "nowhere" / "page.html"), "--quiet"])
    assert caught.value.code == 2
    assert "cannot be written" in capsys.readouterr().err


def _deidentify(*arguments: str) -> Result:
    return CliRunner().invoke(command, ["deidentify", *arguments])


def test_deidentify_writes_copies_says_what_it_did_and_goes_on(archive: Path, tmp_path: Path) -> None:
    target = tmp_path / "copies"
    result = _deidentify(str(archive), str(target), "--quiet")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert "  copies written               4" in lines
    assert "  residual scan of the copies  PASS" in lines
    assert any("d/4.dcm: a picture of a kind that often has text burned in" in line for line in lines)
    assert any("d/broken.dcm: not DICOM" in line for line in lines)
    assert "never to be passed on" in result.stdout
    again = json.loads(_deidentify(str(archive), str(target), "--pixels-reviewed", "--json").stdout)
    assert (again["written"], again["resumed"], again["residual_scan"]) == (5, True, "PASS")
    assert (again["profile"], again["codes"]) == ("dicomfields_2026c", ["113100"])
    assert [one["path"] for one in again["set_aside"]] == ["d/broken.dcm"]
    for path in target.rglob("*"):
        assert not [value for value in VALUES if value in str(path.relative_to(tmp_path))]
        assert path.is_dir() or not [value for value in VALUES if value.encode() in path.read_bytes()]
    for shown in (result.stdout, result.stderr):
        assert not [value for value in VALUES if value in shown]
    checked = json.loads(_run(str(target), "--json", "--preprocessing", "plain/1").stdout)
    assert (checked["patients"], checked["identifiers"]["declared_removed"]) == (3, 5)


def test_an_interrupted_run_says_how_to_go_on(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fedgan_secure.data.deidentification.deidentify_folder", interrupted)
    with pytest.raises(SystemExit) as caught:
        main(["data", "deidentify", str(archive), str(tmp_path / "c"), "--quiet"])
    assert caught.value.code == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_deidentify_mistakes_end_with_2(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.new("RGB", (40, 40)).save(pictures / "a.png")
    cases = [
        ([str(archive), str(archive / "below")], "inside the source"),
        ([str(tmp_path / "nowhere"), str(tmp_path / "c")], "does not exist"),
        ([str(pictures), str(tmp_path / "c")], "--pixels-reviewed"),
    ]
    for arguments, message in cases:
        with pytest.raises(SystemExit) as caught:
            main(["data", "deidentify", *arguments, "--quiet"])
        captured = capsys.readouterr()
        assert caught.value.code == 2
        assert message in captured.err
        assert "Traceback" not in captured.err and captured.out == ""


def test_json_is_utf8_whatever_the_terminal_and_names_of_any_bytes_come_back(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/s/Gef\xe4ss"))
    folder.mkdir(parents=True)
    for number in range(3):
        Image.new("L", (40, 40), number).save(folder / os.fsdecode(b"P%d\xe9_L.png" % number))
    (folder / os.fsdecode(b"broken\xe9_L.png")).write_bytes(b"x")
    for encoding in ("ascii", "latin-1", "utf-8", "utf-16"):
        environment = child_environment(PYTHONIOENCODING=encoding, LC_ALL="C", PYTHONUTF8="0")
        arguments = ["data", "check", str(tmp_path / "s"), "--layout", "folders", "--image-size", "28", "--quiet"]
        ran = subprocess.run(
            python_command("-m", "fedgan_cli.main", *arguments, "--json"), env=environment, capture_output=True
        )
        assert ran.returncode == 0, ran.stderr
        told = json.loads(ran.stdout.decode("utf-8"))
        assert [os.fsencode(one["path"]).rsplit(b"/", 1)[1] for one in told["quarantined"]] == [b"broken\xe9_L.png"]
        assert told["classes"] == 1
        shown = subprocess.run(
            python_command("-m", "fedgan_cli.main", *arguments), env=environment, capture_output=True
        )
        assert shown.returncode == 0 and b"Traceback" not in shown.stderr, shown.stderr


def test_what_is_not_read_is_named_in_text_json_and_page(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "s" / "class").mkdir(parents=True, exist_ok=True)
        Image.new("L", (40, 40), number).save(tmp_path / "s" / "class" / f"P{number}_L.png")
    for name in ("a.zip", "b.zip", "c.nii.gz"):
        (tmp_path / "s" / name).write_bytes(b"x")
    arguments = [str(tmp_path / "s"), "--layout", "folders", "--image-size", "28", "--quiet"]
    page = tmp_path / "page.html"
    told = _run(*arguments, "--html", str(page)).output
    assert "not read (3 files)" in told and "2  .zip: an archive, which is never opened: unpack it" in told
    assert ".nii.gz" in page.read_text(encoding="utf-8") and "never opened" in page.read_text(encoding="utf-8")
    rows = json.loads(_run(*arguments, "--json").output)["left_out"]
    assert [(row["kind"], row["files"]) for row in rows] == [(".zip", 2), (".nii.gz", 1)]
