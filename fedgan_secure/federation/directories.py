"""What a run leaves on disk, and what a hospital keeps: every path in one place.

``public/`` is what may be shown, ``checkpoints/`` what a resumed run needs, ``site/NAME/`` what is one hospital's
alone (mode 0700). Nothing from ``site/`` is ever copied to ``public/``.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from fedgan_secure.errors import InputError
from fedgan_secure.federation.storage import explain_disk, private_folder, read_json, write_json

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


@dataclass(frozen=True)
class SiteDirectory:
    """One hospital's own folder; `lasting` where it outlives the run (``--site-dir``).

    `patients_of` is the lasting folder of the same hospital whose list of withdrawn patients counts here, where this
    one is made for a trial on its patients.
    """

    root: Path
    run_id: str
    lasting: bool
    patients_of: Path | None = None

    def prepare(self) -> SiteDirectory:
        """Make the folders, owner-only."""
        with explain_disk(self.root):
            for folder in (self.root, self.cache, self.per_run, self.journal.parent, self.confidential):
                private_folder(folder)
        return self

    @property
    def identity(self) -> Path:
        return self.root / "identity.pem"

    @property
    def settings(self) -> Path:
        """What the hospital declares itself, if it does."""
        return self.root / "hospital.toml"

    @property
    def pseudonym_secret(self) -> Path:
        return self.root / "pseudonym.key"

    @property
    def withdrawals(self) -> Path:
        """The folder whose list of withdrawn patients counts."""
        return self.patients_of or self.root

    @property
    def ledger(self) -> Path:
        return self.root / "ledger.sqlite"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def per_run(self) -> Path:
        """What belongs to this run alone; a lasting site keeps it apart for every run."""
        return self.root / "runs" / self.run_id if self.lasting else self.root

    @property
    def journal(self) -> Path:
        return self.per_run / "journal" / "secure-aggregation.journal"

    @property
    def confidential(self) -> Path:
        return self.per_run / "confidential"

    @property
    def optimiser(self) -> Path:
        return self.per_run / "optimiser.npz"

    @property
    def self_tests(self) -> Path:
        return self.per_run / "self-tests.json"

    @property
    def release_self_tests(self) -> Path:
        """The same of the release round, which is a mechanism of its own."""
        return self.per_run / "release-self-tests.json"

    @property
    def models(self) -> Path:
        """What the hospital itself found the last rounds to lead to; public once the round is."""
        return self.per_run / "models"

    def annex(self, round_number: int) -> Path:
        return self.confidential / f"round-{round_number:04d}.json"


def default_run_folder(base: Path) -> Path:
    """``runs/DATE-N`` below `base`: the first number of today that is free."""
    today = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    number = 1
    while (folder := base / "runs" / f"{today}-{number}").exists():
        number += 1
    return folder
