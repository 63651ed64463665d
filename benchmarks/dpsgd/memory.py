"""Peak memory of a step, in a process of its own: ``python -m dpsgd.memory KIND IMAGE_SIZE BATCH`` prints it as JSON.

Three figures, since they answer different questions (Linux):

* ``process``: the most the whole process held (VmHWM), what a machine must have;
* ``beyond_start``: the same less what it held (VmRSS) once model, batch and optimiser state were there. Building the
  graph, kernels compiled on the way and what the allocator keeps between tensors are in it;
* ``tensors``: the most bytes of tensors that were alive at once in one step, from TensorFlow's own profiler.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def peak_bytes(kind: str, image_size: int, batch: int) -> dict[str, int]:
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
    found: dict[str, int] = json.loads(done.stdout)
    return found


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
    most = _status("VmHWM")
    print(json.dumps({"process": most, "beyond_start": most - before, "tensors": live_bytes(step)}))


def live_bytes(step: Callable[[], Any]) -> int:
    """Most bytes of tensors alive at once during one step."""
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        step()
        tf.profiler.experimental.stop()
        (path,) = Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(path.read_bytes())
    changes = []
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                name = plane.event_metadata[event.metadata_id].name
                if name in ("MemoryAllocation", "MemoryDeallocation"):
                    stats = {plane.stat_metadata[stat.metadata_id].name: stat for stat in event.stats}
                    size = stats["allocation_bytes"].int64_value if name == "MemoryAllocation" else 0
                    address = stats["addr"].uint64_value or stats["addr"].int64_value
                    changes.append((line.timestamp_ns * 1000 + event.offset_ps, address, size))
    alive: dict[int, int] = {}
    most = total = 0
    for _, address, size in sorted(changes):
        total += size - alive.pop(address, 0)
        if size:
            alive[address] = size
        most = max(most, total)
    return most


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
