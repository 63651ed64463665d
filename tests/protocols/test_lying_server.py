"""A server that lies, with its own key and all it has seen: every fault aborts the victim, which releases nothing.

`LyingServer` builds any request for any member from parts of its choosing, correctly signed and chained.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedgan_protocols import Code, Failure, ParameterError, PolicyFloors, ProtocolError, Stage, masking, shamir
from fedgan_protocols.encoding import encode_strings
from fedgan_protocols.messages import (
    Consistency,
    Invitation,
    KeyDirectory,
    MaskRequest,
    Message,
    Outcome,
    SurvivorList,
    UnmaskRequest,
    extend,
    open_message,
    share_commitment,
)
from fedgan_protocols.parameters import SERVER

R0, R1, R2, R3, R4, R5 = (stage for stage in Stage if stage is not Stage.CLOSING)


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
        self.statements: dict[int, Message] = {}

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

    def t1(self, adverts: dict[int, Message]) -> bytes:
        return extend("T1", self.t0, b"", [(member, one.digest) for member, one in sorted(adverts.items())])

    def directory(self, adverts: dict[int, Message]) -> tuple[Message, bytes]:
        message = self.federation.sign(R1, self.t1(adverts), KeyDirectory(tuple(sorted(adverts))))
        return message, self.lab.join(message.raw, encode_strings([adverts[i].raw for i in sorted(adverts)]))

    def share(self) -> None:
        self.b1, packet = self.directory(self.adverts)
        for member in self.everyone:
            self.deals[member], self.sealed[member] = self.send(R1, member, packet)

    def sealed_for(self, member: int, u2: Iterable[int]) -> bytes:
        size, u1 = self.parameters.sealed_bytes, sorted(self.adverts)
        parts = []
        for dealer in u2:
            if dealer != member:
                at = [one for one in u1 if one != dealer].index(member) * size
                parts.append(self.sealed[dealer][at : at + size])
        return b"".join(parts)

    def mask_request(
        self,
        member: int,
        u2: Sequence[int],
        *,
        deals: dict[int, Message] | None = None,
        sealed: bytes | None = None,
        **lies: Any,
    ) -> bytes:
        deals = deals or self.deals
        t2 = extend("T2", self.t1(self.adverts), self.b1.digest, [(i, deals[i].digest) for i in u2])
        body = MaskRequest(0, self.federation.models[0], tuple(u2), (), b"")
        message = self.federation.sign(R2, t2, replace(body, **lies))
        sealed = self.sealed_for(member, u2) if sealed is None else sealed
        self.t2, self.b2 = t2, message
        return self.lab.join(message.raw, self.lab.join(encode_strings([deals[i].raw for i in u2]), sealed))

    def provide(self, member: int) -> None:
        self.clients[member].provide_input(0, self.federation.inputs[self.parameters.name_of(member), 0])

    def mask(self) -> None:
        for member in self.everyone:
            self.provide(member)
            self.inputs[member], data = self.send(R2, member, self.mask_request(member, self.everyone))
            self.vectors[member] = np.frombuffer(data, dtype=self.parameters.dtype)

    def survivors(self, u3: Sequence[int], previous: bytes = b"", **lies: Any) -> tuple[Message, bytes, bytes]:
        digests = [(i, self.inputs[i].digest) for i in u3]
        t3 = extend("T3", self.t2, self.b2.digest, digests)
        body = SurvivorList(0, self.federation.models[0], tuple(u3))
        message = self.federation.sign(R3, previous or t3, replace(body, **lies))
        return message, t3, self.lab.join(message.raw, encode_strings([digest for _, digest in digests]))

    def agree(self, u3: Sequence[int], members: Iterable[int]) -> dict[int, Message]:
        _, _, packet = self.survivors(u3)
        return {member: self.send(R3, member, packet)[0] for member in members}

    def unmask_request(
        self, u3: Sequence[int], statements: dict[int, Message], previous: bytes = b"", **lies: Any
    ) -> bytes:
        message, t3, _ = self.survivors(u3)
        t4 = extend("T4", t3, message.digest, [(i, one.digest) for i, one in sorted(statements.items())])
        body = UnmaskRequest(0, tuple(sorted(statements)))
        self.t4, self.b4 = t4, self.federation.sign(R4, previous or t4, replace(body, **lies))
        return self.lab.join(self.b4.raw, encode_strings([statements[i].raw for i in sorted(statements)]))


@pytest.fixture
def liar(lab: Any) -> LyingServer:
    return LyingServer(lab, lab.federation(n=5, t=4, d=3))


def test_the_rig_itself_finishes_an_honest_round(liar: LyingServer) -> None:
    """Otherwise every refusal below could be for the wrong reason."""
    liar.advertise()
    liar.share()
    liar.mask()
    statements = liar.agree(liar.everyone, liar.everyone)
    packet = liar.unmask_request(liar.everyone, statements)
    revealed = {member: liar.send(R4, member, packet) for member in liar.everyone}
    digests = [(member, message.digest) for member, (message, _) in revealed.items()]
    total = liar.federation.expected_sum(liar.parameters.names)
    chain = extend("T5", liar.t4, liar.b4.digest, digests)
    outcome = liar.federation.sign(R5, chain, Outcome(liar.everyone, (liar_digest(total),)))
    attachment = liar.lab.join(encode_strings([value for _, value in digests]), total.tobytes())
    liar.send(R5, 1, liar.lab.join(outcome.raw, attachment))
    assert liar.clients[1].phase == "Finished"
    # a changed sum, a changed digest, a changed list of responders
    other = total + 1
    wrong_vector = liar.lab.join(encode_strings([value for _, value in digests]), other.tobytes())
    liar.refused(R5, 2, liar.lab.join(outcome.raw, wrong_vector), Code.RESULT_MISMATCH)
    lie = liar.federation.sign(R5, chain, Outcome((1, 2, 4, 5), (liar_digest(total),)))
    short = liar.lab.join(encode_strings([value for i, value in digests if i != 3]), total.tobytes())
    liar.refused(R5, 3, liar.lab.join(lie.raw, short), Code.EXCLUDED)
    lie = liar.federation.sign(R5, bytes(32), Outcome(liar.everyone, (liar_digest(total),)))
    liar.refused(R5, 4, liar.lab.join(lie.raw, attachment), Code.TRANSCRIPT_MISMATCH)


def liar_digest(vector: np.ndarray) -> bytes:
    from fedgan_protocols import sum_digest

    return sum_digest(vector)


# --- R0


@pytest.mark.parametrize(
    ("lie", "code"),
    [
        ({"model_hashes": (bytes(32),)}, Code.MODEL_MISMATCH),
        ({"model_hashes": (b"",)}, Code.MODEL_MISMATCH),
        ({"policy_hash": bytes(32)}, Code.POLICY_MISMATCH),
        ({"parameters_hash": bytes(32)}, Code.PARAMETERS_MISMATCH),
    ],
)
def test_an_invitation_to_other_terms(liar: LyingServer, lie: dict[str, Any], code: Code) -> None:
    liar.refused(R0, 1, liar.invitation(**lie), code)


@pytest.mark.parametrize("change", [{"threshold": 3}, {"ring_bits": 64}, {"round": 2}, {"session": bytes(32)}])
def test_a_server_that_lowers_the_threshold_or_changes_the_ring(lab: Any, change: dict[str, Any]) -> None:
    federation = lab.federation(n=5, t=4)
    server = federation.server(**change)
    with pytest.raises(ProtocolError) as caught:
        federation.client("h1").handle("advertise-keys", server.next_phase().payloads["h1"])
    assert caught.value.code in (Code.TRANSCRIPT_MISMATCH, Code.WRONG_SESSION) and caught.value.culprit == "server"


def test_a_policy_below_a_members_own_floors(lab: Any) -> None:
    federation = lab.federation(n=4, t=3)
    for floors in (PolicyFloors(least_roster=5), PolicyFloors(least_threshold=4), PolicyFloors(least_ring_bits=64)):
        federation.floors = floors
        with pytest.raises(ParameterError) as caught:
            federation.client("h1")
        assert caught.value.code is Code.POLICY_FLOOR
    federation = lab.federation(n=2, t=2)
    federation.floors = PolicyFloors()
    with pytest.raises(ParameterError):
        federation.client("h1")


def test_a_member_with_another_policy_is_excluded_and_the_others_go_on(lab: Any) -> None:
    federation = lab.federation(n=4, t=3)
    stranger = federation.client("h2", parameters=replace(federation.parameters, policy_hash=bytes(32)))
    clients = {**federation.clients(), "h2": stranger}
    result = federation.result(clients=clients)
    assert result.survivors == ("h1", "h3", "h4")
    assert result.drops["h2"].stage == "advertise-keys"


def test_an_advertisement_under_another_policy_drops_its_sender(liar: LyingServer) -> None:
    """Signed by the member itself, so the server must catch it, and clients too if it does not."""
    liar.advertise()
    body = replace(liar.adverts[2].body, policy_hash=bytes(32))
    foreign = liar.federation.sign(R0, liar.t0, body, sender=2)
    _, packet = liar.directory({**liar.adverts, 2: foreign})
    liar.refused(R1, 1, packet, Code.POLICY_MISMATCH)

    def other_policy(name: str, phase: str, packet: bytes) -> bytes:
        if (name, phase) != ("h2", "advertise-keys"):
            return packet
        message, _ = liar.opened(R0, 2, packet)
        return liar.lab.join(
            liar.federation.sign(R0, message.previous, replace(message.body, policy_hash=bytes(32)), sender=2).raw
        )

    result = liar.federation.result(to_server=other_policy)
    assert result.drops["h2"].code == "policy-mismatch" and result.drops["h2"].verified
    assert "h2" not in result.survivors


# --- R1


def forged(liar: LyingServer, member: int, **changes: Any) -> Message:
    """An advertisement that the member itself signed, changed (a colluding member)."""
    return liar.federation.sign(R0, liar.t0, replace(liar.adverts[member].body, **changes), sender=member)


def test_substituted_duplicate_and_broken_keys(lab: Any) -> None:
    one = LyingServer(lab, lab.federation(n=5, t=4))
    one.advertise()
    key = masking.public_of(bytes([7]) * 32)
    # signed with another member's identity, or with the server's: neither is that member
    for identity_of in (3, SERVER):
        body = replace(one.adverts[2].body, sealing_key=key)
        message = one.federation.sign(R0, one.t0, body, sender=identity_of) if identity_of else None
        raw = message.raw if message else one.lab.split(one.invitation())[0]
        attachment = encode_strings([raw if i == 2 else one.adverts[i].raw for i in one.everyone])
        directory = one.federation.sign(R1, bytes(32), KeyDirectory(one.everyone))
        victim = 1 if identity_of else 4
        one.refused(R1, victim, lab.join(directory.raw, attachment), Code.WRONG_SENDER, Code.BAD_SIGNATURE)
    cases: list[tuple[dict[str, Any], Code]] = [
        ({"sealing_key": one.adverts[3].body.sealing_key}, Code.DUPLICATE_KEY),
        ({"mask_keys": one.adverts[3].body.mask_keys}, Code.DUPLICATE_KEY),
        ({"mask_keys": (one.adverts[2].body.sealing_key,)}, Code.DUPLICATE_KEY),
        ({"mask_keys": ()}, Code.MALFORMED),
        ({"sealing_key": bytes(32)}, Code.BAD_KEY),
        ({"mask_keys": ((1).to_bytes(32, "little"),)}, Code.BAD_KEY),
        ({"mask_keys": (bytes(31) + b"\x80",)}, Code.BAD_KEY),
        ({"model_hashes": (bytes(32),)}, Code.MODEL_MISMATCH),
        ({"parameters_hash": bytes(32)}, Code.PARAMETERS_MISMATCH),
    ]
    for changes, code in cases:
        rig = LyingServer(lab, lab.federation(n=5, t=4))
        rig.advertise()
        _, packet = rig.directory({**rig.adverts, 2: forged(rig, 2, **changes)})
        rig.refused(R1, 1, packet, code)


def test_the_server_drops_a_member_whose_key_has_low_order(lab: Any) -> None:
    federation = lab.federation()

    def low_order(name: str, phase: str, packet: bytes) -> bytes:
        if (name, phase) != ("h3", "advertise-keys"):
            return packet
        raw, _ = lab.split(packet)
        message = open_message(federation.parameters, raw, stage=R0, sender=3, previous=None, blame="")
        return lab.join(federation.sign(R0, message.previous, replace(message.body, sealing_key=bytes(32)), 3).raw)

    result = federation.result(to_server=low_order)
    assert result.survivors == ("h1", "h2", "h4") and result.drops["h3"].code == "bad-key"


def test_sets_of_r1(liar: LyingServer) -> None:
    liar.advertise()
    without = {i: one for i, one in liar.adverts.items() if i != 1}
    liar.refused(R1, 1, liar.directory(without)[1], Code.EXCLUDED)
    few = {i: one for i, one in liar.adverts.items() if i <= 3}
    liar.refused(R1, 2, liar.directory(few)[1], Code.TOO_FEW)
    mine = liar.federation.sign(R0, liar.t0, liar.adverts[3].body, sender=3)
    assert mine.raw == liar.adverts[3].raw  # Ed25519 is deterministic: altered keys are another body
    altered = {**liar.adverts, 3: forged(liar, 3, sealing_key=masking.public_of(bytes([9]) * 32))}
    liar.refused(R1, 3, liar.directory(altered)[1], Code.OWN_MESSAGE_ALTERED)
    directory = liar.federation.sign(R1, bytes(32), KeyDirectory(liar.everyone))
    adverts = encode_strings([liar.adverts[i].raw for i in liar.everyone])
    liar.refused(R1, 4, liar.lab.join(directory.raw, adverts), Code.TRANSCRIPT_MISMATCH)
    twice = liar.federation.sign(R1, liar.t1(liar.adverts), KeyDirectory((1, 2, 2, 4, 5)))
    liar.refused(R1, 5, liar.lab.join(twice.raw, adverts), Code.DUPLICATE_MEMBER)


def test_a_stranger_in_u1(liar: LyingServer) -> None:
    liar.advertise()
    directory = liar.federation.sign(R1, liar.t1(liar.adverts), KeyDirectory((1, 2, 3, 4, 6)))
    adverts = encode_strings([liar.adverts[i].raw for i in liar.everyone])
    liar.refused(R1, 1, liar.lab.join(directory.raw, adverts), Code.MALFORMED)


# --- R2


def test_equivocated_u1_is_seen_at_r2(liar: LyingServer) -> None:
    """Member 1 was shown U1 without 5; its deal follows another T1, so nobody else accepts it."""
    liar.advertise()
    smaller = {i: one for i, one in liar.adverts.items() if i != 5}
    _, packet = liar.directory(smaller)
    deal, _ = liar.send(R1, 1, packet)
    liar.b1, full = liar.directory(liar.adverts)
    liar.deals[1] = deal
    liar.sealed[1] = bytes(liar.parameters.sealed_bytes * 4)
    for member in (2, 3, 4, 5):
        liar.deals[member], liar.sealed[member] = liar.send(R1, member, full)
    liar.provide(2)
    liar.refused(R2, 2, liar.mask_request(2, liar.everyone), Code.TRANSCRIPT_MISMATCH)
    liar.provide(1)
    with pytest.raises(ProtocolError):
        liar.clients[1].handle(R2.label, liar.mask_request(1, (1, 2, 3, 4)))


def test_sets_and_models_of_r2(liar: LyingServer) -> None:
    liar.advertise()
    liar.share()
    for member in liar.everyone:
        liar.provide(member)
    liar.refused(R2, 1, liar.mask_request(1, (2, 3, 4, 5), sealed=bytes(100)), Code.EXCLUDED)
    liar.refused(R2, 2, liar.mask_request(2, (1, 2, 3)), Code.TOO_FEW)
    liar.refused(R2, 3, liar.mask_request(3, liar.everyone, model_hash=bytes(32)), Code.MODEL_MISMATCH)
    liar.refused(R2, 4, liar.mask_request(4, liar.everyone, sum=1), Code.OUT_OF_ORDER)
    sealed = bytearray(liar.sealed_for(5, liar.everyone))
    sealed[3] ^= 1
    packet = liar.mask_request(5, liar.everyone, sealed=bytes(sealed))
    liar.refused(R2, 5, packet, Code.SEALED_SHARE_ALTERED)


def test_u2_may_not_hold_a_member_that_was_not_in_u1(liar: LyingServer) -> None:
    liar.advertise()
    everyone, liar.adverts = dict(liar.adverts), {i: one for i, one in liar.adverts.items() if i != 5}
    liar.b1, packet = liar.directory(liar.adverts)
    for member in (1, 2, 3, 4):
        liar.deals[member], liar.sealed[member] = liar.send(R1, member, packet)
    liar.deals[5] = liar.federation.sign(R1, liar.t1(liar.adverts), liar.deals[4].body, sender=5)
    liar.provide(1)
    liar.refused(R2, 1, liar.mask_request(1, (1, 2, 3, 4, 5), sealed=bytes(9)), Code.SET_GREW)
    assert len(everyone) == 5


def reseal(liar: LyingServer, dealer: int, holder: int, plain: bytes) -> None:
    """The dealer itself seals another plaintext for one holder and signs its digest (a corrupt dealer)."""
    from fedgan_protocols import checks

    size, others = liar.parameters.sealed_bytes, [i for i in sorted(liar.adverts) if i != dealer]
    secret = liar.clients[dealer]._state.sealing_key  # type: ignore[union-attr]
    t1 = liar.t1(liar.adverts)
    shared = masking.exchange(secret, liar.adverts[holder].body.sealing_key)
    sealed = masking.seal(masking.seal_key(liar.parameters, shared, t1, dealer, holder), plain, dealer, holder)
    place = others.index(holder)
    data = liar.sealed[dealer]
    liar.sealed[dealer] = data[: place * size] + sealed + data[(place + 1) * size :]
    digests = list(liar.deals[dealer].body.sealed_digests)
    digests[place] = checks.sealed_digest(sealed)
    body = replace(liar.deals[dealer].body, sealed_digests=tuple(digests))
    liar.deals[dealer] = liar.federation.sign(R1, t1, body, sender=dealer)


def test_a_corrupted_share_in_a_seal_blames_the_dealer(liar: LyingServer) -> None:
    liar.advertise()
    liar.share()
    reseal(liar, dealer=2, holder=1, plain=bytes(130))
    liar.provide(1)
    liar.refused(R2, 1, liar.mask_request(1, liar.everyone), Code.BAD_SHARE_DEALER, culprit="h2")


def test_a_seal_that_does_not_open_blames_the_dealer(liar: LyingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    liar.advertise()
    liar.share()
    with monkeypatch.context() as patch:
        patch.setattr(masking, "seal", lambda key, plain, u, v: AESGCM(bytes(32)).encrypt(bytes(12), plain, b""))
        reseal(liar, dealer=3, holder=4, plain=bytes(130))
    liar.provide(4)
    liar.refused(R2, 4, liar.mask_request(4, liar.everyone), Code.BAD_SHARE_DEALER, culprit="h3")


def test_a_deal_of_the_wrong_size_blames_the_dealer(liar: LyingServer) -> None:
    liar.advertise()
    liar.share()
    body = replace(liar.deals[3].body, seed_commitments=())
    liar.deals[3] = liar.federation.sign(R1, liar.t1(liar.adverts), body, sender=3)
    liar.provide(1)
    liar.refused(R2, 1, liar.mask_request(1, liar.everyone), Code.MALFORMED, culprit="h3")


# --- R3 and R4


def masked(liar: LyingServer) -> LyingServer:
    liar.advertise()
    liar.share()
    liar.mask()
    return liar


def test_sets_of_r3(liar: LyingServer) -> None:
    masked(liar)
    liar.refused(R3, 1, liar.survivors((2, 3, 4, 5))[2], Code.DECLARED_DEAD)
    liar.refused(R3, 2, liar.survivors((1, 2, 3))[2], Code.TOO_FEW)
    liar.refused(R3, 3, liar.survivors(liar.everyone, model_hash=bytes(32))[2], Code.MODEL_MISMATCH)
    liar.inputs[4] = liar.federation.sign(R2, liar.t2, liar.inputs[1].body, sender=4)
    liar.refused(R3, 4, liar.survivors(liar.everyone)[2], Code.OWN_MESSAGE_ALTERED)
    liar.refused(R3, 5, liar.survivors(liar.everyone, sum=1)[2], Code.OUT_OF_ORDER)


def test_requests_that_follow_another_transcript(liar: LyingServer) -> None:
    masked(liar)
    liar.refused(R3, 1, liar.survivors(liar.everyone, previous=bytes(32))[2], Code.TRANSCRIPT_MISMATCH)
    others = (2, 3, 4, 5)
    statements = liar.agree(others, others)
    liar.refused(R4, 2, liar.unmask_request(others, statements, previous=bytes(32)), Code.TRANSCRIPT_MISMATCH)
    liar.refused(R4, 3, liar.unmask_request(others, statements, sum=1), Code.OUT_OF_ORDER)


def test_a_changed_sum_between_two_sums(lab: Any) -> None:
    """The vector that comes with the next request is the one whose digest the server signed, or the client aborts."""
    federation = lab.federation(n=3, t=2, sums=2)

    def change(name: str, phase: str, packet: bytes) -> bytes:
        raw, attachment = lab.split(packet)
        if name != "h2" or phase != "masked-input":
            return packet
        message = open_message(federation.parameters, raw, stage=R2, sender=SERVER, previous=None, blame="")
        if message.body.sum == 0:
            return packet
        digests, total = lab.split(bytes(attachment))
        return lab.join(raw, lab.join(digests, bytes(total[:-1]) + bytes([total[-1] ^ 1])))

    errors: dict[str, ProtocolError] = {}
    result = federation.result(to_client=change, errors=errors)
    assert errors["h2"].code is Code.RESULT_MISMATCH and errors["h2"].culprit == "server"
    assert result.survivors_per_sum == (("h1", "h2", "h3"), ("h1", "h3"))


def equivocate(
    liar: LyingServer, told_alive: Sequence[int], told_dead: Sequence[int], colluders: Sequence[int]
) -> tuple[dict[int, bytes], dict[int, bytes]]:
    """Show one U3 with member 1 to `told_alive`, one without to `told_dead`; colluders sign both and give all shares.

    Returns what the server then holds of member 1: its seed's openings and its mask key's, by holder.
    """
    seeds: dict[int, bytes] = {}
    keys: dict[int, bytes] = {}
    for u3, honest, found in ((liar.everyone, told_alive, seeds), ((2, 3, 4, 5), told_dead, keys)):
        _, t3, packet = liar.survivors(u3)
        statement = Consistency(0, liar.t2, liar.federation.models[0], tuple(u3))
        statements = {member: liar.send(R3, member, packet)[0] for member in honest}
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
        liar = masked(LyingServer(lab, lab.federation(n=5, t=4, d=3)))
        seeds, keys = equivocate(liar, told_alive, told_dead, (4, 5))
        assert min(len(seeds), len(keys)) < 4

    liar = masked(LyingServer(lab, lab.federation(n=5, t=4, d=3)))
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


def test_u3_may_not_hold_a_member_that_was_not_in_u2(liar: LyingServer) -> None:
    liar.advertise()
    liar.share()
    u2 = (1, 2, 3, 4)
    for member in u2:
        liar.provide(member)
        liar.inputs[member], _ = liar.send(R2, member, liar.mask_request(member, u2))
    liar.inputs[5] = liar.federation.sign(R2, liar.t2, liar.inputs[1].body, sender=5)
    liar.refused(R3, 1, liar.survivors(liar.everyone)[2], Code.SET_GREW)


def test_equivocated_u3_finds_no_t_signatures(liar: LyingServer) -> None:
    """Members 1-3 sign one U3, members 4-5 another: neither has t = 4 signatures, mixed ones do not match."""
    masked(liar)
    first = liar.agree((1, 2, 3, 4), (1, 2, 3))
    second = liar.agree(liar.everyone, (4, 5))
    liar.refused(R4, 1, liar.unmask_request((1, 2, 3, 4), first), Code.TOO_FEW)
    liar.refused(R4, 2, liar.unmask_request((1, 2, 3, 4), {**first, 4: second[4]}), Code.INCONSISTENT)
    liar.refused(R4, 4, liar.unmask_request(liar.everyone, {**first, **second}), Code.INCONSISTENT)
    liar.refused(R4, 5, liar.unmask_request(liar.everyone, second), Code.TOO_FEW)


def test_t_minus_one_signatures_and_foreign_statements(liar: LyingServer) -> None:
    masked(liar)
    statements = liar.agree(liar.everyone, liar.everyone)
    three = {i: statements[i] for i in (1, 2, 3)}
    liar.refused(R4, 1, liar.unmask_request(liar.everyone, three), Code.TOO_FEW)
    liar.refused(R4, 5, liar.unmask_request(liar.everyone, {**three, 4: statements[4]}), Code.EXCLUDED)
    for victim, change in ((2, {"t2": bytes(32)}), (3, {"members": (1, 2, 3, 4)}), (4, {"model_hash": bytes(32)})):
        body = replace(statements[1].body, **change)
        other = liar.federation.sign(R3, statements[1].previous, body, sender=1)
        packet = liar.unmask_request(liar.everyone, {**statements, 1: other})
        liar.refused(R4, victim, packet, Code.INCONSISTENT)


def test_a_signature_over_other_masked_inputs_does_not_count(liar: LyingServer) -> None:
    """The body is the same; the header's previous hash shows that its signer saw other inputs."""
    masked(liar)
    statements = liar.agree(liar.everyone, liar.everyone)
    other = liar.federation.sign(R3, bytes(32), statements[5].body, sender=5)
    packet = liar.unmask_request(liar.everyone, {**statements, 5: other})
    liar.refused(R4, 1, packet, Code.INCONSISTENT)


