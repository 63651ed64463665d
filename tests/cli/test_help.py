"""Every command explains itself, and the reference in the docs is what the commands say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from fedgan_cli.main import COMMANDS, cli
from fedgan_cli.reference import context_of, walk
from tests.patience import HANG_SECONDS

ROOT = Path(__file__).resolve().parents[2]
ALL = walk(cli, ["fedgan-secure"])


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) for path, _ in ALL])
def test_help_says_what_it_does_and_shows_an_example(path: list[str], command: click.Command) -> None:
    assert command.help and len(command.help) > 30, path
    if not isinstance(command, click.Group):
        shown = command.get_help(context_of(path, command))
        assert "Example" in shown and " ".join(path) in shown.split("Example", 1)[1], path
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{' '.join(path)} {parameter.opts}"


def test_the_reference_in_the_docs_is_up_to_date(tmp_path: Path) -> None:
    """`make docs` renews it. In a process of its own: click keeps the first help option that it makes of a command."""
    made = tmp_path / "cli.md"
    subprocess.run([sys.executable, "-m", "fedgan_cli.reference", str(made)], timeout=HANG_SECONDS, check=True)
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == made.read_text(encoding="utf-8")


def test_short_texts_of_the_group_name_every_command() -> None:
    command = [sys.executable, "-m", "fedgan_cli.main", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS, check=True)
    assert all(name in done.stdout for name in COMMANDS)


def test_an_unknown_command_or_option_is_a_wrong_request() -> None:
    for arguments in (["fly"], ["run", "--fly"], ["plan"]):
        done = subprocess.run(
            [sys.executable, "-m", "fedgan_cli.main", *arguments], capture_output=True, text=True, timeout=HANG_SECONDS
        )
        assert done.returncode == 2 and "Traceback" not in done.stderr, arguments


def test_a_defect_is_kept_in_a_file_and_shown_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fedgan_cli import main as module

    def broken(**_: object) -> None:
        raise RuntimeError("inner detail")

    monkeypatch.setattr(module.cli, "main", broken)
    with pytest.raises(SystemExit) as ended:
        module.main([])
    shown = capsys.readouterr().err
    assert ended.value.code == 1 and "inner detail" not in shown and "Traceback" not in shown
    log = Path(shown.split("details are in ")[1].split(";")[0])
    assert "inner detail" in log.read_text() and log.stat().st_mode & 0o777 == 0o600
    log.unlink()
