"""`fedgan-secure data withdraw`: leave patients out of every later round of a hospital's runs."""

from __future__ import annotations

from pathlib import Path

import click

from fedgan_cli.terminal import emit, say

_REMAINS = (
    "What was spent for earlier rounds stays spent, and models released after them stay released. The images "
    "themselves and the hospital's cache of them are left where they are."
)


@click.command(
    "withdraw",
    epilog="\b\nExamples:\n  fedgan-secure data withdraw sites/north P0042\n"
    "  fedgan-secure data withdraw runs/2026-01-31-1/site/a P0042 P0043",
)
@click.argument("site", type=click.Path(path_type=Path, file_okay=False))
@click.argument("patients", nargs=-1, required=True, metavar="PATIENT...")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(site: Path, patients: tuple[str, ...], as_json: bool) -> None:
    """Put patients on the list of those who withdrew, in a hospital's SITE.

    From the next round that begins, also of a run that is going on, none of them is trained on. The list keeps keyed
    pseudonyms, never the identifiers, and holds for all later runs of this site. The hospital's confidential annex of
    that round has a row for it; the federation's report does not tell whether anybody withdrew.
    """
    from fedgan_secure.federation.withdrawals import withdraw

    new = withdraw(site, patients)
    if as_json:
        emit({"site": str(site), "new": new, "known_before": len(set(patients)) - new})
        return
    say(f"{new} patient(s) withdrawn at {site}, {len(set(patients)) - new} on the list before; from the next round on.")
    say(_REMAINS)
