"""`fedgan-secure audit`: show and verify a run's signed reports. TensorFlow is never loaded here."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedgan_cli.export import export
from fedgan_cli.sign_off import sign_off
from fedgan_cli.terminal import emit, note, say
from fedgan_secure.transcript_check import check_transcript

if TYPE_CHECKING:
    from fedgan_audits.facts import RoundReport, Verification


_SQLITE = b"SQLite format 3\0"
MOST_LINES = 40
"""How many lines of one check a person is shown."""
_SIGNS = {"PASS": "[ok]", "FAIL": "[FAIL]", "NOT CHECKED": "[ -- ]"}


@click.group()
def command() -> None:
    """Show, verify and sign off a run's signed reports.

    \b
    Example:
      fedgan-secure audit show runs/2026-03-02-1
      fedgan-secure audit verify runs/2026-03-02-1 --trust keys/
    """


command.add_command(sign_off)
command.add_command(export)


@command.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--round", "number", type=click.IntRange(min=1), help="Show this round; the newest one by default.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def show(run: Path, number: int | None, as_json: bool) -> None:
    """Show what a round's report says: the verdict, epsilon per hospital, where the page is.

    The signatures are NOT checked here: `fedgan-secure audit verify` does that.

    \b
    Example:
      fedgan-secure audit show runs/2026-03-02-1 --round 2
    """
    from fedgan_audits.bundle import Bundle
    from fedgan_audits.errors import RecordInvalid
    from fedgan_audits.facts import html_path
    from fedgan_audits.publishing import read_all, read_report, report_files
    from fedgan_audits.verification import public_folder

    public = public_folder(run)
    reports = report_files(public)
    if not reports:
        raise RecordInvalid(f"{run} has no reports yet", hint="A report is written when a round ends.")
    chosen = max(reports) if number is None else number
    if chosen not in reports:
        raise RecordInvalid(
            f"there is no report of round {chosen}; found {', '.join(str(n) for n in sorted(reports)[:20])}",
            hint="Leave --round out to see the newest.",
        )
    report, digest = read_report(Bundle(public), reports[chosen])
    page = public / html_path(chosen)
    reviews = [entry for entry in read_all(public) if entry.round == chosen]
    if as_json:
        emit(
            {
                "run_id": report.header.run_id,
                "round": chosen,
                "rounds": sorted(reports),
                "verified": False,
                "digest": digest,
                "html": str(page),
                "index": str(public / "index.html"),
                "verdict": report.verdict.model_dump(mode="json"),
                "hospitals": [row.model_dump(mode="json") for row in report.composition.hospitals],
                "sign_offs": [entry.model_dump(mode="json") for entry in reviews],
            }
        )
        return
    _show(report, digest)
    for entry in reviews:
        who = f"{entry.person}, {entry.role}" if entry.person else entry.role
        remarks = f": {entry.remarks}" if entry.remarks else ""
        say(f"Signed off: {who}, with the key of {entry.signer}, {entry.time:%Y-%m-%d %H:%M} UTC{remarks}")
    if not reviews:
        say("Signed off: by nobody yet (`fedgan-secure audit sign-off`)")
    say(f"Page: {page}")
    say(f"All rounds: {public / 'index.html'}")
    note("The signatures were not checked: run `fedgan-secure audit verify` for that.")


def _show(report: RoundReport, digest: str) -> None:
    verdict, header = report.verdict, report.header
    say(f"Run {header.run_id}, round {header.round} of {header.rounds_scheduled}: {verdict.verdict}")
    say(verdict.headline)
    say(verdict.rounds_left_text)
    say()
    rows = [("hospital", "epsilon", "left", "in this round", "budget")]
    for row, facts in zip(report.composition.hospitals, report.aggregation.participants, strict=True):
        part = (
            "took part"
            if facts.took_part
            else f"dropped out ({facts.dropped_at})"
            if facts.dropped_at
            else "not in the sum"
        )
        rows.append((row.name, row.spent, row.remaining or "no limit", part, row.status))
    _table(rows)
    say()
    say(f"Epsilon at delta {verdict.delta}, per {report.privacy.settings.unit}; known to two hospitals: "
        f"{report.composition.two_hospitals}.")  # fmt: skip
    for reason in verdict.reasons:
        say(f"- {reason}")
    say()
    say(f"Digest: {digest}")


def _table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        say("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


class LedgerFile(click.Path):
    """A file that is a database at all; whether it is sound is for the verification to say."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = super().convert(value, param, ctx)
        with Path(os.fsdecode(path)).open("rb") as file:
            if file.read(len(_SQLITE)) != _SQLITE:
                self.fail(f"{os.fsdecode(path)!r} is no ledger: a hospital's ledger.sqlite was expected", param, ctx)
        return path