def test_a_members_own_deal_comes_back_unaltered(liar: LyingServer) -> None:
    liar.advertise()
    liar.share()
    body = replace(liar.deals[1].body, seed_commitments=(bytes(32),))
    liar.deals[1] = liar.federation.sign(R1, liar.t1(liar.adverts), body, sender=1)
    liar.provide(1)
    liar.refused(R2, 1, liar.mask_request(1, liar.everyone), Code.OWN_MESSAGE_ALTERED)


def test_a_signature_counts_once_and_for_its_signer_only(liar: LyingServer) -> None:
    masked(liar)
    statements = liar.agree(liar.everyone, liar.everyone)
    copies = dict.fromkeys(liar.everyone, statements[1])
    liar.refused(R4, 1, liar.unmask_request(liar.everyone, copies), Code.WRONG_SENDER)


def test_one_victim_is_never_both_alive_and_dead(liar: LyingServer) -> None:
    """The server asks twice, with the victim once in U3 and once not; the first answer is the only one."""
    masked(liar)
    alive = liar.agree(liar.everyone, (1, 2, 3, 4))
    _, _, without = liar.survivors((1, 2, 3, 4))
    liar.refused(R3, 1, without, Code.CONFLICTING)
    packet = liar.unmask_request(liar.everyone, alive)
    revelation, openings = liar.send(R4, 2, packet)
    assert revelation.body.alive == liar.everyone and revelation.body.dead == ()
    state = liar.clients[2]._state
    assert state is not None and all(one == b"" for one in state.secrets.openings.values())  # type: ignore[union-attr]
    again, same = liar.send(R4, 2, packet)
    assert (again.raw, same) == (revelation.raw, openings)
    liar.refused(
        R4, 2, liar.unmask_request(liar.everyone, {i: alive[i] for i in (1, 2, 3, 4)}, sum=1), Code.CONFLICTING
    )


