"""`fedgan-secure tune`: search for good settings, free on phantoms, and compare what they give for what epsilon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fedgan_cli import terminal
from fedgan_cli.init import template, write


class _Group(click.Group):
    """`tune EXPERIMENT.toml` is `tune search EXPERIMENT.toml`: the first word need not be a command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["search", *args]
        return super().parse_args(ctx, args)


@click.group(
    "tune",
    cls=_Group,
    epilog="""\b
Examples:
  fedgan-secure tune init
  fedgan-secure tune experiment.toml
  fedgan-secure tune --resume searches/search-1
  fedgan-secure tune report searches/search-1""",
)
def command() -> None:
    """Search for good settings, and compare them: `tune EXPERIMENT.toml` runs or resumes a search.

    On phantoms and public images a search is free. On patients it is charged to every hospital's ledger before the
    first trial, and refused where a cap does not allow it.
    """


@command.command(
    "search",
    epilog="""\b
Examples:
  fedgan-secure tune search experiment.toml --output searches/first
  fedgan-secure tune search experiment.toml --dry-run
  fedgan-secure tune search --resume searches/first""",
)
@click.argument("experiment", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--output", type=click.Path(path_type=Path), help="The search's folder, new. [default: searches/NAME-N]")
@click.option("--resume", type=click.Path(path_type=Path), metavar="SEARCH", help="Go on with a search.")
@click.option("--dry-run", is_flag=True, help="Say how many trials there are and what they cost; try nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, everything else on stderr.")
@click.option("--quiet", is_flag=True, help="No progress.")
def search(
    experiment: Path | None, output: Path | None, resume: Path | None, dry_run: bool, as_json: bool, quiet: bool
) -> int:
    """Try the settings of EXPERIMENT.toml, or go on with a search that was interrupted."""
    if (experiment is None) == (resume is None):
        raise click.UsageError("Give either EXPERIMENT.toml or --resume SEARCH.")
    if resume is not None and (output is not None or dry_run):
        raise click.UsageError("--resume goes on in the search's own folder; leave out --output and --dry-run.")
    from fedgan_secure.tuning import Experiment, SearchDirectory, default_search_folder
    from fedgan_secure.tuning import search as searching

    if dry_run and experiment is not None:
        _say_cost(Experiment.read(experiment), as_json)
        return 0
    with terminal.progress(quiet=quiet) as display:
        if resume is not None:
            directory = SearchDirectory.open(resume)
        else:
            assert experiment is not None  # noqa: S101 - one of the two was given
            wanted = Experiment.read(experiment)
            directory = searching.begin(wanted, output or default_search_folder(Path.cwd(), wanted.name))
        try:
            outcome = searching.carry_on(directory, display)
        except KeyboardInterrupt:
            display.close()
            terminal.note(f"interrupted; the state is saved. Go on with: fedgan-secure tune --resume {directory.root}")
            return 130
    found = {"search": str(directory.root), "trials": outcome.tried, "scored": outcome.scored}
    info = directory.read()
    if as_json:
        terminal.emit({**found, "free": "charge" not in info, "charge": info.get("charge")})
        return 0
    what = "The search is complete" if outcome.tried is None else f"{outcome.scored} of {outcome.tried} trials scored"
    terminal.say(f"{what}. Compare: fedgan-secure tune report {directory.root}")
    return 0


def _say_cost(experiment: Any, as_json: bool) -> None:
    from fedgan_secure.tuning import FREE, begin_charge, refusal

    charge = begin_charge(experiment)
    refused = None if charge is None else refusal(experiment, charge)
    sentence = FREE[experiment.search.trains_on] if charge is None else charge.sentence()
    if as_json:
        terminal.emit(
            {
                "trials": experiment.trials,
                "seeds": experiment.search.seeds,
                "free": charge is None,
                "charge": None if charge is None else charge.figures(),
                "refused": None if refused is None else str(refused),
                "sentence": sentence,
            }
        )
    else:
        _say_words(experiment, sentence)
    if refused is not None:
        raise refused


def _say_words(experiment: Any, sentence: str) -> None:
    terminal.say(sentence)
    if experiment.trials is not None:
        terminal.say(f"{experiment.trials} settings, {experiment.search.seeds} run(s) of each.")


@command.command(
    "report",
    epilog="""\b
Examples:
  fedgan-secure tune report searches/first
  fedgan-secure tune report searches/first --output comparison --trial 7""",
)
@click.argument("folder", metavar="SEARCH", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), help="Where the page goes, new. [default: SEARCH/report]")
@click.option("--trial", type=click.IntRange(0), help="Choose this trial instead of the best one.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def report(folder: Path, output: Path | None, trial: int | None, as_json: bool) -> None:
    """Make a page that compares a search's trials, and the federation.toml of the chosen one.

    Where the search was charged for its winner alone, nothing but the winner is shown.
    """
    from fedgan_secure.tuning import SearchDirectory, write_report

    directory = SearchDirectory.open(folder)
    written = write_report(directory, output or directory.root / "report", trial)
    if as_json:
        terminal.emit(written.to_json())
        return
    terminal.say(f"Page      {written.page}")
    if written.federation is None:
        terminal.say("No trial has a score: there is nothing to choose.")
        return
    terminal.say(f"Settings  {written.federation}")
    terminal.say(f"Run it    fedgan-secure run {written.federation}")


@command.command(
    "init",
    epilog="""\b
Examples:
  fedgan-secure tune init
  fedgan-secure tune init -""",
)
@click.argument("file", required=False, default="experiment.toml", type=click.Path(path_type=Path, dir_okay=False))
def init(file: Path) -> None:
    """Write a commented experiment.toml; a file that exists is never overwritten, "-" prints to stdout."""
    write(template("experiment.toml"), file, "tune")
