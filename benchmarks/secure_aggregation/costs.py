"""Tables: a client's work by parameters and neighbours; whole rounds by members, parameters and drop-out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from fedgan_protocols.client import machine as client_machine
from fedgan_protocols.client import states as client_states
from fedgan_protocols.primitives.encoding import Packet
from fedgan_protocols.primitives.quantization import FixedPoint
from fedgan_protocols.transitions import Stage

from .rounds import Federation, Round, fixed_inputs
from .timing import cpu_seconds

CODEC = FixedPoint(bound=8.0, ring_bits=32, fraction_bits=18)
"""2^22 levels over [-8, 8], the defaults of Flower's SecAgg+; 33 inputs leave the sum below 2^31."""


class MaskingClient:
    """One member that has been asked for its masked input, in a federation of neighbours + 1 on the complete graph."""

    def __init__(self, words: int, neighbours: int) -> None:
        federation = Federation.of(neighbours + 1, words)
        rehearsal = Round(federation, fixed_inputs(words, seed=1))
        rehearsal.exchange(Stage.ADVERTISE_KEYS)
        rehearsal.exchange(Stage.SHARE_KEYS)
        member, packet = rehearsal.packets[neighbours // 2]
        self.words, self.neighbours = words, neighbours
        self.state, self.packet = rehearsal.clients[member], packet
        self.update = np.random.default_rng(1).normal(0, 0.05, words).astype(np.float32)

    def encode(self) -> np.ndarray:
        """float32[d] -> uint32[d]."""
        return CODEC.encode(self.update)

    def answer(self, vector: np.ndarray) -> Packet:
        """The whole of R2: verify every deal, open the shares, agree on keys, mask, sign and pack."""
        event = client_states.Received(Stage.MASKED_INPUT, self.packet, b"", vector)
        return client_machine.step(self.state, event)[1][0]

    def encode_and_answer(self) -> Packet:
        return self.answer(self.encode())


def client_table(lengths: Sequence[int], neighbours: Sequence[int], repeats: int) -> list[dict[str, Any]]:
    """CPU seconds of one client's R2 by number of parameters and neighbours, quantisation apart."""
    rows = []
    for k in neighbours:
        for words in lengths:
            client = MaskingClient(words, k)
            vector = client.encode()
            answer = median(cpu_seconds(partial(client.answer, vector)) for _ in range(repeats))
            encode = median(cpu_seconds(client.encode) for _ in range(repeats))
            row = {"parameters": words, "neighbours": k, "masked_input_cpu_seconds": answer}
            rows.append({**row, "quantisation_cpu_seconds": encode})
            del client, vector
    return rows


def round_table(
    members: Sequence[int], lengths: Sequence[int], drop_outs: Sequence[float], most_streams: float
) -> list[dict[str, Any]]:
    """Whole rounds on the complete graph, every sum compared.

    A size whose clients would add more than `most_streams` parameters' worth of streams is left out, with the reason.
    """
    rows: list[dict[str, Any]] = []
    for n in members:
        for words in lengths:
            size = {"members": n, "parameters": words, "graph": "complete"}
            if n * n * words > most_streams:
                rows.append({**size, "skipped": f"{n * n * words:.0e} parameter-streams; at most {most_streams:.0e}"})
                continue
            federation = Federation.of(n, words)
            seed = int.from_bytes(os.urandom(4), "big")
            for outcome in Round(federation, fixed_inputs(words, seed)).run(drop_outs):
                rows.append(
                    {
                        **size,
                        "threshold": federation.parameters.threshold,
                        "drop_out": outcome.drop_out,
                        "dropped": outcome.dropped,
                        "survivors": outcome.survivors,
                        "sum_exact": outcome.exact,
                        "receipts": outcome.receipts,
                        "transcript_bytes": outcome.transcript_bytes,
                        **outcome.cost.as_dict(n),
                    }
                )
    return rows
