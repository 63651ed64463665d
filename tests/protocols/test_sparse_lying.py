"""A lying server over a sparse graph: what it may hide, whom it may invent, and, by trying, what it learns from it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.protocols.knowledge import Knowledge
from tests.protocols.lying import R0, R1, R2, R3, R4, LyingServer

from fedgan_protocols import Code, ProtocolError, masking
from fedgan_protocols.messages import sign_message, signature_of
from fedgan_protocols.primitives.graph import SparseGraph


def test_an_honest_round_shows_one_sum(lab: Any) -> None:
    """The rig and the attack are right: the sum over U3 is learnt, and nothing smaller."""
    liar = LyingServer.over_a_sparse_graph(lab).masked()
    assert Knowledge.of(liar, liar.everyone).learned() == {frozenset(liar.everyone)}
    liar = LyingServer.over_a_sparse_graph(lab).masked()
    u3 = (1, 2, 4, 5, 6, 8, 9, 10, 11)
    knowledge = Knowledge.of(liar, u3)
    assert knowledge.learned() == {frozenset(u3)}
    assert set(knowledge.keys) == {3, 7, 12} and set(knowledge.seeds) == set(u3)
    assert not any(knowledge.shows(member) for member in liar.everyone)


def test_the_attack_succeeds_where_luck_fails(lab: Any) -> None:
    """One neighbour each: two members that drew each other are a closed set, once the server hides their followers."""
    for number in range(20):
        liar = LyingServer.over_a_sparse_graph(lab, k=1, local=1, c=0, seed=f"pairs {number}")
        liar.advertise()
        pairs = [(u, v) for u in liar.everyone for v in liar.drawn(u) if u < v and u in liar.drawn(v)]
        if pairs and liar.followers(pairs[0][0]) | liar.followers(pairs[0][1]) != set(pairs[0]):
            break
    u, v = pairs[0]
    liar.share({u: liar.followers(u) - {v}, v: liar.followers(v) - {u}})
    liar.mask()
    learned = Knowledge.of(liar, liar.everyone).learned()
    assert frozenset({u, v}) in learned and frozenset(liar.everyone) not in learned


@pytest.mark.parametrize("graph", [None, SparseGraph(4, 3, 2), SparseGraph(5, 2, 2), SparseGraph(5, 3, 1)], ids=str)
def test_a_server_that_changes_the_graph(lab: Any, graph: SparseGraph | None) -> None:
    """Fewer neighbours, a lower threshold or another claim than in the policy: the invitation is refused."""
    federation = lab.federation(n=12, t=9, graph=SparseGraph(5, 3, 2))
    packet = federation.server(graph=graph).next_phase().payloads["h1"]
    with pytest.raises(ProtocolError) as caught:
        federation.client("h1").handle("advertise-keys", packet)
    assert caught.value.code in (Code.TRANSCRIPT_MISMATCH, Code.PARAMETERS_MISMATCH)
    assert caught.value.culprit == "server"


# --- neighbours that are hidden or invented


def test_a_member_sees_everyone_that_it_drew(lab: Any) -> None:
    liar = LyingServer.over_a_sparse_graph(lab)
    liar.advertise()
    for member in liar.everyone:
        hidden = sorted(liar.drawn(member))[member % 5]
        peers = [peer for peer in liar.peers(member) if peer != hidden]
        liar.refused(R1, member, liar.directory(member, liar.adverts, peers=peers), Code.EXCLUDED)


def test_a_member_sees_only_its_peers(lab: Any) -> None:
    liar = LyingServer.over_a_sparse_graph(lab)
    liar.advertise()
    for member in (1, 2, 3):
        stranger = next(one for one in liar.everyone if one != member and one not in liar.peers(member))
        peers = sorted([*liar.peers(member), stranger])
        liar.refused(R1, member, liar.directory(member, liar.adverts, peers=peers), Code.MALFORMED)
    with_itself = sorted([*liar.peers(4), 4])
    liar.refused(R1, 4, liar.directory(4, liar.adverts, peers=with_itself), Code.MALFORMED)
    gone = next(one for one in sorted(liar.followers(5)) if one not in liar.drawn(5))
    smaller = {i: one for i, one in liar.adverts.items() if i != gone}
    packet = liar.directory(5, smaller, peers=liar.peers(5), versions={gone: liar.adverts[gone].raw})
    liar.refused(R1, 5, packet, Code.SET_GREW)


def test_an_invented_follower_is_refused(lab: Any) -> None:
    """An advertisement that draws the victim, in the name of somebody who did not: no signature fits."""
    liar = LyingServer.over_a_sparse_graph(lab)
    liar.advertise()
    for victim, signer_of_the_name in ((1, True), (2, False)):
        stranger = next(one for one in liar.everyone if one != victim and one not in liar.peers(victim))
        colluder = next(one for one in liar.everyone if one not in (victim, stranger))
        neighbours = tuple(sorted({victim, *sorted(liar.drawn(stranger))[:4]}))
        body = replace(liar.adverts[stranger].body, neighbours=neighbours)
        identity = liar.federation.identities[liar.parameters.name_of(colluder)]
        sender = stranger if signer_of_the_name else colluder
        forged = sign_message(identity, liar.parameters, R0, sender, liar.t0, body)
        packet = liar.directory(
            victim, {**liar.adverts, stranger: forged}, peers=sorted([*liar.peers(victim), stranger])
        )
        liar.refused(R1, victim, packet, Code.BAD_SIGNATURE if signer_of_the_name else Code.WRONG_SENDER)


@pytest.mark.parametrize(
    "neighbours",
    [(1, 3, 4, 5), (1, 3, 4, 5, 6, 7), (1, 2, 3, 4, 5), (1, 3, 4, 5, 13), ()],
    ids=["too few", "too many", "itself", "a stranger", "nobody"],
)
def test_a_peer_that_drew_wrongly_is_refused(lab: Any, neighbours: tuple[int, ...]) -> None:
    """Signed by the colluder, passed on by the server: whoever is shown it refuses."""
    liar = LyingServer.over_a_sparse_graph(lab)
    liar.advertise()
    adverts = {**liar.adverts, 2: liar.forged(2, neighbours=neighbours)}
    for victim in (member for member in liar.everyone if member != 2 and 2 in liar.drawn(member)):
        liar.refused(R1, victim, liar.directory(victim, adverts), Code.MALFORMED)


@pytest.mark.parametrize("number", range(4))
def test_a_hidden_follower_stays_masked_and_so_does_its_component(lab: Any, number: int) -> None:
    """The victim never heard of a member that drew it; that member's vector holds a mask that nobody can take off.

    Its seed is known, and still neither its vector nor any sum that it is in shows.
    """
    liar = LyingServer.over_a_sparse_graph(lab, seed=f"hidden {number}")
    liar.advertise()
    victim, chooser = next((u, v) for u in liar.everyone for v in sorted(liar.followers(u)) if v not in liar.drawn(u))
    liar.share({victim: [chooser]})
    liar.mask()
    knowledge = Knowledge.of(liar, liar.everyone)
    assert knowledge.learned() == set()
    assert {victim, chooser} <= set(knowledge.seeds) and knowledge.keys == {}
    assert not any(knowledge.shows(member) for member in liar.everyone)


def test_all_followers_of_all_members_hidden(lab: Any) -> None:
    """The most that may be hidden leaves everybody masked with whom it drew: no sum at all is left."""
    liar = LyingServer.over_a_sparse_graph(lab)
    liar.advertise()
    liar.share({member: liar.followers(member) - liar.drawn(member) for member in liar.everyone})
    liar.mask()
    knowledge = Knowledge.of(liar, liar.everyone)
    assert knowledge.learned() == set()
    assert not any(knowledge.shows(member) for member in liar.everyone)


# --- two versions


def test_two_sets_of_keys_behind_one_digest(lab: Any) -> None:
    """One member's other keys under the digests that all were shown: the receiver compares."""
    liar = LyingServer.over_a_sparse_graph(lab)
    liar.advertise()
    peer = liar.peers(1)[0]
    other = liar.forged(peer, sealing_key=masking.public_of(bytes([9]) * 32))
    liar.refused(R1, 1, liar.directory(1, liar.adverts, versions={peer: other.raw}), Code.TRANSCRIPT_MISMATCH)


