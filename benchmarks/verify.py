"""What `audit verify` takes for a long run: `python benchmarks/verify.py --json`.

Prints one JSON object on standard output (progress goes to standard error). One run is made (audit_trail/trail.py) and
verified, as it stands, after each of several numbers of rounds, by the command itself in a process of its own with the
hospitals' keys from outside: wall and CPU seconds, start of the interpreter included, and the most memory resident.

`seconds_1000x10`, the headline, is the wall time for 1,000 rounds of 10 hospitals. `growth` is the CPU time per round
added between the last two sizes over that between the first two: 1 where time is linear in rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from audit_trail.trail import Trail
from secure_aggregation import machine


@dataclass(frozen=True)
class Sizes:
    """How many hospitals, and after which rounds the run is verified."""

    hospitals: int
    rounds: tuple[int, ...]


FULL = Sizes(hospitals=10, rounds=(125, 250, 500, 1000))
QUICK = Sizes(hospitals=3, rounds=(17, 18, 20))
HEADLINES = ("seconds_1000x10", "cpu_seconds_1000x10", "peak_mib_1000x10", "growth")

_PEAK = (
    "import pathlib, sys\n"
    "from fedgan_cli.main import main\n"
    "try:\n    main(sys.argv[1:])\n"
    "finally:\n    status = pathlib.Path('/proc/self/status').read_text().split()\n"
    "    print(status[status.index('VmHWM:') + 1], file=sys.stderr)\n"
)
"""The peak is VmHWM: ru_maxrss starts at what the process that started this one held."""


def verify(trail: Trail, keys: Path) -> dict[str, Any]:
    """One run of the command; raises RuntimeError where it does not find everything in order."""
    words = [sys.executable, "-c", _PEAK, "audit", "verify", str(trail.public), "--trust", str(keys), "--json"]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    found = json.loads(done.stdout) if done.returncode in (0, 5) else {"ok": False, "checks": done.stderr}
    if not found["ok"]:
        wrong = [check for check in found["checks"] if check["outcome"] == "FAIL"]
        raise RuntimeError(f"the run does not verify: {wrong[:3]}")
    return {
        "rounds": found["run"]["rounds"],
        "hospitals": len(trail.identities),
        "seconds": wall,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "peak_mib": int(done.stderr.split()[-1]) / 1024,
        "files": sum(1 for path in trail.public.rglob("*") if path.is_file()),
        "mib": sum(path.stat().st_size for path in trail.public.rglob("*") if path.is_file()) / 2**20,
    }


def measure(sizes: Sizes, folder: Path) -> list[dict[str, Any]]:
    """A row for every number of rounds."""
    trail, rows = Trail(folder / "run", sizes.rounds[-1], sizes.hospitals), []
    keys = folder / "keys"
    keys.mkdir()
    for file in (trail.public / "trust").iterdir():
        (keys / file.name).write_bytes(file.read_bytes())
    for number in range(1, sizes.rounds[-1] + 1):
        trail.add(number, quick=number not in sizes.rounds)
        if number in sizes.rounds:
            trail.close(number)
            rows.append(verify(trail, keys))
            print(f"{number} rounds: {rows[-1]['seconds']:.1f} s", file=sys.stderr, flush=True)
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="verify.py", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the whole object (default: the headlines alone)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: every code path, no meaningful figure")
    options = parser.parse_args(arguments)
    sizes = QUICK if options.quick else FULL
    result: dict[str, Any] = dict.fromkeys(HEADLINES)
    result["quick"], result["machine"] = options.quick, machine.describe()
    with tempfile.TemporaryDirectory(prefix="fedgan-verify-", dir=os.environ.get("TMPDIR")) as folder:
        rows = measure(sizes, Path(folder))
    slopes = [
        (later["cpu_seconds"] - earlier["cpu_seconds"]) / (later["rounds"] - earlier["rounds"])
        for earlier, later in pairwise(rows)
    ]
    result["rows"], result["growth"] = rows, slopes[-1] / slopes[0]
    if (rows[-1]["rounds"], rows[-1]["hospitals"]) == (1000, 10):
        result["seconds_1000x10"] = rows[-1]["seconds"]
        result["cpu_seconds_1000x10"] = rows[-1]["cpu_seconds"]
        result["peak_mib_1000x10"] = rows[-1]["peak_mib"]
    result["load_average_after"] = os.getloadavg()[0]
    print(json.dumps(result if options.json else {key: result[key] for key in HEADLINES}, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
