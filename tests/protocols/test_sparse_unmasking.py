"""A lying server over a sparse graph that wants more than one set unmasked, or one member alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from tests.protocols.knowledge import Knowledge
from tests.protocols.lying import R1, R2, R3, R4, LyingServer, proof_of
from tests.protocols.test_graph import second_draw

from fedgan_protocols import Code, ProtocolError
from fedgan_protocols.client import machine as client_machine
from fedgan_protocols.client.states import Received
from fedgan_protocols.messages import Consistency, Statement, UnmaskRequest, extend, signature_of, survivors_digest
from fedgan_protocols.primitives.encoding import join_packet
from fedgan_protocols.primitives.graph import SparseGraph, draw_bytes

# --- one member alone


def isolated(lab: Any, seed: str) -> tuple[LyingServer, int]:
    """Thirty members, 17 of whom sign; a victim with at most 13 peers, so that U3 can do without them all."""
    liar = LyingServer.over_a_sparse_graph(lab, 30, 17, 6, 3, 3, seed)
    liar.advertise()
    victim = min(liar.everyone, key=lambda member: len(liar.peers(member)))
    assert 6 <= len(liar.peers(victim)) <= 13
    return liar, victim


@pytest.mark.parametrize("seed", ["a", "b", "c"])
def test_all_peers_of_a_victim_declared_dead(lab: Any, seed: str) -> None:
    """Their keys are revealed, every pair mask comes off; but the seed's shares were theirs, and they are not asked."""
    liar, victim = isolated(lab, seed)
    liar.share()
    liar.mask()
    peers = liar.peers(victim)
    u3 = tuple(member for member in liar.everyone if member not in peers)
    knowledge = Knowledge.of(liar, u3)
    assert knowledge.learned() == {frozenset(u3) - {victim}}
    assert all(knowledge.is_known(mask) for mask in knowledge.masks(victim)) and set(peers) <= set(knowledge.keys)
    assert (victim, "seed") not in knowledge.shares and not knowledge.shows(victim)


@pytest.mark.parametrize(("colluders", "found"), [(2, False), (3, True)])
def test_a_victim_whose_neighbours_collude(lab: Any, colluders: int, found: bool) -> None:
    """Below the threshold its vector stays masked; how likely more of them are drawn is the bound's term m = 1."""
    liar, victim = isolated(lab, "a")
    liar.share()
    liar.mask()
    helping = sorted(liar.drawn(victim))[:colluders]
    u3 = tuple(member for member in liar.everyone if member not in liar.peers(victim))
    knowledge = Knowledge.of(liar, u3)
    knowledge.collude(helping)
    assert knowledge.shows(victim) is found
    assert (victim in knowledge.seeds) is found


def test_all_peers_of_a_victim_left_out_of_u2(lab: Any) -> None:
    """It then masks with nobody but itself, and nobody who is asked holds a share of its seed."""
    liar, victim = isolated(lab, "a")
    liar.share()
    u2 = tuple(member for member in liar.everyone if member not in liar.peers(victim))
    liar.mask(u2)
    knowledge = Knowledge.of(liar, u2)
    assert knowledge.masks(victim) == {}
    assert knowledge.learned() == {frozenset(u2) - {victim}} and not knowledge.shows(victim)


def test_a_victim_that_is_shown_another_u2_without_its_peers(lab: Any) -> None:
    """It masks with nobody but itself, and is in everybody's U3: its holders see that it masked for another U2."""
    liar, victim = isolated(lab, "a")
    liar.share()
    alone, peers = liar.view(), liar.peers(victim)
    alone.mask_only(victim, tuple(member for member in liar.everyone if member not in peers))
    for member in liar.everyone:
        if member != victim:
            liar.mask_only(member, liar.everyone)
    for mine in ("inputs", "vectors", "masked_for"):
        getattr(liar, mine)[victim] = getattr(alone, mine)[victim]
    statements = {}
    for member in liar.everyone:
        packet = liar.survivor_list(member, liar.everyone)
        if member in liar.drawn(victim):
            liar.refused(R3, member, packet, Code.BAD_SIGNATURE)
        elif member != victim:
            statements[member] = liar.send(R3, member, packet)[0]
    assert len(statements) == 30 - 1 - 6 >= liar.parameters.threshold
    request, knowledge = liar.unmask_request(liar.everyone, statements), Knowledge(liar)
    for member in statements:
        knowledge.reveal(member, liar.send(R4, member, request)[1])
    assert knowledge.masks(victim) == {}  # its seed is all that is missing
    assert (victim, "seed") not in knowledge.shares and not knowledge.shows(victim)