def test_every_holder_reveals_one_kind_of_share_per_peer(liar: LyingServer) -> None:
    """Whatever is revealed opens one of a dealer's two commitments: the seed's for U3, the key's for the dead."""
    masked(liar)
    u3 = (1, 2, 3, 4)
    packet = liar.unmask_request(u3, liar.agree(u3, u3))
    for holder in u3:
        revelation, openings = liar.send(R4, holder, packet)
        assert revelation.body.alive == u3 and revelation.body.dead == (5,)
        assert len(openings) == 65 * 5
        for place, dealer in enumerate(liar.everyone):
            opening, deal = openings[65 * place : 65 * (place + 1)], liar.deals[dealer].body
            matches = {
                kind
                for kind, commitments in (("key", deal.key_share_commitments), ("seed", deal.seed_share_commitments))
                if share_commitment(liar.parameters, 0, kind, dealer, holder, opening) == commitments[holder - 1]
            }
            assert matches == ({"key"} if dealer == 5 else {"seed"})


def test_the_late_input_of_a_dropped_member_stays_masked(liar: LyingServer) -> None:
    """The server holds y of member 5 but declares it dead: what is revealed does not hold its self-mask."""
    masked(liar)
    u3 = (1, 2, 3, 4)
    packet = liar.unmask_request(u3, liar.agree(u3, u3))
    openings = b"".join(liar.send(R4, holder, packet)[1] for holder in u3)
    assert liar.clients[5].phase == "Masked"
    fifth = {openings[65 * (5 * k + 4) : 65 * (5 * k + 5)] for k in range(4)}
    seeds = liar.deals[5].body.seed_share_commitments
    assert not any(
        share_commitment(liar.parameters, 0, "seed", 5, holder, one) == seeds[holder - 1]
        for holder in u3
        for one in fifth
    )
    liar.refused(R3, 5, liar.survivors(u3)[2], Code.DECLARED_DEAD)


