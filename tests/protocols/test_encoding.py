"""The decoder accepts one encoding per value and refuses everything else with ProtocolError, within its bounds."""

from __future__ import annotations

import contextlib
import tracemalloc
from typing import Any

import cbor2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedgan_protocols import Code, ProtocolError, Stage
from fedgan_protocols.messages import BODIES, Closing, KeyDirectory, open_message
from fedgan_protocols.primitives.encoding import (
    decode,
    decode_strings,
    digest,
    encode,
    encode_strings,
    join_packet,
    split_packet,
)
from fedgan_protocols.transcript.transcript import check

ITEMS = st.recursive(
    st.integers(0, 2**64 - 1) | st.binary(max_size=300) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=20,
)


def depth(item: Any) -> int:
    return 1 + max((depth(part) for part in item), default=0) if isinstance(item, list) else 0


@given(ITEMS.filter(lambda item: depth(item) <= 6))
def test_values_survive(item: Any) -> None:
    data = encode(item)
    assert decode(data, len(data)) == item
    with pytest.raises(ProtocolError) as caught:
        decode(data, len(data) - 1)
    assert caught.value.code is Code.TOO_LARGE


@settings(max_examples=400)
@given(st.binary(max_size=200))
@example(bytes.fromhex("1817"))
@example(bytes.fromhex("9b" + "ff" * 8))
@example(bytes.fromhex("5b" + "7f" * 8))
@example(bytes([0x81]) * 5000)
def test_bytes_are_refused_or_are_the_one_encoding(data: bytes) -> None:
    try:
        item = decode(data, 1 << 20)
    except ProtocolError:
        return
    assert encode(item) == data


@settings(max_examples=150)
@given(ITEMS.filter(lambda item: depth(item) <= 6), st.data())
def test_changed_encodings_are_refused_or_mean_something_else(item: Any, data: Any) -> None:
    raw = bytearray(encode(item))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(ProtocolError):
        assert decode(bytes(raw), 1 << 20) != item


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("empty", ""),
        ("number not in shortest form", "1800"),
        ("number not in shortest form, 2", "190001"),
        ("number not in shortest form, 4", "1a00000001"),
        ("number not in shortest form, 8", "1b0000000000000001"),
        ("length not in shortest form", "580100"),
        ("array length not in shortest form", "980100"),
        ("indefinite bytes", "5f4100ff"),
        ("indefinite text", "7f6161ff"),
        ("indefinite array", "9f00ff"),
        ("reserved length", "1c"),
        ("negative", "20"),
        ("map", "a0"),
        ("tag", "c000"),
        ("false", "f4"),
        ("null", "f6"),
        ("float", "fb3ff0000000000000"),
        ("half float", "f93c00"),
        ("break", "ff"),
        ("two items", "0000"),
        ("cut string", "4200"),
        ("cut array", "8200"),
        ("cut head", "19"),
        ("not UTF-8", "62c328"),
        ("surrogate", "63eda080"),
        ("huge array", "9affffffff"),
        ("huge bytes", "5bffffffffffffffff"),
    ],
)
def test_everything_outside_the_subset_is_refused(what: str, data: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(bytes.fromhex(data), 1000)
    assert caught.value.code in (Code.MALFORMED, Code.TOO_LARGE), what


def test_cbor2_alone_would_accept_some_of_them() -> None:
    """Why the walk exists."""
    assert cbor2.loads(bytes.fromhex("1800")) == 0 and cbor2.loads(bytes.fromhex("9f00ff")) == [0]


def test_depth_and_memory_are_bounded() -> None:
    nested = bytes([0x81]) * 6 + b"\x00"
    assert decode(nested, 100) == [[[[[[0]]]]]]
    with pytest.raises(ProtocolError) as caught:
        decode(b"\x81" + nested, 100)
    assert caught.value.code is Code.TOO_LARGE
    tracemalloc.start()
    for hostile in (bytes([0x81]) * 100_000 + b"\x00", bytes.fromhex("9a00ffffff") + bytes(1000)):
        with pytest.raises(ProtocolError):
            decode(hostile, 1 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_packets_survive_and_nothing_follows(message: bytes, attachment: bytes) -> None:
    packet = join_packet(message, attachment)
    assert decode(packet, 1000) == [message, attachment]
    found, view = split_packet(packet, 1000)
    assert (found, bytes(view)) == (message, attachment)
    for broken in (packet + b"\0", packet[:-1], b"\x83" + packet[1:]):
        with pytest.raises(ProtocolError):
            split_packet(broken, 1000)
    with pytest.raises(ProtocolError):
        split_packet(packet, len(packet) - 1)
    assert join_packet(b"m", bytes(70_000))[3:8] == bytes.fromhex("5a00011170")


def test_packets_that_are_not_bytes() -> None:
    for wrong in ("text", None, 5):
        with pytest.raises(ProtocolError):
            split_packet(wrong, 100)  # type: ignore[arg-type]


def test_lists_of_strings_have_the_stated_sizes() -> None:
    data = encode_strings([bytes(32), bytes(31)])
    assert decode_strings(data, 100) == (bytes(32), bytes(31))
    for wrong, size in ((data, 32), (encode([1]), None), (encode(b"x"), None), (encode([[b"x"]]), None)):
        with pytest.raises(ProtocolError):
            decode_strings(wrong, 100, size)


def test_digests_separate_their_parts() -> None:
    assert len({digest("a", b"bc", b"d"), digest("a", b"b", b"cd"), digest("a", b"bcd"), digest("ab", b"c", b"d")}) == 4


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=400), stage=st.sampled_from(list(Stage)), sender=st.integers(0, 4))
def test_messages_packets_and_transcripts_from_noise(lab: Any, data: bytes, stage: Stage, sender: int) -> None:
    federation = lab.federation()
    with pytest.raises(ProtocolError):
        open_message(federation.parameters, data, stage=stage, sender=sender, previous=None, blame="x")
    with pytest.raises(ProtocolError):
        check(data, federation.expectations())
    with pytest.raises(ProtocolError):
        federation.client("h1").handle(stage.label, data)


