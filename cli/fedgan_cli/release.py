"""`fedgan-secure release`: a run's model as a bundle that says where it comes from, behind the export gate."""

from __future__ import annotations

from pathlib import Path

import click

from fedgan_cli.terminal import emit, note, say


@click.command(
    "release",
    epilog="""\b
Examples:
  fedgan-secure release runs/2026-01-31-1 --trust keys/ --output fundus-model
  fedgan-secure audit verify fundus-model --trust keys/""",
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), required=True, help="A new or empty folder.")
@click.option(
    "--trust",
    type=click.Path(exists=True, path_type=Path),
    multiple=True,
    help="Keys from a source other than the run, as for `audit verify`. May be given again.",
)
@click.option("--override-role", help="Export a run that is not PASS: in which role somebody answers for it.")
@click.option("--override-reason", help="Why. Kept in the bundle, with the role.")
@click.option("--override-person", help="Who. Left out, the role stands alone.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(
    run: Path,
    output: Path,
    trust: tuple[Path, ...],
    override_role: str | None,
    override_reason: str | None,
    override_person: str | None,
    as_json: bool,
) -> None:
    """Make a release bundle: weights, model card, privacy statement, reports, signatures and keys.

    The copy is verified first; a run that fails is never exported (exit code 5), one that is not PASS only where
    somebody answers for it (else exit code 3, or 2 where it is only unfinished). The same run gives the same bytes.
    """
    from fedgan_secure.release import CARD, STATEMENT, Override, release
    from fedgan_secure.transcript_check import check_transcript

    if (override_role is None) != (override_reason is None) or (override_person and override_role is None):
        raise click.UsageError("An override needs --override-role and --override-reason.")
    override = None
    if override_role is not None and override_reason is not None:
        override = Override(override_role, override_reason, override_person)
    made = release(run, output, trust=trust, transcript_check=check_transcript, override=override)
    for text in made["objections"]:
        note(f"note: exported all the same: {text}")
    if not trust:
        note("note: the keys were taken from the run itself: give --trust to check whose they are")
    if as_json:
        emit({**made, "output": str(output)})
        return
    say(f"Run {made['run_id']}: {made['gate']}, epsilon {made['epsilon']} at delta {made['delta']}, per {made['unit']}")
    say(f"Bundle     {output}")
    say(f"Card       {output / CARD}")
    say(f"Statement  {output / STATEMENT}")
    say(f"Verify     fedgan-secure audit verify {output}")