# --- messages from elsewhere


def test_stages_out_of_order_and_repeated(liar: LyingServer) -> None:
    packet = liar.invitation()
    first = liar.clients[1].handle(R0.label, packet)
    assert liar.clients[1].handle(R0.label, packet) == first
    liar.refused(R0, 1, liar.invitation(model_hashes=(bytes(32),)), Code.CONFLICTING)
    liar.refused(R1, 2, packet, Code.OUT_OF_ORDER)
    liar.refused(R5, 3, packet, Code.OUT_OF_ORDER)
    with pytest.raises(ProtocolError) as caught:
        liar.clients[4].handle("share", packet)
    assert caught.value.code is Code.MALFORMED


def test_a_vector_is_masked_once(liar: LyingServer) -> None:
    masked(liar)
    with pytest.raises(ProtocolError):
        liar.provide(1)
    packet = liar.mask_request(1, (1, 2, 3, 4))  # the same vector under other survivors
    liar.refused(R2, 1, packet, Code.CONFLICTING)


def test_the_vector_and_this_sums_secrets_are_gone_once_masked(liar: LyingServer) -> None:
    liar.advertise()
    liar.share()
    vector = liar.federation.inputs["h1", 0].copy()
    alive = weakref.ref(vector)
    liar.clients[1].provide_input(0, vector)
    del vector
    liar.send(R2, 1, liar.mask_request(1, liar.everyone))
    assert alive() is None
    secrets = liar.clients[1]._state.secrets  # type: ignore[union-attr]
    assert secrets.mask_keys == () and secrets.seeds == ()


