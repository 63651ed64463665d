"""Sums over a sparse graph, with members that drop out at every stage, and members that do not keep to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedgan_protocols import Code, ParameterError, PolicyFloors, ProtocolError, Stage
from fedgan_protocols.messages import Closing, open_message
from fedgan_protocols.primitives.encoding import decode, encode
from fedgan_protocols.primitives.graph import SparseGraph, choose_graph, privacy_bits
from fedgan_protocols.transcript.transcript import _groups_digest, _read_groups, check

STAGES = [stage.label for stage in Stage if stage is not Stage.CLOSING]


def sparse(lab: Any, n: int = 12, t: int = 9, k: int = 6, local: int = 3, c: int = 2, **more: Any) -> Any:
    return lab.federation(n=n, t=t, graph=SparseGraph(k, local, c), **more)


# --- honest rounds


@pytest.mark.parametrize(("n", "t", "k", "local"), [(12, 9, 6, 3), (12, 8, 11, 5), (13, 9, 3, 1), (30, 20, 8, 4)])
@pytest.mark.parametrize("ring", [32, 64])
def test_the_sum_is_exact_and_the_transcript_checks(lab: Any, n: int, t: int, k: int, local: int, ring: int) -> None:
    federation = sparse(lab, n, t, k, local, ring_bits=ring)
    result = federation.result()
    assert np.array_equal(result.sums[0], federation.expected_sum(federation.parameters.names))
    assert result.dropped == {} and result.receipts_ok == n
    facts = check(result.transcript, federation.expectations(complete=True))
    assert facts.sums[0].survivors == federation.parameters.names and facts.colluders == 2


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("gone", [("h1",), ("h5", "h12"), ("h2", "h7", "h9")])
def test_drop_outs_at_every_stage(lab: Any, stage: str, gone: tuple[str, ...]) -> None:
    federation = sparse(lab, seed=stage)
    result = federation.result(dict.fromkeys(gone, stage))
    names = federation.parameters.names
    late = stage in ("consistency-check", "unmasking", "receipt")
    survivors = names if late else tuple(name for name in names if name not in gone)
    assert result.survivors == survivors and result.dropped == dict.fromkeys(gone, stage)
    assert np.array_equal(result.sums[0], federation.expected_sum(survivors))
    facts = check(result.transcript, federation.expectations(complete=True, survivors=(survivors,)))
    assert facts.receipts == tuple(name for name in names if name not in gone)


@pytest.mark.parametrize("seed", range(6))
def test_drop_outs_at_all_stages_of_two_sums(lab: Any, seed: int) -> None:
    """n = 30: one member stops at each stage of each sum, another one for every seed."""
    federation = sparse(lab, 30, 18, 10, 3, sums=2, d=4, seed=f"two sums {seed}")
    stages = [*STAGES[:2], *(f"{stage}/{j}" for j in (0, 1) for stage in STAGES[2:5]), STAGES[5]]
    drops = {f"h{1 + (7 * place + 5 * seed) % 30}": stage for place, stage in enumerate(stages)}
    assert len(drops) == len(stages)
    result = federation.result(drops)
    for j, before in enumerate(({"advertise-keys", "share-keys"}, {f"{stage}/0" for stage in STAGES[2:5]})):
        gone = {*before, f"masked-input/{j}", "advertise-keys", "share-keys"}
        alive = tuple(name for name in federation.parameters.names if drops.get(name) not in gone)
        assert result.survivors_per_sum[j] == alive
        assert np.array_equal(result.sums[j], federation.expected_sum(alive, j))
    assert check(result.transcript, federation.expectations(complete=True)).names == federation.parameters.names


def test_a_sparse_and_a_complete_graph_give_one_sum(lab: Any) -> None:
    drops = {"h3": "masked-input", "h8": "share-keys"}
    one = sparse(lab).result(drops)
    other = lab.federation(n=12, t=9).result(drops)
    assert np.array_equal(one.sums[0], other.sums[0]) and one.transcript != other.transcript


def test_members_draw_for_themselves(lab: Any) -> None:
    """The same bytes draw the same neighbours whatever the server invites to; other members draw others."""
    federation, other = sparse(lab), sparse(lab, round_=7, session=bytes(32))
    drawn: list[dict[str, tuple[int, ...]]] = []
    for one in (federation, other):
        clients = one.clients()
        one.run(clients=clients, stop_before="share-keys")
        drawn.append({name: client._state.neighbours for name, client in clients.items()})
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0].values())) > 6
    for place, name in enumerate(federation.parameters.names, 1):
        assert len(set(drawn[0][name])) == 6 and place not in drawn[0][name] and max(drawn[0][name]) <= 12


def test_each_member_reveals_what_it_holds_and_no_more(lab: Any) -> None:
    federation = sparse(lab)
    adverts: dict[int, Any] = {}
    sizes: dict[int, int] = {}

    def note(name: str, phase: str, packet: bytes) -> bytes:
        member = federation.parameters.id_of(name)
        raw, attachment = lab.split(packet)
        if phase == "advertise-keys":
            message = open_message(
                federation.parameters, raw, stage=Stage.ADVERTISE_KEYS, sender=member, previous=None, blame=""
            )
            adverts[member] = message.body
        if phase == "unmasking":
            sizes[member] = len(attachment)
        return packet

    federation.run({"h4": "masked-input", "h6": "share-keys"}, to_server=note)
    for member, size in sizes.items():
        dealers = [other for other in adverts if other != 6 and member in adverts[other].neighbours]
        assert size == 65 * len(dealers)
    assert len(set(sizes.values())) > 2


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_round_ends_as_its_graph_says(lab: Any, data: Any) -> None:
    """Any graph and any drop-outs: the exact sum, or too-few, as a second reading of the rules foretells."""
    n = data.draw(st.integers(5, 12))
    t = data.draw(st.integers(n // 2 + 1, n))
    k = data.draw(st.integers(1, n - 1))
    local = data.draw(st.integers(1, k))
    stages = data.draw(st.lists(st.sampled_from([*[""] * 24, *STAGES]), min_size=n, max_size=n))
    federation = sparse(lab, n, t, k, local, 0, d=2, seed=f"{n} {k}")
    clients = federation.clients()
    federation.run(clients=clients, stop_before="share-keys")
    drew = {member: set(clients[f"h{member}"]._state.neighbours) for member in range(1, n + 1)}

    left, at = {}, set(drew)
    for stage in STAGES[:5]:
        gone = {member for member in at if stages[member - 1] == stage}
        if stage == "share-keys":
            gone |= {member for member in at if len(drew[member] & at) < local}
        at = left[stage] = at - gone
    holders = {member: drew[member] & left["advertise-keys"] & left["unmasking"] for member in left["share-keys"]}
    works = all(len(one) >= t for one in left.values()) and all(len(one) >= local for one in holders.values())

    drops = {f"h{member}": stage for member, stage in enumerate(stages, 1) if stage}
    if not works:
        with pytest.raises(ProtocolError) as caught:
            federation.result(drops)
        assert caught.value.code is Code.TOO_FEW
        return
    result = federation.result(drops)
    assert result.survivors == tuple(f"h{member}" for member in sorted(left["masked-input"]))
    assert np.array_equal(result.sums[0], federation.expected_sum(result.survivors))
    check(result.transcript, federation.expectations(complete=True))


def test_a_flipped_bit_is_refused(lab: Any) -> None:
    """Both ways at every stage, of one member's packets; nothing but ProtocolError, never another sum."""
    federation = sparse(lab, 7, 5, 4, 1, 0, d=3)
    flips = 0
    for phase in STAGES:
        for direction in ("to_client", "to_server"):
            sizes: list[int] = []

            def measure(name: str, at: str, packet: bytes, phase: str = phase, sizes: list[int] = sizes) -> bytes:
                if (name, at) == ("h1", phase):
                    sizes.append(len(packet))
                return packet

            federation.run(**{direction: measure})
            for place in range(flips % 16, sizes[0], max(16, sizes[0] // 8)):
                flips += 1

                def flip(name: str, at: str, packet: bytes, phase: str = phase, place: int = place) -> bytes:
                    if (name, at) != ("h1", phase):
                        return packet
                    return packet[:place] + bytes([packet[place] ^ (1 << place % 8)]) + packet[place + 1 :]

                result = federation.run(**{direction: flip}, errors={}).result()
                assert result.dropped == {"h1": phase}
                assert np.array_equal(result.sums[0], federation.expected_sum(result.survivors))
    assert flips > 70


# --- too little luck, or too few members


def test_a_member_whose_neighbours_are_gone_drops_out_and_the_others_go_on(lab: Any) -> None:
    federation = sparse(lab, 16, 9, k=3, local=3, c=1)
    clients = federation.clients()
    federation.run(clients=clients, stop_before="share-keys")
    followers = {name for name, client in clients.items() if 16 in client._state.neighbours}
    assert 0 < len(followers) < 6
    errors: dict[str, ProtocolError] = {}
    server = federation.run({"h16": "advertise-keys"}, errors=errors, stop_before="masked-input")
    assert set(errors) == followers
    assert {error.code for error in errors.values()} == {Code.TOO_FEW}
    assert set(server.dropped) == {"h16", *followers}


def test_too_few_holders_of_one_member_end_the_round(lab: Any) -> None:
    """T members unmask, and still one member's secret has too few holders among them: no sum, nobody to blame."""
    federation = sparse(lab, t=9, k=4, local=4)
    clients = federation.clients()
    federation.run(clients=clients, stop_before="share-keys")
    victim = clients["h1"]._state.neighbours[0]
    with pytest.raises(ProtocolError) as caught:
        federation.result({f"h{victim}": "unmasking"})
    assert caught.value.code is Code.TOO_FEW and caught.value.culprit == ""
    assert "returned shares of" in str(caught.value)


# --- members that do not draw as they must


@pytest.mark.parametrize(
    "drawn",
    [(), (1, 3, 4, 5, 6), (1, 3, 4, 5, 6, 7, 8), (1, 2, 3, 4, 5, 6), (1, 3, 4, 5, 6, 13), (1, 3, 4, 5, 6, 65535)],
    ids=["nobody", "too few", "too many", "itself", "a stranger", "the last id"],
)
def test_a_member_that_draws_wrongly_is_dropped(lab: Any, drawn: tuple[int, ...]) -> None:
    federation = sparse(lab)

    def change(name: str, phase: str, packet: bytes) -> bytes:
        if (name, phase) != ("h2", "advertise-keys"):
            return packet
        raw, _ = lab.split(packet)
        message = open_message(
            federation.parameters, raw, stage=Stage.ADVERTISE_KEYS, sender=2, previous=None, blame=""
        )
        body = replace(message.body, neighbours=drawn)
        return lab.join(federation.sign(Stage.ADVERTISE_KEYS, message.previous, body, sender=2).raw)

    result = federation.result(to_server=change)
    drop = result.drops["h2"]
    assert (drop.stage, drop.code, drop.culprit, drop.verified) == ("advertise-keys", "malformed", "h2", True)
    assert np.array_equal(result.sums[0], federation.expected_sum(result.survivors)) and len(result.survivors) == 11


def test_neighbours_in_a_complete_graph_are_refused(lab: Any) -> None:
    federation = lab.federation(n=4, t=3)

    def change(name: str, phase: str, packet: bytes) -> bytes:
        if (name, phase) != ("h2", "advertise-keys"):
            return packet
        raw, _ = lab.split(packet)
        message = open_message(
            federation.parameters, raw, stage=Stage.ADVERTISE_KEYS, sender=2, previous=None, blame=""
        )
        body = replace(message.body, neighbours=(1, 3))
        return lab.join(federation.sign(Stage.ADVERTISE_KEYS, message.previous, body, sender=2).raw)

    assert federation.result(to_server=change).drops["h2"].code == "malformed"


# --- transcripts


def resigned(federation: Any, items: Any) -> bytes:
    previous = _groups_digest(federation.parameters, _read_groups(items[3]))
    closing = federation.sign(Stage.CLOSING, previous, Closing(0, "x", "", ()))
    return encode([*items[:4], closing.raw])


def test_a_transcript_shows_who_drew_whom_and_holds_them_to_it(lab: Any) -> None:
    """A member and the server that sign a wrong draw together, and a graph that is not the members'."""
    federation = sparse(lab)
    data = federation.result({"h4": "masked-input"}).transcript
    items: Any = decode(data, 1 << 20)
    stage, j, broadcast, replies = items[3][0]
    message = open_message(
        federation.parameters, replies[1][1], stage=Stage.ADVERTISE_KEYS, sender=2, previous=None, blame=""
    )
    for drawn in (message.body.neighbours, (), (1, 2, 3, 4, 5, 6), (1, 3, 4, 5, 6, 13), (1, 3, 4, 5, 6, 7, 8)):
        body = replace(message.body, neighbours=drawn)
        reply = federation.sign(Stage.ADVERTISE_KEYS, message.previous, body, sender=2)
        group = [stage, j, broadcast, [replies[0], [2, reply.raw], *replies[2:]]]
        changed = resigned(federation, [*items[:3], [group], items[4]])
        if drawn == message.body.neighbours:
            check(changed, federation.expectations())
            continue
        with pytest.raises(ProtocolError) as caught:
            check(changed, federation.expectations())
        assert caught.value.code is Code.MALFORMED and caught.value.culprit == "h2"
    for graph in ([], [5, 3, 2], [6, 2, 2], [6, 3, 1]):
        parameters = [*items[2][:8], graph]
        with pytest.raises(ProtocolError):
            check(encode([*items[:2], parameters, *items[3:]]), federation.expectations())


def test_a_deal_has_one_commitment_per_holder(lab: Any) -> None:
    federation = sparse(lab)
    items: Any = decode(federation.result().transcript, 1 << 20)
    stage, j, broadcast, replies = items[3][1]
    message = open_message(
        federation.parameters, replies[0][1], stage=Stage.SHARE_KEYS, sender=1, previous=None, blame=""
    )
    assert len(message.body.sealed_digests) == len(message.body.key_share_commitments) == 6
    for fields in (("sealed_digests",), ("key_share_commitments", "seed_share_commitments", "sealed_digests")):
        body = replace(message.body, **{name: getattr(message.body, name)[:-1] for name in fields})
        reply = federation.sign(Stage.SHARE_KEYS, message.previous, body, sender=1)
        group = [stage, j, broadcast, [[1, reply.raw], *replies[1:]]]
        with pytest.raises(ProtocolError) as caught:
            check(resigned(federation, [*items[:3], [items[3][0], group], items[4]]), federation.expectations())
        assert caught.value.code is Code.MALFORMED and caught.value.culprit == "h1"


# --- what is accepted at all


def test_a_graph_below_a_members_floor_is_refused(lab: Any) -> None:
    federation = sparse(lab)
    bits = privacy_bits(12, federation.parameters.graph)
    assert 0 <= bits < 40
    federation.floors = PolicyFloors()
    with pytest.raises(ParameterError) as caught:
        federation.client("h1")
    assert caught.value.code is Code.POLICY_FLOOR and "choose_graph" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("floors", "graph", "t", "refused"),
    [
        ({}, SparseGraph(40, 25, 5), 67, ""),
        ({}, SparseGraph(40, 25, 4), 67, "colluders that a sparse graph allows for: 4"),
        ({"least_sparse_corruption": 0.1}, SparseGraph(40, 25, 10), 67, ""),
        ({"least_sparse_corruption": 0.1}, SparseGraph(40, 25, 9), 67, "no less than 10"),
        ({"least_sparse_roster": 101}, SparseGraph(40, 25, 5), 67, "members in a sparse graph: 100"),
        ({"least_sparse_roster": 101}, None, 67, ""),
        ({"least_colluders": 33}, None, 67, ""),
        ({"least_colluders": 34}, None, 67, "colluders allowed for: 33"),
        ({"least_colluders": 6}, SparseGraph(40, 25, 5), 67, "colluders allowed for: 5"),
    ],
    ids=str,
)
def test_floors_of_colluders_and_of_the_roster(
    lab: Any, floors: dict[str, Any], graph: SparseGraph | None, t: int, refused: str
) -> None:
    parameters = lab.federation(n=100, t=t, graph=graph).parameters
    if not refused:
        PolicyFloors(**floors).check(parameters)
        return
    with pytest.raises(ParameterError) as caught:
        PolicyFloors(**floors).check(parameters)
    assert caught.value.code is Code.POLICY_FLOOR and refused in str(caught.value)


def test_the_floor_is_met_exactly_or_not_at_all(lab: Any) -> None:
    graph = choose_graph(100, 0.1, 0.05)
    bits = privacy_bits(100, graph)
    federation = lab.federation(n=100, t=67, graph=graph)
    for floor, accepted in ((bits, True), (bits + 1e-6, False), (40.0, True)):
        floors = PolicyFloors(least_graph_bits=floor)
        if accepted:
            floors.check(federation.parameters)
        else:
            with pytest.raises(ParameterError) as caught:
                floors.check(federation.parameters)
            assert caught.value.code is Code.POLICY_FLOOR


@pytest.mark.parametrize(("t", "allowed"), [(7, 1), (9, 5), (12, 11)])
def test_no_more_colluders_than_agreement_allows(lab: Any, t: int, allowed: int) -> None:
    """2T - n - 1: with one more, two views of who survived could both have T signatures."""
    assert allowed == 2 * t - 12 - 1
    assert lab.federation(n=12, t=t, graph=SparseGraph(6, 3, allowed)).parameters.colluders == allowed
    with pytest.raises(ParameterError) as caught:
        lab.federation(n=12, t=t, graph=SparseGraph(6, 3, allowed + 1))
    assert caught.value.code is Code.BAD_PARAMETERS and "colluders" in str(caught.value)


def test_a_graph_needs_more_members_than_neighbours(lab: Any) -> None:
    lab.federation(n=12, t=9, graph=SparseGraph(11, 5, 2))
    with pytest.raises(ParameterError) as caught:
        lab.federation(n=12, t=9, graph=SparseGraph(12, 5, 2))
    assert caught.value.code is Code.BAD_PARAMETERS
