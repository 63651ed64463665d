"""The package and the second implementation (reference.py) agree to the byte on whole rounds, which are frozen.

`tests/vectors/secure-aggregation-*.json` hold the digests of all packets of a round over the complete graph (4 members,
t = 3) and of one over a sparse graph (6 members, t = 4, 4 neighbours each, 2 rebuild). h2 is silent from R2 of the
second sum on. `python -m tests.protocols.test_reference` writes them anew.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.protocols.reference import Reference

from fedgan_protocols import Stage
from fedgan_protocols.primitives.graph import SparseGraph

VECTORS = Path(__file__).parents[1] / "vectors"
ROUNDS = {
    "complete": {"n": 4, "t": 3, "graph": None},
    "sparse": {"n": 6, "t": 4, "graph": SparseGraph(4, 2, 1)},
}


def recorded_round(
    lab: Any, which: str
) -> tuple[Any, dict[tuple[int, int, str, int], bytes], dict[int, tuple[bytes, ...]], Any]:
    """The package's own packets and the entropy that its clients were given."""
    federation = lab.federation(**ROUNDS[which], d=6, sums=2, seed="reference")
    packets: dict[tuple[int, int, str, int], bytes] = {}
    drawn: dict[int, list[bytes]] = {i: [] for i in range(1, federation.parameters.n + 1)}
    clients = federation.clients()
    for i, client in enumerate(clients.values(), 1):
        source = client._entropy

        def draw(size: int, i: int = i, source: Any = source) -> bytes:
            drawn[i].append(source(size))
            return drawn[i][-1]

        client._entropy = draw
    server = federation.server()

    def keep(way: str) -> Any:
        def kept(name: str, phase: str, packet: bytes) -> bytes:
            packets[int(Stage.of(phase)), server.next_phase().sum, way, federation.parameters.id_of(name)] = packet
            return packet

        return kept

    federation.run(
        {"h2": "masked-input/1"}, server=server, clients=clients, to_client=keep("to"), to_server=keep("from")
    )
    return federation, packets, {i: tuple(parts) for i, parts in drawn.items()}, server.result()


def frozen_form(lab: Any, which: str) -> dict[str, Any]:
    federation, packets, entropy, result = recorded_round(lab, which)
    named = {f"R{s}/sum {j}/{way}/h{i}": packet for (s, j, way, i), packet in sorted(packets.items())}
    p = federation.parameters
    return {
        "derivation": "tests/protocols/test_reference.py: a second implementation, which follows docs/protocol.md, "
        "reproduces every packet to the byte; identities, session and inputs come from SHAKE-256 as in "
        'tests/protocols/conftest.py (seed "reference")',
        "round": f"{p.n} members, t = {p.threshold}, two sums of 6 words over a 32-bit ring; h2 is silent from R2 of "
        "the second sum on",
        "graph": [] if p.graph is None else [p.graph.degree, p.graph.threshold, p.graph.colluders],
        "session": p.session.hex(),
        "roster": [[member.name, member.public_key.hex()] for member in p.roster],
        "server_public_key": p.server_public_key.hex(),
        "policy_hash": p.policy_hash.hex(),
        "model_hashes": [one.hex() for one in federation.models],
        "inputs": {f"{name}/sum {j}": [int(w) for w in words] for (name, j), words in federation.inputs.items()},
        "entropy": {str(i): [part.hex() for part in parts] for i, parts in entropy.items()},
        "sums": [[int(word) for word in total] for total in result.sums],
        "packets_sha256": {key: hashlib.sha256(packet).hexdigest() for key, packet in named.items()},
        "example_packet": named["R2/sum 1/from/h1"].hex(),
        "transcript_sha256": result.transcript_digest.hex(),
    }


@pytest.mark.parametrize("which", ROUNDS)
def test_the_reference_agrees_to_the_byte(lab: Any, which: str) -> None:
    federation, packets, entropy, result = recorded_round(lab, which)
    reference = Reference(federation, {i: (parts[0], parts[1]) for i, parts in entropy.items()}, gone=2)
    reference.play()
    assert reference.packets.keys() == packets.keys()
    for key, packet in packets.items():
        assert reference.packets[key] == packet, key
    for j in (0, 1):
        assert np.array_equal(np.array(reference.total[j], dtype=np.uint32), result.sums[j])


@pytest.mark.parametrize("which", ROUNDS)
def test_the_round_is_the_frozen_one(lab: Any, which: str) -> None:
    """A change here is a change of the wire format: raise the version, and say so in the changelog."""
    frozen = json.loads((VECTORS / f"secure-aggregation-{which}.json").read_text(encoding="utf-8"))
    assert frozen == frozen_form(lab, which)


if __name__ == "__main__":
    from tests.protocols.conftest import Lab

    for which in ROUNDS:
        text = json.dumps(frozen_form(Lab(), which), indent=1) + "\n"
        (VECTORS / f"secure-aggregation-{which}.json").write_text(text, encoding="utf-8")
