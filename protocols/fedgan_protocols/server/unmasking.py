"""The server's last step of a sum: rebuild what was revealed, name who lied, take the masks off.

For a member of U3 the shares rebuild its seed b_u; for one of U2 without U3 its mask key, from which its pair masks
with its peers in U3 follow. Every share was checked against its dealer's commitment when it came, so shares that
rebuild wrongly blame the dealer.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedgan_protocols import checks, masking
from fedgan_protocols.checks import KEY, OPENING_BYTES, SEED
from fedgan_protocols.errors import Code, ProtocolError
from fedgan_protocols.messages import seed_commitment, share_commitment
from fedgan_protocols.parameters import SHARE_BYTES, SessionParameters
from fedgan_protocols.primitives import shamir
from fedgan_protocols.server.states import Setup


def kind_for(member: int, u3: frozenset[int]) -> str:
    """The one kind of share that is revealed of a member: of its seed when it survived, else of its mask key."""
    return SEED if member in u3 else KEY


def check_openings(
    parameters: SessionParameters, setup: Setup, j: int, u3: frozenset[int], holder: int, openings: bytes
) -> None:
    """Every opening that `holder` returned meets its dealer's commitment; else ProtocolError blames the holder."""
    name = parameters.name_of(holder)
    dealers = setup.dealers(holder)
    if len(openings) != OPENING_BYTES * len(dealers):
        raise ProtocolError(Code.MALFORMED, f"{name} returned shares of the wrong number", culprit=name)
    for place, dealer in enumerate(dealers):
        opening = openings[place * OPENING_BYTES : (place + 1) * OPENING_BYTES]
        kind = kind_for(dealer, u3)
        expected = checks.committed(setup.deals[dealer], kind, j, setup.topology.holders[dealer], holder)
        if share_commitment(parameters, j, kind, dealer, holder, opening) != expected:
            raise ProtocolError(
                Code.BAD_SHARE_RESPONDER,
                f"{name} returned a share of {parameters.name_of(dealer)} that misses its commitment",
                culprit=name,
            )


def rebuild(
    parameters: SessionParameters, setup: Setup, j: int, u3: frozenset[int], revealed: Mapping[int, bytes]
) -> dict[int, bytes]:
    """The 32-byte secret of every member of U2, each from t of its holders that responded.

    Raises ProtocolError: too-few, where fewer than t holders of a dealer responded; bad-share-dealer, its culprit the
    dealer.
    """
    places = {holder: {dealer: at for at, dealer in enumerate(setup.dealers(holder))} for holder in revealed}
    threshold = parameters.share_threshold
    secrets: dict[int, bytes] = {}
    for dealer in setup.u2:
        name = parameters.name_of(dealer)
        chosen = [holder for holder in setup.topology.holders[dealer] if holder in revealed][:threshold]
        if len(chosen) < threshold:
            raise ProtocolError(
                Code.TOO_FEW, f"{len(chosen)} members returned shares of {name}; {threshold} rebuild its secret"
            )
        wrong = ProtocolError(
            Code.BAD_SHARE_DEALER,
            f"the shares dealt by {name} rebuild another secret than it committed to",
            culprit=name,
        )
        shares = {}
        try:
            for holder in chosen:
                at = places[holder][dealer] * OPENING_BYTES
                shares[holder] = shamir.share_from_bytes(revealed[holder][at : at + SHARE_BYTES])
            secret = shamir.reconstruct(shares, threshold).to_bytes(32, "big")
        except (OverflowError, ProtocolError):
            raise wrong from None
        if kind_for(dealer, u3) == SEED:
            good = seed_commitment(parameters, j, dealer, secret) == setup.deals[dealer].seed_commitments[j]
        else:
            good = masking.public_of(secret) == setup.adverts[dealer].mask_keys[j]
        if not good:
            raise wrong
        secrets[dealer] = secret
    return secrets


def remove_masks(
    parameters: SessionParameters,
    setup: Setup,
    j: int,
    u3: frozenset[int],
    model_hash: bytes,
    total: np.ndarray,
    secrets: Mapping[int, bytes],
    threads: int,
) -> np.ndarray:
    """The plain modular sum over U3, uint32[d] or uint64[d], read-only."""
    terms: list[masking.Term] = []
    for member in setup.u2:
        if member in u3:
            terms.append((masking.stream_key(parameters, secrets[member], j, "self"), -1))
            continue
        agreement = masking.KeyAgreement(secrets[member])
        for peer in setup.topology.peers[member]:
            if peer not in u3:
                continue
            shared = agreement.exchange(setup.adverts[peer].mask_keys[j])
            seed = masking.pair_seed(parameters, shared, setup.t1, j, member, peer, model_hash)
            # the survivor `peer` added this stream when its id is the smaller, and subtracted it otherwise
            terms.append((masking.stream_key(parameters, seed, j, "pair"), -1 if peer < member else 1))
    plain = total.copy()
    masking.add_streams(plain, terms, threads=threads)
    plain.setflags(write=False)
    return plain
