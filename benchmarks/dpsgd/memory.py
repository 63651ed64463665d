"""Peak memory of a step, in a process of its own: ``python -m dpsgd.memory KIND IMAGE_SIZE BATCH`` prints one number.

The figure is what the process holds at most during four steps, beyond what it holds once the model, the batch and the
optimiser's state are there (Linux: VmHWM against VmRSS).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def peak_bytes(kind: str, image_size: int, batch: int) -> int:
    """Peak bytes of the ``private``, ``bounded`` or ``plain`` step, measured in a new process."""
    command = [sys.executable, "-m", "dpsgd.memory", kind, str(image_size), str(batch)]
    done = subprocess.run(
        command,
        cwd=Path(__file__).resolve().parents[1],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    if done.returncode:
        raise RuntimeError(f"the memory of the {kind} step could not be measured: {done.stderr.strip()[-300:]}")
    return int(json.loads(done.stdout)["bytes"])


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}")


def main(kind: str, image_size: int, batch: int) -> None:
    """Print the peak of one kind of step as JSON."""
    from dpsgd.steps import Steps

    steps = Steps(image_size, batch)
    step = steps.plain() if kind == "plain" else steps.private(bound_fakes=kind == "bounded")
    before = _status("VmRSS")
    for _ in range(4):
        step()
    print(json.dumps({"bytes": _status("VmHWM") - before}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
