"""What a person or a program reads: results on stdout, everything else on stderr.

Rules: with ``--json`` stdout carries one JSON object and nothing else; without it results go to stdout, notes and
progress to stderr; a progress bar appears on a terminal, plain lines otherwise; nothing that is secret is ever
passed to this module.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click


def emit(result: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout, in UTF-8 whatever the terminal's encoding is.

    What is no text, as in a file name of another encoding, comes as JSON's escape of a lone surrogate, so that programs
    get the name back. Non-finite numbers are refused: store them as text.
    """
    text = json.dumps(result, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    data = text.encode("utf-8", "backslashreplace")
    if hasattr(sys.stdout, "buffer"):
        click.echo(data, nl=False)
    else:  # stdout was replaced by something that holds text, in which there is no encoding to go wrong
        click.echo(data.decode("utf-8"), nl=False)


def say(text: str = "") -> None:
    """A result for a person, on stdout."""
    _print(text, err=False)


def note(text: str) -> None:
    """A remark for a person, on stderr."""
    _print(text, err=True)


def _print(text: str, *, err: bool) -> None:
    """Print a line; signs that the terminal's encoding lacks become question marks."""
    encoding = getattr(sys.stderr if err else sys.stdout, "encoding", None) or "utf-8"
    click.echo(text.encode(encoding, "replace").decode(encoding, "replace"), err=err)


def printable(text: str) -> str:
    """File names may hold control characters; a terminal must not obey them."""
    return "".join(one if one.isprintable() or one == "\n" else "\N{REPLACEMENT CHARACTER}" for one in text)


class Progress:
    """Advances one named piece of work; made by :func:`progress`."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: Any = None
        self._tasks: dict[str, Any] = {}
        self._last: dict[str, tuple[float, int]] = {}
        if not quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bar.start()

    def update(self, task: str, done: int, total: int) -> None:
        """Say that `done` of `total` units of `task` are finished; plain output prints at most every 5 seconds."""
        if self._quiet:
            return
        if self._bar is not None:
            if task not in self._tasks:
                self._tasks[task] = self._bar.add_task(task, total=total)
            self._bar.update(self._tasks[task], completed=done, total=total)
            return
        now = time.monotonic()
        last = self._last.get(task)
        if last is None or done >= total or now - last[0] >= 5.0:
            self._last[task] = (now, done)
            note(f"{task}: {done}/{total}")

    def note(self, text: str) -> None:
        """A line above the bar."""
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            note(text)

    def warn(self, text: str) -> None:
        """A line that is shown whatever was asked for: somebody would decide otherwise for it."""
        if self._bar is not None:
            self._bar.console.print(f"warning: {text}", highlight=False, markup=False, style="bold")
        else:
            note(f"warning: {text}")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[Progress]:
    """A progress display that is always taken down, whatever happens inside."""
    shown = Progress(quiet)
    try:
        yield shown
    finally:
        shown.close()


def load_tensorflow() -> None:
    """Import TensorFlow without the lines that its native code writes to stderr before any log level counts.

    What it wrote is shown where the import fails.
    """
    import importlib
    import os
    import tempfile

    if "tensorflow" in sys.modules:
        return
    sys.stderr.flush()
    with tempfile.TemporaryFile() as written:
        kept = os.dup(2)
        try:
            os.dup2(written.fileno(), 2)
            importlib.import_module("tensorflow").get_logger().setLevel("ERROR")
        except BaseException:
            written.seek(0)
            os.write(kept, written.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
