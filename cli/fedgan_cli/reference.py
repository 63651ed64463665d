"""The command-line reference of the docs, made from the help texts themselves (`make docs`)."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from fedgan_cli.main import cli

HEADER = """# Command-line reference

Made from `--help` by `make docs`; a test compares the two. Exit codes: 0 done; 2 the request or the input is wrong;
3 refused, the privacy budget does not allow it; 4 the run ended because rounds were aborted; 5 verification failed;
130 interrupted, state saved.
"""


def reference() -> str:
    """The whole reference as Markdown."""
    parts = [HEADER]
    for path, command in walk(cli, ["fedgan-secure"]):
        context = context_of(path, command)
        parts.append(f"\n## `{' '.join(path)}`\n\n```text\n{command.get_help(context).rstrip()}\n```\n")
    return "".join(parts)


def context_of(path: list[str], command: click.Command) -> click.Context:
    """The context in which a command's help reads as a user sees it (click keeps the first help option it makes)."""
    names = list(cli.context_settings["help_option_names"])
    return click.Context(
        command, info_name=" ".join(path), max_content_width=100, terminal_width=100, help_option_names=names
    )


def walk(command: click.Command, path: list[str]) -> list[tuple[list[str], click.Command]]:
    """A command and everything below it, depth first."""
    found = [(path, command)]
    if isinstance(command, click.Group):
        context = context_of(path, command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None:
                found += walk(below, [*path, name])
    return found


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference(), encoding="utf-8")