def test_a_message_of_another_stage_or_sender_is_named_as_such(lab: Any) -> None:
    federation = lab.federation()
    directory = federation.sign(Stage.SHARE_KEYS, bytes(32), KeyDirectory((1, 2, 3)))

    def code(stage: Stage, sender: int, previous: bytes | None) -> Code:
        with pytest.raises(ProtocolError) as caught:
            open_message(federation.parameters, directory.raw, stage=stage, sender=sender, previous=previous, blame="x")
        return caught.value.code

    assert code(Stage.ADVERTISE_KEYS, 0, None) is Code.OUT_OF_ORDER
    assert code(Stage.SHARE_KEYS, 1, None) is Code.WRONG_SENDER
    assert code(Stage.SHARE_KEYS, 0, bytes([1]) * 32) is Code.TRANSCRIPT_MISMATCH
    again = open_message(
        federation.parameters, directory.raw, stage=Stage.SHARE_KEYS, sender=0, previous=bytes(32), blame="x"
    )
    assert again == directory
    with pytest.raises(ProtocolError):
        again.body_as(Closing)
    with pytest.raises(TypeError):
        federation.sign(Stage.SHARE_KEYS, bytes(32), KeyDirectory((1, 2)), sender=1)


BODY_ITEMS = st.recursive(
    st.integers(0, 2**33)
    | st.sampled_from([b"", bytes(32), bytes(31)])
    | st.binary(max_size=40)
    | st.text(max_size=70),
    lambda inner: st.lists(inner, max_size=6),
    max_leaves=15,
)


@settings(max_examples=300, deadline=None)
@given(body=st.lists(BODY_ITEMS, max_size=6), key=st.sampled_from(list(BODIES)), lie=st.integers(0, 12))
def test_correctly_signed_nonsense(lab: Any, body: list[Any], key: tuple[Stage, bool], lie: int) -> None:
    """A peer that signs whatever it likes: the body parses as its type or is refused, and nothing else happens."""
    federation = lab.federation()
    parameters, (stage, from_server) = federation.parameters, key
    sender = 0 if from_server else 2
    identity = federation.server_identity if from_server else federation.identities["h2"]
    fields: list[Any] = [
        "fedgan-secure/secure-aggregation",
        1,
        parameters.session,
        parameters.round,
        int(stage),
        sender,
        parameters.roster_hash,
        bytes(32),
        body,
    ]
    if lie < 9:
        fields[lie] = body
    content = encode(fields)
    raw = encode([content, identity.sign(b"fedgan-secure/secure-aggregation/v1/signature\x00" + content)])
    try:
        message = open_message(parameters, raw, stage=stage, sender=sender, previous=None, blame="x")
    except ProtocolError as error:
        assert error.culprit == "x"
        return
    assert type(message.body) is BODIES[key] and lie >= 8
