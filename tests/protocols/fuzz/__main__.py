"""The fuzzer's command line.

python -m tests.protocols.fuzz --minutes 15 --jobs 2 --seed 1 --out DIR        own loop, coverage-guided
python -m tests.protocols.fuzz --replay DIR/findings/session-0123456789ab      one input again, with its traceback
python -m tests.protocols.fuzz --engine atheris --target session --minutes 15 --out DIR     needs `pip install atheris`
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

NAMES = ["session", "message", "decoder", "transcript", "journal", "key"]


def main(arguments: list[str] | None = None) -> int:
    """0: nothing found; 1: findings, whose files are named."""
    parser = argparse.ArgumentParser(prog="python -m tests.protocols.fuzz", description="Fuzz the protocol.")
    parser.add_argument("--minutes", type=float, default=1.0, help="processor minutes of each job")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--target", choices=NAMES, action="append", help="all of them where none is named")
    parser.add_argument("--out", type=Path, help="corpus, findings and coverage; a new temporary folder by default")
    parser.add_argument("--engine", choices=["own", "atheris"], default="own")
    parser.add_argument("--replay", type=Path, help="run one saved input; its name begins with its target's")
    chosen = parser.parse_args(arguments)
    if chosen.replay:
        from tests.protocols.fuzz.targets import TARGETS

        TARGETS[chosen.replay.name.split("-")[0]](chosen.replay.read_bytes())
        print("nothing found")  # noqa: T201
        return 0
    out = chosen.out or Path(tempfile.mkdtemp(prefix="fedgan-fuzz-"))
    names = chosen.target or NAMES
    if chosen.engine == "atheris":
        from tests.protocols.fuzz.with_atheris import fuzz_with_atheris

        return fuzz_with_atheris(names[0], chosen.minutes, chosen.seed, out)
    from tests.protocols.fuzz.engine import fuzz

    total = fuzz(names, chosen.minutes, chosen.seed, chosen.jobs, out)
    print(json.dumps({"out": str(out), **total}, indent=1))  # noqa: T201
    return 1 if total["findings"] or total["workers_that_died"] else 0


if __name__ == "__main__":
    sys.exit(main())
