"""Names of a round's files below ``public/``."""

from __future__ import annotations


def stem_of(number: int) -> str:
    """`round-0001` for round 1; more digits where four do not do."""
    return f"round-{number:04d}"


def html_path(number: int) -> str:
    """Where the HTML of a round is, below `public/`."""
    return f"reports/{stem_of(number)}.html"
