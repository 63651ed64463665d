"""How long a test waits for what always comes.

None of these limits is a timing: they only end a test of a process that hangs. A shared machine takes many times as
long as an idle one, so what comes within a second is waited for half an hour.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

HANG_SECONDS = 1800.0


def wait_until(reached: Callable[[], bool]) -> None:
    """Look again and again whether something has happened in another process; fail the test where it never does."""
    ends = time.monotonic() + HANG_SECONDS
    while not reached():
        if time.monotonic() > ends:
            pytest.fail(f"it has not happened in {HANG_SECONDS:.0f} s")
        time.sleep(0.02)
