"""What a run leaves on disk, and what a hospital keeps: every path in one place.

``public/`` is what may be shown, ``checkpoints/`` what a resumed run needs, ``site/NAME/`` what is one hospital's
alone (mode 0700). Nothing from ``site/`` is ever copied to ``public/``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedgan_secure.storage.files import explain_disk, private_folder


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
    def images(self) -> Path:
        """Which folders this hospital's images were read from, over all runs of a lasting site."""
        return self.root / "images.json"

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
