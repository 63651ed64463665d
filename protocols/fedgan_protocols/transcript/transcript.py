"""What the server publishes of a round, and how an outsider checks it.

A transcript holds every signed message of R0 to R5 and a signed closing. Attachments never enter it: no sealed share,
no revealed share, no masked vector, only the digests that were signed. Canonical CBOR::

    [domain, version,
     [session, round, [[name, key], ..], server key, threshold, ring bits, [length, ..], policy hash,
      graph],
     [[stage, j, broadcast, [[id, reply], ..]], ..],
     closing]

`check` proves that these members signed exactly these sets, models and digests, in this order, under this roster. It
does not prove that the server added correctly, nor that an input was honest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedgan_protocols.errors import Code, ProtocolError
from fedgan_protocols.messages import Closing, open_message, sign_message
from fedgan_protocols.parameters import SERVER, Member, SessionParameters, graph_items
from fedgan_protocols.primitives import Identity, Item, SparseGraph, decode, digest, encode, malformed
from fedgan_protocols.server import Drop, Group
from fedgan_protocols.transcript.walk import TranscriptFacts, Walk
from fedgan_protocols.transitions import Stage

DOMAIN = "fedgan-secure/secure-aggregation/transcript"
VERSION = 1
SIZE_LIMIT = 1 << 29


def _parameters_items(parameters: SessionParameters) -> Item:
    return [
        parameters.session,
        parameters.round,
        [[member.name, member.public_key] for member in parameters.roster],
        parameters.server_public_key,
        parameters.threshold,
        parameters.ring_bits,
        list(parameters.lengths),
        parameters.policy_hash,
        graph_items(parameters.graph),
    ]


def _groups_items(groups: Sequence[Group]) -> list[Item]:
    return [[int(g.stage), g.j, g.broadcast, [[member, raw] for member, raw in g.replies]] for g in groups]


def _groups_digest(parameters: SessionParameters, groups: Sequence[Group]) -> bytes:
    return digest("transcript", parameters.parameters_hash, encode(_groups_items(groups)))


def write(
    parameters: SessionParameters,
    identity: Identity,
    groups: Sequence[Group],
    *,
    complete: bool,
    code: str,
    culprit: str,
    drops: dict[int, Drop],
) -> bytes:
    """The transcript, closed and signed by the server."""
    listed = tuple(
        (member, int(Stage.of(drop.stage)), drop.code, drop.culprit, int(drop.verified))
        for member, drop in sorted(drops.items())
    )
    body = Closing(int(complete), code, culprit, listed)
    closing = sign_message(identity, parameters, Stage.CLOSING, SERVER, _groups_digest(parameters, groups), body)
    return encode([DOMAIN, VERSION, _parameters_items(parameters), _groups_items(groups), closing.raw])


@dataclass(frozen=True)
class TranscriptExpectations:
    """What the verifier knows from elsewhere. Keys come out of band; None means that a field is not compared.

    `graph`: empty for the complete one, else (degree, share threshold, colluders).
    """

    roster: tuple[Member, ...]
    server_public_key: bytes
    session: bytes | None = None
    round: int | None = None
    threshold: int | None = None
    ring_bits: int | None = None
    lengths: tuple[int, ...] | None = None
    policy_hash: bytes | None = None
    graph: tuple[int, ...] | None = None
    model_hashes: tuple[bytes, ...] | None = None
    sum_digests: tuple[bytes, ...] | None = None
    survivors: tuple[tuple[str, ...], ...] | None = None
    complete: bool | None = None


def check(data: bytes, expected: TranscriptExpectations) -> TranscriptFacts:
    """Verify every signature, the hash chain, the sets, thresholds, models and digests; raises ProtocolError."""
    items = decode(data, SIZE_LIMIT)
    if not isinstance(items, list) or len(items) != 5 or items[0] != DOMAIN or items[1] != VERSION:
        raise malformed(f"it is not a transcript of version {VERSION}")
    parameters = _read_parameters(items[2])
    _compare(
        ("roster", parameters.roster, expected.roster),
        ("server key", parameters.server_public_key, expected.server_public_key),
        ("session", parameters.session, expected.session),
        ("round", parameters.round, expected.round),
        ("threshold", parameters.threshold, expected.threshold),
        ("ring width", parameters.ring_bits, expected.ring_bits),
        ("vector lengths", parameters.lengths, expected.lengths),
        ("policy", parameters.policy_hash, expected.policy_hash),
        ("graph", tuple(graph_items(parameters.graph)), expected.graph),
    )
    groups = _read_groups(items[3])
    if not isinstance(items[4], bytes):
        raise malformed("its closing is missing")
    closing_message = open_message(
        parameters,
        items[4],
        stage=Stage.CLOSING,
        sender=SERVER,
        previous=_groups_digest(parameters, groups),
        blame="server",
    )
    closing = closing_message.body_as(Closing)
    walk = Walk(parameters)
    for place, group in enumerate(groups):
        walk.add(group, is_last=place == len(groups) - 1)
    if closing.complete not in (0, 1) or (closing.complete == 1) != (walk.ended and not closing.code):
        raise malformed("its closing does not fit its messages")
    facts = walk.facts(closing, data)
    _compare(
        ("models", tuple(one.model_hash for one in facts.sums), expected.model_hashes),
        ("digests of the sums", tuple(one.digest for one in facts.sums), expected.sum_digests),
        ("survivors", tuple(one.survivors for one in facts.sums), expected.survivors),
        ("completeness", facts.complete, expected.complete),
    )
    return facts


def _compare(*rows: tuple[str, object, object]) -> None:
    for what, found, wanted in rows:
        if wanted is not None and found != wanted:
            raise ProtocolError(
                Code.TRANSCRIPT_MISMATCH,
                f"the transcript's {what} differs from what was expected",
                hint="compare the transcript with the signed report and policy of the same round",
            )


def _read_parameters(items: Any) -> SessionParameters:
    if not isinstance(items, list) or len(items) != 9:
        raise malformed("its parameters do not have nine fields")
    session, round_, roster, server_key, threshold, ring_bits, lengths, policy_hash, graph = items
    if not isinstance(roster, list) or not all(isinstance(one, list) and len(one) == 2 for one in roster):
        raise malformed("its roster is not a list of [name, key]")
    if not isinstance(lengths, list) or not isinstance(graph, list) or len(graph) not in (0, 3):
        raise malformed("its lengths or its graph are not lists")
    numbers = (round_, threshold, ring_bits, *lengths, *graph)
    if not all(type(number) is int for number in numbers):
        raise malformed("its parameters hold something else than numbers")
    try:
        members = tuple(Member(name, key) for name, key in roster)
        return SessionParameters(
            session,
            round_,
            members,
            server_key,
            threshold,
            ring_bits,
            tuple(lengths),
            policy_hash,
            SparseGraph(*graph) if graph else None,
        )
    except ProtocolError as error:
        raise malformed(f"its parameters are impossible: {error.message}") from None


def _read_groups(items: Any) -> list[Group]:
    groups = []
    for item in items if isinstance(items, list) else [None]:
        if not isinstance(item, list) or len(item) != 4:
            raise malformed("a group is [stage, j, broadcast, replies]")
        stage, j, broadcast, replies = item
        if type(stage) is not int or stage not in set(Stage) or type(j) is not int or not isinstance(replies, list):
            raise malformed("a group is [stage, j, broadcast, replies]")
        pairs = []
        for pair in replies:
            if (
                not isinstance(pair, list)
                or len(pair) != 2
                or type(pair[0]) is not int
                or not isinstance(pair[1], bytes)
            ):
                raise malformed("a reply is [id, message]")
            pairs.append((pair[0], pair[1]))
        if not isinstance(broadcast, bytes):
            raise malformed("a broadcast is a message")
        groups.append(Group(Stage(stage), j, broadcast, tuple(pairs)))
    return groups
