"""A server that shows one member a U2 without its peers, and everybody else a U2 and a U3 that hold it.

The victim masks with nobody. If the others unmasked it they would hand its vector over: they do not, because a seed is
revealed only of a member whose masked input follows the same transcript. The test also shows that the attack works
where this check is left out, so that it cannot pass for another reason.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.protocols.lying import LyingServer

from fedgan_protocols import Code, PolicyFloors, Stage, masking
from fedgan_protocols.checks import OPENING_BYTES
from fedgan_protocols.client import machine as client
from fedgan_protocols.parameters import SHARE_BYTES, default_threshold
from fedgan_protocols.primitives import shamir
from fedgan_protocols.primitives.graph import choose_graph

R1, R3, R4 = Stage.SHARE_KEYS, Stage.CONSISTENCY_CHECK, Stage.UNMASKING
MEMBERS, VICTIM = 100, 2


def prepared(lab: Any) -> LyingServer:
    """Up to R2: the victim was shown a U2 without anybody whom it drew, the others the whole one."""
    federation = lab.federation(MEMBERS, default_threshold(MEMBERS), 4, graph=choose_graph(MEMBERS, 0.05, 0.05))
    federation.floors = PolicyFloors()
    liar = LyingServer(lab, federation)
    liar.advertise()
    drawn = liar.holders(VICTIM)
    for member in liar.everyone:
        peers = drawn if member == VICTIM else None  # who drew the victim is hidden from it
        liar.deals[member], liar.sealed[member] = liar.send(
            R1, member, liar.directory(member, liar.adverts, peers=peers)
        )
    others = [member for member in liar.everyone if member not in drawn]
    assert len(others) >= federation.parameters.threshold
    liar.mask_only(VICTIM, tuple(others))
    for member in liar.everyone:
        if member != VICTIM:
            liar.mask_only(member, liar.everyone)
    return liar


def test_the_victims_holders_do_not_sign(lab: Any) -> None:
    liar = prepared(lab)
    for member in liar.everyone:
        if VICTIM in liar.dealers(member, liar.everyone):
            liar.refused(R3, member, liar.survivor_list(member, liar.everyone), Code.BAD_SIGNATURE)


def test_without_that_check_the_victims_vector_is_read(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    liar = prepared(lab)
    monkeypatch.setattr(client, "_check_dealers_inputs", lambda *_: None)
    misled = [member for member in liar.everyone if member != VICTIM]
    request = liar.unmask_request(liar.everyone, liar.agree(liar.everyone, misled))
    shares = {}
    for member in misled:
        _, openings = liar.send(R4, member, request)
        for place, dealer in enumerate(liar.dealers(member, liar.everyone)):
            if dealer == VICTIM:
                at = place * OPENING_BYTES
                shares[member] = shamir.share_from_bytes(openings[at : at + SHARE_BYTES])
    seed = shamir.reconstruct(shares, liar.parameters.share_threshold).to_bytes(32, "big")
    vector = liar.vectors[VICTIM].copy()
    masking.add_streams(vector, [(masking.stream_key(liar.parameters, seed, 0, "self"), -1)])
    assert np.array_equal(vector, liar.federation.inputs[liar.parameters.name_of(VICTIM), 0])
