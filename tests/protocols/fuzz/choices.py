"""Decisions read from a byte string: so a fuzzer that changes bytes changes decisions, and a file repeats a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass
class Choices:
    """Reads `data` from the front; after its end every decision is the first one."""

    data: bytes
    at: int = 0

    @property
    def spent(self) -> bool:
        return self.at >= len(self.data)

    def below(self, bound: int) -> int:
        """An integer from 0 to bound - 1, from one byte where that suffices, else two or four."""
        width = 1 if bound <= 256 else 2 if bound <= 65536 else 4
        value = int.from_bytes(self.data[self.at : self.at + width], "little")
        self.at += width
        return value % max(1, bound)

    def pick(self, options: Sequence[T]) -> T:
        return options[self.below(len(options))]

    def one_in(self, count: int) -> bool:
        """Never after the end of the data."""
        return not self.spent and self.below(count) == count - 1

    def bytes(self, size: int) -> bytes:
        """`size` bytes, zeros after the end."""
        taken = self.data[self.at : self.at + size]
        self.at += size
        return taken + bytes(size - len(taken))
