"""What a hospital itself found each whole round to lead to, kept in its own folder so that a restart does not lose it.

Before a hospital acknowledges a sum, the sum's digest and that of the model that it leads to are in its ledger, and the
published average is on the disk. After a kill it has no session any more, and still signs no other model than that, and
trains from no other. A hospital that holds no sum signs a whole round's report as one that it has *seen*: it vouches
for its own facts and for no result, and begins no round until it holds the sum that the receipts name.
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
from fedgan_secure.storage import private_folder, read_array, write_array

KIND = "model_found"
RECEIVED = "sum_received"
_NAMED = ("model", "average")


@dataclass(frozen=True, eq=False)
class Found:
    """What a round led to.

    Attributes:
        model: digest of the model's vector, hex.
        average: float32[d], the running average that is published; None where this hospital cannot know it.
    """

    model: str
    average: np.ndarray | None


@dataclass(frozen=True)
class Received:
    """A round's sum as a hospital received it.

    Attributes:
        named: the digest that stands for it, or for all of them where there are several, hex.
        survivors: whose vectors are in the last sum.
    """

    named: str
    survivors: tuple[str, ...]


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
        known, kept = self._kept_average(round_number)
        if decay == 0.0 or not self.signed(round_number):
            return vector.copy()
        if not known:
            return None
        return vector.copy() if kept is None else averaged(self._read(kept), vector, decay)

    def keep(self, round_number: int, found: Found) -> None:
        """Write down, durably, what a round led to where its sums alone do not say; once for each round."""
        facts = self._stored(found)
        if self._noted(round_number) != facts:
            self._ledger.record(KIND, self._run_id, round_number, facts)

    def keep_received(self, round_number: int, received: Received, found: Found | None) -> None:
        """Write down, durably, a sum that is about to be acknowledged, and what it leads to (None: it does not say)."""
        facts = {"sum": received.named, "survivors": list(received.survivors), "model": None, "average": None}
        if found is not None:  # the array first: an entry never names an average that is not there
            facts |= self._stored(found)
        self._ledger.record(RECEIVED, self._run_id, round_number, facts)

    def received(self, round_number: int) -> Received | None:
        """Return the sum of a round that this hospital holds or held, or None."""
        entries = self._entries(RECEIVED, round_number)
        return Received(str(entries[-1]["sum"]), tuple(entries[-1]["survivors"])) if entries else None

    def knows(self, round_number: int) -> str | None:
        """Return the model (SHA-256, hex) that this hospital itself found a round to lead to, or None."""
        noted = self._noted(round_number)
        return None if noted is None else str(noted["model"])

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

    def facts(self, round_number: int, *, whole: bool, named_sum: str | None) -> dict[str, Any]:
        """Return what the entry on the signature of a round's report says of its result, and drop older averages.

        Args:
            round_number: of the report.
            whole: whether the round led to a model; where it did not, the average is the one before.
            named_sum: the digest of the sum that the report names.
        """
        noted = self._noted(round_number)
        if whole and noted is None:
            return {"seen": True, "sum": named_sum}
        known, digest = (True, noted["average"]) if whole and noted is not None else self._kept_average(round_number)
        if not known or (whole and digest is None):
            return {}
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

    def waits_for(self, before: int | None = None) -> tuple[int, dict[str, Any]] | None:
        """Return the first round whose report was only seen and whose sum is still missing, with what was signed."""
        for number, facts in self._signed_rounds(before):
            if facts.get("seen") and self.knows(number) is None:
                return number, facts
        return None

    def signed(self, before: int | None = None) -> list[dict[str, Any]]:
        """Return what the ledger says of the reports of this run that were signed, in the order of their rounds."""
        return [facts for _, facts in self._signed_rounds(before)]

    def _signed_rounds(self, before: int | None) -> list[tuple[int, dict[str, Any]]]:
        found = {
            entry.round: entry.facts
            for entry in self._ledger.entries()
            if entry.kind == "report_signed" and entry.run_id == self._run_id and entry.round is not None
        }
        return [(number, found[number]) for number in sorted(found) if before is None or number < before]

    def _kept_average(self, before: int) -> tuple[bool, str | None]:
        """Whether the average after the last signed report is known, and its digest (None: no round led to one)."""
        known, digest = True, None
        for number, facts in self._signed_rounds(before):
            noted = self._noted(number) if facts.get("seen") else facts
            known = noted is not None and "average" in noted
            digest = noted["average"] if known and noted is not None else digest
        return known, digest

    def _entries(self, kind: str, round_number: int) -> list[dict[str, Any]]:
        return [
            entry.facts
            for entry in self._ledger.entries()
            if entry.kind == kind and entry.run_id == self._run_id and entry.round == round_number
        ]

    def _noted(self, round_number: int) -> dict[str, str | None] | None:
        noted = [*self._entries(RECEIVED, round_number), *self._entries(KIND, round_number)]
        noted = [facts for facts in noted if facts["model"] is not None]
        return {name: noted[-1][name] for name in _NAMED} if noted else None

    def _stored(self, found: Found) -> dict[str, str | None]:
        digest = None
        if found.average is not None:
            digest = average_digest(found.average)
            private_folder(self._folder)
            if not self._place(digest).exists():
                write_array(self._place(digest), found.average)
        return {"model": found.model, "average": digest}

    def _place(self, digest: str) -> Path:
        return self._folder / f"{digest}.npy"

    def _read(self, digest: str) -> np.ndarray:
        average = read_array(self._place(digest))
        if average.dtype != np.float32 or average_digest(average) != digest:
            raise InputError(
                f"{self._place(digest)} is not the model that this hospital kept", hint="restore it from a backup"
            )
        return average
