"""The names that a run publishes files under. Whatever has another name is no part of a run, whoever signed for it."""

from __future__ import annotations

import re

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
_ROUND = r"round-[0-9]{4,9}"
_PUBLISHED = re.compile(
    r"index\.html|policy\.json|manifest\.dsse\.json"
    r"|model/(?:generator|discriminator)\.keras"
    rf"|reports/{_ROUND}\.(?:dsse\.json|html|pae|{_NAME}\.sig)"
    rf"|samples/{_ROUND}\.png|transcripts/{_ROUND}\.cbor"
    rf"|sign-offs/{_NAME}|trust/{_NAME}\.(?:pem|json)"
)


def is_published(path: str) -> bool:
    """Return whether a run publishes files of this name, below its public folder and with forward slashes."""
    return _PUBLISHED.fullmatch(path) is not None
