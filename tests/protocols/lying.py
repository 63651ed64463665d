"""A server that lies, with its own key and all that it has seen: it builds any request for any member from parts of its
choosing, correctly signed and chained, over the complete graph or a sparse one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedgan_protocols import Code, ProtocolError, Stage, checks, masking
from fedgan_protocols.directory import write_deals, write_directory
from fedgan_protocols.messages import (
    Invitation,
    KeyDirectory,
    MaskRequest,
    Message,
    SurvivorList,
    UnmaskRequest,
    extend,
    open_message,
    signature_of,
)
from fedgan_protocols.primitives.graph import SparseGraph

R0, R1, R2, R3, R4, R5 = (stage for stage in Stage if stage is not Stage.CLOSING)


def proof_of(masked_input: Message) -> bytes:
    """The vector digest and the signature of a MaskedInput, from which a receiver rebuilds it."""
    return bytes(masked_input.body.vector_digest + signature_of(masked_input.raw))


class LyingServer:
    """Drives real clients with requests of its own making."""

    def __init__(self, lab: Any, federation: Any) -> None:
        self.lab, self.federation, self.parameters = lab, federation, federation.parameters
        self.clients = {i: federation.client(name) for i, name in enumerate(self.parameters.names, 1)}
        self.everyone = tuple(self.clients)
        self.adverts: dict[int, Message] = {}
        self.deals: dict[int, Message] = {}
        self.sealed: dict[int, bytes] = {}
        self.inputs: dict[int, Message] = {}
        self.vectors: dict[int, np.ndarray] = {}
        self.shown: dict[int, tuple[bytes, tuple[int, ...]]] = {}
        """What each member was told at R1: T1 and its peers."""
        self.masked_for: dict[int, tuple[int, ...]] = {}
        """The U2 under which each member masked its vector."""

    @classmethod
    def over_a_sparse_graph(
        cls, lab: Any, n: int = 12, t: int = 9, k: int = 5, local: int = 3, c: int = 2, seed: str = "seed"
    ) -> LyingServer:
        """n members draw k neighbours each, `local` of which rebuild; t sign one U3."""
        return cls(lab, lab.federation(n=n, t=t, d=3, graph=SparseGraph(k, local, c), seed=seed))

    def view(self, adverts: Mapping[int, Message] | None = None) -> LyingServer:
        """Another story for some of the same members; what is collected from now on is kept apart."""
        other = copy(self)
        other.adverts = dict(self.adverts if adverts is None else adverts)
        for name in ("deals", "sealed", "inputs", "vectors", "shown", "masked_for"):
            setattr(other, name, dict(getattr(self, name)))
        return other

    def opened(self, stage: Stage, member: int, packet: bytes) -> tuple[Message, bytes]:
        raw, attachment = self.lab.split(packet)
        message = open_message(self.parameters, raw, stage=stage, sender=member, previous=None, blame="test")
        return message, bytes(attachment)

    def send(self, stage: Stage, member: int, packet: bytes) -> tuple[Message, bytes]:
        return self.opened(stage, member, self.clients[member].handle(stage.label, packet))

    def refused(self, stage: Stage, member: int, packet: bytes, *codes: Code, culprit: str = "server") -> None:
        """The member aborts with one of `codes`, names the culprit, releases nothing, and stays aborted."""
        with pytest.raises(ProtocolError) as caught:
            self.clients[member].handle(stage.label, packet)
        assert caught.value.code in codes, caught.value
        assert caught.value.culprit == culprit
        assert self.clients[member].phase == "Aborted"
        with pytest.raises(ProtocolError):
            self.clients[member].handle(stage.label, packet)

    # --- who holds what, who masks with whom

    def drawn(self, member: int) -> set[int]:
        """Whom the member drew."""
        return set(self.adverts[member].body.neighbours)

    def followers(self, member: int) -> set[int]:
        """Who drew the member."""
        return {other for other in self.everyone if member in self.drawn(other)}

    def holders(self, dealer: int, adverts: Mapping[int, Message] | None = None) -> list[int]:
        """Who in U1 holds shares of the dealer's secrets, ascending."""
        adverts = self.adverts if adverts is None else adverts
        if self.parameters.graph is None:
            return sorted(adverts)
        return [member for member in adverts[dealer].body.neighbours if member in adverts]

    def peers(self, member: int, adverts: Mapping[int, Message] | None = None) -> list[int]:
        """Whom the member drew in U1, and who drew it, ascending."""
        adverts = self.adverts if adverts is None else adverts
        return [
            other
            for other in sorted(adverts)
            if other != member and (other in self.holders(member, adverts) or member in self.holders(other, adverts))
        ]

    def dealers(self, member: int, u2: Iterable[int]) -> list[int]:
        """Of U2, those whose shares the member knows that it holds, without itself."""
        if self.parameters.graph is None:
            return [dealer for dealer in u2 if dealer != member]
        known = self.shown[member][1]
        return [dealer for dealer in u2 if dealer in known and member in self.holders(dealer)]

    # --- R0 and R1

    def invitation(self, **lies: Any) -> bytes:
        p = self.parameters
        body = Invitation(p.parameters_hash, p.policy_hash, self.federation.models)
        message = self.federation.sign(R0, p.parameters_hash, replace(body, **lies))
        self.t0 = extend("T0", p.parameters_hash, message.digest, [])
        return self.lab.join(message.raw)

    def advertise(self) -> None:
        packet = self.invitation()
        for member in self.everyone:
            self.adverts[member], _ = self.send(R0, member, packet)

    def forged(self, member: int, **changes: Any) -> Message:
        """An advertisement that the member itself signed, changed (a colluding member)."""
        return self.federation.sign(R0, self.t0, replace(self.adverts[member].body, **changes), sender=member)

    def t1(self, adverts: Mapping[int, Message]) -> bytes:
        return extend("T1", self.t0, b"", [(member, one.digest) for member, one in sorted(adverts.items())])

    def directory(
        self,
        member: int,
        adverts: Mapping[int, Message],
        *,
        peers: Sequence[int] | None = None,
        versions: Mapping[int, bytes] | None = None,
        digests: Sequence[bytes] | None = None,
        previous: bytes = b"",
        **lies: Any,
    ) -> bytes:
        """R1 for one member: U1 is who is in `adverts`; `versions` are raw messages to send in place of those."""
        u1 = sorted(adverts)
        body = replace(KeyDirectory(tuple(u1)), **lies)
        self.b1 = self.federation.sign(R1, previous or self.t1(adverts), body)
        peers = self.peers(member, adverts) if peers is None else peers
        raws = [(versions or {}).get(peer) or adverts[peer].raw for peer in peers]
        shown = [adverts[i].digest for i in u1] if digests is None else digests
        self.shown[member] = (self.b1.previous, tuple(peers))
        return self.lab.join(self.b1.raw, write_directory(shown, peers, raws))

    def deal(
        self,
        members: Iterable[int],
        adverts: Mapping[int, Message] | None = None,
        hidden: Mapping[int, Iterable[int]] | None = None,
    ) -> None:
        """R1 for these members, honestly but for the peers that are hidden from some."""
        adverts = self.adverts if adverts is None else adverts
        for member in members:
            left_out = set((hidden or {}).get(member, ()))
            peers = [peer for peer in self.peers(member, adverts) if peer not in left_out]
            packet = self.directory(member, adverts, peers=peers)
            self.deals[member], self.sealed[member] = self.send(R1, member, packet)

    def share(self, hidden: Mapping[int, Iterable[int]] | None = None) -> None:
        self.deal(self.everyone, hidden=hidden)

    # --- R2

    def sealed_for(self, member: int, u2: Iterable[int]) -> bytes:
        size, parts = self.parameters.sealed_bytes, []
        for dealer in self.dealers(member, u2):
            at = [one for one in self.holders(dealer) if one != dealer].index(member) * size
            parts.append(self.sealed[dealer][at : at + size])
        return b"".join(parts)

    def mask_request(
        self,
        member: int,
        u2: Sequence[int],
        *,
        deals: Mapping[int, Message] | None = None,
        sealed: bytes | None = None,
        versions: Mapping[int, bytes] | None = None,
        previous: bytes = b"",
        **lies: Any,
    ) -> bytes:
        """R2 for one member; `versions` are raw deals to send in place of those whose digests are chained."""
        deals = deals or self.deals
        t2 = extend("T2", self.t1(self.adverts), self.b1.digest, [(i, deals[i].digest) for i in u2])
        body = MaskRequest(0, self.federation.models[0], tuple(u2), (), b"")
        message = self.federation.sign(R2, previous or t2, replace(body, **lies))
        sealed = self.sealed_for(member, u2) if sealed is None else sealed
        self.t2, self.b2 = t2, message
        raws = [(versions or {}).get(dealer) or deals[dealer].raw for dealer in self.dealers(member, u2)]
        packed = write_deals([deals[i].digest for i in u2], raws)
        return self.lab.join(message.raw, self.lab.join(packed, sealed))

    def provide(self, member: int) -> None:
        self.clients[member].provide_input(0, self.federation.inputs[self.parameters.name_of(member), 0])

    def mask(self, u2: Sequence[int] | None = None) -> None:
        for member in self.everyone if u2 is None else tuple(u2):
            self.mask_only(member, self.everyone if u2 is None else tuple(u2))

    def mask_only(self, member: int, u2: tuple[int, ...]) -> None:
        """R2 for one member, which is shown this U2."""
        self.provide(member)
        self.inputs[member], data = self.send(R2, member, self.mask_request(member, u2))
        self.vectors[member] = np.frombuffer(data, dtype=self.parameters.dtype)
        self.masked_for[member] = u2

    def masked(self) -> LyingServer:
        """R0 to R2, honestly, for everybody."""
        self.advertise()
        self.share()
        self.mask()
        return self

    def reseal(self, dealer: int, holder: int, plain: bytes, salt: bytes = b"") -> None:
        """The dealer itself seals another plaintext for one holder, under this T1 or `salt`, and signs its digest."""
        size, others = self.parameters.sealed_bytes, [one for one in self.holders(dealer) if one != dealer]
        state, t1 = self.clients[dealer]._state, self.t1(self.adverts)
        shared = masking.exchange(state.sealing_key, self.adverts[holder].body.sealing_key)  # type: ignore[union-attr]
        sealed = masking.seal(
            masking.seal_key(self.parameters, shared, salt or t1, dealer, holder), plain, dealer, holder
        )
        place, data = others.index(holder), self.sealed[dealer]
        self.sealed[dealer] = data[: place * size] + sealed + data[(place + 1) * size :]
        digests = list(self.deals[dealer].body.sealed_digests)
        digests[place] = checks.sealed_digest(sealed)
        body = replace(self.deals[dealer].body, sealed_digests=tuple(digests))
        self.deals[dealer] = self.federation.sign(R1, t1, body, sender=dealer)

    # --- R3 and R4

    def survivors(self, u3: Sequence[int], previous: bytes = b"", **lies: Any) -> tuple[Message, bytes]:
        """The broadcast that shows this U3, and T3."""
        digests = [(i, self.inputs[i].digest) for i in u3]
        t3 = extend("T3", self.t2, self.b2.digest, digests)
        body = SurvivorList(0, self.federation.models[0], tuple(u3))
        return self.federation.sign(R3, previous or t3, replace(body, **lies)), t3

    def survivor_list(
        self,
        member: int,
        u3: Sequence[int],
        previous: bytes = b"",
        proofs: Mapping[int, bytes] | None = None,
        **lies: Any,
    ) -> bytes:
        """R3 for one member; `proofs` are sent in place of the vector digest and signature of those dealers' inputs."""
        message, _ = self.survivors(u3, previous, **lies)
        listed = b"".join(self.inputs[i].digest for i in u3)
        rows = [(proofs or {}).get(dealer, proof_of(self.inputs[dealer])) for dealer in self.dealers(member, u3)]
        return self.lab.join(message.raw, self.lab.join(listed, b"".join(rows)))

    def agree(self, u3: Sequence[int], members: Iterable[int]) -> dict[int, Message]:
        return {member: self.send(R3, member, self.survivor_list(member, u3))[0] for member in members}

    def unmask_request(
        self, u3: Sequence[int], statements: Mapping[int, Message], previous: bytes = b"", **lies: Any
    ) -> bytes:
        """R4 that shows the signatures of these statements, each as that of the member under whose id it stands."""
        signatures = {i: signature_of(one.raw) for i, one in statements.items()}
        return self.unmask_request_of(u3, signatures, previous, **lies)

    def unmask_request_of(
        self, u3: Sequence[int], signatures: Mapping[int, bytes], previous: bytes = b"", **lies: Any
    ) -> bytes:
        """R4 that shows these 64-byte signatures."""
        message, t3 = self.survivors(u3)
        u4 = tuple(sorted(signatures))
        t4 = extend("T4", t3, message.digest, [(i, signatures[i]) for i in u4])
        body = UnmaskRequest(0, u4)
        self.t4, self.b4 = t4, self.federation.sign(R4, previous or t4, replace(body, **lies))
        return self.lab.join(self.b4.raw, b"".join(signatures[i] for i in u4))
