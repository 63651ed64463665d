"""What a lying server makes of all that it was given: secrets rebuilt, masks taken off, sums of whom it can learn.

Nothing here knows the inputs but `Knowledge.learned`, which checks every sum that it claims against them: so a claim is
never the mistake of the attack.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from tests.protocols.lying import R4, LyingServer

from fedgan_protocols import masking
from fedgan_protocols.messages import seed_commitment, share_commitment
from fedgan_protocols.primitives import shamir

OPENING = 65
Mask = tuple[int, int, bytes]
"""A pair mask: the smaller id, the larger one, and the T1 that salts its seed."""


class Knowledge:
    """Shares by dealer and kind, from revelations and from colluders, for sum 0."""

    def __init__(self, liar: LyingServer) -> None:
        self.liar, self.parameters = liar, liar.parameters
        self.shares: dict[tuple[int, str], dict[int, int]] = {}
        self.seeds: dict[int, bytes] = {}
        self.keys: dict[int, bytes] = {}

    @classmethod
    def of(cls, liar: LyingServer, u3: Sequence[int]) -> Knowledge:
        """R3 and R4 with this U3, whose members all sign it and reveal their shares."""
        packet = liar.unmask_request(u3, liar.agree(u3, u3))
        knowledge = cls(liar)
        for member in u3:
            knowledge.reveal(member, liar.send(R4, member, packet)[1])
        return knowledge

    def reveal(self, holder: int, openings: bytes) -> None:
        """Sort what a member revealed by the commitments that it opens; everything opens one."""
        for at in range(0, len(openings), OPENING):
            opening = openings[at : at + OPENING]
            (meant,) = [
                (dealer, kind)
                for dealer in self.liar.deals
                for kind in ("key", "seed")
                if self._opens(opening, dealer, kind, holder)
            ]
            self.shares.setdefault(meant, {})[holder] = shamir.share_from_bytes(opening[:33])

    def _opens(self, opening: bytes, dealer: int, kind: str, holder: int) -> bool:
        holders, deal = self.liar.holders(dealer), self.liar.deals[dealer].body
        if holder not in holders:
            return False
        commitments = deal.key_share_commitments if kind == "key" else deal.seed_share_commitments
        made = share_commitment(self.parameters, 0, kind, dealer, holder, opening)
        return bool(made == commitments[holders.index(holder)])

    def collude(self, members: Iterable[int]) -> None:
        """After R2 and before R4: these members hand over both kinds of every share that they hold."""
        for member in members:
            state = self.liar.clients[member]._state
            for dealer, held in state.secrets.openings.items():  # type: ignore[union-attr]
                for place, kind in enumerate(("key", "seed")):
                    share = shamir.share_from_bytes(held[place * OPENING :][:33])
                    self.shares.setdefault((dealer, kind), {})[member] = share

    def rebuild(self) -> None:
        """Every secret of which enough shares are held, checked against its dealer's commitment or public key."""
        threshold = self.parameters.share_threshold
        for (dealer, kind), shares in self.shares.items():
            if len(shares) < threshold:
                continue
            secret = shamir.reconstruct(shares, threshold).to_bytes(32, "big")
            if kind == "seed":
                assert (
                    seed_commitment(self.parameters, 0, dealer, secret)
                    == self.liar.deals[dealer].body.seed_commitments[0]
                )
                self.seeds[dealer] = secret
            else:
                assert masking.public_of(secret) == self.liar.adverts[dealer].body.mask_keys[0]
                self.keys[dealer] = secret

    def masks(self, member: int) -> dict[Mask, int]:
        """The pair masks in the member's vector, and the peer of each."""
        t1, peers = self.liar.shown[member]
        return {
            (min(member, peer), max(member, peer), t1): peer for peer in peers if peer in self.liar.masked_for[member]
        }

    def is_known(self, mask: Mask) -> bool:
        return mask[0] in self.keys or mask[1] in self.keys

    def unmasked(self, member: int) -> np.ndarray:
        """The member's vector without every mask that the server can compute."""
        parameters, liar = self.parameters, self.liar
        terms = []
        if member in self.seeds:
            terms.append((masking.stream_key(parameters, self.seeds[member], 0, "self"), -1))
        for mask, peer in self.masks(member).items():
            if not self.is_known(mask):
                continue
            key, other = (self.keys[peer], member) if peer in self.keys else (self.keys[member], peer)
            shared = masking.exchange(key, liar.adverts[other].body.mask_keys[0])
            seed = masking.pair_seed(parameters, shared, mask[2], 0, member, peer, liar.federation.models[0])
            terms.append((masking.stream_key(parameters, seed, 0, "pair"), -1 if member < peer else 1))
        vector = np.array(liar.vectors[member])
        masking.add_streams(vector, terms)
        return vector

    def learned(self) -> set[frozenset[int]]:
        """The smallest sets whose sum the server holds; every such sum is compared with the true one.

        The masks that it cannot compute are unknown, independent and uniform, so a sum is known exactly when each of
        them cancels in it: the sets are the components of members that share one, and are lost when a mask stands in
        one vector only or a seed is missing.
        """
        self.rebuild()
        unknown = {m: {mask for mask in self.masks(m) if not self.is_known(mask)} for m in self.liar.vectors}
        found, left = set(), set(self.liar.vectors)
        while left:
            part, grown = {left.pop()}, True
            while grown:
                hidden = set().union(*(unknown[member] for member in part))
                near = {member for member in left if unknown[member] & hidden}
                part, left, grown = part | near, left - near, bool(near)
            counted = [mask for member in part for mask in unknown[member]]
            if part <= set(self.seeds) and all(counted.count(mask) == 2 for mask in set(counted)):
                names = tuple(self.parameters.name_of(member) for member in part)
                total = np.sum([self.unmasked(member) for member in part], axis=0, dtype=self.parameters.dtype)
                assert np.array_equal(total, self.liar.federation.expected_sum(names))
                found.add(frozenset(part))
        return found

    def shows(self, member: int) -> bool:
        """Whether taking off every known mask shows the member's own vector."""
        self.rebuild()
        own = self.liar.federation.inputs[self.parameters.name_of(member), 0]
        return bool(np.array_equal(self.unmasked(member), own))
