"""Ctrl-C and SIGTERM, taken at a point where a round can be ended in order.

A signal that raises wherever the interpreter happens to be can land between a reservation and the code that reports
it, or inside a callback that swallows it. Here it only leaves a mark; the round looks at the mark before every
training step. A second signal does not wait: the process ends as if it had been killed, which a run survives too.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
HEARD = b"\ninterrupting after this step; a second signal ends the process at once\n"
STANDARD_ERROR = 2


class Interruption:
    """Whether the operator asked the run to stop."""

    def __init__(self) -> None:
        self.asked = False

    def check(self) -> None:
        """Raise KeyboardInterrupt once the operator has asked."""
        if self.asked:
            raise KeyboardInterrupt

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Mark signals instead of raising, while the block runs; outside the main thread nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        os.write(STANDARD_ERROR, HEARD)  # a buffered writer may be in the middle of a call: it is not re-entrant
