"""Run a trial of a search and kill this process at the N-th time it makes, opens for writing, moves or removes a file.

python killed_trial.py FOLDER N      # N = 0: never; then it prints how often it did
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import fedgan_secure.federation.training  # noqa: F401 - loaded before anything is counted
from fedgan_secure.tuning.trial import Job, run_trial

MOVES = frozenset({"os.rename", "os.mkdir", "os.rmdir", "os.remove", "shutil.rmtree", "sqlite3.connect"})
SETTINGS = {
    "data": {"image_size": 28, "phantom_patients": 8},
    "federation": {"rounds": 1, "steps_per_round": 2},
    "privacy": {"epsilon": 30.0, "delta": 0.01},
}


def main(folder: Path, kill_at: int) -> None:
    count = 0

    def watch(event: str, args: tuple[Any, ...]) -> None:
        nonlocal count
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if event in MOVES or writes:
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    result = run_trial(Job(folder, SETTINGS, {"metric": "feature_distance", "measured_on": "phantoms"}, 1))
    sys.stdout.write(json.dumps({"count": count, "score": result["score"], "finished": result["finished"]}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
