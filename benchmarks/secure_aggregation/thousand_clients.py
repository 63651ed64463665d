"""A thousand clients on a sparse graph, every party in one process: CPU minutes, memory, and an exact sum."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from fedgan_protocols import default_threshold
from fedgan_protocols.primitives.graph import availability_bits, choose_graph, privacy_bits

if __package__:
    from . import resident
    from .rounds import Federation, Round, fixed_inputs
else:  # as a script, in a process of its own
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from secure_aggregation import resident
    from secure_aggregation.rounds import Federation, Round, fixed_inputs

GIB = 1 << 30
MOST_REPLIES = 8 * GIB
"""Above this the clients of one process let go of the vectors that they have sent; elsewhere each keeps its own."""


def measure(members: int, words: int, drop_out: float, corruption: float, seed: int = 1) -> dict[str, Any]:
    """One round; `drop_out` of the members fall silent after dealing their shares.

    The graph is the smallest that `choose_graph` allows for these rates, the threshold the default one. `cpu_minutes`
    counts the whole process, the drawing of inputs and the comparison of the sum too; `protocol_cpu_minutes` does not.
    """
    graph = choose_graph(members, corruption, drop_out)
    threshold = default_threshold(members)
    federation = Federation.of(members, words, threshold, graph=graph)
    before = resident.restart_peak()
    keep = members * words * 4 <= MOST_REPLIES
    start = time.process_time()
    (outcome,) = Round(federation, fixed_inputs(words, seed), keep_replies=keep).run([drop_out])
    spent = time.process_time() - start
    cost = outcome.cost.as_dict(members)
    return {
        "members": members,
        "parameters": words,
        "drop_out": drop_out,
        "corruption": corruption,
        "degree": graph.degree,
        "share_threshold": graph.threshold,
        "colluders": graph.colluders,
        "threshold": threshold,
        "signatures_checked": federation.parameters.signatures_checked,
        "privacy_bits": privacy_bits(members, graph),
        "availability_bits": availability_bits(members, graph, outcome.dropped),
        "survivors": outcome.survivors,
        "sum_exact": outcome.exact,
        "receipts": outcome.receipts,
        "transcript_bytes": outcome.transcript_bytes,
        "cpu_minutes": spent / 60,
        "protocol_cpu_minutes": cost["all_cpu_seconds"] / 60,
        "replies_kept": keep,
        "peak_gib": resident.peak_bytes() / GIB,
        "peak_gib_before": before / GIB,
        **cost,
    }


if __name__ == "__main__":
    n, d, rate, corrupt = sys.argv[1:]
    print(json.dumps(measure(int(n), int(d), float(rate), float(corrupt))))
