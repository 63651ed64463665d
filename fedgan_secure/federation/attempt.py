"""What one hospital saw of one attempt, and how a report of it may differ from that."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fedgan_audits.records import RoundRecord
from fedgan_protocols.errors import ProtocolError
from fedgan_protocols.parameters import SessionParameters, sum_digest
from fedgan_protocols.session import ClientSession
from fedgan_protocols.transcript import TranscriptExpectations, check
from fedgan_secure.federation.distributed import sums_digest
from fedgan_secure.federation.family import Family
from fedgan_secure.federation.fedavg import model_digest
from fedgan_secure.policy import FederationPolicy


@dataclass
class Attempt:
    """The session a hospital opened, the model it started from (float32[d]), and its side of the protocol.

    With shared noise also the step that is due next, and the digests of the models it took its steps from.
    """

    parameters: SessionParameters
    client: ClientSession
    vector: np.ndarray
    layout_hash: str
    policy: FederationPolicy
    name: str
    family: Family
    next_step: int = 0
    models: list[bytes] = field(default_factory=list)

    def objections(self, record: RoundRecord, transcript: bytes | None) -> list[str]:
        """How a report differs from this attempt; empty where the report is of another round or agrees."""
        if record.header.round != self.parameters.round:
            return []
        found = []
        before = model_digest(self.layout_hash, self.vector)
        facts = record.aggregation
        if facts.model_before != before.hex():
            found.append("the model that the round started from is not the one this hospital received")
        if transcript is None:
            return [*found, "the round was opened, and the report has no transcript of it"]
        complete = record.header.status == "complete"
        expected = TranscriptExpectations(
            roster=self.parameters.roster,
            server_public_key=self.parameters.server_public_key,
            session=self.parameters.session,
            round=self.parameters.round,
            threshold=self.parameters.threshold,
            ring_bits=self.parameters.ring_bits,
            lengths=self.parameters.lengths,
            policy_hash=self.parameters.policy_hash,
            model_hashes=(before,) if complete and self.parameters.sums == 1 else None,
            survivors=(facts.survivors,) if complete and self.parameters.sums == 1 else None,
            complete=True if complete else None,
        )
        try:
            seen = check(transcript, expected)
        except ProtocolError as error:
            return [*found, f"the transcript does not stand up: {error}"]
        found += self._objections_to_sums(record, [item.model_hash for item in seen.sums])
        own = next((hospital for hospital in record.hospitals if hospital.name == self.name), None)
        if own is None or (own.receipt == "signed" and not self.client.sums):
            found.append("the report says that this hospital acknowledged the result, and it did not")
        after = self.led_to(len(facts.survivors)) if complete else None
        if after is not None and facts.model_after != model_digest(self.layout_hash, after).hex():
            found.append("the model that the report names is not what the sum leads to")
        return found

    def led_to(self, survivors: int) -> np.ndarray | None:
        """Return the model that the sum this hospital received leads to, float32[d].

        None where it received none, or where noise is shared: the coordinator's steps lie between the sums then.
        """
        number = self.parameters.round
        if not self.client.sums or self.policy.is_stepwise(number):
            return None
        return self.family.next_vector(number, self.vector, self.client.sums[0], survivors)

    def _objections_to_sums(self, record: RoundRecord, hashes: list[bytes]) -> list[str]:
        """Each step's model in the transcript is the one this hospital got; the report names the sums it got."""
        known = self.models or [model_digest(self.layout_hash, self.vector)]
        if any(seen not in (b"", mine) for seen, mine in zip(hashes, known, strict=False)):
            return ["the transcript's model is not the one this hospital received"]
        named, sums = record.aggregation.sum_sha256, self.client.sums
        if not self.policy.is_stepwise(self.parameters.round) or named is None or len(sums) < self.parameters.sums:
            return []
        if named != sums_digest(tuple(sum_digest(vector) for vector in sums)).hex():
            return ["the sums that the report names are not those this hospital received"]
        return []
