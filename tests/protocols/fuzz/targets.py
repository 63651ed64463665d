"""What is fuzzed: whole sessions, the decoders, single messages, the transcript's checker, and the journal's file.

A target takes bytes, reads its decisions from them (choices.py) and returns; whatever it raises is a finding, for it
expects ProtocolError and nothing else. Every whole session starts from a copy of an honest one at some stage, which
costs nothing because states are immutable.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import cbor2
import numpy as np
from tests.protocols.conftest import Federation, Lab, fixed_entropy
from tests.protocols.fuzz.choices import Choices
from tests.protocols.fuzz.machines import NO_FLOORS
from tests.protocols.fuzz.mutation import (
    SIGNED,
    Pool,
    bend_bytes,
    bend_item,
    bend_message,
    bend_packet,
    read,
    read_pair,
    rechained_journal,
)
from tests.protocols.fuzz.network import MEMORY, copied

from fedgan_protocols import ClientSession, Failure, Journal, ParameterError, ProtocolError, ServerSession
from fedgan_protocols.directory import read_deals, read_directory
from fedgan_protocols.messages import open_message, unpack_hashes, unpack_ids
from fedgan_protocols.primitives.encoding import decode, decode_strings, digest, encode, split_packet
from fedgan_protocols.primitives.graph import SparseGraph
from fedgan_protocols.primitives.keys import load_public_key
from fedgan_protocols.transcript.transcript import check
from fedgan_protocols.transitions import Stage

ROUNDS: tuple[tuple[int, int, int, SparseGraph | None, dict[str, str]], ...] = (
    (3, 2, 1, None, {}),
    (4, 3, 2, None, {"h4": "masked-input/1"}),
    (5, 4, 1, None, {"h2": "masked-input"}),
    (4, 3, 1, None, {"h3": "share-keys"}),
    (6, 4, 1, SparseGraph(4, 3, 0), {"h5": "masked-input"}),
)


class Finding(AssertionError):  # noqa: N818 - a broken promise, not an error of this code
    """Something that must not happen, other than an exception."""


def demand(condition: bool, message: str) -> None:
    if not condition:
        raise Finding(message)


@dataclass(frozen=True)
class Moment:
    """The sessions as they stood before a stage was carried."""

    server: ServerSession
    clients: dict[str, ClientSession]


@dataclass
class Recording:
    """An honest round: its moments, its packets, its transcript, and one member's journal."""

    federation: Federation
    moments: list[Moment] = field(default_factory=list)
    packets: list[tuple[Stage, int, bytes]] = field(default_factory=list)
    """(stage, sender, packet)"""
    transcripts: list[bytes] = field(default_factory=list)
    journal: bytes = b""
    pool: Pool = field(default_factory=lambda: Pool({}))


def copy_of(session: ClientSession, salt: str) -> ClientSession:
    twin = copied(session)
    twin._entropy = fixed_entropy(salt)
    return twin


@cache
def recording(place: int) -> Recording:
    """The honest round of one of ROUNDS, with its drop-outs."""
    n, t, sums, graph, drops = ROUNDS[place]
    federation = Lab().federation(n=n, t=t, d=5, sums=sums, graph=graph, round_=1 + place)
    federation = replace(federation, floors=NO_FLOORS)
    made = Recording(federation)
    folder = Path(tempfile.mkdtemp(dir=MEMORY))
    with Journal(folder / "journal") as journal:
        clients = {name: federation.client(name) for name in federation.parameters.names}
        clients["h1"] = federation.client("h1", journal=journal)
        server, gone = federation.server(), set[str]()
        while (phase := server.next_phase()) is not None:
            if phase.stage is Stage.MASKED_INPUT:
                for name, client in clients.items():
                    client.provide_input(phase.sum, federation.inputs[name, phase.sum].copy())
            made.moments.append(Moment(copy.copy(server), {name: copied(one) for name, one in clients.items()}))
            made.transcripts.append(server.transcript_so_far())
            replies: dict[str, bytes | Failure] = {}
            for name, packet in phase.payloads.items():
                made.packets.append((phase.stage, 0, packet))
                if drops.get(name) in (phase.name, f"{phase.name}/{phase.sum}"):
                    gone.add(name)
                if name not in gone:
                    reply = bytes(clients[name].handle(phase.name, packet))  # a masked vector comes as a view
                    replies[name] = reply
                    made.packets.append((phase.stage, federation.parameters.id_of(name), reply))
            server.receive(replies)
        made.transcripts.append(server.transcript_so_far())
    made.journal = (folder / "journal").read_bytes()
    (folder / "journal").unlink()
    folder.rmdir()
    for moment in made.moments:
        for client in moment.clients.values():
            client._journal = None
    identities = {federation.parameters.id_of(name): identity for name, identity in federation.identities.items()}
    parts = [half for _, _, packet in made.packets for half in split_packet(packet, 1 << 30)]
    made.pool = Pool({0: federation.server_identity, **identities}, [bytes(one) for one in parts if len(one)])
    made.pool.seen += [packet for _, _, packet in made.packets]
    return made