def test_a_victim_that_is_shown_another_u2_in_the_complete_graph(liar: LyingServer) -> None:
    """Member 1 is shown U2 without member 5: nobody reveals its seed, nor it anybody's."""
    liar.advertise()
    liar.share()
    alone = liar.view()
    alone.mask_only(1, (1, 2, 3, 4))
    for member in (2, 3, 4, 5):
        liar.mask_only(member, liar.everyone)
    liar.inputs[1] = alone.inputs[1]
    for member in (2, 3, 4, 5):
        liar.refused(R3, member, liar.survivor_list(member, liar.everyone), Code.BAD_SIGNATURE)
    alone.inputs = liar.inputs
    alone.refused(R3, 1, alone.survivor_list(1, (1, 2, 3, 4)), Code.BAD_SIGNATURE)


def test_proofs_of_the_dealers_inputs(lab: Any) -> None:
    """One per surviving dealer, signed by it, after this transcript, and of the input that is listed."""
    liar = LyingServer.over_a_sparse_graph(lab).masked()
    twice = liar.federation.sign(R2, liar.t2, replace(liar.inputs[12].body, vector_digest=bytes(32)), sender=12)
    holders = liar.holders(12)
    crossed = {12: proof_of(twice)}
    packet = liar.survivor_list(holders[0], liar.everyone, proofs=crossed)
    liar.refused(R3, holders[0], packet, Code.TRANSCRIPT_MISMATCH)
    elsewhere = {12: proof_of(liar.federation.sign(R2, bytes(32), liar.inputs[12].body, sender=12))}
    liar.refused(R3, holders[1], liar.survivor_list(holders[1], liar.everyone, proofs=elsewhere), Code.BAD_SIGNATURE)
    for holder, wrong in ((holders[2], b""), (holders[3], bytes(95)), (holders[4], proof_of(twice) * 2)):
        packet = liar.survivor_list(holder, liar.everyone, proofs={12: wrong})
        liar.refused(R3, holder, packet, Code.MALFORMED)


def test_all_peers_of_a_victim_left_out_of_u1(lab: Any) -> None:
    liar, victim = isolated(lab, "a")
    drawn = sorted(liar.drawn(victim))
    two = {i: one for i, one in liar.adverts.items() if i not in drawn[2:]}
    liar.refused(R1, victim, liar.directory(victim, two), Code.TOO_FEW)


# --- two views of who survived


def sign_both(liar: LyingServer, u3: Sequence[int], colluders: Sequence[int]) -> dict[int, Any]:
    _, t3 = liar.survivors(u3)
    body = Consistency(0, liar.t2, liar.federation.models[0], survivors_digest(u3))
    return {member: liar.federation.sign(R3, t3, body, sender=member) for member in colluders}


def test_an_equivocated_u3_finds_too_few_signatures(lab: Any) -> None:
    """Five honest members on either side and two colluders who sign both: 7 signatures each, and 8 are checked."""
    liar = LyingServer.over_a_sparse_graph(lab).masked()
    victim, sides = 1, ((1, 2, 3, 4, 5), (6, 7, 8, 9, 10))
    views = (liar.everyone, tuple(member for member in liar.everyone if member != victim))
    statements = [liar.agree(u3, side) | sign_both(liar, u3, (11, 12)) for u3, side in zip(views, sides, strict=True)]
    for place in (0, 1):
        u3, side, own, other = views[place], sides[place], statements[place], statements[1 - place]
        liar.refused(R4, side[0], liar.unmask_request(u3, own), Code.TOO_FEW)
        padded = {**{member: one for member, one in other.items() if member in u3}, **own}
        for member in side[1:]:
            liar.refused(R4, member, liar.unmask_request(u3, padded), Code.BAD_SIGNATURE)


