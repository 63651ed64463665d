"""`fedgan-secure keys`: make identities and name them by fingerprint."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from fedgan_cli.terminal import emit, note, say

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
"""What a run takes as the name of a hospital."""


class KeyName(click.ParamType):
    """A name that is safe as a file name and as a member's name."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not _NAME.fullmatch(value) or value == "server":
            self.fail(
                f"{value!r} cannot be a name: use 1 to 32 small letters, digits or '-', the first no '-', "
                "and not 'server'",
                param,
                ctx,
            )
        return str(value)


@click.group()
def command() -> None:
    """Make and name the identities of hospitals and coordinators.

    An identity is an Ed25519 key pair. Its public half is exchanged out of band, and people compare its fingerprint:
    SHA256: and the unpadded base64 of SHA-256 over the raw 32-byte public key.

    \b
    Example:
      fedgan-secure keys new clinic-a --output keys
      fedgan-secure keys fingerprint keys/clinic-a.pub.pem
    """


@command.command()
@click.argument("name", type=KeyName())
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    show_default="the current folder",
    help="Folder for NAME.pem (private, mode 0600) and NAME.pub.pem.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def new(name: str, output: Path, as_json: bool) -> None:
    """Make a new identity NAME; existing files are never overwritten.

    \b
    Example:
      fedgan-secure keys new clinic-a --output keys
    """
    from fedgan_protocols.errors import Code, ParameterError
    from fedgan_protocols.keys import Identity, write_new

    private, public = output / f"{name}.pem", output / f"{name}.pub.pem"
    for path in (private, public):
        if path.exists():
            raise ParameterError(
                Code.KEY_FILE, f"{path} exists and is not overwritten", hint="choose another name or folder"
            )
    try:
        output.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ParameterError(Code.KEY_FILE, f"{output} cannot be made: {error.strerror}") from None
    identity = Identity.generate()
    identity.save(private)
    write_new(public, identity.public_pem(), 0o644)
    if as_json:
        facts = {"private_key": str(private), "public_key": str(public), "fingerprint": identity.fingerprint}
        emit({"name": name, **facts})
        return
    say(f"{identity.fingerprint}  {name}")
    note(f"private key: {private} (keep it here; anyone who has it can sign as {name})")
    note(f"public key:  {public} (hand it to the others, and compare the fingerprint by voice)")


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def fingerprint(file: Path, as_json: bool) -> None:
    """Print the fingerprint of the public or private key in FILE.

    \b
    Example:
      fedgan-secure keys fingerprint keys/clinic-a.pub.pem
    """
    from fedgan_protocols.keys import fingerprint as fingerprint_of
    from fedgan_protocols.keys import load_public_key

    text = fingerprint_of(load_public_key(file))
    if as_json:
        emit({"file": str(file), "fingerprint": text})
    else:
        say(f"{text}  {file}")
