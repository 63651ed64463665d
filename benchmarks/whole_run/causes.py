"""Where the time of a run goes: every moment is charged to exactly one cause, the innermost that is open.

Functions of the product are wrapped while a run is measured (`charged`); nothing in the product knows of it.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

REST = "everything else"
BUILDING = "building and tracing networks"


@dataclass
class Spent:
    """Seconds by the clock and of the processor (all threads), and how often the cause was entered."""

    wall: float = 0.0
    processor: float = 0.0
    entered: int = 0

    def add(self, other: Spent) -> None:
        self.wall += other.wall
        self.processor += other.processor
        self.entered += other.entered


@dataclass
class Causes:
    """A stopwatch with causes. It runs inside `running` alone; everything is on the calling thread.

    What happens inside one of the causes in `whole` is charged to that cause, but for `BUILDING`.
    """

    spent: dict[str, Spent] = field(default_factory=dict)
    whole: frozenset[str] = frozenset()
    _open: list[str] = field(default_factory=lambda: [REST])
    _mark: tuple[float, float] | None = None

    def _charge(self) -> None:
        now = time.perf_counter(), time.process_time()
        if self._mark is not None:
            entry = self.spent.setdefault(self._open[-1], Spent())
            entry.wall += now[0] - self._mark[0]
            entry.processor += now[1] - self._mark[1]
        self._mark = now

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let the watch run."""
        self._charge()
        try:
            yield
        finally:
            self._charge()
            self._mark = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop a running watch for a while."""
        self._charge()
        self._mark = None
        try:
            yield
        finally:
            self._charge()

    @contextmanager
    def of(self, cause: str) -> Iterator[None]:
        """Charge what happens inside to a cause; nothing where the watch does not run."""
        if self._mark is None or (self._open[-1] in self.whole and cause != BUILDING):
            yield
            return
        self._charge()
        self._open.append(cause)
        self.spent.setdefault(cause, Spent()).entered += 1
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def total(self) -> Spent:
        """All causes together, up to now."""
        if self._mark is not None:
            self._charge()
        whole = Spent()
        for entry in self.spent.values():
            whole.add(entry)
        return whole

    def take(self) -> dict[str, Spent]:
        """What was spent so far, by cause; the watch starts again from nothing."""
        taken, self.spent = self.spent, {}
        return taken


@dataclass(frozen=True)
class Charge:
    """Calls of ``owner.name`` (a function of a module or a method of a class) belong to `cause`."""

    owner: Any
    name: str
    cause: str


@dataclass(frozen=True)
class Compiled:
    """Instances of `owner` hold compiled functions, attribute -> cause; making one, and each function's first call,
    which traces it, belong to `BUILDING`."""

    owner: Any
    functions: Mapping[str, str]


def charge(causes: Causes, function: Callable[..., Any], cause: str) -> Callable[..., Any]:
    """The function, its calls charged to a cause."""

    @functools.wraps(function)
    def charged_call(*arguments: Any, **keywords: Any) -> Any:
        with causes.of(cause):
            return function(*arguments, **keywords)

    return charged_call


def charge_after_first(causes: Causes, function: Callable[..., Any], cause: str) -> Callable[..., Any]:
    """As `charge`, the first call charged to `BUILDING`."""
    traced = False

    def charged_call(*arguments: Any, **keywords: Any) -> Any:
        nonlocal traced
        now, traced = cause if traced else BUILDING, True
        with causes.of(now):
            return function(*arguments, **keywords)

    return charged_call


@contextmanager
def charged(causes: Causes, places: Iterable[Charge | Compiled]) -> Iterator[None]:
    """Wrap all these functions while the block runs.

    Raises:
        KeyError: a function is not where it is said to be.
    """
    before: list[tuple[Any, str, Any]] = []
    try:
        for place in places:
            name = place.name if isinstance(place, Charge) else "__init__"
            original = vars(place.owner)[name]
            before.append((place.owner, name, original))
            if isinstance(place, Charge):
                setattr(place.owner, name, charge(causes, original, place.cause))
            else:
                setattr(place.owner, name, _making(causes, original, place.functions))
        yield
    finally:
        for owner, name, original in reversed(before):
            setattr(owner, name, original)


def _making(causes: Causes, original: Callable[..., None], functions: Mapping[str, str]) -> Callable[..., None]:
    @functools.wraps(original)
    def make(self: Any, *arguments: Any, **keywords: Any) -> None:
        with causes.of(BUILDING):
            original(self, *arguments, **keywords)
        for name, cause in functions.items():
            setattr(self, name, charge_after_first(causes, getattr(self, name), cause))

    return make
