"""`fedgan-secure audit export`: what a run or a hospital holds, in a form that others read."""

from __future__ import annotations

from pathlib import Path

import click

from fedgan_cli.terminal import note, say


@click.command(name="export")
@click.option(
    "--ledger",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="A hospital's ledger.sqlite.",
)
@click.option("--format", "form", type=click.Choice(["csv"]), default="csv", show_default=True, help="The form.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="A new file; stdout by default.")
def export(ledger: Path, form: str, output: Path | None) -> None:
    """Write a hospital's ledger as a table: what was reserved and signed, when, for which run and round.

    The ledger's chain is checked first (exit code 5 where it is broken). A table is a copy: the ledger stays the truth.

    \b
    Example:
      fedgan-secure audit export --ledger site/a/ledger.sqlite --output ledger.csv
    """
    from fedgan_audits.bundle import write_atomic
    from fedgan_audits.errors import RecordInvalid
    from fedgan_audits.export import ledger_csv
    from fedgan_audits.ledger import Ledger

    if output is not None and output.exists():
        raise RecordInvalid(f"{output} exists and is not overwritten", hint="Give another --output.")
    with Ledger.open(ledger, read_only=True) as opened:
        text, head = ledger_csv(opened), opened.head()
    if output is None:
        click.echo(text, nl=False)
        return
    write_atomic(output, text.encode("utf-8"))
    say(f"File: {output}")
    note(f"The ledger's last entry is {head}: keep it elsewhere to see later whether the tail was cut off.")
