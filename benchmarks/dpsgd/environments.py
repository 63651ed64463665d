"""Other libraries, each in a locked environment of its own, timed by a worker that runs inside it.

A worker prints one JSON line: seconds of interleaved plain and private steps on the same architecture and batch. An
environment that is not there is a reason, never a figure.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Environment:
    """Where a library lives, how to make it, and the worker that times it."""

    name: str
    python: Path
    install: str
    worker: Path

    def measure(self, image_size: int, batch: int, rounds: int, timeout: float) -> dict[str, Any]:
        """The worker's answer, or ``{"ratio": None, "skipped": reason}``."""
        if not self.python.exists():
            return {"ratio": None, "skipped": f"no environment {self.python.parents[1].name}: {self.install}"}
        command = [str(self.python), str(self.worker), str(image_size), str(batch), str(rounds)]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False, timeout=timeout
            )
        except subprocess.TimeoutExpired:
            return {"ratio": None, "skipped": f"the worker took more than {timeout:.0f} s"}
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            return {"ratio": None, "skipped": f"the worker ended with code {done.returncode}: {last}"}
        answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return answer


OPACUS = Environment(
    "opacus",
    BENCHMARKS / ".venv-opacus" / "bin" / "python",
    "install benchmarks/dpsgd/opacus/requirements.txt into benchmarks/.venv-opacus (see its README)",
    BENCHMARKS / "dpsgd" / "opacus" / "worker.py",
)
TENSORFLOW_PRIVACY = Environment(
    "tensorflow-privacy",
    BENCHMARKS.parent / ".venv-crosscheck" / "bin" / "python",
    "run `make crosscheck`",
    BENCHMARKS / "dpsgd" / "tensorflow_privacy" / "worker.py",
)