def some_recording(choices: Choices) -> Recording:
    made = recording(choices.below(len(ROUNDS)))
    if choices.one_in(8):  # foreign packets: another round's, with another roster
        other = recording(choices.below(len(ROUNDS)))
        return replace(made, pool=Pool(made.pool.identities, other.pool.seen))
    return made


def whole_session(data: bytes) -> None:
    """Bend some packets of a round, both ways, from some stage on; then let it end."""
    choices = Choices(data)
    made = some_recording(choices)
    federation, parameters = made.federation, made.federation.parameters
    start = choices.below(len(made.moments))
    server = copy.copy(made.moments[start].server)
    clients = {name: copy_of(one, f"fuzz/{name}") for name, one in made.moments[start].clients.items()}
    first, malicious = True, set[str]()
    try:
        while (phase := server.next_phase()) is not None:
            if phase.stage is Stage.MASKED_INPUT:
                for name, client in clients.items():
                    with suppress(ProtocolError):
                        client.provide_input(phase.sum, federation.inputs[name, phase.sum].copy())
            victim = choices.pick(tuple(phase.payloads)) if first else ""
            replies: dict[str, bytes | Failure] = {}
            for name, packet in phase.payloads.items():
                bent = name == victim or choices.one_in(12)
                way = choices.below(4) if bent else -1
                if way in (0, 1):
                    packet = bend_packet(packet, choices, made.pool, parameters.sealed_bytes)
                reply: bytes | Failure
                try:
                    named = phase.name if way != 1 else choices.pick(tuple(Stage)).label
                    reply = bytes(clients[name].handle(named, packet))
                except ProtocolError as error:
                    reply = Failure.of(error)
                    _stays_dead(clients[name], phase.name, phase.payloads[name])
                if way in (2, 3) and isinstance(reply, bytes):
                    malicious.add(name)
                    reply = bend_packet(reply, choices, made.pool, parameters.sealed_bytes)
                    if choices.one_in(8):
                        reply = Failure(choices.bytes(9).decode("latin-1"), choices.bytes(20).decode("latin-1"), name)
                replies[name] = reply
            first = False
            server.receive(replies)
    except ProtocolError:
        demand(server._abort is not None, "the server refused something and goes on")
    _holds(federation, server, malicious)


def _stays_dead(client: ClientSession, phase: str, packet: bytes) -> None:
    demand(client.phase == "Aborted" and client._state is None and not client._inputs, "an abort left something behind")
    try:
        client.handle(phase, packet)
    except ProtocolError:
        return
    raise Finding("a member released something after it had aborted")


def _holds(federation: Federation, server: ServerSession, malicious: set[str]) -> None:
    """Sums over honest survivors are exact, and the transcript is in order whatever the members did."""
    context, parameters = server._state.context, federation.parameters
    for j, survivors in enumerate(context.survivors):
        names = tuple(parameters.name_of(member) for member in survivors)
        demand(len(names) >= parameters.threshold, "a sum over fewer members than t")
        if not malicious & set(names):
            demand(bool(np.array_equal(context.sums[j], federation.expected_sum(names, j))), "a sum is not exact")
    check(server.transcript_so_far(), federation.expectations())


def decoders(data: bytes) -> None:
    """Everything that takes bytes before a signature was verified, on raw bytes and on bent encodings."""
    choices = Choices(data)
    kind, limit = choices.below(7), 1 << 20
    if choices.below(2):
        made = recording(0)
        raw = made.pool.take(choices)
        raw = bend_bytes(raw, choices, made.pool) if choices.below(2) else _rebent(raw, choices, made.pool)
    else:
        raw = data[choices.at :]
    readers: tuple[Callable[[], Any], ...] = (
        lambda: decode(raw, limit),
        lambda: split_packet(raw, limit),
        lambda: decode_strings(raw, limit, choices.pick((None, 32, 64))),
        lambda: read_directory(raw, limit),
        lambda: read_deals(raw, limit),
        lambda: unpack_ids(raw),
        lambda: unpack_hashes(raw),
    )
    with suppress(ProtocolError):
        readers[kind]()


