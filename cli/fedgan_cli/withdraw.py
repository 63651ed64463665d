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
@click.option(
    "--unknown-ok", is_flag=True, help="Take names too that nobody has whose images were last read for this site."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(site: Path, patients: tuple[str, ...], unknown_ok: bool, as_json: bool) -> None:
    """Put patients on the list of those who withdrew, in a hospital's SITE.

    From the next round that begins, also of a run that is going on, none of them is trained on. The list keeps keyed
    pseudonyms, never the identifiers, and holds for all later runs of this site. The hospital's confidential annex of
    that round has a row for it; the federation's report does not tell whether anybody withdrew.

    Blanks around an identifier and its case do not matter. A name that nobody has whose images were last read for this
    site is refused, and nothing is written.
    """
    from fedgan_secure.site import withdraw

    told = withdraw(site, patients, unknown_ok=unknown_ok)
    before = told.asked - told.new
    if as_json:
        counts = {"asked": told.asked, "found": told.found, "new": told.new, "known_before": before}
        emit({"site": str(site), **counts})
        return
    if told.found is None:
        say(f"Asked {told.asked}. No images were read for this site yet: the next run says how many were found.")
    else:
        say(f"Asked {told.asked}, found {told.found} among those whose images were last read for this site.")
    say(f"{told.new} put on the list at {site}, {before} on it before; left out from the next round on.")
    say(_REMAINS)
