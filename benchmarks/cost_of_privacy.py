"""What a whole private run costs beside plain federated averaging: `python benchmarks/cost_of_privacy.py --json`.

Prints one JSON object on standard output (progress goes to standard error). Sections, each alone with `--only NAME`:

per_hospital  a run at 64 pixels as `fedgan-secure run` makes it (masked, journalled, accounted, reported, reviewed and
              signed), every hospital adding its own noise, over plain FedAvg with the same steps
distributed   the same with noise that the hospitals share: one secure sum a step

`ratio` counts everything from images in memory to the end of the last round, building and tracing of networks
included on both sides; `ratio_without_start` leaves out preparing, building and tracing. The sides take turns round by
round. The headline figures are at the top level; None where their section was left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from whole_run import machine, private

HEADLINES = {
    "ratio": ("per_hospital", "ratio"),
    "ratio_without_start": ("per_hospital", "ratio_without_start"),
    "ratio_processor": ("per_hospital", "ratio_processor"),
    "ratio_distributed": ("distributed", "ratio"),
    "ratio_distributed_without_start": ("distributed", "ratio_without_start"),
    "ratio_distributed_processor": ("distributed", "ratio_processor"),
}
FULL = private.Size(image_size=64, patients=768, hospitals=4, rounds=12)
QUICK = private.Size(image_size=28, patients=16, hospitals=3, rounds=2, steps=2)
ROUNDS = {"per_hospital": FULL.rounds, "distributed": 4}


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object (always done; kept for scripts)")
    parser.add_argument("--only", action="append", choices=list(ROUNDS), help="this section; repeatable")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, no figure worth quoting")
    parser.add_argument(
        "--rounds", type=int, help=f"of both sides ({', '.join(f'{k}: {v}' for k, v in ROUNDS.items())})"
    )
    given = parser.parse_args(arguments)
    found: dict[str, Any] = dict.fromkeys(HEADLINES)
    found |= {"quick": given.quick, "machine": machine.describe()}
    size = QUICK if given.quick else FULL
    with tempfile.TemporaryDirectory(prefix="fedgan-cost-") as place:
        print("drawing phantoms ...", file=sys.stderr, flush=True)
        folders = private.draw(Path(place) / "phantoms", size)
        for name, rounds in ROUNDS.items():
            if given.only and name not in given.only:
                continue
            print(f"{name} ...", file=sys.stderr, flush=True)
            chosen = dataclasses.replace(size, rounds=given.rounds or (size.rounds if given.quick else rounds))
            folder = Path(place) / name
            folder.mkdir()
            found[name] = private.measure(chosen, name, folders, folder)
    found |= {key: found[name][inner] for key, (name, inner) in HEADLINES.items() if name in found}
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
