"""Flower in an environment of its own, hash-locked in `benchmarks/flower/requirements.txt`, and a worker inside it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import venv
from pathlib import Path
from types import TracebackType
from typing import Any

BENCHMARKS = Path(__file__).resolve().parents[1]
ENVIRONMENT = BENCHMARKS / ".venv-flower"
LOCK = BENCHMARKS / "flower" / "requirements.txt"
WORKER = BENCHMARKS / "flower" / "worker.py"
INSTALL_SECONDS = 600


class UnavailableError(Exception):
    """Why Flower cannot be timed here; the comparison is then left out with this reason."""


def interpreter(environment: Path = ENVIRONMENT, lock: Path = LOCK) -> Path:
    """The environment's python; installs it where the lock has changed since. Raises UnavailableError."""
    python = environment / "bin" / "python"
    mark = environment / ".installed"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    if python.exists() and mark.is_file() and mark.read_text(encoding="utf-8") == digest:
        return python
    print(f"installing {lock.name} into {environment.name}", file=sys.stderr)
    venv.create(environment, clear=True, with_pip=False)
    options = ["--quiet", "--disable-pip-version-check", "--require-hashes", "-r", str(lock)]
    reasons = []
    for base in dict.fromkeys((sys.executable, getattr(sys, "_base_executable", sys.executable))):
        try:
            command = [base, "-m", "pip", "--python", str(python), "install", *options]
            done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            reasons.append(type(error).__name__)
            continue
        if done.returncode == 0:
            mark.write_text(digest, encoding="utf-8")
            return python
        reasons.append((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    raise UnavailableError(f"pip could not install {lock.name}: {'; '.join(reasons)}")


class Worker:
    """`benchmarks/flower/worker.py` as a subprocess that answers one order at a time."""

    def __init__(self, python: Path) -> None:
        self._process = subprocess.Popen(
            [str(python), str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def order(self, **order: Any) -> dict[str, Any]:
        """One answer; raises UnavailableError with the last line that the worker wrote when it has ended."""
        process = self._process
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise AssertionError("the worker was started with pipes")
        try:
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            process.wait()
            last = (process.stderr.read().strip().splitlines() or ["no message"])[-1]
            raise UnavailableError(f"Flower's worker ended with code {process.returncode}: {last}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()
