"""The folder of one run: every path in one place."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from fedgan_secure.errors import InputError
from fedgan_secure.storage.files import explain_disk, private_folder, read_json, write_json

RUN_FORMAT = 1


@dataclass(frozen=True)
class RunDirectory:
    """The folder of one run."""

    root: Path

    @property
    def public(self) -> Path:
        return self.root / "public"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def info(self) -> Path:
        return self.root / "run.json"

    @property
    def lock(self) -> Path:
        return self.root / ".lock"

    @property
    def phantoms(self) -> Path:
        return self.root / "phantoms"

    @property
    def policy(self) -> Path:
        return self.public / "policy.json"

    @property
    def sites(self) -> Path:
        return self.root / "site"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    def staged(self, round_number: int) -> Path:
        """Where a finished round waits, whole, until its files are in ``public/``."""
        return self.checkpoints / f"staged-{round_number:04d}"

    @classmethod
    def create(cls, root: Path) -> RunDirectory:
        """Make an empty run folder. Of two processes that make the same one at once, one makes it.

        Raises:
            InputError: `root` is a file, holds another run, is not empty, or is being filled by another process.
        """
        if root.exists() and not root.is_dir():
            raise InputError(f"{root} is a file; expected a folder for the run", hint="choose another --output")
        if root.is_dir() and any(root.iterdir()):
            if (root / "run.json").exists():
                raise InputError(
                    f"{root} already holds a run",
                    hint=f"go on with it by `fedgan-secure run --resume {root}`, or choose another --output",
                )
            raise InputError(f"{root} is not empty; expected a new folder", hint="choose another --output")
        run = cls(root)
        with explain_disk(root):
            root.mkdir(parents=True, exist_ok=True)
            try:
                run.public.mkdir()  # whoever makes it owns the folder: both may have seen it empty
            except FileExistsError:
                raise InputError(
                    f"another process is making a run in {root}",
                    hint="start this one again, or choose another --output",
                ) from None
            for folder in ("reports", "transcripts", "samples", "model", "trust"):
                (run.public / folder).mkdir()
            private_folder(run.checkpoints)
            private_folder(run.sites)
        return run

    @classmethod
    def open(cls, root: Path) -> RunDirectory:
        """An existing run.

        Raises:
            InputError: `root` is not a run, or was made by a newer version.
        """
        run = cls(root)
        if not root.is_dir():
            raise InputError(f"no such run: {root}", hint="give the folder that `fedgan-secure run` printed")
        info = read_json(run.info, "run.json")
        if not isinstance(info, dict) or info.get("format") != RUN_FORMAT:
            raise InputError(
                f"{run.info}: format {info.get('format') if isinstance(info, dict) else '?'}, expected {RUN_FORMAT}",
                hint="use the version of fedgan-secure that made this run",
            )
        return run

    def read_info(self) -> dict[str, object]:
        """`run.json`: status and pointers; not evidence."""
        info: dict[str, object] = read_json(self.info, "run.json")
        return info

    def write_info(self, info: dict[str, object]) -> None:
        write_json(self.info, {**info, "format": RUN_FORMAT}, private=True)


def default_run_folder(base: Path) -> Path:
    """``runs/DATE-N`` below `base`: the first number of today that is free."""
    today = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    number = 1
    while (folder := base / "runs" / f"{today}-{number}").exists():
        number += 1
    return folder
