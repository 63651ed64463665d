"""Which versions of the renderer there have been: a page can be made again by the one that made it, and by no other.

A report and a manifest name the renderer of their page. The name decides what a verification can do, so it must not be
what an attacker chooses freely: one that is not listed here fails, and an older one leaves checks that were not made,
which close sign-offs, exports and releases (`checks.Verification.require`).

`VERSION` is raised whenever what is rendered, or what a report derives from its facts, changes: a golden set of pages
and figures in `tests/vectors/golden-pages.json` goes red until it is (`python -m tests.audits.golden` does both).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

VERSION = 2
"""The number of this renderer; every smaller one was in use before."""

RENDERER = f"html-{VERSION}"
"""The name that reports, manifests and pages of this version bear."""

# fmt: off
BEFORE_NUMBERS = (
    "html-46a76fa8672f7032", "html-8b97c7480f278605", "html-8713aeab8081e4e3", "html-7d793440b20e22ed",
    "html-52f6209fdbd35384", "html-9acf4e2fbf8c9a0c", "html-1665a77c068a2125", "html-82e97a5ead722cb8",
    "html-b2009eec8bd05318", "html-60a5450b7cb0c734", "html-6d77ce173c916c91", "html-0bc620296139d84c",
    "html-8b34b526f53f60a4", "html-c77a23dea471ea34", "html-c3ecaceec9c0ef4a", "html-e7a1353b72534dcf",
    "html-37d2e5b28c6c28c6", "html-c01b2eafd79d2ede", "html-1ae7eeccc3eab364", "html-e3fa8852f44b5ebc",
    "html-e98749e72670b9a9", "html-0c2beefd260c8dde", "html-d42963e59bda4cd0", "html-9c4054aaae508815",
    "html-b3c57138251bb7dc", "html-64cc6b31d42ff8ee", "html-44b58fb5217af710",
)
# fmt: on
"""Names of renderers before they had numbers (digests of their sources), oldest first. They count as number 0."""

REWORDED: Mapping[str, int] = {
    "schema_note": 1,
    "incidents.withdrawals": 1,
    "composition.declared_hospitals_text": 1,
    "composition.two_hospitals_text": 1,
    "controls.sources": 1,
    "empirical.text": 1,
    "verdict.does_not_show": 1,
    "privacy.gdp_mu": 1,
    "privacy.second_accountant": 1,
}
"""Field of a report -> the first renderer that makes it as this version does, where an older one made it otherwise.

Reports of older renderers are compared with what follows from their facts in every other field. Whoever changes a
sentence or a derived field names it here with the new number, so that older reports still verify; `[]` stands for any
place in a list ("composition.hospitals[].held"). What decides (verdict, limits, flags, statuses,
figures) is never listed while it can be computed again.
"""

ADDED_FIELDS: Mapping[str, int] = {
    "composition.hospitals[].held": 2,
    "composition.hospitals[].left_of_target": 2,
    "composition.hospitals[].left_of_cap": 2,
}
"""Field that a report may leave empty (None) -> the first renderer that fills it in; in older reports it is empty."""

ADDED_REASONS: Mapping[str, int] = {
    "Delta is ": 2,
    "The declared cohort is of ": 2,
    "Earlier runs on the same patients count. ": 2,
    "So that the figures can be computed again, ": 2,
    "Publishing the outcomes of the self-tests may add ": 2,
}
"""How a reason of a verdict begins -> the first renderer that gives it. A report of an older one may lack such reasons,
and none else; its verdict, its headline and whether the run may go on must then follow from all other reasons."""


def number(name: str) -> int | None:
    """Return the number of the renderer called `name`: 0 for those before numbers, None for one that is not known."""
    if name in BEFORE_NUMBERS:
        return 0
    known = {f"html-{number}": number for number in range(1, VERSION + 1)}
    return known.get(name)


def reworded(path: str, since: int) -> bool:
    """Return whether the field at `path` of a report by renderer number `since` may read otherwise than this one's."""
    return _named(path, since, REWORDED)


def added_field(path: str, since: int) -> bool:
    """Return whether renderer number `since` left the field at `path` of a report empty."""
    return _named(path, since, ADDED_FIELDS)


def _named(path: str, since: int, listed: Mapping[str, int]) -> bool:
    places = (path, re.sub(r"\[[0-9]+\]", "[]", path))
    return any(
        since < first and any(place == field or place.startswith((f"{field}.", f"{field}[")) for place in places)
        for field, first in listed.items()
    )


def added_reason(text: str, since: int) -> bool:
    """Return whether renderer number `since` did not give the reason `text` yet."""
    return any(since < first and text.startswith(start) for start, first in ADDED_REASONS.items())


def unknown(name: str) -> str:
    """Return what is wrong with a report or a manifest whose renderer `name` is none of those that are known."""
    return (
        f'names the renderer "{name[:60]}", expected {RENDERER} or an older one that this version lists: verify with'
        " the version of fedgan-secure that made it, or a newer one"
    )
