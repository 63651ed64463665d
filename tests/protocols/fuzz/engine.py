"""The fuzzer's loop: decisions are mutated, whatever reaches a new branch is kept, whatever breaks is written down.

Coverage (branches of fedgan_protocols, by coverage.py) is compared after every batch; a batch that reached something
new is run again one by one. Memory is bounded by RLIMIT_AS, so that unbounded use ends as MemoryError, a finding; and
every 64th execution runs under tracemalloc.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import queue
import random
import resource
import signal
import time
import traceback
import tracemalloc
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PACKAGE = "fedgan_protocols"
EXTRA_MEMORY = 1 << 30
"""Bytes of address space beyond what a worker holds when it begins."""
PEAK = 48 << 20
"""Bytes that one execution may allocate; bending itself makes packets of a few MiB."""
WEIGHTS = {"session": 12, "transcript": 3, "message": 3, "decoder": 3, "journal": 2, "key": 1}
"""Shares of the time."""
BATCHES = {"session": 12}
"""Executions between two looks at the coverage, which cost about 10 ms each; 50 of the fast targets."""


@dataclass
class Tally:
    """What one worker did."""

    executions: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    peaks: dict[str, int] = field(default_factory=dict)
    kept: int = 0
    findings: list[str] = field(default_factory=list)


class Loop:
    """One worker: a corpus per target, a generator, and a branch tracer."""

    def __init__(self, targets: dict[str, Callable[[bytes], None]], seed: int, out: Path, tracer: Any = None) -> None:
        self.targets, self.out, self.tracer = targets, out, tracer
        self.draw = random.Random(seed)  # noqa: S311 - what to try next is no secret
        self.corpus: dict[str, list[bytes]] = {name: [b""] for name in targets}
        self.tally = Tally()
        self.reached = 0
        self.seen: set[tuple[str, str]] = set()
        self.stopped = False

    def load(self) -> None:
        """Take up what earlier runs kept."""
        for name in self.targets:
            for path in sorted((self.out / "corpus" / name).glob("*")):
                self.corpus[name].append(path.read_bytes())

    def mutated(self, name: str) -> bytes:
        """New decisions: fresh ones, or kept ones changed in a few places."""
        draw, corpus = self.draw, self.corpus[name]
        if len(corpus) < 4 or draw.random() < 0.25:
            return draw.randbytes(draw.randrange(1, 80))
        data = bytearray(corpus[-1 - min(int(draw.expovariate(0.02)), len(corpus) - 1)])
        for _ in range(draw.choice((1, 1, 2, 4, 8))):
            kind, at = draw.randrange(6), draw.randrange(len(data) + 1)
            if kind == 0 and data:
                data[at % len(data)] = draw.randrange(256)
            elif kind == 1 and data:
                data[at % len(data)] = (data[at % len(data)] + draw.choice((1, -1))) % 256
            elif kind == 2:
                data[at:at] = draw.randbytes(draw.randrange(1, 9))
            elif kind == 3:
                del data[at : at + draw.randrange(1, 9)]
            elif kind == 4:
                other = draw.choice(corpus)
                data[at:] = other[draw.randrange(len(other) + 1) :]
            else:
                data += draw.randbytes(draw.randrange(1, 17))
        return bytes(data[:400])

    def execute(self, name: str, data: bytes, *, measured: bool = False) -> None:
        """Run one target once; record what it raises."""
        started = time.process_time()
        try:
            if measured:
                self._measured(name, data)
            else:
                self.targets[name](data)
        except (Exception, MemoryError) as error:  # noqa: BLE001 - whatever it is, it is the finding
            self._found(name, data, error)
        self.tally.executions[name] += 1
        self.tally.seconds[name] += time.process_time() - started  # type: ignore[assignment]

    def _measured(self, name: str, data: bytes) -> None:
        tracemalloc.start()
        try:
            self.targets[name](data)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        self.tally.peaks[name] = max(peak, self.tally.peaks.get(name, 0))
        if peak > PEAK:
            raise AssertionError(f"one execution allocated {peak} bytes")

    def _found(self, name: str, data: bytes, error: BaseException) -> None:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = (type(error).__name__, f"{Path(frame.filename).name}:{frame.lineno}")
        if where in self.seen:
            return
        self.seen.add(where)
        folder = self.out / "findings"
        folder.mkdir(parents=True, exist_ok=True)
        label = f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
        (folder / label).write_bytes(data)
        (folder / f"{label}.txt").write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        self.tally.findings.append(f"{label}: {where[0]} at {where[1]}: {error}"[:300])

    def _branches(self) -> int:
        if self.tracer is None:
            return 0
        data = self.tracer.get_data()
        return sum(len(data.arcs(name) or ()) for name in data.measured_files())

    def batch(self, name: str) -> None:
        """Several executions of one target; those that reach new branches are kept."""
        inputs = [self.mutated(name) for _ in range(BATCHES.get(name, 50))]
        for data in inputs:
            self.execute(name, data, measured=self.draw.randrange(64) == 0)
        if self.tracer is None or (reached := self._branches()) <= self.reached:
            return
        # which of them: those that add branches when they run alone after the others are forgotten
        self.reached = reached
        for data in inputs:
            if self._reaches_new(name, data):
                self._keep(name, data)

    def _reaches_new(self, name: str, data: bytes) -> bool:
        """Whether this input's own branches hold some that no kept input of the target was seen to reach."""
        self.tracer.stop()
        import coverage

        alone = coverage.Coverage(data_file=None, branch=True, source_pkgs=[PACKAGE], messages=False)
        alone.start()
        try:
            self.execute(name, data)
        finally:
            alone.stop()
        found = alone.get_data()
        arcs = {(file, *arc) for file in found.measured_files() for arc in found.arcs(file) or ()}
        self.tracer.start()
        known: set[tuple[Any, ...]] = self.__dict__.setdefault(f"_known_{name}", set())
        new = bool(arcs - known)
        known |= arcs
        return new

    def _keep(self, name: str, data: bytes) -> None:
        self.corpus[name].append(data)
        self.tally.kept += 1
        folder = self.out / "corpus" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)

    def run(self, cpu_seconds: float, report: Callable[[str], None] = lambda line: None) -> Tally:
        """Until so many seconds of processor time are spent; the targets share them by WEIGHTS."""
        begun, told = time.process_time(), time.monotonic()
        while time.process_time() - begun < cpu_seconds and not self.stopped:
            spent = self.tally.seconds
            name = min(self.targets, key=lambda one: spent[one] / WEIGHTS.get(one, 1))
            self.batch(name)
            if time.monotonic() - told > 60:
                told = time.monotonic()
                done = sum(self.tally.executions.values())
                report(f"{done} executions, {self.reached} branches, {self.tally.kept} kept, {self.tally.findings}")
        return self.tally