def equivocate(lab: Any, allowed: int, colluders: int) -> tuple[Knowledge, int, list[Code]]:
    """Both kinds of one victim's shares, as many as honest members on two sides and colluders give."""
    liar = LyingServer.over_a_sparse_graph(lab, c=allowed).masked()
    victim = 1
    near, far = (
        [m for m in liar.everyone if m != victim and (m in liar.drawn(victim)) is holds] for holds in (True, False)
    )
    helping = [*near[:2], *far[: colluders - 2]]
    honest = [m for m in (*near, *far) if m not in helping]
    told_alive = honest[::2][: (len(honest) - 1) // 2]
    sides = ([victim, *told_alive], [m for m in honest if m not in told_alive])
    views = (liar.everyone, tuple(m for m in liar.everyone if m != victim))
    knowledge, refusals = Knowledge(liar), []
    for u3, side in zip(views, sides, strict=True):
        statements = liar.agree(u3, side) | sign_both(liar, u3, helping)
        other = [m for m in u3 if m not in statements]
        shown = {m: signature_of(one.raw) for m, one in statements.items()}
        shown |= dict.fromkeys(other[: max(0, 9 - len(shown))], bytes(64))  # invented, up to T
        packet = liar.unmask_request_of(u3, shown)
        for member in side:
            try:
                knowledge.reveal(member, liar.send(R4, member, packet)[1])
            except ProtocolError as error:
                refusals.append(error.code)
    knowledge.collude(helping)
    return knowledge, victim, refusals


def test_agreement_is_tight(lab: Any) -> None:
    """n = 12, T = 9: 2T - n - 1 = 5 colluders get one view unmasked, 2T - n = 6 get both, and with them a vector.

    So a graph may not claim more colluders than 2T - n - 1, however good its own bound is.
    """
    knowledge, victim, refusals = equivocate(lab, allowed=5, colluders=5)
    assert refusals and set(refusals) == {Code.BAD_SIGNATURE}
    assert not knowledge.shows(victim) and victim not in set(knowledge.keys) & set(knowledge.seeds)
    knowledge, victim, refusals = equivocate(lab, allowed=5, colluders=6)
    assert refusals == [] and knowledge.shows(victim)


def test_nobody_reveals_two_kinds(lab: Any) -> None:
    liar = LyingServer.over_a_sparse_graph(lab).masked()
    u3 = tuple(member for member in liar.everyone if member not in (4, 9))
    knowledge = Knowledge.of(liar, u3)
    dealers = [dealer for dealer, _ in knowledge.shares]
    assert len(dealers) == len(set(dealers)) == 12
    signatures = {member: signature_of(one.raw) for member, one in sign_both(liar, u3, u3[:9]).items()}
    liar.refused(R4, 1, liar.unmask_request_of(u3, signatures), Code.CONFLICTING)
    liar.refused(R3, 2, liar.survivor_list(2, liar.everyone), Code.OUT_OF_ORDER)
    liar = LyingServer.over_a_sparse_graph(lab).masked()
    liar.agree(u3, u3)
    liar.refused(R3, 1, liar.survivor_list(1, liar.everyone), Code.CONFLICTING)


# --- which signatures are verified


def request(federation: Any, state: Any, signatures: Mapping[int, bytes]) -> bytes:
    """R4 for a member in phase Signed that shows these signatures, correctly chained."""
    u4 = tuple(sorted(signatures))
    t4 = extend("T4", state.t3, state.broadcast, [(member, signatures[member]) for member in u4])
    message = federation.sign(R4, t4, UnmaskRequest(0, u4))
    return join_packet(message.raw, b"".join(signatures[member] for member in u4))


def signed(lab: Any, federation: Any, name: str) -> tuple[Any, dict[int, bytes]]:
    """The state of one member before R4 in an honest round, and everybody's signature."""
    clients = federation.clients()
    server = federation.run(clients=clients, stop_before="unmasking")
    _, attachment = lab.split(server.next_phase().payloads[name])
    found = [bytes(attachment[at : at + 64]) for at in range(0, len(attachment), 64)]
    return clients[name]._state, dict(enumerate(found, 1))


def entropy(number: int, size: int) -> bytes:
    return hashlib.shake_256(f"drawn {number}".encode()).digest(size)


def test_exactly_the_drawn_signatures_are_verified(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    federation = lab.federation(n=12, t=9, graph=SparseGraph(5, 3, 2))
    state, good = signed(lab, federation, "h3")
    size = client_machine.entropy_needed(state)
    assert size == draw_bytes(8) and federation.parameters.signatures_checked == 8
    verified: list[int] = []
    honest = Statement.verify

    def note(self: Statement, sender: int, signature: bytes, *, blame: str) -> None:
        verified.append(sender)
        honest(self, sender, signature, blame=blame)

    monkeypatch.setattr(Statement, "verify", note)
    seen = set()
    for number in range(40):
        shown = good if number % 2 else {member: one for member, one in good.items() if member not in (5, 6)}
        places, drawn = sorted(shown), entropy(number, size)
        verified.clear()
        client_machine.step(state, Received(R4, request(federation, state, shown), drawn))
        assert verified == [places[place] for place in second_draw(list(range(len(shown))), 8, drawn)]
        seen |= set(verified)
    assert seen == set(good)


def test_an_invented_signature_is_caught_when_it_is_drawn(lab: Any) -> None:
    """One of twelve, eight of them checked: it passes with probability 1/3, five standard deviations allowed (6e-7)."""
    federation = lab.federation(n=12, t=9, graph=SparseGraph(5, 3, 2))
    state, good = signed(lab, federation, "h3")
    packet = request(federation, state, {**good, 7: good[8]})
    passed, trials, size = 0, 300, client_machine.entropy_needed(state)
    for number in range(trials):
        drawn = entropy(number, size)
        caught = 6 in second_draw(list(range(12)), 8, drawn)
        try:
            client_machine.step(state, Received(R4, packet, drawn))
            assert not caught
            passed += 1
        except ProtocolError as error:
            assert caught and error.code is Code.BAD_SIGNATURE and error.culprit == "server"
    assert abs(passed - trials / 3) < 5 * math.sqrt(trials * 2 / 9)


def test_invented_signatures_are_caught_whatever_is_drawn(lab: Any) -> None:
    """101 members, T = 100: of 101 signatures 50 are valid, the most that a second view of U3 can have."""
    federation = lab.federation(n=101, t=100, graph=SparseGraph(8, 3, 0))
    state, good = signed(lab, federation, "h1")
    checked = federation.parameters.signatures_checked
    assert 40 < checked < 60
    packet = request(federation, state, {member: one if member <= 50 else bytes(64) for member, one in good.items()})
    for number in range(30):
        with pytest.raises(ProtocolError) as caught:
            client_machine.step(state, Received(R4, packet, entropy(number, draw_bytes(checked))))
        assert caught.value.code is Code.BAD_SIGNATURE
    new, _ = client_machine.step(state, Received(R4, request(federation, state, good), entropy(0, draw_bytes(checked))))
    assert new.phase.value == "Revealed"


def test_a_member_without_entropy_reveals_nothing(lab: Any) -> None:
    federation = lab.federation(n=12, t=9, graph=SparseGraph(5, 3, 2))
    state, good = signed(lab, federation, "h3")
    for data in (b"", bytes(63)):
        with pytest.raises(ProtocolError) as caught:
            client_machine.step(state, Received(R4, request(federation, state, good), data))
        assert caught.value.code is Code.ENTROPY


def test_a_member_of_the_complete_graph_draws_nothing(lab: Any) -> None:
    federation = lab.federation(n=12, t=9)
    state, good = signed(lab, federation, "h3")
    assert client_machine.entropy_needed(state) == 0
    for wrong in good:
        with pytest.raises(ProtocolError) as caught:
            client_machine.step(state, Received(R4, request(federation, state, {**good, wrong: bytes(64)})))
        assert caught.value.code is (Code.OWN_MESSAGE_ALTERED if wrong == 3 else Code.BAD_SIGNATURE)
