"""Members that help a lying server: up to the bound that is claimed nothing is learnt, and one more breaks it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tests.protocols.lying import R3, R4, LyingServer

from fedgan_protocols import Code, ProtocolError, masking
from fedgan_protocols.messages import Consistency, survivors_digest
from fedgan_protocols.primitives import shamir


def equivocate(
    liar: LyingServer, told_alive: Sequence[int], told_dead: Sequence[int], colluders: Sequence[int]
) -> tuple[dict[int, bytes], dict[int, bytes]]:
    """Show one U3 with member 1 to `told_alive`, one without to `told_dead`; colluders sign both and give all shares.

    Returns what the server then holds of member 1: its seed's openings and its mask key's, by holder.
    """
    seeds: dict[int, bytes] = {}
    keys: dict[int, bytes] = {}
    for u3, honest, found in ((liar.everyone, told_alive, seeds), ((2, 3, 4, 5), told_dead, keys)):
        _, t3 = liar.survivors(u3)
        statement = Consistency(0, liar.t2, liar.federation.models[0], survivors_digest(u3))
        statements = {member: liar.send(R3, member, liar.survivor_list(member, u3))[0] for member in honest}
        statements |= {member: liar.federation.sign(R3, t3, statement, sender=member) for member in colluders}
        request = liar.unmask_request(u3, statements)
        for member in honest:
            try:
                found[member] = liar.send(R4, member, request)[1][:65]
            except ProtocolError as error:
                assert error.code is Code.TOO_FEW
    for member in colluders:
        opening = liar.clients[member]._state.secrets.openings[1]  # type: ignore[union-attr]
        keys[member], seeds[member] = opening[:65], opening[65:130]
    return seeds, keys


def test_the_collusion_bound_is_tight(lab: Any) -> None:
    """n = 5, t = 4: no split of the honest works for 2t - n - 1 = 2 colluders; 2t - n = 3 recover a vector.

    So c = min(2t - n - 1, t - 2) may not be claimed any larger.
    """
    for told_alive, told_dead in (((1,), (2, 3)), ((1, 2), (3,)), ((1, 3), (2,)), ((1, 2, 3), ())):
        liar = LyingServer(lab, lab.federation(n=5, t=4, d=3)).masked()
        seeds, keys = equivocate(liar, told_alive, told_dead, (4, 5))
        assert min(len(seeds), len(keys)) < 4

    liar = LyingServer(lab, lab.federation(n=5, t=4, d=3)).masked()
    seeds, keys = equivocate(liar, (1,), (2,), (3, 4, 5))
    parameters = liar.parameters
    seed, key = (
        shamir.reconstruct({x: shamir.share_from_bytes(one[:33]) for x, one in held.items()}, 4).to_bytes(32, "big")
        for held in (seeds, keys)
    )
    terms = [(masking.stream_key(parameters, seed, 0, "self"), -1)]
    for peer in (2, 3, 4, 5):
        shared = masking.exchange(key, liar.adverts[peer].body.mask_keys[0])
        pair = masking.pair_seed(parameters, shared, liar.t1(liar.adverts), 0, 1, peer, liar.federation.models[0])
        terms.append((masking.stream_key(parameters, pair, 0, "pair"), -1))
    recovered = liar.vectors[1].copy()
    masking.add_streams(recovered, terms)
    assert np.array_equal(recovered, liar.federation.inputs["h1", 0])
