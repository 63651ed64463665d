"""What the coordinator keeps for hospitals that did not receive a round's sum, until they have it.

Such a hospital begins no round before (`received_sums`). The file holds nothing that was not released: the sum, and the
models before and after it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from fedgan_secure.errors import InputError
from fedgan_secure.federation.refusals import SessionRefused
from fedgan_secure.federation.review.received_sums import LateSum
from fedgan_secure.federation.rounds import RoundFacts
from fedgan_secure.storage import write_bytes

NAME = "late-sum.npz"


class Waiting(Protocol):
    """What is needed of a `Hospital`."""

    def waits_for(self) -> int | None: ...

    def take_late(self, late: LateSum) -> None: ...


def late_of(facts: RoundFacts, names: Sequence[str], before: np.ndarray, after: np.ndarray) -> LateSum | None:
    """Return what hospitals without a receipt need before they begin another round; None where there are none.

    Args:
        facts: of the round.
        names: of all hospitals.
        before, after: float32[d], the coordinator's models.
    """
    result = facts.result
    if not facts.complete or result is None or facts.transcript is None:
        return None
    if all(facts.hospital(name)["receipt"] == "signed" for name in names):
        return None
    return LateSum(facts.number, before, after, result.sums, facts.transcript)


def hand_over(
    hospitals: Iterable[Waiting], late_sum: Callable[[int], LateSum | None], note: Callable[[str], None]
) -> None:
    """Give hospitals the sum that they wait for, where one is kept; one that refuses it goes on waiting."""
    for hospital in hospitals:
        waiting = hospital.waits_for()
        late = None if waiting is None else late_sum(waiting)
        if late is not None:
            try:
                hospital.take_late(late)
            except SessionRefused as error:
                note(str(error))


def write_late(folder: Path, late: LateSum) -> None:
    """Write a round's sum and models below `folder`, atomically."""
    sums = {f"sum{j}": vector for j, vector in enumerate(late.sums)}
    arrays = {"round": np.array(late.round), "before": late.before, "after": late.after, **sums}
    buffer = io.BytesIO()
    np.savez(buffer, transcript=np.frombuffer(late.transcript, np.uint8), **arrays)  # type: ignore[arg-type]
    write_bytes(folder / NAME, buffer.getvalue(), private=True)


def read_late(folder: Path, round_number: int) -> LateSum | None:
    """Read the sum of a round, or None where none is kept of it.

    Raises:
        InputError: the file is damaged.
    """
    place = folder / NAME
    if not place.exists():
        return None
    try:
        with np.load(place, allow_pickle=False) as arrays:
            if int(arrays["round"]) != round_number:
                return None
            sums = tuple(arrays[f"sum{j}"] for j in range(sum(name.startswith("sum") for name in arrays.files)))
            before, after = arrays["before"].astype(np.float32), arrays["after"].astype(np.float32)
            return LateSum(round_number, before, after, sums, arrays["transcript"].tobytes())
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise InputError(f"checkpoint {place} cannot be read: {error}", hint="restore it from a backup") from error
