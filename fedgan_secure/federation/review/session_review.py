"""How a hospital judges what a report says of its round: by its policy and its ledger, also after a restart.

Which session it opened, which sum it acknowledged and which model that leads to are in its ledger; the session in
memory, where there still is one, adds what it received on the way.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedgan_audits.facts import RoundRecord
from fedgan_audits.ledger import Ledger
from fedgan_protocols import ProtocolError
from fedgan_protocols.transcript import TranscriptFacts, check
from fedgan_secure.federation.attempt import Attempt
from fedgan_secure.federation.fedavg import model_digest
from fedgan_secure.federation.review.expectations import expectations
from fedgan_secure.federation.review.received_sums import SumKeeper
from fedgan_secure.federation.rounds import named_of


@dataclass(frozen=True)
class SessionReview:
    """One hospital's review of the protocol's side of a round.

    Args:
        own: its sums, what they lead to, and its own copy of the policy.
        ledger: the hospital's.
    """

    own: SumKeeper
    ledger: Ledger

    def objections(self, record: RoundRecord, transcript: bytes | None, attempt: Attempt | None) -> list[str]:
        """Return how a report differs from what this hospital did and received; empty where it does not.

        Args:
            record: of the report.
            transcript: that the report names, None where it names none.
            attempt: the newest session of this process, or None.
        """
        number, facts = record.header.round, record.aggregation
        attempt = attempt if attempt is not None and attempt.parameters.round == number else None
        found = self._objections_to_start(record, attempt)
        complete = record.header.status == "complete"
        if transcript is None:
            if attempt is not None or complete:
                found.append("the round was opened, and the report has no transcript of it")
            return found
        single = complete and not self.own.policy.is_stepwise(number)
        named = facts.sum_sha256
        if complete and named is None:
            return [*found, "the report names no sum"]
        expected = expectations(
            self.own.policy,
            number,
            self.own.family,
            parameters=None if attempt is None else attempt.parameters,
            session=self._session(number),
            model_hashes=(bytes.fromhex(facts.model_before),) if single and facts.model_before else None,
            survivors=(facts.survivors,) if single else None,
            complete=True if complete else None,
        )
        try:
            seen = check(transcript, expected)
        except ProtocolError as error:
            return [*found, f"the transcript does not stand up: {error}"]
        if attempt is not None:
            found += attempt.objections_to_sums(record, [item.model_hash for item in seen.sums])
        found += self._objections_to_receipt(record)
        return found + self._objections_to_result(record, seen) if complete else found

    def _objections_to_start(self, record: RoundRecord, attempt: Attempt | None) -> list[str]:
        before = record.aggregation.model_before
        found = []
        if attempt is not None and before != model_digest(attempt.layout_hash, attempt.vector).hex():
            found.append("the model that the round started from is not the one this hospital received")
        last = self.own.models.newest(before=record.header.round) or self.own.first()
        if last is not None and before != last:
            found.append("the model that the round started from is not the one that the last report led to")
        return found

    def _objections_to_receipt(self, record: RoundRecord) -> list[str]:
        own = next((hospital for hospital in record.hospitals if hospital.name == self.own.name), None)
        number, models = record.header.round, self.own.models
        holds = models.received(number) is not None or models.knows(number) is not None
        if own is None or (own.receipt == "signed" and not holds):
            return ["the report says that this hospital acknowledged the result, and it did not"]
        return []

    def _objections_to_result(self, record: RoundRecord, seen: TranscriptFacts) -> list[str]:
        """The sum is the one of the transcript, of enough receipts and of the own ledger, and so is the model."""
        number, facts = record.header.round, record.aggregation
        found = []
        if facts.sum_sha256 != named_of(self.own.policy, number, [item.digest for item in seen.sums]):
            found.append("the sum that the report names is not the one of the transcript")
        if len(seen.receipts) < self.own.policy.threshold:
            found.append(f"{len(seen.receipts)} receipts name the sum, and {self.own.policy.threshold} are needed")
        received = self.own.models.received(number)
        if received is not None and (facts.sum_sha256, facts.survivors) != (received.named, received.survivors):
            found.append("the sum that the report names is not the one that this hospital received")
        after = self.own.models.knows(number)
        if after is not None and facts.model_after != after:
            found.append("the model that the report names is not what the sum leads to")
        return found

    def _session(self, number: int) -> bytes | None:
        """The session that this hospital opened for a round, by its ledger; None where it opened none."""
        opened = [
            str(entry.facts["session"])
            for entry in self.ledger.entries()
            if entry.kind == "session_opened" and entry.run_id == self.own.policy.run_id and entry.round == number
        ]
        return bytes.fromhex(opened[-1]) if opened else None
