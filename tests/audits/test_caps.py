"""A hospital's cap in its ledger: the smallest ever held there stands, until the hospital's own key signs a raise."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedgan_audits.accounting import accountant
from fedgan_audits.errors import BudgetRefused, RecordInvalid
from fedgan_audits.ledger import caps
from fedgan_audits.ledger.ledger import Ledger
from tests.audits.test_ledger import DELTA, mechanism


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "site" / "ledger.sqlite"


def test_the_smallest_cap_holds_when_it_is_left_out_or_raised(path: Path) -> None:
    """Before, the cap was a flag of whoever started a run: left off or raised, it was gone."""
    cap = accountant.epsilon_pld([mechanism()], DELTA) * 1.01
    with Ledger.open(path, hospital="north", create=True) as ledger:
        assert ledger.standing_cap() is None
        ledger.reserve("run-1", 1, mechanism(), DELTA, cap)
        for asked in (None, 50.0, cap):
            assert isinstance(ledger.refusal("run-1", 2, mechanism(), DELTA, asked), BudgetRefused)
            with pytest.raises(BudgetRefused) as caught:
                ledger.reserve("run-1", 2, mechanism(), DELTA, asked)
            assert caught.value.cap == cap == ledger.standing_cap()
        assert ledger.entries()[-1].facts["cap"] == cap and ledger.cap_of("run-1", 1) == cap
        with pytest.raises(BudgetRefused):  # a lower one needs nobody's signature, and holds from then on
            ledger.reserve("run-1", 2, mechanism(sigma=9.0), DELTA, cap / 9)
        assert ledger.standing_cap() == cap / 9
    with Ledger.open(path) as ledger:
        assert ledger.standing_cap() == cap / 9


def test_a_cap_is_raised_by_the_hospitals_signature_at_its_place_in_the_chain(path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    with Ledger.open(path, hospital="north", create=True) as ledger:
        with pytest.raises(RecordInvalid, match="holds no cap"):
            ledger.raise_cap(5.0, "more", key)
        ledger.reserve("run-1", 1, mechanism(), DELTA, 4.0)
        for wrong, reason, said in (
            (4.0, "x", "does not raise"), (3.0, "x", "does not raise"), (math.inf, "x", "finite"), (9.0, " ", "reason"),
        ):  # fmt: skip
            with pytest.raises(RecordInvalid, match=said):
                ledger.raise_cap(wrong, reason, key)
        assert ledger.raise_cap(9.0, "the board agreed", key).facts["before"] == 4.0
        assert ledger.standing_cap() == 9.0
        ledger.reserve("run-1", 2, mechanism(), DELTA, None)
        assert ledger.cap_of("run-1", 2) == 9.0 and ledger.cap_of("run-1", 1) == 4.0
        ledger.reserve("run-1", 3, mechanism(sigma=9.0), DELTA, 6.5)
        assert ledger.standing_cap() == 6.5
        ledger.raise_cap(None, "the study has ended", key)
        assert ledger.standing_cap() is None and ledger.reserve("run-1", 4, mechanism(), DELTA).facts["cap"] is None
        with pytest.raises(RecordInvalid, match="word of its own"):
            ledger.record(caps.RAISED, None, None, {"cap": None})


@pytest.mark.parametrize("change", ["cap", "reason", "before", "key", "signature", "place", "hospital"])
def test_a_raise_that_nobody_signed_raises_nothing(path: Path, change: str) -> None:
    key = Ed25519PrivateKey.generate()
    with Ledger.open(path, hospital="north", create=True) as ledger:
        ledger.reserve("run-1", 1, mechanism(), DELTA, 4.0)
        entry = ledger.raise_cap(9.0, "the board agreed", key)
        other = Ed25519PrivateKey.generate().public_key().public_bytes_raw().hex()
        new = {"cap": 99.0, "reason": "other", "before": 5.0, "key": other, "signature": "AAAA"}
        facts = {**entry.facts, **({change: new[change]} if change in new else {})}
        forged = replace(entry, facts=facts)
        forged = replace(forged, previous="0" * 64) if change == "place" else forged
        forged = replace(forged, hospital="south") if change == "hospital" else forged
        assert caps.signer_of(entry) is not None and caps.signer_of(forged) is None
        assert caps.standing_cap([*ledger.entries()[:-1], forged]) == 4.0
