"""The `fedgan-secure` command: its subcommands, loaded only when they are used, and its exit codes.

Exit codes: 0 done; 2 the request or the input is wrong; 3 refused, the privacy budget does not allow it; 4 the run
ended because rounds were aborted; 5 verification failed; 130 interrupted, state saved. 1 is a defect of ours.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import traceback
from pathlib import Path

import click

COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("fedgan_cli.run", "Run a whole federation in one process, or resume one."),
    "init": ("fedgan_cli.init", "Write a commented federation.toml."),
    "plan": ("fedgan_cli.plan", "Plan a privacy budget: epsilon, noise, steps or batch from the other three."),
    "tune": ("fedgan_cli.tune", "Search for good settings, and compare what they give for what epsilon."),
    "data": (
        "fedgan_cli.data",
        "Look at a folder of images as the loaders see it; de-identify copies; leave patients out.",
    ),
    "pretrain": ("fedgan_cli.pretrain", "Train a public start of your own, on phantoms or public pictures."),
    "generate": ("fedgan_cli.generate", "Draw synthetic images from a run's generator."),
    "release": ("fedgan_cli.release", "Make a release bundle of a run, behind the export gate."),
    "evaluate": ("fedgan_cli.evaluate", "Measure what a run's generator makes."),
    "attack": ("fedgan_cli.attack", "Attack the training of a run on made-up patients: a lower bound on epsilon."),
    "audit": ("fedgan_cli.audit", "Show, verify and sign off a run's signed reports."),
    "keys": ("fedgan_cli.keys", "Make and name the identities of hospitals and coordinators."),
    "cap": ("fedgan_cli.cap", "Show a hospital's own cap on epsilon, or raise it with its signature."),
    "doctor": ("fedgan_cli.doctor", "Say what this machine has and lacks."),
}


class LazyGroup(click.Group):
    """A group whose subcommands are imported on first use, so that `--help` never loads TensorFlow."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[cmd_name][0])
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with `fedgan-secure run`: a whole private federation on images it draws itself.",
)
@click.version_option(package_name="fedgan-secure", prog_name="fedgan-secure")
def cli() -> None:
    """Hospitals train one generator of synthetic medical images together, without any image, identifier or single
    hospital's update leaving in the clear, and with a signed privacy report for every round."""


def _defect(error: BaseException) -> int:
    """Keep the details of an unexpected error in a private file and name it in one line."""
    handle, name = tempfile.mkstemp(prefix="fedgan-secure-", suffix=".log")
    with os.fdopen(handle, "w", encoding="utf-8") as log:
        traceback.print_exception(error, file=log)
    click.echo(f"error: this is a defect of fedgan-secure ({type(error).__name__}).", err=True)
    click.echo(f"hint: the details are in {Path(name)}; please report them (SECURITY.md, CONTRIBUTING.md).", err=True)
    return 1


def main(arguments: list[str] | None = None) -> None:
    """Entry point: run the command and turn every error into a message, a hint and an exit code."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    try:
        code = cli.main(args=arguments, standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Exit as exit_:
        sys.exit(exit_.exit_code)
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except Exception as error:  # noqa: BLE001 - the last line of defence: a user never sees a stack trace
        code = getattr(error, "exit_code", None)
        if not isinstance(code, int):
            sys.exit(_defect(error))
        click.echo(f"error: {error}", err=True)
        hint = getattr(error, "hint", "")
        if hint:
            click.echo(f"hint: {hint}", err=True)
        sys.exit(code)


if __name__ == "__main__":
    main()