def _work(number: int, names: list[str], seconds: float, seed: int, out: str, results: Any) -> None:
    import coverage

    warnings.simplefilter("ignore", coverage.exceptions.CoverageWarning)
    tracer = coverage.Coverage(
        data_file=str(Path(out) / f".coverage.{number}"), branch=True, source_pkgs=[PACKAGE], messages=False
    )
    tracer.start()
    from tests.protocols.fuzz.targets import TARGETS  # now, so that the package is traced from its first line

    limit_memory()
    loop = Loop({name: TARGETS[name] for name in names}, seed + number, Path(out), tracer)
    loop.load()
    for number_of_signal in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number_of_signal, lambda *_: setattr(loop, "stopped", True))
    tally = loop.run(seconds, lambda line: print(f"[{number}] {line}", flush=True))  # noqa: T201
    tracer.stop()
    tracer.save()
    results.put({name: dict(value) if isinstance(value, Counter) else value for name, value in vars(tally).items()})


def limit_memory(extra: int = EXTRA_MEMORY) -> None:
    """No more address space than now and `extra` bytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    held = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + extra, resource.getrlimit(resource.RLIMIT_AS)[1]))


def fuzz(names: list[str], minutes: float, seed: int, jobs: int, out: Path) -> dict[str, Any]:
    """`jobs` workers of `minutes` processor minutes each. Returns totals; coverage lies in `out`/.coverage."""
    import coverage

    warnings.simplefilter("ignore", coverage.exceptions.CoverageWarning)
    out.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [
        context.Process(target=_work, args=(number, names, minutes * 60, seed, str(out), results))
        for number in range(jobs)
    ]
    for worker in workers:
        worker.start()
    tallies = []
    while len(tallies) < jobs:
        if all(not worker.is_alive() for worker in workers) and results.empty():
            break  # a worker that died is missing below
        try:
            tallies.append(results.get(timeout=5))
        except queue.Empty:
            continue
        except KeyboardInterrupt:
            for worker in workers:
                worker.terminate()  # a signal that ends its loop; it still reports
    for worker in workers:
        worker.join()
    combined = coverage.Coverage(data_file=str(out / ".coverage"), branch=True, source_pkgs=[PACKAGE], messages=False)
    combined.combine([str(path) for path in sorted(out.glob(".coverage.*"))])
    combined.save()
    with (out / "coverage.txt").open("w", encoding="utf-8") as file:
        covered = combined.report(file=file, show_missing=True)
    total = {
        "workers": jobs,
        "workers_that_died": jobs - len(tallies),
        "cpu_minutes": round(sum(sum(one["seconds"].values()) for one in tallies) / 60, 2),
        "executions": dict(sum((Counter(one["executions"]) for one in tallies), Counter())),
        "largest_peak_bytes": {name: max(one["peaks"].get(name, 0) for one in tallies) for name in names if tallies},
        "kept": sum(one["kept"] for one in tallies),
        "coverage_percent": round(covered, 1),
        "findings": sorted({line for one in tallies for line in one["findings"]}),
    }
    (out / "summary.json").write_text(json.dumps(total, indent=1), encoding="utf-8")
    return total
