"""The figures of `secagg.py --json` as Markdown, written between the marks of docs/secure-aggregation-costs.md:

python benchmarks/secure_aggregation/cost_tables.py benchmarks/results/secagg.json docs/secure-aggregation-costs.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

START, END = "<!-- figures: written by cost_tables.py -->", "<!-- end of figures -->"
STAGES = ("advertise-keys", "share-keys", "masked-input", "consistency-check", "unmasking", "receipt")


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def count(number: float) -> str:
    """1000000 -> 1M."""
    for unit, name in ((1_000_000, "M"), (1_000, "k")):
        if number >= unit:
            return f"{number / unit:g}{name}"
    return f"{number:g}"


def size(number: float) -> str:
    """Bytes in decimal units."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number:.0f} B"


def time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 0.1 else f"{1000 * seconds:.3g} ms"


def machine(found: dict[str, Any]) -> str:
    m = found["machine"]
    return (
        f"Measured on {m['cores']} cores of {m['cpu']} ({m['system']}), Python {m['python']}, numpy {m['numpy']}, "
        f"cryptography {m['cryptography']} with {m['cryptography_openssl']}. Load average at the "
        f"start: {m['load_average_1_minute']:.1f}. Times are CPU seconds on one thread; `flower_client_ratio` "
        "compares the time waited, with every processor at work here and Flower as it is.\n"
    )


def headlines(found: dict[str, Any]) -> str:
    wanted = (
        ("mask_share_of_limit", "at least 0.90", "{:.3f}"),
        ("keystream_share_of_openssl", "at least 0.9", "{:.2f}"),
        ("flower_client_ratio", "at least 10", "{:.1f}"),
        ("flower_client_cpu_ratio", "", "{:.1f}"),
        ("flower_client_stage_ratio", "", "{:.1f}"),
        ("flower_server_ratio", "at least 30", "{:.0f}"),
        ("flower_server_ratio_without_drop_out", "", "{:.0f}"),
        ("client_peak_vectors", "at most 3", "{:.2f}"),
        ("thousand_clients_cpu_minutes", "at most 3", "{:.2f}"),
        ("thousand_clients_peak_gib", "at most 12", "{:.2f}"),
    )
    rows = [
        (f"`{name}`", "not measured" if found[name] is None else form.format(found[name]), goal)
        for name, goal, form in wanted
    ]
    return table(("figure", "measured", "goal"), rows)


def clients(rows: list[dict[str, Any]]) -> str:
    lengths = sorted({row["parameters"] for row in rows})
    cells = {(row["neighbours"], row["parameters"]): row for row in rows}
    body = [
        [k, *(time(cells[k, d]["masked_input_cpu_seconds"]) for d in lengths)]
        for k in sorted({row["neighbours"] for row in rows})
    ]
    smallest = min(k for k, _ in cells)
    body.append(["quantisation", *(time(cells[smallest, d]["quantisation_cpu_seconds"]) for d in lengths)])
    return table(["neighbours", *(count(d) for d in lengths)], body)


def rounds(rows: list[dict[str, Any]]) -> str:
    head = ("members", "parameters", "drop-out", "a client", "the server", "its unmasking", "server in", "server out")
    body: list[list[Any]] = []
    for row in rows:
        start = [row["members"], count(row["parameters"])]
        if "skipped" in row:
            body.append([*start, "left out: " + row["skipped"], *[""] * 5])
            continue
        if not row["sum_exact"]:
            raise ValueError(f"{row['members']} members x {row['parameters']}: the sum was not exact")
        unmasking = row["stages"]["unmasking"]["server_cpu_seconds"]
        times = (row["client_cpu_seconds_mean"], row["server_cpu_seconds"], unmasking)
        traffic = (row["server_bytes_in"], row["server_bytes_out"])
        body.append([*start, f"{row['drop_out']:.0%}", *map(time, times), *map(size, traffic)])
    return table(head, body)


def wire(rows: Iterable[dict[str, Any]]) -> str:
    body = []
    for row in rows:
        cells = []
        for stage in STAGES:
            found = row["stages"][stage]
            cells.append(f"{size(found['bytes_down_per_client'])} / {size(found['bytes_up_per_client'])}")
        body.append([f"{row['members']}, {count(row['parameters'])}", *cells])
    return table(["members, parameters", *STAGES], body)


def thousand(rows: list[dict[str, Any]]) -> str:
    head = ("members", "parameters", "drop-out", "neighbours drawn", "CPU minutes", "of them the server", "a client")
    body = [
        [
            row["members"],
            count(row["parameters"]),
            f"{row['drop_out']:.0%}",
            row["degree"],
            f"{row['cpu_minutes']:.2f}",
            f"{row['server_cpu_seconds'] / 60:.2f}",
            time(row["client_cpu_seconds_mean"]),
            f"{row['peak_gib']:.2f} GiB" + ("" if row["replies_kept"] else ", sent vectors let go"),
        ]
        for row in sorted(rows, key=lambda row: (row["members"], row["parameters"]))
    ]
    return table((*head, "peak memory"), body)


