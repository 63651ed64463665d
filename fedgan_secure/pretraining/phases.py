"""Run a training phase that survives a kill: its state goes to a file every few minutes, and it goes on from there.

Every random number of a phase follows from (seed, step), so a phase that was killed and restarted gives what an
uninterrupted one gives, up to the rounding of float32 on several threads.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from fedgan_secure.errors import InputError
from fedgan_secure.interruption import Interruption
from fedgan_secure.networks import AdamState, FlatAdam
from fedgan_secure.starts import Archive, ArchiveError, pack, read_file
from fedgan_secure.storage import write_bytes

SAVE_SECONDS = 120.0
SETTINGS = "settings.json"

Floats = NDArray[np.float32]
Progress = Callable[[str, int, int], None]


class Phase(Protocol):
    """Describe a part of a training that can be kept and gone on with."""

    name: str
    task: str
    steps: int

    def step(self, index: int) -> None:
        """Make the step with this index, 0 to ``steps - 1``."""

    def state(self) -> dict[str, Floats]:
        """Return everything that a later step depends on, as flat vectors."""

    def load(self, state: Mapping[str, Floats]) -> None:
        """Go on from a state."""


def run_phase(phase: Phase, folder: Path, progress: Progress | None, interruption: Interruption) -> None:
    """Run a phase from its file in `folder`, or from its beginning, to its end.

    Raises:
        InputError: the file is damaged.
        KeyboardInterrupt: the operator asked to stop; the state was written first.
    """
    path = folder / f"{phase.name}.npz"
    done = _restore(phase, path) if path.exists() else 0
    saved = time.monotonic()
    while done < phase.steps:
        if interruption.asked:
            _save(phase, path, done)
            interruption.check()
        phase.step(done)
        done += 1
        if time.monotonic() - saved > SAVE_SECONDS or done == phase.steps:
            _save(phase, path, done)
            saved = time.monotonic()
        if progress is not None:
            progress(phase.task, done, phase.steps)


def claim_folder(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write down which training a folder holds, or check that it holds this one.

    Raises:
        InputError: the folder holds another training.
    """
    path = folder / SETTINGS
    text = json.dumps(settings, indent=2, sort_keys=True)
    try:
        found = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        write_bytes(path, text.encode())
        return
    if found != text:
        raise InputError(
            f"{folder} holds a training with other settings or pictures",
            hint="repeat the command it was begun with, remove that folder, or choose another --output",
        )


def flat(values: Sequence[Any]) -> tf.Tensor:
    """Return tensors or variables as one float32 vector."""
    return tf.concat([tf.reshape(value, [-1]) for value in values], axis=0)


def assign(variables: Sequence[Any], vector: Floats) -> None:
    """Write a flat vector into variables."""
    first = 0
    for variable in variables:
        size = int(np.prod(variable.shape))
        variable.assign(vector[first : first + size].reshape(tuple(variable.shape)))
        first += size


def optimiser_state(name: str, optimiser: FlatAdam) -> dict[str, Floats]:
    """Return an optimiser's state under names of its own."""
    state = optimiser.state()
    count = np.array([state.count], np.float32)
    return {f"{name}_first": state.first, f"{name}_second": state.second, f"{name}_count": count}


def load_optimiser(name: str, optimiser: FlatAdam, state: Mapping[str, Floats]) -> None:
    """Load what `optimiser_state` gave."""
    count = int(state[f"{name}_count"][0])
    optimiser.load(AdamState(state[f"{name}_first"], state[f"{name}_second"], count))


def _save(phase: Phase, path: Path, done: int) -> None:
    arrays: dict[str, NDArray[np.generic]] = {**phase.state(), "done": np.array([done], np.int64)}
    write_bytes(path, pack(arrays, compress=False))


def _restore(phase: Phase, path: Path) -> int:
    """Load a phase's file; return how many steps it had made."""
    try:
        archive = Archive(read_file(path))
        done = int(np.asarray(archive.array("done", (1,), ("<i8",)))[0])
        state = {
            name: np.array(archive.array(name, value.shape, ("<f4",)), np.float32)
            for name, value in phase.state().items()
        }
        if not 0 <= done <= phase.steps or not all(np.isfinite(value).all() for value in state.values()):
            raise ArchiveError("its values are out of range")
    except ArchiveError as error:
        raise InputError(
            f"{path} is not usable: {error}", hint="remove it: the training goes on from the part before"
        ) from None
    phase.load(state)
    return done
