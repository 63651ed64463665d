"""A server that lies until the masked inputs: every fault aborts the victim, which releases nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tests.protocols.lying import R0, R1, R2, R4, R5, LyingServer

from fedgan_protocols import Code, ParameterError, PolicyFloors, ProtocolError, masking, sum_digest
from fedgan_protocols.directory import read_deals, write_deals
from fedgan_protocols.messages import Outcome, extend, message_digest, open_message
from fedgan_protocols.parameters import SERVER
from fedgan_protocols.primitives.encoding import encode


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
    outcome = liar.federation.sign(R5, chain, Outcome(liar.everyone, (sum_digest(total),)))
    attachment = liar.lab.join(b"".join(value for _, value in digests), total.tobytes())
    liar.send(R5, 1, liar.lab.join(outcome.raw, attachment))
    assert liar.clients[1].phase == "Finished"
    # a changed sum, a changed digest, a changed list of responders
    other = total + 1
    wrong_vector = liar.lab.join(b"".join(value for _, value in digests), other.tobytes())
    liar.refused(R5, 2, liar.lab.join(outcome.raw, wrong_vector), Code.RESULT_MISMATCH)
    lie = liar.federation.sign(R5, chain, Outcome((1, 2, 4, 5), (sum_digest(total),)))
    short = liar.lab.join(b"".join(value for i, value in digests if i != 3), total.tobytes())
    liar.refused(R5, 3, liar.lab.join(lie.raw, short), Code.EXCLUDED)
    lie = liar.federation.sign(R5, bytes(32), Outcome(liar.everyone, (sum_digest(total),)))
    liar.refused(R5, 4, liar.lab.join(lie.raw, attachment), Code.TRANSCRIPT_MISMATCH)


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
    packet = liar.directory(1, {**liar.adverts, 2: foreign})
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


def test_substituted_duplicate_and_broken_keys(lab: Any) -> None:
    one = LyingServer(lab, lab.federation(n=5, t=4))
    one.advertise()
    key = masking.public_of(bytes([7]) * 32)
    # signed with another member's identity, or with the server's: neither is that member
    for identity_of in (3, SERVER):
        body = replace(one.adverts[2].body, sealing_key=key)
        message = one.federation.sign(R0, one.t0, body, sender=identity_of) if identity_of else None
        raw = message.raw if message else one.lab.split(one.invitation())[0]
        victim = 1 if identity_of else 4
        digests = [message_digest(raw) if i == 2 else one.adverts[i].digest for i in one.everyone]
        t1 = extend("T1", one.t0, b"", list(zip(one.everyone, digests, strict=True)))
        packet = one.directory(victim, one.adverts, versions={2: raw}, digests=digests, previous=t1)
        one.refused(R1, victim, packet, Code.WRONG_SENDER, Code.BAD_SIGNATURE)
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
        rig.refused(R1, 1, rig.directory(1, {**rig.adverts, 2: rig.forged(2, **changes)}), code)


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
    liar.refused(R1, 1, liar.directory(1, without), Code.EXCLUDED)
    few = {i: one for i, one in liar.adverts.items() if i <= 3}
    liar.refused(R1, 2, liar.directory(2, few), Code.TOO_FEW)
    mine = liar.federation.sign(R0, liar.t0, liar.adverts[3].body, sender=3)
    assert mine.raw == liar.adverts[3].raw  # Ed25519 is deterministic: altered keys are another body
    altered = {**liar.adverts, 3: liar.forged(3, sealing_key=masking.public_of(bytes([9]) * 32))}
    liar.refused(R1, 3, liar.directory(3, altered), Code.OWN_MESSAGE_ALTERED)
    liar.refused(R1, 4, liar.directory(4, liar.adverts, previous=bytes(32)), Code.TRANSCRIPT_MISMATCH)
    liar.refused(R1, 5, liar.directory(5, liar.adverts, members=(1, 2, 2, 4, 5)), Code.DUPLICATE_MEMBER)


def test_a_stranger_in_u1(liar: LyingServer) -> None:
    liar.advertise()
    liar.refused(R1, 1, liar.directory(1, liar.adverts, members=(1, 2, 3, 4, 6)), Code.MALFORMED)


def test_what_comes_with_u1_is_of_all_of_u1(liar: LyingServer) -> None:
    """In the complete graph everybody is everybody's peer: no digest and no key may be missing, changed or added."""
    liar.advertise()
    digests = [liar.adverts[i].digest for i in liar.everyone]
    liar.refused(R1, 1, liar.directory(1, liar.adverts, digests=digests[:-1]), Code.MALFORMED)
    liar.refused(R1, 2, liar.directory(2, liar.adverts, peers=(1, 3, 4)), Code.EXCLUDED)
    other = {5: liar.forged(5, sealing_key=masking.public_of(bytes([9]) * 32)).raw}
    liar.refused(R1, 3, liar.directory(3, liar.adverts, versions=other), Code.TRANSCRIPT_MISMATCH)
    liar.refused(R1, 4, liar.directory(4, liar.adverts, peers=liar.everyone), Code.MALFORMED)
    smaller = {i: one for i, one in liar.adverts.items() if i != 1}
    packet = liar.directory(5, liar.adverts, peers=(1, 2, 3, 4))
    message, attachment = liar.lab.split(packet)
    without = liar.lab.split(liar.directory(5, smaller))[0]
    assert without != message
    liar.refused(R1, 5, liar.lab.join(without, bytes(attachment)), Code.MALFORMED)


