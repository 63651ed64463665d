"""A process that runs trials: one JSON line in for each job, one JSON line out. It ends with its parent.

The parent's end of stdin closes when the parent ends, however it ends (a kill included): a thread that waits for more
input then ends this process at once, so that no orphan goes on with a trial that a resumed search takes up.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from typing import Any, TextIO

from fedgan_secure.tuning.trial import Job


def _listen(source: TextIO, jobs: queue.Queue[str]) -> None:
    for line in source:
        jobs.put(line)
    os._exit(0)


def answer(line: str) -> dict[str, Any]:
    """Run one job; an error that a user can act on becomes part of the answer."""
    from fedgan_audits.errors import AuditError, UnreachableTarget
    from fedgan_secure.errors import FedganError
    from fedgan_secure.tuning.trial import run_trial

    try:
        return {"result": run_trial(Job.from_json(json.loads(line)))}
    except UnreachableTarget as error:
        return {"infeasible": str(error)}
    except (FedganError, AuditError) as error:
        return {"error": str(error), "hint": getattr(error, "hint", ""), "exit_code": error.exit_code}


def serve(out: TextIO) -> None:
    """Answer jobs from stdin until it closes."""
    jobs: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(sys.stdin, jobs), daemon=True).start()
    while True:
        out.write(json.dumps(answer(jobs.get()), allow_nan=False) + "\n")
        out.flush()


if __name__ == "__main__":
    kept = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints goes to the log, never between two answers
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    serve(kept)
