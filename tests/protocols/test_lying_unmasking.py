"""A server that lies about who survived: no fault gets a second kind of share, or a share without t signatures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.protocols.lying import R1, R2, R3, R4, LyingServer

from fedgan_protocols import Code, ProtocolError
from fedgan_protocols.messages import open_message, share_commitment, signature_of, survivors_digest
from fedgan_protocols.parameters import SERVER


def test_sets_of_r3(liar: LyingServer) -> None:
    liar.masked()
    liar.refused(R3, 1, liar.survivor_list(1, (2, 3, 4, 5)), Code.DECLARED_DEAD)
    liar.refused(R3, 2, liar.survivor_list(2, (1, 2, 3)), Code.TOO_FEW)
    liar.refused(R3, 3, liar.survivor_list(3, liar.everyone, model_hash=bytes(32)), Code.MODEL_MISMATCH)
    liar.inputs[4] = liar.federation.sign(R2, liar.t2, liar.inputs[1].body, sender=4)
    liar.refused(R3, 4, liar.survivor_list(4, liar.everyone), Code.OWN_MESSAGE_ALTERED)
    liar.refused(R3, 5, liar.survivor_list(5, liar.everyone, sum=1), Code.OUT_OF_ORDER)


def test_requests_that_follow_another_transcript(liar: LyingServer) -> None:
    liar.masked()
    liar.refused(R3, 1, liar.survivor_list(1, liar.everyone, previous=bytes(32)), Code.TRANSCRIPT_MISMATCH)
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


def test_u3_may_not_hold_a_member_that_was_not_in_u2(liar: LyingServer) -> None:
    liar.advertise()
    liar.share()
    u2 = (1, 2, 3, 4)
    for member in u2:
        liar.provide(member)
        liar.inputs[member], _ = liar.send(R2, member, liar.mask_request(member, u2))
    liar.inputs[5] = liar.federation.sign(R2, liar.t2, liar.inputs[1].body, sender=5)
    liar.refused(R3, 1, liar.survivor_list(1, liar.everyone), Code.SET_GREW)


def test_equivocated_u3_finds_no_t_signatures(liar: LyingServer) -> None:
    """Members 1-3 sign one U3, members 4-5 another: neither has t = 4 signatures, mixed ones do not match."""
    liar.masked()
    first = liar.agree((1, 2, 3, 4), (1, 2, 3))
    second = liar.agree(liar.everyone, (4, 5))
    liar.refused(R4, 1, liar.unmask_request((1, 2, 3, 4), first), Code.TOO_FEW)
    liar.refused(R4, 2, liar.unmask_request((1, 2, 3, 4), {**first, 4: second[4]}), Code.BAD_SIGNATURE)
    liar.refused(R4, 4, liar.unmask_request(liar.everyone, {**first, **second}), Code.BAD_SIGNATURE)
    liar.refused(R4, 5, liar.unmask_request(liar.everyone, second), Code.TOO_FEW)


def test_t_minus_one_signatures_and_foreign_statements(liar: LyingServer) -> None:
    liar.masked()
    statements = liar.agree(liar.everyone, liar.everyone)
    three = {i: statements[i] for i in (1, 2, 3)}
    liar.refused(R4, 1, liar.unmask_request(liar.everyone, three), Code.TOO_FEW)
    liar.refused(R4, 5, liar.unmask_request(liar.everyone, {**three, 4: statements[4]}), Code.EXCLUDED)
    fewer = {"survivors_digest": survivors_digest((1, 2, 3, 4))}
    for victim, change in ((2, {"t2": bytes(32)}), (3, fewer), (4, {"model_hash": bytes(32)})):
        body = replace(statements[1].body, **change)
        other = liar.federation.sign(R3, statements[1].previous, body, sender=1)
        packet = liar.unmask_request(liar.everyone, {**statements, 1: other})
        liar.refused(R4, victim, packet, Code.BAD_SIGNATURE)


def test_every_signature_that_is_shown_is_verified(liar: LyingServer) -> None:
    """In the complete graph four of the five would do, and still a wrong one at any place is seen."""
    liar.masked()
    good = {i: signature_of(one.raw) for i, one in liar.agree(liar.everyone, liar.everyone).items()}
    for wrong in liar.everyone:
        broken = {**good, wrong: good[wrong][:-1] + bytes([good[wrong][-1] ^ 1])}
        victim = wrong % 5 + 1
        liar.refused(R4, victim, liar.unmask_request_of(liar.everyone, broken), Code.BAD_SIGNATURE)


def test_the_number_of_signatures_is_that_of_u4(liar: LyingServer) -> None:
    liar.masked()
    good = {i: signature_of(one.raw) for i, one in liar.agree(liar.everyone, liar.everyone).items()}
    message, attachment = liar.lab.split(liar.unmask_request_of(liar.everyone, good))
    for victim, shown in ((1, attachment[64:]), (2, bytes(attachment) + bytes(64)), (3, attachment[:-1])):
        liar.refused(R4, victim, liar.lab.join(message, bytes(shown)), Code.MALFORMED)


def test_only_survivors_sign(liar: LyingServer) -> None:
    """A colluder that is declared dead signs U3 all the same: its signature does not count."""
    liar.masked()
    u3 = (1, 2, 3, 4)
    statements = liar.agree(u3, u3)
    body = statements[1].body
    statements[5] = liar.federation.sign(R3, statements[1].previous, body, sender=5)
    liar.refused(R4, 1, liar.unmask_request(u3, statements), Code.SET_GREW)
    del statements[4]
    liar.refused(R4, 2, liar.unmask_request(u3, statements), Code.SET_GREW)


def test_a_signature_over_other_masked_inputs_does_not_count(liar: LyingServer) -> None:
    """The body is the same; the header's previous hash shows that its signer saw other inputs."""
    liar.masked()
    statements = liar.agree(liar.everyone, liar.everyone)
    other = liar.federation.sign(R3, bytes(32), statements[5].body, sender=5)
    packet = liar.unmask_request(liar.everyone, {**statements, 5: other})
    liar.refused(R4, 1, packet, Code.BAD_SIGNATURE)


def test_a_members_own_deal_comes_back_unaltered(liar: LyingServer) -> None:
    liar.advertise()
    liar.share()
    body = replace(liar.deals[1].body, seed_commitments=(bytes(32),))
    liar.deals[1] = liar.federation.sign(R1, liar.t1(liar.adverts), body, sender=1)
    liar.provide(1)
    liar.refused(R2, 1, liar.mask_request(1, liar.everyone), Code.OWN_MESSAGE_ALTERED)


def test_a_signature_counts_once_and_for_its_signer_only(liar: LyingServer) -> None:
    liar.masked()
    statements = liar.agree(liar.everyone, liar.everyone)
    copies = dict.fromkeys(liar.everyone, statements[1])
    liar.refused(R4, 1, liar.unmask_request(liar.everyone, copies), Code.BAD_SIGNATURE)


def test_one_victim_is_never_both_alive_and_dead(liar: LyingServer) -> None:
    """The server asks twice, with the victim once in U3 and once not; the first answer is the only one."""
    liar.masked()
    alive = liar.agree(liar.everyone, (1, 2, 3, 4))
    without = liar.survivor_list(1, (1, 2, 3, 4))
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
    liar.masked()
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
    liar.masked()
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
    liar.refused(R3, 5, liar.survivor_list(5, u3), Code.DECLARED_DEAD)
