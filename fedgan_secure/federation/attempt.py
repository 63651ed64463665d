"""What one hospital still holds in memory of the round it opened last: the session, the model, and its steps."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fedgan_audits.facts import RoundRecord
from fedgan_protocols import ClientSession, SessionParameters, sum_digest
from fedgan_secure.federation.fedavg import model_digest
from fedgan_secure.policy import FederationPolicy
from fedgan_secure.privacy import sums_digest


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
    next_step: int = 0
    models: list[bytes] = field(default_factory=list)

    def objections_to_sums(self, record: RoundRecord, hashes: list[bytes]) -> list[str]:
        """Compare each step's model in the transcript with the one received, and the sums with those of the report.

        Args:
            record: of the report.
            hashes: the digest of the model of each sum, as the transcript has them; empty where it has none.
        """
        known = self.models or [model_digest(self.layout_hash, self.vector)]
        if any(seen not in (b"", mine) for seen, mine in zip(hashes, known, strict=False)):
            return ["the transcript's model is not the one this hospital received"]
        named, sums = record.aggregation.sum_sha256, self.client.sums
        if not self.policy.is_stepwise(self.parameters.round) or named is None or len(sums) < self.parameters.sums:
            return []
        if named != sums_digest(tuple(sum_digest(vector) for vector in sums)).hex():
            return ["the sums that the report names are not those this hospital received"]
        return []