# --- R2


def test_equivocated_u1_is_seen_at_r2(liar: LyingServer) -> None:
    """Member 1 was shown U1 without 5; its deal follows another T1, so nobody else accepts it."""
    liar.advertise()
    smaller = {i: one for i, one in liar.adverts.items() if i != 5}
    liar.deal([1], smaller)
    liar.sealed[1] = bytes(liar.parameters.sealed_bytes * 4)
    liar.deal((2, 3, 4, 5))
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
    liar.deal((1, 2, 3, 4))
    liar.deals[5] = liar.federation.sign(R1, liar.t1(liar.adverts), liar.deals[4].body, sender=5)
    liar.provide(1)
    liar.refused(R2, 1, liar.mask_request(1, (1, 2, 3, 4, 5), sealed=bytes(9)), Code.SET_GREW)
    assert len(everyone) == 5


def test_a_corrupted_share_in_a_seal_blames_the_dealer(liar: LyingServer) -> None:
    liar.advertise()
    liar.share()
    liar.reseal(dealer=2, holder=1, plain=bytes(130))
    liar.provide(1)
    liar.refused(R2, 1, liar.mask_request(1, liar.everyone), Code.BAD_SHARE_DEALER, culprit="h2")


def test_a_seal_that_does_not_open_blames_the_dealer(liar: LyingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    liar.advertise()
    liar.share()
    with monkeypatch.context() as patch:
        patch.setattr(masking, "seal", lambda key, plain, u, v: AESGCM(bytes(32)).encrypt(bytes(12), plain, b""))
        liar.reseal(dealer=3, holder=4, plain=bytes(130))
    liar.provide(4)
    liar.refused(R2, 4, liar.mask_request(4, liar.everyone), Code.BAD_SHARE_DEALER, culprit="h3")


def test_a_deal_of_the_wrong_size_blames_the_dealer(liar: LyingServer) -> None:
    liar.advertise()
    liar.share()
    body = replace(liar.deals[3].body, seed_commitments=())
    liar.deals[3] = liar.federation.sign(R1, liar.t1(liar.adverts), body, sender=3)
    liar.provide(1)
    liar.refused(R2, 1, liar.mask_request(1, liar.everyone), Code.MALFORMED, culprit="h3")


def test_what_comes_with_u2_is_of_all_of_u2(liar: LyingServer) -> None:
    """A digest too few, a deal too few, a deal that is not the one whose digest is chained, a seal too few."""
    liar.advertise()
    liar.share()
    for member in liar.everyone:
        liar.provide(member)
    u2 = liar.everyone
    for victim, fewer_digests, fewer_deals in ((1, 1, 0), (2, 0, 1)):
        message, attachment = liar.lab.split(liar.mask_request(victim, u2))
        packed, sealed = (bytes(part) for part in liar.lab.split(bytes(attachment)))
        digests, raws = read_deals(packed, 1 << 20)
        cut = write_deals(digests[: len(digests) - fewer_digests], raws[: len(raws) - fewer_deals])
        liar.refused(R2, victim, liar.lab.join(message, liar.lab.join(cut, sealed)), Code.MALFORMED)
    body = replace(liar.deals[5].body, seed_commitments=(bytes(32),))
    second = liar.federation.sign(R1, liar.t1(liar.adverts), body, sender=5)
    liar.refused(R2, 3, liar.mask_request(3, u2, versions={5: second.raw}), Code.TRANSCRIPT_MISMATCH)
    short = liar.sealed_for(4, u2)[: -liar.parameters.sealed_bytes]
    liar.refused(R2, 4, liar.mask_request(4, u2, sealed=short), Code.MALFORMED)
    liar.refused(R2, 5, liar.mask_request(5, u2, previous=bytes(32)), Code.TRANSCRIPT_MISMATCH)


NO_DIRECTORIES: list[Any] = [
    5,
    [],
    [b"", b""],
    [b"", b"", [], []],
    [b"x", b"", []],
    [b"", b"\x00", []],
    [b"", b"\x00\x00", []],
    [b"", b"\x00\x02\x00\x01", []],
    [b"", b"", b""],
    [b"", b"", [5]],
    [5, b"", []],
    [b"", 5, []],
]


@pytest.mark.parametrize("items", NO_DIRECTORIES, ids=str)
def test_structures_that_are_no_directory_or_no_deals(liar: LyingServer, items: Any) -> None:
    liar.advertise()
    message, _ = liar.lab.split(liar.directory(1, liar.adverts))
    packet = liar.lab.join(message, encode(items))
    liar.refused(R1, 1, packet, Code.MALFORMED, Code.DUPLICATE_MEMBER)
    liar.deal((2, 3, 4, 5))
    liar.deals[1] = liar.deals[2]
    liar.provide(2)
    message, _ = liar.lab.split(liar.mask_request(2, liar.everyone, sealed=b""))
    deals = [items[0], *items[2:]] if isinstance(items, list) and len(items) > 2 else items
    if deals != [b"", []]:
        liar.refused(R2, 2, liar.lab.join(message, liar.lab.join(encode(deals), b"")), Code.MALFORMED)
