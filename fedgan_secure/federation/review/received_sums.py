"""A hospital and the sums of its rounds: what it keeps before it acknowledges one, and how it takes one that came late.

A hospital derives every model that it trains from: the first from the policy, each later one from the sum of the round
before. So a coordinator can hand it no weights of its own making, neither by leaving it out of a sum nor across a
restart (docs/privacy.md, "Floating point in the clip"). Where noise is shared, the coordinator's steps lie between the
sums, and the model is believed under the digest that the report names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fedgan_protocols import ProtocolError, sum_digest
from fedgan_protocols.transcript import check
from fedgan_secure.federation.families.family import Family
from fedgan_secure.federation.fedavg import model_digest
from fedgan_secure.federation.refusals import SessionRefused
from fedgan_secure.federation.results.models_found import Found, ModelsFound, Received
from fedgan_secure.federation.review.expectations import expectations
from fedgan_secure.federation.rounds import named_of
from fedgan_secure.policy import FederationPolicy


@dataclass(frozen=True, eq=False)
class LateSum:
    """What a coordinator hands to a hospital that did not receive a round's sum.

    Attributes:
        round: which one.
        before: float32[d], the model that the round started from.
        after: float32[d], the model that it led to, as the coordinator has it.
        sums: uint32[k] or uint64[k] each.
        transcript: of the round, with the receipts of those who hold the sum.
    """

    round: int
    before: np.ndarray
    after: np.ndarray
    sums: tuple[np.ndarray, ...]
    transcript: bytes


@dataclass(frozen=True)
class _Proved:
    """What a checked transcript says of a round's sum: its name, whose vectors it holds, how many acknowledged it."""

    named: str
    survivors: tuple[str, ...]
    receipts: int


@dataclass(frozen=True)
class SumKeeper:
    """One hospital's sums.

    Args:
        policy: the hospital's own copy.
        name: the hospital's.
        models: what it found so far.
        family: makes the hospital's own family.
        first: the digest (hex) of the model that the run begins from, None where the hospital cannot know it.
    """

    policy: FederationPolicy
    name: str
    models: ModelsFound
    family: Callable[[], Family]
    first: Callable[[], str | None]

    def keep(
        self, number: int, vector: np.ndarray, layout_hash: str, sums: Sequence[np.ndarray], survivors: Sequence[str]
    ) -> None:
        """Write down, durably, the verified sum of a round that started from `vector`, float32[d], and its model."""
        received = Received(named_of(self.policy, number, [sum_digest(one) for one in sums]), tuple(survivors))
        found = None
        if not self.policy.is_stepwise(number):
            found = self._found(number, self.family().next_vector(number, vector, sums[0], len(survivors)), layout_hash)
        self.models.keep_received(number, received, found)

    def take_late(self, late: LateSum) -> None:
        """Take the sum that this hospital waits for, once it proves to be the one that enough receipts name.

        Raises:
            SessionRefused: it waits for none of this round, or what it is given does not fit; it goes on waiting.
        """
        waiting = self.models.waits_for()
        if waiting is None or waiting[0] != late.round:
            raise SessionRefused(
                f"hospital {self.name} waits for no sum of round {late.round}", hint="hand over the sum it waits for"
            )
        number, signed = waiting
        family = self.family()
        layout_hash = family.layout.layout_hash
        wrong = self._objection(late, signed, layout_hash)
        if wrong is not None:
            raise SessionRefused(
                f"hospital {self.name} does not take the sum of round {number}: {wrong}",
                hint="restore the coordinator's checkpoints from a backup; until then it begins no round",
            )
        survivors = self._proved(late).survivors
        received = Received(str(signed["sum"]), survivors)
        after = late.after
        if not self.policy.is_stepwise(number):
            after = family.next_vector(number, late.before, late.sums[0], len(survivors))
        found = self._found(number, after, layout_hash)
        if found.model != signed["model"] or not family.may_lead_to(number, late.before, after):
            raise SessionRefused(
                f"hospital {self.name} does not take the sum of round {number}: it leads to another model than the "
                "report named",
                hint="the coordinator published a model that is not the sum's; no round is begun after it",
            )
        self.models.keep_received(number, received, found)

    def _objection(self, late: LateSum, signed: dict[str, object], layout_hash: str) -> str | None:
        base = self.models.newest(before=late.round) or self.first()
        if base is None or model_digest(layout_hash, late.before).hex() != base:
            return "the model that the round started from is not the one that this hospital derived"
        try:
            proved = self._proved(late)
        except ProtocolError as error:
            return f"the transcript does not stand up: {error}"
        if proved.receipts < self.policy.threshold:
            return f"{proved.receipts} hospitals acknowledged it, and {self.policy.threshold} are needed"
        given = named_of(self.policy, late.round, [sum_digest(one) for one in late.sums]) if late.sums else ""
        if not given == proved.named == signed["sum"]:
            return "it is not the sum that the receipts and the report name"
        return None

    def _proved(self, late: LateSum) -> _Proved:
        expected = expectations(self.policy, late.round, self.family, complete=True)
        facts = check(late.transcript, expected)
        named = named_of(self.policy, late.round, [one.digest for one in facts.sums])
        return _Proved(named, facts.sums[-1].survivors, len(facts.receipts))

    def _found(self, number: int, after: np.ndarray, layout_hash: str) -> Found:
        average = self.models.next_average(number, after, self.policy.average_decay)
        return Found(model_digest(layout_hash, after).hex(), average)
