"""The sparse graphs of docs/protocol.md, as Markdown: `python -m benchmarks.secure_aggregation.graph_table`."""

from __future__ import annotations

import math

from fedgan_protocols.parameters import default_threshold
from fedgan_protocols.primitives.graph import availability_bits, choose_graph, privacy_bits, signatures_to_check

MEMBERS = (100, 200, 500, 1000, 2000, 4000)
RATES = ((0.05, 0.05), (0.1, 0.1), (0.2, 0.1), (0.3, 0.1))


def rows(rosters: tuple[int, ...] = MEMBERS) -> list[str]:
    """One row per roster and pair of rates (corruption, drop-out)."""
    lines = []
    for members in rosters:
        for corruption, drop_out in RATES:
            graph = choose_graph(members, corruption, drop_out)
            working = availability_bits(members, graph, math.ceil(drop_out * members))
            checked = signatures_to_check(members, default_threshold(members), graph.colluders)
            cells = (
                members, corruption, drop_out, graph.degree, graph.threshold, f"{privacy_bits(members, graph):.1f}",
                "certain" if math.isinf(working) else f"{working:.1f}", f"{checked} of {default_threshold(members)}",
            )  # fmt: skip
            lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return lines


if __name__ == "__main__":
    print("\n".join(rows()))
