"""A tiny run with a public start in one process, for tests of what it publishes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from fedgan_secure.federation import prepare
from fedgan_secure.federation.prepare import Federation
from fedgan_secure.models.adapted_spec import AdaptedSpec
from fedgan_secure.policy.settings import RunSettings

SMALL = {"pool": 60, "fit_steps": 2, "fit_batch": 10}
PRIVACY = {"epsilon": 30.0, "delta": 1e-3, "sampling_probability": 0.5, "declared_patients": 8}


class Silent:
    """A display that keeps what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def update(self, task: str, done: int, total: int) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)


def federation(root: Path, rounds: int, start: str | None = None, **privacy: object) -> Federation:
    """Prepare a run of three hospitals with `SMALL` adaptations; call it under `small_adaptations`."""
    settings = RunSettings.model_validate(
        {
            "data": {"phantom_patients": 8},
            "federation": {"hospitals": 3, "rounds": rounds, "steps_per_round": 2},
            "training": {"start": start},
            "privacy": {**PRIVACY, **privacy},
        }
    )
    return prepare.start(prepare.Request(settings, root), None)


@contextmanager
def small_adaptations() -> Iterator[None]:
    """Let runs that are prepared meanwhile have adaptations of a second: a small pool and hardly any training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedgan_secure.federation.families.adapted_policy.AdaptedSpec", partial(AdaptedSpec, **SMALL))
        yield