@command.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--trust",
    type=click.Path(exists=True, path_type=Path),
    multiple=True,
    help="A folder of NAME.pub.pem files, or one such file, from a source other than the run. May be given again.",
)
@click.option(
    "--ledger",
    type=LedgerFile(exists=True, dir_okay=False, path_type=Path),
    help="A hospital's ledger.sqlite: were all of the reports that it signed published?",
)
@click.option("--head", metavar="DIGEST", help="The newest report's digest, as kept elsewhere.")
@click.option("--full", is_flag=True, help="Build every report again, also in a run of more than 16 rounds.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def verify(
    run: Path, trust: tuple[Path, ...], ledger: Path | None, head: str | None, full: bool, as_json: bool
) -> None:
    """Check a run's signatures, chain, files and figures, offline. Exit code 5 when anything does not fit.

    RUN is a run's folder, or a copy of its public folder. Give --trust keys that the hospitals sent you themselves.
    Pages of an older version are NOT CHECKED: such a run is signed off, exported and released by that version.

    \b
    Example:
      fedgan-secure audit verify runs/2026-03-02-1 --trust keys/
      fedgan-secure audit verify public/ --trust coordinator.pub.pem --head 3f9a...
    """
    from fedgan_audits.verification import verify_run

    result = verify_run(
        run, trust=trust or None, transcript_check=check_transcript, ledger=ledger, head=head, full=full
    )
    if as_json:
        emit(result.to_dict())
    else:
        _print(result)
    click.get_current_context().exit(result.exit_code)


def _print(result: Verification) -> None:
    rows: list[dict[str, Any]] = result.to_dict()["checks"]
    width = max((len(row["name"]) for row in rows), default=0)
    told: Counter[tuple[str, str]] = Counter()
    for row in rows:
        told[row["name"], row["outcome"]] += 1
        if told[row["name"], row["outcome"]] > MOST_LINES:
            continue
        where = f"{row['file']}: " if row["file"] and row["outcome"] == "FAIL" else ""
        say(f"{_SIGNS[row['outcome']]:<7}{row['name']:<{width}}  {where}{row['detail']}")
    for (name, outcome), times in told.items():
        if times > MOST_LINES:
            say(f"{_SIGNS[outcome]:<7}{name:<{width}}  and {times - MOST_LINES} more like these: --json lists them all")
    say()
    failed = sum(row["outcome"] == "FAIL" for row in rows)
    left_out = sum(row["outcome"] == "NOT CHECKED" for row in rows)
    tail = f" {left_out} {'check was' if left_out == 1 else 'checks were'} NOT CHECKED (see above)." if left_out else ""
    if failed:
        count = "1 check" if failed == 1 else f"{failed} checks"
        say(f"VERIFICATION FAILED: {count} did not pass. Do not rely on this run.")
    else:
        say(f"Everything that was checked fits.{tail}")
    if not failed and (closing := len(result.closing)):
        count = "1 check closes" if closing == 1 else f"{closing} checks close"
        say(f"Of what was not checked, {count} sign-offs, exports and releases of this run.")
