"""What a search leaves on disk, all of it its owner's alone (mode 0700): nothing below is meant to be shown.

The study (every setting and score, and with `winner_alone` how many trials there are) is confidential. What may be
shown is made from it by `fedgan-secure tune report`, into a folder of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedgan_secure.errors import InputError
from fedgan_secure.storage import explain_disk, private_folder, read_json, write_json

SEARCH_FORMAT = 2


@dataclass(frozen=True)
class SearchDirectory:
    """The folder of one search."""

    root: Path

    @property
    def info(self) -> Path:
        return self.root / "search.json"

    @property
    def study(self) -> Path:
        return self.root / "study.sqlite"

    @property
    def lock(self) -> Path:
        return self.root / ".lock"

    def run(self, trial: int, seed: int) -> Path:
        """The folder of one trial's run with the seed of that number (from 1)."""
        return self.root / "trials" / f"{trial:04d}" / f"seed-{seed}"

    def log(self, worker: int) -> Path:
        return self.root / f"worker-{worker}.log"

    @classmethod
    def create(cls, root: Path) -> SearchDirectory:
        """Make an empty search folder. Raises InputError where it is not empty."""
        found = cls(root)
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            hint = "choose another --output"
            if found.info.exists():
                hint = f"go on with it by `fedgan-secure tune --resume {root}`, or choose another --output"
            raise InputError(f"{root} is not empty; expected a new folder for the search", hint=hint)
        with explain_disk(root):
            private_folder(root)
            private_folder(root / "trials")
        return found

    @classmethod
    def open(cls, root: Path) -> SearchDirectory:
        """An existing search. Raises InputError."""
        found = cls(root)
        if not root.is_dir():
            raise InputError(f"no such search: {root}", hint="give the folder that `fedgan-secure tune` printed")
        if found.read().get("format") != SEARCH_FORMAT:
            raise InputError(f"{found.info}: unknown format", hint="use the version that made this search")
        return found

    def read(self) -> dict[str, Any]:
        """`search.json`: the experiment, the search's id, and whether it has ended."""
        found = read_json(self.info, "search.json")
        if not isinstance(found, dict):
            raise InputError(f"{self.info} is not a search's", hint="restore it from a backup")
        return found

    def write(self, info: dict[str, Any]) -> None:
        write_json(self.info, {**info, "format": SEARCH_FORMAT}, private=True)


def default_search_folder(base: Path, name: str) -> Path:
    """``searches/NAME-N`` below `base`: the first number that is free."""
    number = 1
    while (folder := base / "searches" / f"{name}-{number}").exists():
        number += 1
    return folder
