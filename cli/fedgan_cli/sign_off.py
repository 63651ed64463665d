"""`fedgan-secure audit sign-off`: record, signed, that somebody in a named role reviewed a round."""

from __future__ import annotations

from pathlib import Path

import click

from fedgan_cli import clock
from fedgan_cli.terminal import emit, note, say


@click.command(name="sign-off")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--round", "number", type=click.IntRange(min=1), required=True, help="The round that was reviewed.")
@click.option(
    "--key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="The private key of a hospital or of the coordinator (site/NAME/identity.pem).",
)
@click.option("--role", required=True, help="In which role it was reviewed, such as 'Privacy officer'.")
@click.option("--person", help="Who reviewed it. Left out, the role stands alone.")
@click.option("--remarks", default="", help="What the reviewer wants to be kept with it.")
@click.option(
    "--trust",
    type=click.Path(exists=True, path_type=Path),
    multiple=True,
    help="Keys from a source other than the run, as for `audit verify`. May be given again.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def sign_off(
    run: Path,
    number: int,
    key: Path,
    role: str,
    person: str | None,
    remarks: str,
    trust: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Sign that a round's report was reviewed, by whom and in which role.

    The run is verified first; nothing is signed where a check fails (exit code 5). The sign-off is added to the run's
    public folder as a signed file that names the report and the sign-off before it, and `audit verify` checks it.

    \b
    Example:
      fedgan-secure audit sign-off runs/2026-03-02-1 --round 2 --key site/a/identity.pem --role "Privacy officer"
    """
    from fedgan_audits.publishing import file_of
    from fedgan_audits.publishing import sign_off as write
    from fedgan_audits.verification import public_folder, read_roster, verify_run
    from fedgan_protocols.primitives import Identity
    from fedgan_secure.transcript_check import check_transcript

    identity = Identity.load(key)
    result = verify_run(run, trust=trust or None, transcript_check=check_transcript, full=True)
    result.require(f"round {number} is not signed off")
    public = public_folder(run)
    made = write(
        public,
        roster=read_roster(public, trust),
        key=identity.private_key,
        chain=result.digests,
        run_id=result.run["run_id"],
        round_number=number,
        role=role,
        person=person,
        remarks=remarks,
        moment=clock.present(),
    )
    place = public / file_of(made.sequence)
    if as_json:
        emit({**made.model_dump(mode="json"), "file": str(place)})
        return
    by = f"{made.person}, {made.role}" if made.person else made.role
    say(f"Round {made.round} of run {made.run_id} is signed off by {by}, with the key of {made.signer}.")
    say(f"File: {place}")
    if not trust:
        note("The keys were taken from the run itself: give --trust to check whose they are before you sign.")
