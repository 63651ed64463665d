"""`fedgan-secure init`: a commented federation.toml."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import click

from fedgan_cli import terminal


@click.command(
    "init",
    epilog="""\b
Examples:
  fedgan-secure init
  fedgan-secure init studies/fundus.toml""",
)
@click.argument("file", required=False, default="federation.toml", type=click.Path(path_type=Path, dir_okay=False))
def command(file: Path) -> None:
    """Write a federation.toml that says the same as `fedgan-secure run` without arguments, every key explained.

    FILE is federation.toml where it is left out. A file that exists is never overwritten; "-" prints to stdout.
    """
    write(template(), file, "run")


def write(text: str, file: Path, next_command: str) -> None:
    """Write a commented file where there is none, or print it for "-"; says which command takes it.

    Raises:
        InputError: the file exists, or its folder does not, or the disk refuses.
    """
    from fedgan_secure.errors import InputError
    from fedgan_secure.storage import explain_disk

    if str(file) == "-":
        click.echo(text, nl=False)
        return
    with explain_disk(file):
        try:
            with file.open("x", encoding="utf-8") as stream:
                stream.write(text)
        except FileExistsError as error:
            raise InputError(f"{file} exists already", hint="choose another name, or move it away first") from error
        except FileNotFoundError as error:
            raise InputError(f"no such folder: {file.parent}", hint="make it first") from error
    terminal.say(f"{file} written. Edit it, then: fedgan-secure {next_command} {file}")


def template(name: str = "federation.toml") -> str:
    """A commented file, as it is shipped."""
    return resources.files("fedgan_cli").joinpath(name).read_text(encoding="utf-8")