def stages(row: dict[str, Any]) -> str:
    body = [
        [
            stage,
            time(found["client_cpu_seconds_mean"]) if "client_cpu_seconds_mean" in found else "",
            time(found["server_cpu_seconds"]),
        ]
        for stage, found in row["stages"].items()
    ]
    return table(("stage", "a client", "the server"), body)


def flower(found: dict[str, Any]) -> str:
    if "skipped" in found:
        return f"Left out: {found['skipped']}\n"
    client = found["client"]
    what = f"client, {count(client['parameters'])} parameters, {client['neighbours']} neighbours"
    threads = f"time waited, {client['threads']} threads here"
    waited = (client["flower_wall_seconds"], client["like_for_like_wall_seconds"], client["ratio"])
    spent = (client["flower_cpu_seconds"], client["like_for_like_cpu_seconds"], client["cpu_ratio"])
    body = [
        [f"{what}, like for like, {threads}", *waited],
        [f"{what}, like for like", *spent],
        [f"{what}, whole stage", client["flower_cpu_seconds"], client["stage_cpu_seconds"], client["stage_ratio"]],
    ]
    for row in found["server"]:
        title = f"server's unmasking, {row['members']} members, {count(row['parameters'])}, {row['drop_out']:.0%} lost"
        body.append([title, row["flower_cpu_seconds"], row["here_cpu_seconds"], row["ratio"]])
    rows = [[title, time(theirs), time(ours), f"{ratio:.1f}"] for title, theirs, ours, ratio in body]
    return table(("work", f"Flower {client['flwr']}", "here", "ratio"), rows)


def render(found: dict[str, Any]) -> str:
    """Everything between the marks; raises KeyError where a section was left out of the run."""
    measured = [row for row in found["costs"]["rounds"] if "skipped" not in row]
    widest = max(row["parameters"] for row in measured if row["members"] == max(r["members"] for r in measured))
    shown = [row for row in measured if row["drop_out"] == 0 and row["parameters"] == widest]
    limit, memory = found["limit"], found["memory"]
    parts = [
        machine(found),
        headlines(found),
        "### A client's masked input, by parameters and neighbours\n",
        clients(found["costs"]["client"]),
        f"The mask engine adds {limit['mask_parameter_streams_per_second'] / 1e9:.2f} G parameter-streams per second; "
        f"its limit is a key stream of {limit['keystream_bytes_per_second'] / 1e9:.1f} GB/s and an addition of "
        f"{limit['add_bytes_per_second'] / 1e9:.1f} GB/s. `openssl speed` over the same blocks: "
        + ", ".join(
            f"{cipher} {'not measured' if speed is None else f'{speed / 1e9:.1f} GB/s'}"
            for cipher, speed in limit["openssl_bytes_per_second"].items()
        )
        + f" ({limit['openssl_version']}).\n",
        "### Whole rounds on the complete graph\n",
        rounds(found["costs"]["rounds"]),
        "### Bytes per client and stage, down / up\n",
        wire([*shown, *found["thousand"]]),
        "### Many clients on the sparse graph, every party in one process\n",
        thousand([*found["thousand"], *found["growth"]]),
        f"The stages of {found['thousand'][0]['members']} x {count(found['thousand'][0]['parameters'])}:\n",
        stages(found["thousand"][0]),
        "### Flower's SecAgg+ beside it\n",
        flower(found["flower"]),
        "### Memory of one client, in vectors\n",
        table(
            ("counted", "tracemalloc", "resident set"),
            [
                [
                    "encoded input given",
                    f"{memory['client_peak_vectors']:.2f}",
                    f"{memory['resident_peak_vectors']:.2f}",
                ],
                [
                    "float32 update kept, quantised here",
                    f"{memory['with_quantisation_peak_vectors']:.2f}",
                    f"{memory['with_quantisation_resident_peak_vectors']:.2f}",
                ],
            ],
        ),
    ]
    return "\n".join(parts)


def write(figures: Path, page: Path) -> None:
    """Replace what stands between the marks of `page`; raises ValueError for a missing mark or a quick run."""
    found = json.loads(figures.read_text(encoding="utf-8"))
    if found["quick"]:
        raise ValueError(f"{figures} comes from a --quick run, whose figures mean nothing; run without it")
    text = page.read_text(encoding="utf-8")
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"{page} has no marks; `{START}` and `{END}` were expected")
    page.write_text(f"{before}{START}\n\n{render(found)}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
