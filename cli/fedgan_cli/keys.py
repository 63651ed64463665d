"""`fedgan-secure keys`: make identities and name them by fingerprint."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedgan_cli import clock
from fedgan_cli.terminal import emit, note, say

if TYPE_CHECKING:
    from fedgan_secure.site import Done


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
    """Make, name, rotate and revoke the identities of hospitals and coordinators.

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
    from fedgan_protocols import Code, ParameterError
    from fedgan_protocols.primitives import Identity, write_new

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
    from fedgan_protocols.primitives import fingerprint as fingerprint_of
    from fedgan_protocols.primitives import load_public_key

    text = fingerprint_of(load_public_key(file))
    if as_json:
        emit({"file": str(file), "fingerprint": text})
    else:
        say(f"{text}  {file}")


class Moment(click.ParamType):
    """A moment with its time zone, as ISO 8601 writes it."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            given = value if isinstance(value, datetime) else datetime.fromisoformat(value)
            moment = None if given.tzinfo is None else given.astimezone(UTC)
        except (ValueError, OverflowError):
            moment = None
        if moment is None:
            self.fail(f"{value!r} is no moment with a time zone, such as 2026-03-02T09:00:00Z", param, ctx)
        return moment


_KEY = click.Path(exists=True, dir_okay=False, path_type=Path)
_NAMED = click.option(
    "--name", type=KeyName(), help="Whose key it is. [default: the site's folder, or the file's name]"
)
_LEDGER = click.option("--ledger", type=_KEY, help="The hospital's ledger. [default: ledger.sqlite beside the key]")
_OUTPUT = click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="A folder for a copy of what others need: the statement, and the key that is in use.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@command.command()
@click.argument("key", type=_KEY)
@_NAMED
@_LEDGER
@click.option("--remarks", default="", help="Why, for those who read the statement.")
@_OUTPUT
@_JSON
def rotate(key: Path, name: str | None, ledger: Path | None, remarks: str, output: Path | None, as_json: bool) -> None:
    """Let a new key follow the private key in the file KEY, and sign that it does.

    The statement is signed by both keys and kept in the folder keys/ beside KEY. Hand it to everyone who verifies your
    reports: it goes into their folder of keys, beside the key that they have. Reports signed with the old key go on
    verifying; the old key itself is destroyed. A run that began with it cannot go on, so finish it first.

    \b
    Example:
      fedgan-secure keys rotate site/north/identity.pem --output for-the-others
    """
    from fedgan_secure.site import KeyPlace
    from fedgan_secure.site import rotate as follow

    place = KeyPlace.of(key, name, ledger)
    done = follow(place, clock.present(), remarks)
    _told(place.name, done, output, as_json, f"{done.in_use} follows {done.key}")


@command.command()
@click.argument("fingerprint")
@click.option(
    "--signed-by", "key", type=_KEY, required=True, help="That key itself, or a later one of the same member."
)
@click.option("--since", type=Moment(), help="From when on it may have been in other hands. [default: the next second]")
@click.option("--reason", required=True, help="Why, in a few words, such as 'laptop stolen'.")
@_NAMED
@_LEDGER
@_OUTPUT
@_JSON
def revoke(
    fingerprint: str,
    key: Path,
    since: datetime | None,
    reason: str,
    name: str | None,
    ledger: Path | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Sign that the key FINGERPRINT counts for nothing from a moment on.

    Hand the statement to everyone who verifies your reports, and tell them by another way too: nobody can see a
    revocation that they were not given. Where the key was stolen, hand them your new key by that way as well, since a
    thief can sign a rotation. An auditor may also list the fingerprint in revoked.txt in their own folder of keys.

    \b
    Example:
      fedgan-secure keys revoke SHA256:uWb... --signed-by site/north/identity.pem --reason "laptop stolen" \\
        --since 2026-03-02T09:00:00Z
    """
    from fedgan_secure.site import KeyPlace
    from fedgan_secure.site import revoke as end

    place = KeyPlace.of(key, name, ledger)
    done = end(place, fingerprint, since.replace(microsecond=0) if since else None, clock.present(), reason)
    _told(place.name, done, output, as_json, f"{done.key} is revoked from {done.since:%Y-%m-%d %H:%M:%S} UTC on")


def _told(name: str, done: Done, output: Path | None, as_json: bool, what: str) -> None:
    from fedgan_audits.bundle import write_atomic

    files = [done.statement]
    if output is not None:
        files = [
            write_atomic(output / done.statement.name, done.statement.read_bytes()),
            write_atomic(output / f"{name}.in-use.pem", done.public_pem),
        ]
    if as_json:
        facts = {"statement": str(done.statement), "key": done.key, "in_use": done.in_use, "runs_listed": done.signed}
        emit({"name": name, **facts, "leads_to_it": done.leads, "files": [str(file) for file in files]})
        return
    say(f"{name}: {what}.")
    for file in files:
        say(f"File: {file}")
    if done.signed is None:
        note("No ledger was found beside the key, so the statement lists no reports: others can compare dates alone.")
    else:
        runs = "the 1 run" if done.signed == 1 else f"each of the {done.signed} runs"
        note(f"The statement lists the newest report of {runs} that {name} had signed.")
    note("Hand it to everyone who verifies your reports; `audit verify --trust` takes it from the folder of keys.")
    if not done.leads:
        note(
            f"By this statement {done.key} named no successor that counts: whoever trusts it needs your key in use,"
            f" {done.in_use}, by another way, as {name}.pub.pem."
        )
