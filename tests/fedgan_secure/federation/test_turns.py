"""Whole runs in which a hospital is left behind: by its own objection, by a drop-out, by a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedgan_secure.federation import prepare
from fedgan_secure.federation.prepare import Federation
from fedgan_secure.federation.run import _Run, carry_on
from fedgan_secure.policy.settings import RunSettings
from tests.fedgan_secure.federation.adapted_world import Silent
from tests.fedgan_secure.federation.test_published_run import killed_after_sealing, signers


def four(root: Path, *drops: str) -> Federation:
    """Prepare a tiny run of four hospitals, of which three make a round, and two rounds."""
    settings = RunSettings.model_validate(
        {
            "data": {"phantom_patients": 8, "image_size": 28},
            "federation": {"hospitals": 4, "rounds": 2, "steps_per_round": 1},
            "privacy": {"epsilon": 30.0, "delta": 1e-3, "sampling_probability": 0.5, "declared_patients": 8},
        }
    )
    return prepare.start(prepare.Request(settings, root, drops=drops), None)


def kinds(made: Federation, name: str, number: int) -> list[str]:
    """What a hospital's ledger holds of a round."""
    return [entry.kind for entry in made.hospitals[name].ledger.entries() if entry.round == number]


def test_a_run_ends_in_order_before_a_round_that_a_hospital_does_not_begin(tmp_path: Path) -> None:
    """Three of four agree on round 1, and its report is published; the fourth begins nothing after it."""
    made = four(tmp_path / "run")
    object.__setattr__(made.hospitals["b"], "review", lambda *given: ["it has seen something else"])
    display = Silent()
    outcome = carry_on(made, display)
    assert (outcome.status, outcome.exit_code, outcome.finished) == ("aborted", 4, 1)
    assert "hospital b does not begin it: round 1 was opened" in outcome.reason
    assert signers(tmp_path / "run", 1) == ["a", "c", "coordinator", "d"]
    assert all(kinds(made, name, 2) == [] for name in "abcd")
    made.close()


def test_a_hospital_that_lost_the_sum_is_given_it_after_a_kill_and_goes_on(tmp_path: Path) -> None:
    made = four(tmp_path / "run", "d@1:unmasking")
    killed_after_sealing(made)
    made = prepare.resume(tmp_path / "run", None)
    assert kinds(made, "d", 1) == ["reserved", "session_opened"] and made.hospitals["d"].waits_for() is None
    seen: list[Any] = []
    honest = _Run._publish

    def publish(self: Any, number: int, *given: Any) -> None:
        honest(self, number, *given)
        seen.append((number, made.hospitals["d"].waits_for(), kinds(made, "d", number)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Run, "_publish", publish)
        outcome = carry_on(made, Silent())
    assert (outcome.status, outcome.finished) == ("complete", 2)
    signed = ["report_signed", "round_finished"]
    assert seen[0] == (1, None, ["reserved", "session_opened", *signed, "sum_received"])
    assert seen[1] == (2, None, ["reserved", "session_opened", "sum_received", *signed])
    (facts,) = [entry.facts for entry in made.hospitals["d"].ledger.entries() if entry.facts.get("seen")]
    assert facts["model"] == made.hospitals["d"]._models.knows(1)
    assert signers(tmp_path / "run", 2) == ["a", "b", "c", "coordinator", "d"]
    assert kinds(made, "d", 2) and all(
        [entry.kind for entry in hospital.ledger.entries()].count("run_ended") == 1
        for hospital in made.hospitals.values()
    )
    made.close()
