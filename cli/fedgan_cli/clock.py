"""The one place where commands that sign look at the clock, so that a test can set it."""

from __future__ import annotations

from datetime import UTC, datetime


def present() -> datetime:
    """Return the present moment in UTC."""
    return datetime.now(UTC)
