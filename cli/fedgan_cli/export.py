"""`fedgan-secure audit export`: what a run or a hospital holds, in a form that others read."""

from __future__ import annotations

from pathlib import Path

import click

from fedgan_cli.terminal import note, say

RUN_FORMS = ("html", "pdf", "oscal", "article-30", "dpia", "registry-card")


@click.command(name="export")
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option(
    "--ledger",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A hospital's ledger.sqlite.",
)
@click.option("--format", "form", type=click.Choice(["csv", *RUN_FORMS]), default="csv", show_default=True,
              help="The form.")  # fmt: skip
@click.option("--round", "number", type=click.IntRange(min=1), help="html, pdf: this round; the whole run by default.")
@click.option("--language", type=click.Choice(["en", "de"]), default="en", show_default=True, help="html, pdf: of the fixed texts.")  # noqa: E501  # fmt: skip
@click.option(
    "--trust",
    type=click.Path(exists=True, path_type=Path),
    multiple=True,
    help="Keys from a source other than the run, as for `audit verify`. May be given again.",
)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="A new file; stdout by default.")
def export(
    run: Path | None,
    ledger: Path | None,
    form: str,
    number: int | None,
    language: str,
    trust: tuple[Path, ...],
    output: Path | None,
) -> None:
    """Write what a run's signed reports or a hospital's ledger hold, in a form that others read.

    \b
    csv            a ledger as a table: what was reserved and signed, when, for which run and round (--ledger)
    html, pdf      a round's report (--round) or the whole run as a page, or as a tagged PDF (needs fedgan-secure[pdf])
    oscal          the provisions and checks as OSCAL assessment results (JSON)
    article-30     for the record of processing activities, GDPR Art. 30: Markdown, or PDF if --output ends in .pdf
    dpia           an annex to a data protection impact assessment, GDPR Art. 35: Markdown or PDF
    registry-card  a draft entry for the Differential Privacy Deployments Registry (JSON)

    A run is verified first, and a ledger's chain is checked: nothing is exported where that fails (exit code 5). An
    export is a copy that anyone can alter: the signed reports and the ledger stay the truth.

    \b
    Example:
      fedgan-secure audit export --ledger site/a/ledger.sqlite --output ledger.csv
      fedgan-secure audit export runs/2026-03-02-1 --format pdf --round 2 --trust keys/ --output round-2.pdf
    """
    from fedgan_audits.bundle import write_atomic
    from fedgan_audits.errors import RecordInvalid

    if output is not None and output.exists():
        raise RecordInvalid(f"{output} exists and is not overwritten", hint="Give another --output.")
    if form == "csv":
        if ledger is None or run is not None:
            raise click.UsageError("--format csv is made from a hospital's ledger: give --ledger and no RUN.")
        if number is not None or language != "en" or trust:
            raise click.UsageError("--round, --language and --trust belong to a RUN, not to a ledger.")
        data, remark = _ledger(ledger)
    else:
        if run is None or ledger is not None:
            raise click.UsageError(f"--format {form} is made from a run: give RUN and no --ledger.")
        if form not in ("html", "pdf") and (number is not None or language != "en"):
            raise click.UsageError(f"--round and --language belong to the formats html and pdf, not to {form}.")
        from fedgan_cli.run_export import run_export

        data, remark = run_export(run, form, number, language, trust, output)
    if output is None:
        click.echo(data, nl=False)
    else:
        write_atomic(output, data)
        say(f"File: {output}")
    note(remark)


def _ledger(ledger: Path) -> tuple[bytes, str]:
    """The table of a ledger, and what to keep elsewhere."""
    from fedgan_audits.ledger import Ledger, ledger_csv

    with Ledger.open(ledger, read_only=True) as opened:
        text, head = ledger_csv(opened), opened.head()
    return (
        text.encode("utf-8"),
        f"The ledger's last entry is {head}: keep it elsewhere to see later whether the tail was cut off.",
    )
