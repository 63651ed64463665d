"""What secure aggregation costs, and how that compares: `python benchmarks/secagg.py --json`.

Prints one JSON object on standard output (progress goes to standard error). Sections, each alone with `--only NAME`:

limit     the mask engine against the cipher's own speed in this process, and that beside `openssl speed`
flower    Flower's SecAgg+ and this protocol in turn: client and server, like for like
memory    the most memory one client needs in a round, in vectors
costs     CPU seconds and bytes by parameters, neighbours, members and drop-out
thousand  1000 clients on a sparse graph, every party in one process
growth    the same with other numbers of clients and parameters

The headline figures are repeated at the top level; None where their section was left out or could not run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secure_aggregation import client_memory, costs, flower_comparison, machine, mask_rate, thousand_clients

from fedgan_secure.processors import processors


@dataclass(frozen=True)
class Sizes:
    """How much each section does. `most_streams` bounds members^2 * parameters in the table of rounds."""

    words: int
    neighbours: int
    repeats: int
    openssl_seconds: int
    server_words: int
    server_members: int
    drop_outs: tuple[float, ...]
    lengths: tuple[int, ...]
    client_neighbours: tuple[int, ...]
    members: tuple[int, ...]
    most_streams: float
    thousand: int
    thousand_words: tuple[int, ...]
    growth: tuple[tuple[int, int], ...]
    drop_out: float
    corruption: float


FULL = Sizes(
    words=4_000_000,
    neighbours=32,
    repeats=15,
    openssl_seconds=2,
    server_words=1_000_000,
    server_members=33,
    drop_outs=(0.0, 0.1, 0.3),
    lengths=(100_000, 1_000_000, 4_000_000, 10_000_000),
    client_neighbours=(10, 32, 100),
    members=(10, 33, 100),
    most_streams=5e10,
    thousand=1000,
    thousand_words=(1_000_000,),
    growth=((200, 100_000), (200, 1_000_000), (500, 100_000), (500, 1_000_000), (1000, 100_000), (2000, 100_000)),
    drop_out=0.1,
    corruption=0.1,
)
QUICK = Sizes(
    words=100_000,
    neighbours=6,
    repeats=3,
    openssl_seconds=1,
    server_words=20_000,
    server_members=7,
    drop_outs=(0.0, 0.3),
    lengths=(10_000, 100_000),
    client_neighbours=(4, 6),
    members=(7, 10),
    most_streams=5e6,
    thousand=100,
    thousand_words=(10_000,),
    growth=((120, 10_000),),
    drop_out=0.1,
    corruption=0.1,
)
HEADLINES = (
    "mask_share_of_limit",
    "keystream_share_of_openssl",
    "flower_client_ratio",
    "flower_client_cpu_ratio",
    "flower_client_stage_ratio",
    "flower_server_ratio",
    "flower_server_ratio_without_drop_out",
    "client_peak_vectors",
    "thousand_clients_cpu_minutes",
    "thousand_clients_peak_gib",
)


def limit(sizes: Sizes) -> dict[str, Any]:
    found = mask_rate.measure(sizes.words, sizes.neighbours, sizes.repeats, sizes.openssl_seconds)
    keys = ("mask_share_of_limit", "keystream_share_of_openssl")
    return {"limit": found, **{key: found[key] for key in keys}}


def flower(sizes: Sizes) -> dict[str, Any]:
    rates = (max(sizes.drop_outs), 0.0)
    found = flower_comparison.measure(
        sizes.words, sizes.neighbours, sizes.server_words, sizes.server_members, rates, sizes.repeats
    )
    if "skipped" in found:
        return {"flower": found}
    client, servers = found["client"], found["server"]
    return {
        "flower": found,
        "flower_client_ratio": client["ratio"],
        "flower_client_cpu_ratio": client["cpu_ratio"],
        "flower_client_stage_ratio": client["stage_ratio"],
        "flower_server_ratio": servers[0]["ratio"],
        "flower_server_ratio_without_drop_out": servers[1]["ratio"],
    }


def memory(sizes: Sizes) -> dict[str, Any]:
    found = client_memory.measure(sizes.words, sizes.neighbours, processors())
    return {"memory": found, "client_peak_vectors": found["client_peak_vectors"]}


def tables(sizes: Sizes) -> dict[str, Any]:
    repeats = max(2, sizes.repeats // 3)
    clients = costs.client_table(sizes.lengths, sizes.client_neighbours, repeats)
    rounds = costs.round_table(sizes.members, sizes.lengths, sizes.drop_outs, sizes.most_streams)
    return {"costs": {"client": clients, "rounds": rounds}}


def sparse_round(sizes: Sizes, members: int, words: int) -> dict[str, Any]:
    """In a process of its own, so that its memory is its own."""
    order = [str(members), str(words), str(sizes.drop_out), str(sizes.corruption)]
    command = [sys.executable, str(Path(thousand_clients.__file__)), *order]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"the round of {members} clients ended with code {done.returncode}")
    row: dict[str, Any] = json.loads(done.stdout)
    if not row["sum_exact"]:
        raise RuntimeError(f"the sum of {members} clients x {words} parameters is not the sum of their inputs")
    return row


def growth(sizes: Sizes) -> dict[str, Any]:
    return {"growth": [sparse_round(sizes, members, words) for members, words in sizes.growth]}


def thousand(sizes: Sizes) -> dict[str, Any]:
    """The first length gives the headlines."""
    rows = [sparse_round(sizes, sizes.thousand, words) for words in sizes.thousand_words]
    return {
        "thousand": rows,
        "thousand_clients_cpu_minutes": rows[0]["cpu_minutes"],
        "thousand_clients_peak_gib": rows[0]["peak_gib"],
    }


SECTIONS: dict[str, Callable[[Sizes], dict[str, Any]]] = {
    "limit": limit,
    "flower": flower,
    "memory": memory,
    "costs": tables,
    "thousand": thousand,
    "growth": growth,
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="secagg.py", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the whole object (default: the headlines alone)")
    parser.add_argument(
        "--only", action="append", choices=sorted(SECTIONS), metavar="NAME", help="a section, repeatable"
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes: every code path, no meaningful figure")
    parser.add_argument(
        "--thousand-words",
        type=int,
        action="append",
        metavar="D",
        help="parameters of the thousand clients, repeatable",
    )
    options = parser.parse_args(arguments)
    sizes = QUICK if options.quick else FULL
    if options.thousand_words:
        sizes = Sizes(**{**vars(sizes), "thousand_words": tuple(options.thousand_words)})
    result: dict[str, Any] = dict.fromkeys(HEADLINES)
    result["quick"] = options.quick
    result["machine"] = machine.describe()
    seconds = {}
    for name in options.only or SECTIONS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        start = time.perf_counter()
        result.update(SECTIONS[name](sizes))
        seconds[name] = time.perf_counter() - start
    result["wall_seconds"] = seconds
    shown = result if options.json else {key: result[key] for key in HEADLINES}
    print(json.dumps(shown, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
