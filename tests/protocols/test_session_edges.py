"""What a session does for careless callers: two threads, a kept error, a reply that is let go, a long closing."""

from __future__ import annotations

import threading
import warnings
from typing import Any

import numpy as np
import pytest
from tests.protocols.lying import LyingServer

from fedgan_protocols import Code, Failure, ParameterError, PolicyFloors, ProtocolError, Stage
from fedgan_protocols.primitives.graph import SparseGraph, choose_graph
from fedgan_protocols.primitives.quantization import FixedPoint
from fedgan_protocols.transcript.transcript import check


def ask(client: Any, packet: bytes, start: threading.Barrier, answers: list[Any]) -> None:
    start.wait()
    try:
        client.handle(Stage.CONSISTENCY_CHECK.label, packet)
        answers.append("answered")
    except ProtocolError as error:
        answers.append(error.code)


def test_two_threads_with_two_survivor_lists_get_one_signature(lab: Any) -> None:
    for attempt in range(20):
        liar = LyingServer(lab, lab.federation(5, 4, 3, seed=f"race {attempt}"))
        liar.advertise()
        liar.share()
        liar.mask()
        packets = [liar.survivor_list(1, u3) for u3 in (liar.everyone, liar.everyone[:4])]
        start, answers = threading.Barrier(2), []
        threads = [threading.Thread(target=ask, args=(liar.clients[1], packet, start, answers)) for packet in packets]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(map(str, answers)) == ["answered", str(Code.CONFLICTING)]


def frames_of(error: BaseException | None) -> list[Any]:
    held = []
    while error is not None:
        trace = error.__traceback__
        while trace is not None:
            held += list(trace.tb_frame.f_locals.values())
            trace = trace.tb_next
        error = error.__cause__ or error.__context__
    return held


def test_a_refusal_that_is_kept_holds_no_secret(lab: Any) -> None:
    federation = lab.federation(4, 3, 3)
    client = federation.client("h1")
    server = federation.server()
    client.handle("advertise-keys", server.next_phase().payloads["h1"])
    state = client._state
    with pytest.raises(ProtocolError) as caught:
        client.handle("unmasking", b"anything")
    secrets = {id(state), id(state.sealing_key), *map(id, state.mask_keys)}
    inner = [value for value in frames_of(caught.value) if not isinstance(value, dict)]
    here = {id(value) for value in (federation, client, server, state, secrets, inner, caught)}
    assert not any(id(value) in secrets for value in inner if id(value) not in here)
    assert caught.value.__context__ is None and client.phase == "Aborted"


def test_a_reply_can_be_released_and_asked_for_again(lab: Any) -> None:
    liar = LyingServer(lab, lab.federation(4, 3, 3))
    liar.advertise()
    liar.share()
    liar.provide(1)
    request = liar.mask_request(1, liar.everyone)
    first = liar.clients[1].handle("masked-input", request)
    kept = bytes(first)
    assert isinstance(first, memoryview) and first.readonly
    first.release()
    assert bytes(liar.clients[1].handle("masked-input", request)) == kept


def test_the_closing_of_a_large_round_names_everybody_that_dropped_out(lab: Any) -> None:
    """In a sparse graph messages are short, and the closing still has room for every member's reason."""
    federation = lab.federation(400, 267, 1, graph=SparseGraph(5, 3, 0))
    server = federation.server()
    with pytest.raises(ProtocolError):
        server.receive({name: Failure("x" * 64, "", name) for name in federation.parameters.names})
    facts = check(server.transcript_so_far(), federation.expectations())
    assert len(facts.dropped) == 400 and facts.abort_code == Code.TOO_FEW.value


@pytest.mark.parametrize(
    ("members", "graph", "floors"),
    [
        (99, SparseGraph(40, 25, 10), PolicyFloors()),
        (100, SparseGraph(16, 11, 4), PolicyFloors()),
        (100, SparseGraph(10, 7, 5), PolicyFloors()),
        (100, None, PolicyFloors(least_colluders=34)),
    ],
)
def test_floors_for_a_sparse_graph(lab: Any, members: int, graph: SparseGraph | None, floors: PolicyFloors) -> None:
    with pytest.raises(ParameterError) as caught:
        floors.check(lab.federation(members, 67, 1, graph=graph).parameters)
    assert caught.value.code is Code.POLICY_FLOOR and caught.value.hint
    PolicyFloors().check(lab.federation(100, 67, 1, graph=choose_graph(100, 0.05, 0.05)).parameters)


def test_no_value_of_a_vector_raises_or_warns() -> None:
    codec = FixedPoint(1.0, 32, 20)
    signalling = np.array([0x7FA00000, 0xFFA00001, 0x7F800000], dtype=np.uint32).view(np.float32)
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        codec.encode(np.concatenate([signalling, np.float32([0.5, -0.0, 1e-40, 3e38])]))
        codec.encode(np.array([1e4000, -1e4000], dtype=np.longdouble))


@pytest.mark.parametrize("weight", [np.int64(1 << 24), 1.5, True, 0, "1"])
def test_a_weight_is_a_python_integer(weight: Any) -> None:
    with pytest.raises(ParameterError):
        FixedPoint(1.0, 64, 40).encode(np.zeros(1), weight)


@pytest.mark.parametrize("vector", [np.zeros((2, 2)), np.float64(1.0), np.array(["1"]), np.array([1j])])
def test_a_vector_is_real_and_has_one_axis(vector: Any) -> None:
    with pytest.raises(ParameterError):
        FixedPoint(1.0, 32, 20).encode(vector)


@pytest.mark.parametrize("graph", [None, SparseGraph(4, 3, 1)])
def test_an_outsider_sees_and_pins_the_graph(lab: Any, graph: SparseGraph | None) -> None:
    federation = lab.federation(6, 4, 2, graph=graph)
    data = federation.result().transcript
    own = () if graph is None else (4, 3, 1)
    assert check(data, federation.expectations(graph=own)).graph == own
    with pytest.raises(ProtocolError):
        check(data, federation.expectations(graph=(5, 3, 1)))
