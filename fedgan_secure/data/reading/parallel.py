"""Run batches of work in a few worker processes: results in order, memory bounded, a crash or a hang contained.

Workers are fresh interpreters (nothing is forked, so threads of a machine-learning runtime in the parent do no harm)
that import one function by name and answer over a socket pair. A worker that dies or exceeds its time is replaced, and
the items of its batch are tried again one by one, so that one hostile file costs only itself.
"""

from __future__ import annotations

import importlib
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from fedgan_secure.child_processes import child_environment, python_command
from fedgan_secure.processors import processors

SECONDS_PER_ITEM = 30.0
SECONDS_TO_START = 60.0
KEEPS_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**28), "MALLOC_TRIM_THRESHOLD_": str(2**30)}
"""glibc: a worker keeps what one picture took for the next one. Giving it back and taking it again cost a third of its
time in page faults."""


@dataclass(frozen=True)
class Failed:
    """Stands for the result of an item whose worker died or ran out of time."""

    reason: str


@dataclass
class _Job:
    number: int
    items: list[Any]
    positions: list[int]

    def placed(self, results: list[Any], answers: list[Any]) -> list[Any]:
        """A batch's results with this job's answers in their places."""
        known = dict(zip(self.positions, answers, strict=True))
        return [known.get(position, result) for position, result in enumerate(results)]

    def one_by_one(self) -> list[_Job]:
        """A job for each item, to find the one that ended its worker."""
        return [_Job(self.number, [item], [at]) for item, at in zip(self.items, self.positions, strict=True)]


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    connection: Connection
    job: _Job | None = None
    deadline: float = 0.0
    warm: bool = field(default=False)


def default_workers() -> int:
    """How many worker processes to use: the cores this process may run on, at most 8."""
    return min(8, processors())


def map_batches(
    target: str,
    common: Any,
    items: Sequence[Any],
    *,
    batch: int,
    workers: int,
    seconds_per_item: float = SECONDS_PER_ITEM,
) -> Iterator[list[Any]]:
    """Yield, in order, the results of `target(common, items[i:i+batch])` for consecutive batches.

    `target` is ``"module:function"``; the function takes (common, list of items) and returns one result per item. With
    one worker everything runs in this process. Otherwise `common`, items and results must be picklable, and an item
    whose worker died or hung yields :class:`Failed`.
    """
    if workers <= 1 or len(items) <= batch:
        function = resolve_target(target)
        for start in range(0, len(items), batch):
            yield function(common, list(items[start : start + batch]))
        return
    pool = _Pool(target, common, workers, seconds_per_item)
    try:
        yield from pool.run(items, batch)
    finally:
        pool.close()


def resolve_target(target: str) -> Callable[[Any, list[Any]], list[Any]]:
    """Import the function that ``"module:function"`` names."""
    module, _, name = target.partition(":")
    function: Callable[[Any, list[Any]], list[Any]] = getattr(importlib.import_module(module), name)
    return function


class _Pool:
    def __init__(self, target: str, common: Any, workers: int, seconds_per_item: float) -> None:
        self._target = target
        self._common = common
        self._count = workers
        self._seconds = seconds_per_item
        self._workers: list[_Worker] = []

    def run(self, items: Sequence[Any], batch: int) -> Iterator[list[Any]]:
        starts = list(range(0, len(items), batch))
        results: dict[int, list[Any]] = {}
        missing: dict[int, int] = {}
        retries: list[_Job] = []
        upcoming = wanted = 0
        while wanted < len(starts):
            while wanted < len(starts) and wanted in results and missing[wanted] == 0:
                del missing[wanted]
                yield results.pop(wanted)
                wanted += 1
            while upcoming < len(starts) or retries:
                worker = self._idle()
                if worker is None:
                    break
                if retries:
                    job = retries.pop()
                elif len(results) < 4 * self._count:
                    part = list(items[starts[upcoming] : starts[upcoming] + batch])
                    job = _Job(upcoming, part, list(range(len(part))))
                    results[upcoming] = [None] * len(part)
                    missing[upcoming] = len(part)
                    upcoming += 1
                else:
                    break
                self._give(worker, job)
            for job, answers in self._collect():
                if answers is not None:
                    results[job.number] = job.placed(results[job.number], answers)
                    missing[job.number] -= len(job.items)
                elif len(job.items) == 1:
                    reason = "reading it crashed the decoder or took too long"
                    results[job.number][job.positions[0]] = Failed(reason)
                    missing[job.number] -= 1
                else:
                    retries += job.one_by_one()

    def _idle(self) -> _Worker | None:
        for worker in self._workers:
            if worker.job is None:
                return worker
        if len(self._workers) >= self._count:
            return None
        ours, theirs = socket.socketpair()
        code = f"from fedgan_secure.data.reading.parallel import serve; serve({theirs.fileno()})"
        process = subprocess.Popen(  # noqa: S603 - our own interpreter, our own code
            python_command("-c", code),
            pass_fds=[theirs.fileno()],
            env=child_environment(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", **KEEPS_MEMORY),
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        connection = Connection(ours.detach())
        connection.send((self._target, self._common))
        worker = _Worker(process, connection)
        self._workers.append(worker)
        return worker

    def _give(self, worker: _Worker, job: _Job) -> None:
        worker.job = job
        allowance = self._seconds * len(job.items) + (0.0 if worker.warm else SECONDS_TO_START)
        worker.deadline = time.monotonic() + allowance
        try:
            worker.connection.send(job.items)
        except OSError:
            worker.deadline = 0.0

    def _collect(self) -> Iterator[tuple[_Job, list[Any] | None]]:
        busy = [worker for worker in self._workers if worker.job is not None]
        if not busy:
            return
        soonest = min(worker.deadline for worker in busy)
        ready = wait([worker.connection for worker in busy], timeout=max(0.0, soonest - time.monotonic()))
        now = time.monotonic()
        for worker in busy:
            job, answers = worker.job, None
            assert job is not None  # noqa: S101 - `busy` holds only workers with a job
            if worker.connection in ready:
                try:
                    answers = worker.connection.recv()
                except (EOFError, OSError):
                    answers = None
            elif now < worker.deadline:
                continue
            if isinstance(answers, BaseException):
                raise answers
            worker.job, worker.warm = None, True
            if answers is None:
                self._end(worker)
                self._workers.remove(worker)
            yield job, answers

    def _end(self, worker: _Worker) -> None:
        worker.connection.close()
        if worker.process.poll() is None:
            worker.process.kill()
        worker.process.wait()

    def close(self) -> None:
        for worker in self._workers:
            self._end(worker)
        self._workers.clear()


def serve(descriptor: int) -> None:
    """The worker's side: answer batches until the parent goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(descriptor)
    try:
        target, common = connection.recv()
        function = resolve_target(target)
        while True:
            items = connection.recv()
            try:
                answer: Any = function(common, items)
            except Exception as error:  # noqa: BLE001 - handed to the parent, which raises it there
                answer = error
            connection.send(answer)
    except (EOFError, OSError):
        return
