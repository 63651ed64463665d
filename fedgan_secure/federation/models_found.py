"""What a hospital itself found each whole round to lead to, kept in its own folder so that a restart does not lose it.

After a kill a hospital has no session any more, but it still has to compare the staged files with its own result before
it signs. So before it answers whether it would sign, the model that the sum led to is on the disk, and its digests are
in the ledger.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedgan_audits.ledger import Ledger
from fedgan_secure.errors import InputError
from fedgan_secure.federation.storage import private_folder, read_array, write_array

KIND = "model_found"


@dataclass(frozen=True, eq=False)
class Found:
    """What a round led to.

    Attributes:
        model: digest of the model's vector, hex.
        average: float32[d], the running average that is published; None where this hospital cannot know it.
    """

    model: str
    average: np.ndarray | None


def averaged(average: np.ndarray, vector: np.ndarray, decay: float) -> np.ndarray:
    """Return the next running average, float32[d]: the published model."""
    return np.asarray(decay * average + (1.0 - decay) * vector, np.float32)


def average_digest(average: np.ndarray) -> str:
    """Return the SHA-256 (hex) of an average's float32 values, little-endian."""
    return hashlib.sha256(np.ascontiguousarray(average, "<f4").tobytes()).hexdigest()


class ModelsFound:
    """The models that one hospital found in one run.

    Args:
        folder: of the hospital, for this run; made on first use, mode 0700.
        ledger: the hospital's.
        run_id: of the run.
    """

    def __init__(self, folder: Path, ledger: Ledger, run_id: str) -> None:
        self._folder, self._ledger, self._run_id = folder, ledger, run_id

    def next_average(self, round_number: int, vector: np.ndarray, decay: float) -> np.ndarray | None:
        """Return the average after a whole round that led to `vector`, float32[d].

        None where an earlier report was signed by a version that kept no average, and one is needed.

        Raises:
            InputError: the kept average is missing or damaged.
        """
        before = self._signed(round_number)
        if decay == 0.0 or before is None:
            return vector.copy()
        if "average" not in before:
            return None
        kept = before["average"]
        return vector.copy() if kept is None else averaged(self._read(str(kept)), vector, decay)

    def keep(self, round_number: int, found: Found) -> None:
        """Write down, durably, what a round led to; once for each round."""
        digest = None
        if found.average is not None:
            digest = average_digest(found.average)
            private_folder(self._folder)
            if not self._place(digest).exists():
                write_array(self._place(digest), found.average)
        facts = {"model": found.model, "average": digest}
        if self._noted(round_number) != facts:
            self._ledger.record(KIND, self._run_id, round_number, facts)

    def of(self, round_number: int) -> Found | None:
        """Return what a round led to, or None where nothing was kept.

        Raises:
            InputError: what was kept is missing or damaged.
        """
        noted = self._noted(round_number)
        if noted is None:
            return None
        digest = noted["average"]
        return Found(str(noted["model"]), None if digest is None else self._read(digest))

    def facts(self, round_number: int, *, whole: bool) -> dict[str, str | None]:
        """Return what the entry on the signature of a round's report says of the average, and drop older ones.

        Args:
            round_number: of the report.
            whole: whether the round led to a model; where it did not, the average is the one before.
        """
        source = self._noted(round_number) if whole else self._signed(round_number) or {"average": None}
        if source is None or "average" not in source or (whole and source["average"] is None):
            return {}
        digest = source["average"]
        for place in self._folder.glob("*.npy") if self._folder.is_dir() else ():
            if place.stem != digest:
                with suppress(OSError):
                    place.unlink()
        return {"average": digest}

    def newest(self, before: int | None = None) -> str | None:
        """Return the model (SHA-256, hex) that the newest report it signed led to, or None before the first.

        Args:
            before: looks at the reports of rounds below this one alone.
        """
        signed = self.signed(before)
        return str(signed[-1]["model"]) if signed and "model" in signed[-1] else None

    def signed(self, before: int | None = None) -> list[dict[str, Any]]:
        """Return what the ledger says of the reports of this run that were signed, in the order of their rounds."""
        found = {
            entry.round: entry.facts
            for entry in self._ledger.entries()
            if entry.kind == "report_signed" and entry.run_id == self._run_id and entry.round is not None
        }
        return [found[number] for number in sorted(found) if before is None or number < before]

    def _signed(self, before: int) -> dict[str, Any] | None:
        signed = self.signed(before)
        return signed[-1] if signed else None

    def _noted(self, round_number: int) -> dict[str, str | None] | None:
        noted = [
            entry.facts
            for entry in self._ledger.entries()
            if entry.kind == KIND and entry.run_id == self._run_id and entry.round == round_number
        ]
        return {name: noted[-1][name] for name in ("model", "average")} if noted else None

    def _place(self, digest: str) -> Path:
        return self._folder / f"{digest}.npy"

    def _read(self, digest: str) -> np.ndarray:
        average = read_array(self._place(digest))
        if average.dtype != np.float32 or average_digest(average) != digest:
            raise InputError(
                f"{self._place(digest)} is not the model that this hospital kept", hint="restore it from a backup"
            )
        return average
