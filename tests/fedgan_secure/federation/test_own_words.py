"""What a coordinator alone may say in words: a hospital signs no others than those that follow from the policy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fedgan_audits.bundle.inventory import Inventory
from fedgan_audits.facts.records import Incident, RoundRecord
from fedgan_audits.ledger.ledger import Ledger
from fedgan_secure.federation import prepare, rounds, turns
from fedgan_secure.federation.review import manifest_review
from fedgan_secure.federation.review.own_words import claim_in
from fedgan_secure.federation.run import carry_on
from fedgan_secure.policy.settings import RunSettings
from tests.audits.conftest import MECHANISM
from tests.fedgan_secure.federation.adapted_world import Silent
from tests.fedgan_secure.federation.test_published_run import signers

SETTINGS = {
    "data": {"phantom_patients": 8, "image_size": 28, "channels": 1},
    "training": {"start": "moments"},
    "federation": {"hospitals": 3},
    "privacy": {"epsilon": 8.0, "delta": 1e-3, "declared_patients": 8},
}
LIES: dict[str, Callable[[RoundRecord], RoundRecord]] = {
    "noise": lambda one: one.model_copy(
        update={"privacy": one.privacy.model_copy(update={"noise": "a thousand times the recorded one"})}
    ),
    "sampling": lambda one: one.model_copy(update={"privacy": one.privacy.model_copy(update={"sampling": "by vote"})}),
    "clipping": lambda one: one.model_copy(update={"privacy": one.privacy.model_copy(update={"clipping": "twice"})}),
    "identifiers": lambda one: one.model_copy(
        update={"data": one.data.model_copy(update={"deidentification": "determined by an expert"})}
    ),
    "setting": lambda one: one.model_copy(update={"header": one.header.model_copy(update={"setting": "federation"})}),
    "incident": lambda one: one.model_copy(
        update={"incidents": (Incident(kind="other", round=1, text="An auditor certified epsilon 0.10."),)}
    ),
    "lifetime": lambda one: one.model_copy(
        update={"hospitals": tuple(h.model_copy(update={"ledger_lifetime": "site"}) for h in one.hospitals)}
    ),
}


@pytest.mark.parametrize("lie", list(LIES))
def test_no_hospital_signs_words_that_do_not_follow_from_the_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    honest = rounds.record_of

    def lying(*given: Any, **named: Any) -> RoundRecord:
        return LIES[lie](honest(*given, **named))

    monkeypatch.setattr("fedgan_secure.federation.run.record_of", lying)
    made = prepare.start(prepare.Request(RunSettings.model_validate(SETTINGS), tmp_path / "run"), None)
    outcome = carry_on(made, Silent())
    made.close()
    assert outcome.exit_code == 4 and signers(tmp_path / "run", 1) == ["coordinator"]


def test_a_manifests_own_words_make_no_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    def answered(reason: str) -> object:
        run = SimpleNamespace(reason=reason, incidents=())
        manifest = SimpleNamespace(run=run, head="f" * 64, renderer="html-2")
        monkeypatch.setattr(manifest_review, "read_manifest", lambda payload: (manifest, {}))
        monkeypatch.setattr(manifest_review, "objections_to_manifest", lambda *given: [])
        monkeypatch.setattr(manifest_review, "objections_to_index", lambda *given: [])
        return manifest_review.signable(b"", Path(), "f" * 64, (), Inventory())

    assert answered("All scheduled rounds were attempted.") is not None
    assert answered("Epsilon 0.10 for everybody; HIPAA compliant.") is None and answered("Anonymous data.") is None


def test_a_hospitals_name_claims_nothing() -> None:
    names = ("certified", "anonymous-clinic", "a")
    assert claim_in("hospital certified refuses: its cap", names) is None
    assert claim_in("hospital anonymous-clinic dropped out", names) is None
    assert claim_in("hospital a is certified: anonymous data", ("a",)) == "certified"
    assert claim_in("anonymous-clinics", names) == "anonym"


def test_two_runs_on_the_same_patients_do_not_take_turns(tmp_path: Path) -> None:
    """A resumed run whose patients have been in another one since would have reports that no longer compose."""
    policy = cast(Any, SimpleNamespace(
        run_id="first", rounds=3, mechanism=SimpleNamespace(declared_patients=9, unit="patient", delta=1e-4),
        flags=SimpleNamespace(no_privacy=False, taken_from_data=()), data=SimpleNamespace(phantoms=True),
    ))  # fmt: skip
    models, dataset = cast(Any, SimpleNamespace(waits_for=lambda: None)), cast(Any, SimpleNamespace(patients=9))
    with Ledger.open(tmp_path / "ledger.sqlite", hospital="a", create=True) as ledger:
        ledger.reserve("before", 1, MECHANISM, 1e-4)
        ledger.reserve("first", 1, MECHANISM, 1e-4)
        assert turns.out_of_turn(policy, ledger, models, dataset, 2) is None
        ledger.reserve("other", 1, MECHANISM, 1e-4)
        why = turns.out_of_turn(policy, ledger, models, dataset, 2)
        assert why is not None and "run other has spent" in why