def _rebent(raw: bytes, choices: Choices, pool: Pool) -> bytes:
    item = read(raw)
    return raw if item is None else cbor2.dumps(bend_item(item, choices, pool))


def single_messages(data: bytes) -> None:
    """A message of any stage, bent and signed, as its receiver opens it."""
    choices = Choices(data)
    made = some_recording(choices)
    stage, sender, packet = made.packets[choices.below(len(made.packets))]
    raw = bend_message(split_packet(packet, 1 << 30)[0], choices, made.pool)
    if choices.one_in(4):
        raw = bend_message(raw, choices, made.pool)
    with suppress(ProtocolError):
        open_message(made.federation.parameters, raw, stage=stage, sender=sender, previous=None, blame="server")


def transcripts(data: bytes) -> None:
    """A transcript, whole or cut short, bent anywhere; its closing is mostly signed again over what it then holds."""
    choices = Choices(data)
    made = some_recording(choices)
    parameters, pool = made.federation.parameters, made.pool
    raw = choices.pick(made.transcripts)
    items = cbor2.loads(raw)
    for _ in range(1 + choices.below(3)):
        groups = items[3]
        kind = choices.below(8)
        group = groups[choices.below(len(groups))]
        if kind == 0:
            raw = bend_bytes(raw, choices, pool)
            with suppress(ProtocolError):
                check(raw, made.federation.expectations())
            return
        if kind == 1:
            items[2] = bend_item(items[2], choices, pool)
        elif kind == 2:
            items[3] = bend_item(groups, choices, pool)
            break
        elif kind == 3:
            group[2] = bend_message(group[2], choices, pool)
        elif kind in (4, 5) and group[3]:
            reply = group[3][choices.below(len(group[3]))]
            reply[1] = bend_message(reply[1], choices, pool)
        elif kind == 6:
            items[4] = bend_message(items[4], choices, pool)
        else:
            items[3] = groups[: choices.below(len(groups) + 1)]
            if not items[3]:
                break
    if not choices.one_in(8):
        items[4] = _closed_again(items, parameters, pool, choices)
    with suppress(ProtocolError):
        facts = check(cbor2.dumps(items), made.federation.expectations())
        if facts.complete and facts.session == parameters.session:
            demand(all(len(one.survivors) >= facts.threshold for one in facts.sums), "a checked sum over too few")


def _closed_again(items: list[Any], parameters: Any, pool: Pool, choices: Choices) -> bytes:
    """The closing of a server that stands by the bent groups."""
    pair = read_pair(items[4]) if isinstance(items[4], bytes) else None
    content = read(pair[0]) if pair else None
    if content is None or len(content) != 9:
        return b"" if pair is None else items[4]
    with suppress(Exception):
        content[7] = digest("transcript", parameters.parameters_hash, encode(items[3]))
    if choices.one_in(4):
        content[8] = bend_item(content[8], choices, pool)
    signed = cbor2.dumps(content)
    return cbor2.dumps([signed, pool.identities[0].sign(SIGNED + signed)])


def journals(data: bytes) -> None:
    """A journal's file, bent, or rewritten with checksums that fit; then used by a member that was restarted."""
    choices = Choices(data)
    made = some_recording(choices)
    raw = made.journal
    for _ in range(1 + choices.below(2)):
        raw = bend_bytes(raw, choices, made.pool) if choices.below(2) else rechained_journal(raw, choices, made.pool)
    folder = Path(tempfile.mkdtemp(dir=MEMORY))
    path = folder / "journal"
    path.write_bytes(raw)
    try:
        with suppress(ProtocolError), Journal(path) as journal:
            packet = made.moments[0].server.next_phase().payloads["h1"]  # type: ignore[union-attr]
            made.federation.client("h1", journal=journal).handle("advertise-keys", packet)
    finally:
        path.unlink()
        folder.rmdir()


def key_files(data: bytes) -> None:
    """A file that is said to hold a key."""
    choices = Choices(data)
    made = recording(0)
    pem = made.federation.server_identity.public_pem()
    folder = Path(tempfile.mkdtemp(dir=MEMORY))
    path = folder / "key.pem"
    path.write_bytes(bend_bytes(pem, choices, made.pool) if choices.below(4) else choices.data[choices.at :])
    path.chmod(0o600)
    try:
        with suppress(ParameterError):
            load_public_key(path)
    finally:
        path.unlink()
        folder.rmdir()


TARGETS: dict[str, Callable[[bytes], None]] = {
    "session": whole_session,
    "message": single_messages,
    "decoder": decoders,
    "transcript": transcripts,
    "journal": journals,
    "key": key_files,
}
