"""`fedgan-secure attack`: what an adversary can show about what a run's policy describes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedgan_cli import terminal

if TYPE_CHECKING:
    from fedgan_secure.attacks import AdaptedVerdict, Verdict


@click.command(
    "attack",
    epilog="""\b
Examples:
  fedgan-secure attack runs/2026-01-31-1
  fedgan-secure attack runs/2026-01-31-1 --canaries 1000 --html attack.html
  fedgan-secure attack runs/2026-01-31-1 --canaries 64 --steps 60 --json
  fedgan-secure attack runs/2026-01-31-2 --games 100000     # a run that adapts a public start""",
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--canaries",
    type=click.IntRange(16, 2000),
    metavar="N",
    help="Made-up patients, half of them in: more can refute a larger epsilon, and take memory and time.  "
    "[default: 256]",
)
@click.option(
    "--steps",
    type=click.IntRange(1, 2**31),
    metavar="T",
    help="Attack T steps; what is proved is then for T steps.  [default: where missing noise would show best]",
)
@click.option(
    "--games",
    type=click.IntRange(20, 1_000_000),
    metavar="N",
    help="For a run with a public start: games against its release, and against a step.  [default: as many as should "
    "show missing noise, from 40,000 and 1,000]",
)
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write a page with the figures."
)
@click.option("--quiet", is_flag=True, help="No progress.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(
    run: Path,
    canaries: int | None,
    steps: int | None,
    games: int | None,
    html: Path | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Attack what RUN's policy describes, on made-up patients.

    A run that trained a discriminator: one hospital's training is made again by the same code, with canaries that fair
    coins put in or leave out; an adversary who sees every noisy gradient guesses the coins. A run that adapts a public
    start: games with one canary, against the release and against a step on the heads. The guesses give a lower bound on
    epsilon, beside the one that is proved. No patient's image is read and no budget is spent. Exit code 5 where a proof
    is refuted.
    """
    terminal.load_tensorflow()
    from fedgan_audits.errors import VerificationFailed
    from fedgan_secure.attacks import read_policy
    from fedgan_secure.errors import InputError
    from fedgan_secure.storage import write_bytes

    if html is not None:
        _try_to_write(html)
    adapted = read_policy(run)[1].start is not None
    if adapted and (canaries is not None or steps is not None):
        raise InputError(
            f"{run} adapts a public start and is attacked by games; --canaries and --steps are for other runs",
            hint="leave them out, or give --games N",
        )
    if not adapted and games is not None:
        raise InputError(f"{run} adapts no public start: there is no release to play games with", hint="leave it out")
    attack = _of_adapted_run(run, games) if adapted else _of_rehearsal(run, canaries or 256, steps)
    with terminal.progress(quiet=quiet or as_json) as shown:
        result = attack(shown)
    if as_json:
        terminal.emit({"run": str(run), **result.values, "html": None if html is None else str(html)})
    else:
        for line in result.lines:
            terminal.say(line)
        for remark in result.remarks:
            terminal.note(remark)
    if html is not None:
        write_bytes(html, result.page(run.resolve().name))
        terminal.note(f"page: {html}")
    if result.verdict.contradicted:
        raise VerificationFailed(result.lines[0])


@dataclass(frozen=True)
class _Result:
    """What an attack showed, for people, programs and the page."""

    verdict: Verdict | AdaptedVerdict
    lines: tuple[str, ...]
    remarks: tuple[str, ...]
    page: Callable[[str], bytes]

    @property
    def values(self) -> dict[str, Any]:
        return self.verdict.to_json()


def _of_rehearsal(run: Path, canaries: int, steps: int | None) -> Callable[[terminal.Progress], _Result]:
    from fedgan_secure.attacks import REMARKS, attack_page, attack_run, headline

    def attack(shown: terminal.Progress) -> _Result:
        verdict = attack_run(run, canaries=canaries, steps=steps, progress=shown.update)
        rows = tuple(
            f"  {row.right:>5} of {row.guesses:>5} guesses right ({row.ins} in, {row.outs} out): "
            f"epsilon at least {row.least_epsilon:.2f} "
            f"(if all were right: {row.ceiling:.2f})"
            for row in verdict.rows
        )
        return _Result(verdict, (headline(verdict), *rows), REMARKS, lambda name: attack_page(name, verdict))

    return attack


def _of_adapted_run(run: Path, games: int | None) -> Callable[[terminal.Progress], _Result]:
    from fedgan_secure.attacks import ADAPTED_REMARKS, adapted_headline, adapted_page, attack_adapted_run, sentences

    def attack(shown: terminal.Progress) -> _Result:
        verdict = attack_adapted_run(run, games=games, progress=shown.update)
        lines = (adapted_headline(verdict), *(f"  {line}" for line in sentences(verdict)))
        return _Result(verdict, lines, ADAPTED_REMARKS, lambda name: adapted_page(name, verdict))

    return attack


def _try_to_write(page: Path) -> None:
    """Refuse a place for the page that cannot be written, before the work and not after it."""
    from fedgan_secure.storage import explain_disk

    with explain_disk(page):
        page.parent.mkdir(parents=True, exist_ok=True)
        there = page.exists()
        page.open("ab").close()
        if not there:
            page.unlink()
