"""`fedgan-secure cap`: the bound on epsilon that a hospital's ledger holds it to, and a signed raise of it."""

from __future__ import annotations

from pathlib import Path

import click

from fedgan_cli.terminal import emit, say


@click.command(
    "cap",
    epilog="""\b
Examples:
  fedgan-secure cap sites/north
  fedgan-secure cap sites/north --raise-to 6 --reason "approved by the data protection officer, file 12/26"
  fedgan-secure cap sites/north --lift --reason "the study has ended\"""",
)
@click.argument("site", type=click.Path(path_type=Path, file_okay=False))
@click.option("--raise-to", type=float, metavar="EPSILON", help="The new cap, higher than the one that stands.")
@click.option("--lift", is_flag=True, help="No cap any more.")
@click.option("--reason", help="Why it is raised or lifted; kept in the ledger, with the signature.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(site: Path, raise_to: float | None, lift: bool, reason: str | None, as_json: bool) -> None:
    """Show the cap on epsilon of a hospital's SITE, or raise it with the hospital's own key.

    The cap counts everything in the hospital's ledger. It is set in the site's hospital.toml ([privacy] epsilon_cap),
    and lowered there or by `run --epsilon-cap`. The smallest cap that was ever held stands, until this command signs a
    raise; after it, hospital.toml has to allow as much.
    """
    from fedgan_secure.site import raise_cap, shown

    if raise_to is not None and lift:
        raise click.UsageError("--raise-to and --lift exclude each other.")
    raising = raise_to is not None or lift
    if raising != (reason is not None):
        raise click.UsageError("A raise needs --raise-to or --lift, and --reason.")
    found = raise_cap(site, raise_to, reason) if raising and reason is not None else shown(site)
    if as_json:
        emit({"site": str(site), **found})
        return
    for what, key in (("hospital.toml", "settings"), ("the ledger", "ledger"), ("what counts", "cap")):
        value = found[key]
        say(f"{what:<15} {'no cap' if value is None else f'epsilon {value:g}'}")