def test_two_sets_of_keys_and_two_transcripts(lab: Any) -> None:
    """A colluder's second keys are shown to one member, whose T1 is another then: its holders refuse its deal."""
    liar = LyingServer.over_a_sparse_graph(lab)
    liar.advertise()
    colluder = 12
    victim = next(one for one in sorted(liar.drawn(colluder)) if colluder not in liar.drawn(one))
    other = liar.forged(colluder, sealing_key=masking.public_of(bytes([9]) * 32))
    second = liar.view({**liar.adverts, colluder: other})
    second.deal([victim])
    liar.deal(one for one in liar.everyone if one != victim)
    liar.deals[victim], liar.sealed[victim] = second.deals[victim], second.sealed[victim]
    holder = next(one for one in sorted(liar.drawn(victim)) if one != colluder)
    liar.provide(holder)
    liar.refused(R2, holder, liar.mask_request(holder, liar.everyone), Code.TRANSCRIPT_MISMATCH)
    # and the victim refuses the deals of the others, which follow their T1
    liar.shown[victim] = second.shown[victim]
    assert liar.dealers(victim, [one for one in liar.everyone if one != colluder])
    second.deals, second.sealed = liar.deals, liar.sealed
    second.provide(victim)
    second.refused(R2, victim, second.mask_request(victim, liar.everyone), Code.TRANSCRIPT_MISMATCH)