def test_replay_across_rounds_and_sessions(lab: Any) -> None:
    first = lab.federation(seed="same", round_=1)
    second = lab.federation(seed="same", round_=2)
    third = lab.federation(seed="same", round_=1, session=bytes(32))
    packet = first.server().next_phase().payloads["h1"]
    for other in (second, third):
        with pytest.raises(ProtocolError) as caught:
            other.client("h1").handle("advertise-keys", packet)
        assert caught.value.code is Code.WRONG_SESSION
    reply = first.client("h1").handle("advertise-keys", packet)
    server = second.server()
    clients = second.clients()
    replies = {name: clients[name].handle("advertise-keys", one) for name, one in server.next_phase().payloads.items()}
    server.receive({**replies, "h1": reply})
    assert server.dropped["h1"].code == "wrong-session" and server.dropped["h1"].verified


def test_another_roster_is_refused(lab: Any) -> None:
    federation, other = lab.federation(seed="a"), lab.federation(seed="b")
    mixed = replace(federation.parameters, roster=(*federation.parameters.roster[:3], other.parameters.roster[3]))
    packet = federation.server().next_phase().payloads["h1"]
    with pytest.raises(ProtocolError) as caught:
        federation.client("h1", parameters=mixed).handle("advertise-keys", packet)
    assert caught.value.code is Code.WRONG_ROSTER


