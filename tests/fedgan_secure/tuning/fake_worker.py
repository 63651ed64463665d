"""A worker that trains nothing: it answers a job with a score of its settings, and ends with its parent.

It never answers for the trial number FEDGAN_FAKE_HOLD and later ones: a search stands still when it comes to them.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from fedgan_secure.tuning import worker
from fedgan_secure.tuning.trial import Job


def fake_trial(job: Job) -> dict[str, Any]:
    with Path(os.environ["FEDGAN_FAKE_LOG"]).open("a") as log:
        log.write(json.dumps([str(job.folder), os.getpid()]) + "\n")
    if int(job.folder.parent.name) >= int(os.environ.get("FEDGAN_FAKE_HOLD", "1000000")):
        threading.Event().wait()
    if os.environ.get("FEDGAN_FAKE_FAILS") == job.folder.parent.name:
        os._exit(9)
    privacy = job.settings["privacy"]
    noise, clip = privacy.get("noise_multiplier", 1.0), privacy.get("l2_clip_norm", 4.0)
    lost = int(os.environ.get("FEDGAN_FAKE_LOST", "0"))
    job.folder.mkdir(parents=True, exist_ok=True)
    return {
        "score": noise * 10 + clip + job.seed / 1e6, "epsilon": 10 / noise, "noise_multiplier": noise,
        "sampling_probability": 0.2, "steps": 4, "delta": 1e-3, "finished": 2 - lost, "rounds": 2,
        "seconds": 0.6, "picture": None,
    }  # fmt: skip


if __name__ == "__main__":
    from fedgan_secure.tuning import trial

    trial.run_trial = fake_trial
    kept = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.exit(worker.serve(kept))
