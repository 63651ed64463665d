"""Worker processes as the search's driver holds them: jobs go in one by one, and they end with the driver."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedgan_secure.child_processes import child_environment, python_command
from fedgan_secure.errors import FedganError

COMMAND = tuple(python_command("-m", "fedgan_secure.tuning.worker"))


class WorkerEnded(FedganError):  # noqa: N818 - named after what happened
    """A worker process ended in the middle of a trial."""

    exit_code = 1


class Worker:
    """One process, started when it is first needed."""

    def __init__(self, command: Sequence[str], threads: int, log: Path) -> None:
        self._command, self._threads, self._log = list(command), threads, log
        self._process: subprocess.Popen[str] | None = None

    def ask(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a job.

        Raises:
            WorkerEnded: the process ended instead of answering.
        """
        process = self._started()
        try:
            assert process.stdin is not None and process.stdout is not None  # noqa: S101 - both are pipes
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except (BrokenPipeError, ValueError):
            line = ""
        if not line:
            self._process = None
            raise WorkerEnded(
                f"a worker process ended in the middle of a trial (exit code {process.wait()})",
                hint=f"what it wrote is in {self._log}; resume the search to go on with this trial",
            )
        found: dict[str, Any] = json.loads(line)
        return found

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            descriptor = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                self._process = subprocess.Popen(  # noqa: S603 - our own module
                    self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=descriptor, text=True,
                    env=child_environment(TF_NUM_INTRAOP_THREADS=str(self._threads)), start_new_session=True,
                )  # fmt: skip
            finally:
                os.close(descriptor)
        return self._process

    def close(self) -> None:
        """End the process, whatever it does: closing its stdin ends it at once."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