def test_no_vector_or_a_wrong_one(liar: LyingServer) -> None:
    liar.advertise()
    liar.share()
    with pytest.raises(ProtocolError):
        liar.clients[1].provide_input(0, np.zeros(2, dtype=np.uint32))
    with pytest.raises(ProtocolError):
        liar.clients[1].provide_input(0, np.zeros(3, dtype=np.float32))
    with pytest.raises(ProtocolError):
        liar.clients[1].provide_input(1, np.zeros(3, dtype=np.uint32))
    liar.refused(R2, 1, liar.mask_request(1, liar.everyone), Code.NO_INPUT, culprit="h1")


def test_a_deadline_erases_everything(liar: LyingServer) -> None:
    liar.advertise()
    liar.share()
    liar.clients[1].deadline()
    assert liar.clients[1].phase == "Aborted" and liar.clients[1]._state is None
    with pytest.raises(ProtocolError):
        liar.clients[1].handle(R2.label, liar.mask_request(1, liar.everyone))


# --- members that lie to the server


def test_a_responder_with_a_wrong_share_is_named_and_the_round_goes_on(lab: Any) -> None:
    from fedgan_protocols import checks

    federation = lab.federation(n=5, t=4)

    def corrupt(name: str, phase: str, packet: bytes) -> bytes:
        if (name, phase) != ("h3", "unmasking"):
            return packet
        raw, attachment = lab.split(packet)
        message = open_message(federation.parameters, raw, stage=R4, sender=3, previous=None, blame="")
        openings = bytearray(attachment)
        openings[70] ^= 1
        body = replace(message.body, shares_digest=checks.shares_digest(bytes(openings)))
        return lab.join(federation.sign(R4, message.previous, body, sender=3).raw, bytes(openings))

    result = federation.result(to_server=corrupt)
    assert np.array_equal(result.sums[0], federation.expected_sum(federation.parameters.names))
    drop = result.drops["h3"]
    assert (drop.code, drop.culprit, drop.verified) == ("bad-share-responder", "h3", True)
    assert result.receipts["h3"] == "unmasking: bad-share-responder"