def test_a_seal_under_another_transcript_does_not_open(lab: Any) -> None:
    """A dealer whose deal follows this T1 and whose seal was made under another is named by the holder."""
    liar = LyingServer.over_a_sparse_graph(lab)
    liar.advertise()
    liar.share()
    dealer, good = 3, bytes(130)
    first, second = sorted(liar.drawn(dealer))[:2]
    liar.reseal(dealer, first, good, salt=bytes(32))
    liar.reseal(dealer, second, good)
    name = liar.parameters.name_of(dealer)
    for holder, reason in ((first, "does not open"), (second, "misses its commitment")):
        liar.provide(holder)
        with pytest.raises(ProtocolError, match=reason) as caught:
            liar.clients[holder].handle(R2.label, liar.mask_request(holder, liar.everyone))
        assert (caught.value.code, caught.value.culprit) == (Code.BAD_SHARE_DEALER, name)


def second_deal(liar: LyingServer, colluder: int) -> LyingServer:
    """A view in which the colluder's deal is another one, which it signed too."""
    body = replace(liar.deals[colluder].body, seed_commitments=(bytes(32),))
    other = liar.view()
    other.deals[colluder] = liar.federation.sign(R1, liar.t1(liar.adverts), body, sender=colluder)
    return other


def test_two_deals_of_one_member_behind_one_digest(lab: Any) -> None:
    liar = LyingServer.over_a_sparse_graph(lab)
    liar.advertise()
    liar.share()
    other, holder = second_deal(liar, 12), sorted(liar.drawn(12))[0]
    liar.provide(holder)
    crossed = liar.mask_request(holder, liar.everyone, versions={12: other.deals[12].raw})
    liar.refused(R2, holder, crossed, Code.TRANSCRIPT_MISMATCH)


def test_two_deals_of_one_member_and_two_transcripts(lab: Any) -> None:
    """Each side is shown one of them throughout: the signatures of one side are worth nothing to the other."""
    liar = LyingServer.over_a_sparse_graph(lab)
    liar.advertise()
    liar.share()
    views = (liar, second_deal(liar, 12))
    sides = ((1, 2, 3, 4, 5), (6, 7, 8, 9, 10, 11))
    inputs = {}
    for view, side in zip(views, sides, strict=True):
        for member in side:
            view.provide(member)
            inputs[member], _ = view.send(R2, member, view.mask_request(member, liar.everyone))
    refusing = 0
    for view, side in zip(views, sides, strict=True):
        own_input = liar.federation.sign(R2, view.t2, inputs[1].body, sender=12)
        view.inputs, statements = {**inputs, 12: own_input}, {}
        for member in side:
            packet = view.survivor_list(member, liar.everyone)
            if set(view.dealers(member, liar.everyone)) <= {*side, 12}:
                statements[member] = view.send(R3, member, packet)[0]
            else:  # it would reveal the seed of somebody who masked after another transcript
                view.refused(R3, member, packet, Code.BAD_SIGNATURE)
                refusing += 1
        shown = {member: signature_of(one.raw) for member, one in statements.items()}
        for member in statements:
            invented = dict.fromkeys((one for one in liar.everyone if one not in shown), bytes(64))
            view.refused(R4, member, view.unmask_request_of(liar.everyone, {**shown, **invented}), Code.BAD_SIGNATURE)
    assert refusing > 5
