"""What the transcript of a round has to hold, by a hospital's own copy of the policy: no session is needed for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedgan_protocols import Member, SessionParameters
from fedgan_protocols.transcript import TranscriptExpectations
from fedgan_secure.federation.families.family import Family
from fedgan_secure.policy import FederationPolicy


def expectations(
    policy: FederationPolicy,
    round_number: int,
    family: Callable[[], Family],
    *,
    parameters: SessionParameters | None = None,
    **more: Any,
) -> TranscriptExpectations:
    """Return what the policy fixes of a round's transcript.

    Args:
        policy: the hospital's own copy.
        round_number: from 1.
        family: makes the hospital's own family; called where `parameters` do not say how long the vectors are.
        parameters: of the session that the hospital opened, where it still has it.
        more: further fields of `TranscriptExpectations`.
    """
    lengths = policy.lengths(family().update_size, round_number) if parameters is None else parameters.lengths
    return TranscriptExpectations(
        roster=tuple(Member(entry.name, bytes.fromhex(entry.public_key)) for entry in policy.hospitals),
        server_public_key=bytes.fromhex(policy.coordinator.public_key),
        round=round_number,
        threshold=policy.threshold,
        ring_bits=policy.ring_bits,
        lengths=lengths,
        policy_hash=policy.digest(),
        **more,
    )