@pytest.mark.parametrize("dies", [False, True])
def test_a_dealer_whose_shares_rebuild_another_secret_is_named(
    lab: Any, monkeypatch: pytest.MonkeyPatch, dies: bool
) -> None:
    """Its shares meet their commitments but belong to another secret: only rebuilding shows it."""
    federation = lab.federation(n=4, t=3)
    clients = federation.clients()
    honest = shamir.share
    dealing = [""]

    def dishonest(secret: int, *rest: Any) -> dict[int, int]:
        return honest(secret ^ 1 << 100 if dealing[0] == "h2" else secret, *rest)

    monkeypatch.setattr(shamir, "share", dishonest)

    def note(name: str, phase: str, packet: bytes) -> bytes:
        dealing[0] = name
        return packet

    with pytest.raises(ProtocolError) as caught:
        federation.run({"h2": "masked-input"} if dies else {}, clients=clients, to_client=note)
    assert caught.value.code is Code.BAD_SHARE_DEALER and caught.value.culprit == "h2"


@pytest.mark.parametrize(
    ("phase", "code"),
    [
        ("share-keys", "sealed-share-altered"),
        ("masked-input", "result-mismatch"),
        ("unmasking", "malformed"),
        ("receipt", "malformed"),
    ],
)
def test_an_attachment_that_its_sender_did_not_sign(lab: Any, phase: str, code: str) -> None:
    federation = lab.federation(n=5, t=4)

    def change(name: str, at: str, packet: bytes) -> bytes:
        if (name, at) != ("h2", phase):
            return packet
        raw, attachment = lab.split(packet)
        return lab.join(raw, bytes(attachment[:-1]) + bytes([attachment[-1] ^ 1]) if attachment else b"x")

    result = federation.result(to_server=change)
    assert result.dropped == {"h2": phase}
    assert (result.drops["h2"].code, result.drops["h2"].culprit, result.drops["h2"].verified) == (code, "h2", True)
    assert np.array_equal(result.sums[0], federation.expected_sum(result.survivors))


