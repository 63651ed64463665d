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

if TYPE_CHECKING:
    from fedgan_audits.checks import Verification
    from fedgan_audits.sections import RoundReport
    from fedgan_audits.verify import TranscriptContext
    from fedgan_protocols.transcript import TranscriptFacts

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


def check_transcript(context: TranscriptContext) -> str:
    """Give a round's transcript to the protocol's own check, with everything that policy and report say about it.

    Receipts and drop-outs of the report must be those of the transcript. Raises fedgan_protocols.ProtocolError where
    the transcript does not fit.
    """
    from fedgan_protocols.errors import Code, ProtocolError
    from fedgan_protocols.parameters import Member
    from fedgan_protocols.transcript import TranscriptExpectations, check

    facts, header = context.report.aggregation.facts, context.report.header
    finished = header.status == "complete"
    settings = context.report.privacy.settings
    scheduled = settings.scheduled(context.round)
    released = settings.release is not None and context.round == 1
    # with shared noise every step has a sum of its own; a release has one, whoever adds its noise
    shared = scheduled.noise_placement == "distributed" and not released
    sums = scheduled.steps if shared else 1

    def digest(text: str | None) -> tuple[bytes, ...] | None:
        return (bytes.fromhex(text),) if text else None

    found = check(
        context.data,
        TranscriptExpectations(
            roster=tuple(Member(name, key) for name, key in context.hospitals.items()),
            server_public_key=context.coordinator,
            session=bytes.fromhex(facts.session) if facts.session else None,
            round=context.round,
            threshold=facts.threshold,
            ring_bits=facts.ring_bits,
            lengths=(facts.dimension,) * sums,
            policy_hash=bytes.fromhex(context.policy_sha256),
            model_hashes=digest(facts.model_before) if finished and not shared else None,
            sum_digests=digest(facts.sum_sha256) if finished and not shared else None,
            survivors=(facts.survivors,) if finished and not shared else None,
            complete=True if finished else None,
        ),
    )
    named = found.sums[:1] if shared else found.sums
    if any(item.model_hash and item.model_hash.hex() != facts.model_before for item in named):
        raise ProtocolError(Code.TRANSCRIPT_MISMATCH, "the transcript's model is not the one that the report names")
    if shared and finished:
        _compare_sums(context.report, found)
    _compare_participants(context.report, found)
    return f"round {found.round}, last stage {found.stage}"


def _compare_sums(report: RoundReport, found: TranscriptFacts) -> None:
    """Raise ProtocolError unless a report of shared noise names all sums of the transcript, and who is in the last."""
    import hashlib

    from fedgan_protocols.errors import Code, ProtocolError

    facts = report.aggregation.facts
    digests = b"".join(item.digest for item in found.sums)
    if hashlib.sha256(digests).hexdigest() != facts.sum_sha256:
        raise ProtocolError(Code.TRANSCRIPT_MISMATCH, "the transcript's sums are not those that the report names")
    if tuple(found.sums[-1].survivors) != facts.survivors:
        raise ProtocolError(Code.TRANSCRIPT_MISMATCH, "the transcript's last sum has other survivors than the report")


def _compare_participants(report: RoundReport, found: TranscriptFacts) -> None:
    """Raise ProtocolError unless the report's receipts and drop-outs are those that the transcript shows."""
    from fedgan_protocols.errors import Code, ProtocolError

    finished = report.header.status == "complete"
    wrong = []
    for hospital in report.aggregation.participants:
        signed, drop = hospital.name in found.receipts, found.dropped.get(hospital.name)
        # an aborted round may hold receipts that came to nothing; one that is claimed must be there all the same
        if (hospital.receipt == "signed") != signed and (finished or not signed):
            wrong.append(f"the receipt of {hospital.name}")
        if hospital.dropped_at != (drop.stage if drop else None):
            wrong.append(f"the stage at which {hospital.name} dropped out")
        elif drop is not None and hospital.drop_reason is not None and not hospital.drop_reason.startswith(drop.code):
            wrong.append(f"the reason why {hospital.name} dropped out")
    if set(report.aggregation.facts.dropouts) != set(found.dropped):
        wrong.append("the list of drop-outs")
    if wrong:
        raise ProtocolError(
            Code.TRANSCRIPT_MISMATCH,
            f"the report and the transcript differ in {', '.join(wrong[:12])}",
            hint="the transcript holds the hospitals' own signatures; ask the coordinator why the report differs",
        )


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
    from fedgan_audits.errors import RecordInvalid
    from fedgan_audits.manifest import read_report, report_files
    from fedgan_audits.reading import Bundle
    from fedgan_audits.report import html_path
    from fedgan_audits.sign_off import read_all
    from fedgan_audits.verify import public_folder

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
    from fedgan_audits.verify import verify_run

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
