"""`fedgan-secure attack`: what an adversary can show about the training that a run's policy describes."""

from __future__ import annotations

from pathlib import Path

import click

from fedgan_cli import terminal


@click.command(
    "attack",
    epilog="""\b
Examples:
  fedgan-secure attack runs/2026-01-31-1
  fedgan-secure attack runs/2026-01-31-1 --canaries 1000 --html attack.html
  fedgan-secure attack runs/2026-01-31-1 --canaries 64 --steps 60 --json""",
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--canaries",
    type=click.IntRange(16, 2000),
    default=256,
    show_default=True,
    metavar="N",
    help="Made-up patients, half of them in: more can refute a larger epsilon, and take memory and time.",
)
@click.option(
    "--steps",
    type=click.IntRange(1, 2**31),
    metavar="T",
    help="Attack T steps; what is proved is then for T steps.  [default: where missing noise would show best]",
)
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write a page with the curves."
)
@click.option("--quiet", is_flag=True, help="No progress.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(run: Path, canaries: int, steps: int | None, html: Path | None, quiet: bool, as_json: bool) -> None:
    """Attack the training that RUN's policy describes, rehearsed on made-up patients.

    One hospital's training is made again by the same code, with canaries that fair coins put in or leave out; an
    adversary who sees every noisy gradient guesses the coins. The guesses give a lower bound on epsilon, beside the one
    that is proved for as many steps. No patient's image is read and no budget is spent. Exit code 5 where the proof is
    refuted.
    """
    terminal.load_tensorflow()
    from fedgan_audits.errors import VerificationFailed
    from fedgan_secure.attacks.page import REMARKS, attack_page, headline
    from fedgan_secure.attacks.rehearsal import attack_run
    from fedgan_secure.federation.storage import write_bytes

    if html is not None:
        _try_to_write(html)
    with terminal.progress(quiet=quiet or as_json) as shown:
        verdict = attack_run(run, canaries=canaries, steps=steps, progress=shown.update)
    if as_json:
        terminal.emit({"run": str(run), **verdict.to_json(), "html": None if html is None else str(html)})
    else:
        terminal.say(headline(verdict))
        for row in verdict.rows:
            terminal.say(
                f"  {row.right:>5} of {row.guesses:>5} guesses right ({row.ins} in, {row.outs} out): "
                f"epsilon at least {row.least_epsilon:.2f} "
                f"(if all were right: {row.ceiling:.2f})"
            )
        for remark in REMARKS:
            terminal.note(remark)
    if html is not None:
        write_bytes(html, attack_page(run.resolve().name, verdict))
        terminal.note(f"page: {html}")
    if verdict.contradicted:
        raise VerificationFailed(headline(verdict))


def _try_to_write(page: Path) -> None:
    """Refuse a place for the page that cannot be written, before the work and not after it."""
    from fedgan_secure.federation.storage import explain_disk

    with explain_disk(page):
        page.parent.mkdir(parents=True, exist_ok=True)
        there = page.exists()
        page.open("ab").close()
        if not there:
            page.unlink()