def test_attachments_of_the_wrong_length(lab: Any) -> None:
    federation = lab.federation(n=5, t=4)
    for phase in ("advertise-keys", "share-keys", "masked-input", "consistency-check", "unmasking"):

        def longer(name: str, at: str, packet: bytes, phase: str = phase) -> bytes:
            if (name, at) != ("h2", phase):
                return packet
            raw, attachment = lab.split(packet)
            return lab.join(raw, bytes(attachment) + bytes(4))

        assert federation.result(to_server=longer).drops["h2"].code == "malformed"
        errors: dict[str, ProtocolError] = {}
        federation.result(to_client=longer, errors=errors)
        assert list(errors) == ["h2"] and errors["h2"].culprit == "server"


@pytest.mark.parametrize(
    ("stage", "lie", "code"),
    [
        (R2, {"sum": 1}, "stage-out-of-order"),
        (R2, {"model_hash": bytes(32)}, "model-mismatch"),
        (R1, {"seed_commitments": ()}, "malformed"),
        (R3, {"members": (1, 3, 4, 5)}, "inconsistent"),
        (R4, {"alive": (1, 3, 4, 5)}, "inconsistent"),
        (R4, {"dead": (2,)}, "inconsistent"),
        (R5, {"sum_digests": (bytes(32),)}, "result-mismatch"),
    ],
)
def test_a_member_that_signs_another_statement_is_dropped(
    lab: Any, stage: Stage, lie: dict[str, Any], code: str
) -> None:
    federation = lab.federation(n=5, t=4)

    def change(name: str, at: str, packet: bytes) -> bytes:
        if (name, at) != ("h2", stage.label):
            return packet
        raw, attachment = lab.split(packet)
        message = open_message(federation.parameters, raw, stage=stage, sender=2, previous=None, blame="")
        changed = federation.sign(stage, message.previous, replace(message.body, **lie), sender=2)
        return lab.join(changed.raw, bytes(attachment))

    result = federation.result(to_server=change)
    assert (result.dropped, result.drops["h2"].code) == ({"h2": stage.label}, code)
    assert np.array_equal(result.sums[0], federation.expected_sum(result.survivors))


def test_one_members_word_names_no_culprit_but_more_than_c_do(lab: Any) -> None:
    federation = lab.federation(n=4, t=3)  # c = 1
    for accusers, culprit in ((["h1"], ""), (["h1", "h2"], "h4")):
        server = federation.server()
        claims = {name: Failure("bad-share-dealer", "it says", "h4") for name in accusers}
        with pytest.raises(ProtocolError) as caught:
            server.receive(claims)
        assert caught.value.culprit == culprit


def test_flipping_any_bit_of_any_message_is_refused(lab: Any) -> None:
    """One byte in sixteen of every packet of a round, both ways; nothing but ProtocolError, never another sum."""
    federation = lab.federation(n=3, t=2, d=3)
    honest = federation.result()
    flips = 0
    for phase in (stage for stage in Stage if stage is not Stage.CLOSING):
        recorded: dict[str, int] = {}

        def measure(name: str, at: str, packet: bytes, phase: Stage = phase, sizes: dict[str, int] = recorded) -> bytes:
            if (name, at) == ("h1", phase.label):
                sizes["size"] = len(packet)
            return packet

        for direction in ("to_client", "to_server"):
            federation.run(**{direction: measure})
            for place in range(flips % 16, recorded["size"], max(16, recorded["size"] // 24)):
                flips += 1

                def flip(name: str, at: str, packet: bytes, phase: Stage = phase, place: int = place) -> bytes:
                    if (name, at) != ("h1", phase.label):
                        return packet
                    return packet[:place] + bytes([packet[place] ^ (1 << place % 8)]) + packet[place + 1 :]

                result = federation.run(**{direction: flip}, errors={}).result()
                assert result.dropped == {"h1": phase.label}
                assert np.array_equal(result.sums[0], federation.expected_sum(result.survivors))
    assert flips > 200 and honest.dropped == {}


def test_no_repr_shows_a_secret(lab: Any) -> None:
    """At every phase of every machine: nothing drawn, no input, no share, in any notation that a repr would use."""
    federation = lab.federation(n=4, t=3, d=4)
    clients, server = federation.clients(), federation.server()
    secrets = [vector.tobytes() for vector in federation.inputs.values()]
    for client in clients.values():
        source = client._entropy

        def draw(size: int, source: Any = source) -> bytes:
            drawn: bytes = source(size)
            secrets.extend(drawn[at : at + 32] for at in range(0, size - 31, 32))
            return drawn

        client._entropy = draw
    texts: list[str] = []

    def note(name: str, phase: str, packet: bytes) -> bytes:
        texts.append(repr(clients[name]._state) + repr(clients[name]) + repr(server._state))
        secrets.extend(bytes(lab.split(packet)[1])[at : at + 65] for at in (0, 65) if phase == "unmasking")
        return packet

    federation.run({"h4": "masked-input"}, server=server, clients=clients, to_server=note)
    text = "".join(texts) + repr(server._state) + repr(server.result()) + repr(federation.identities)
    phases = ("Advertised(", "Shared(", "Masked(", "Signed(", "Revealed(", "Finished(", "CollectingRevelations(")
    assert all(phase in text for phase in phases)
    assert repr(federation.parameters.policy_hash)[2:-1] in text  # the search would find what is there
    assert len(secrets) > 80
    for secret in secrets:
        assert repr(secret)[2:-1] not in text and secret.hex() not in text
