"""A report built again from the facts in it, and compared with what it says, whichever renderer made it.

What a report says beyond its facts (verdict, reasons, limits, flags, statuses, figures, sentences) must follow from
them. A report of this renderer is compared in every field. One of an older renderer is compared in every field but
those that this version makes otherwise (`renderers.REWORDED`), which are then named as not checked: that closes
sign-offs, exports and releases. Which fields those are depends on the number of its renderer, and for what is left of a
budget (`LEFT`) on its facts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from fedgan_audits.accounting import accountant
from fedgan_audits.facts import RoundReport
from fedgan_audits.pages import renderers
from fedgan_audits.report.reading import record_of
from fedgan_audits.report.report import build_report

TOLERANCE = 1e-3
"""By how much a figure (an epsilon) may differ where another version of the accountant's library made it."""

LOOSER = 1.25
"""How many times a figure of this version one of an older renderer may be, where a proof by Rényi is the smaller one:
there dp-accounting 0.6.0 gives up to 1.04 times the exact figure below an epsilon of 50."""

OF_LIBRARY = "Rényi differential privacy"

FIGURES = frozenset(
    {
        "spent", "spent_second_accountant", "spent_before_this_round", "increase_this_round", "spent_this_run",
        "held", "left_of_target", "left_of_cap",
        "remaining", "epsilon", "gdp_mu", "two_hospitals", "declared_hospitals_epsilon", "planned",
    }
)  # fmt: skip
"""The fields that hold a computed epsilon (or mu) as text; parameters and limits are none of them."""

LEFT = frozenset({"remaining", "rounds_left", "rounds_left_text", "status"})
"""What was counted otherwise before ledger, report and plan had one rule (ADR 27), under a cap and after other runs."""

_MOST = 6


@dataclass(frozen=True)
class Comparison:
    """Fields that do not follow from the facts, and fields that this version cannot check, by their paths."""

    wrong: tuple[str, ...]
    unchecked: tuple[str, ...]


def number_of(text: str) -> float:
    """Return a figure of a report as a float; "unbounded" is infinite."""
    return math.inf if text == "unbounded" else float(text)


def near(recorded: float, computed: float) -> bool:
    """Return whether two figures agree to `TOLERANCE`, infinite ones exactly."""
    if math.isinf(recorded) or math.isinf(computed):
        return recorded == computed
    return abs(recorded - computed) <= TOLERANCE


def listed(paths: tuple[str, ...]) -> str:
    """Return the first few paths as prose."""
    more = f" and {len(paths) - _MOST} more fields" if len(paths) > _MOST else ""
    return ", ".join(paths[:_MOST]) + more


def compare(report: RoundReport, since: int) -> Comparison:
    """Build `report`, made by renderer number `since`, again from its facts, and compare every field.

    Figures must agree exactly where the same renderer and the same version of the accountant's library made them, else
    to `TOLERANCE`. Raises AuditError where no report follows from the facts, such as an unaccounted mechanism.
    """
    exact = since == renderers.VERSION and report.header.software.dp_accounting == version("dp-accounting")
    record = record_of(report)
    rebuilt = build_report(record)
    unsaid = [
        text
        for text in rebuilt.verdict.reasons
        if text not in report.verdict.reasons and renderers.added_reason(text, since)
    ]
    if unsaid:  # verdict, headline and whether to go on then follow from all other reasons
        rebuilt = build_report(record, unsaid)
    recorded, ours = report.model_dump(mode="json"), rebuilt.model_dump(mode="json")
    counted_otherwise = since == 0 and any(entry.cap and entry.earlier for entry in report.aggregation.participants)
    filled = {_general(path) for path, value in _leaves(recorded) if value is not None}
    wrong: list[str] = []
    unchecked: list[str] = ["verdict.reasons"] if unsaid else []
    for field in _differing(recorded, ours, frozenset() if exact else FIGURES):
        if (field.path == "renderer" and since < renderers.VERSION) or (since == 0 and field.is_renyi()):
            continue
        empty = field.theirs is None and renderers.added_field(field.path, since)
        if empty and _general(field.path) not in filled:  # in no row: an older renderer did not know the field
            continue
        otherwise = renderers.reworded(field.path, since) or (counted_otherwise and field.name in LEFT)
        (unchecked if otherwise or (since == 0 and field.is_looser()) else wrong).append(field.path)
    return Comparison(tuple(wrong), tuple(unchecked))


def _general(path: str) -> str:
    """A path with any place in a list for each of its places."""
    return re.sub(r"\[[0-9]+\]", "[]", path)


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every field with its path."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _leaves(part, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _leaves(part, f"{path}[{index}]")
    else:
        yield path, value


@dataclass(frozen=True)
class _Field:
    """A field that differs: where it is, its name, what the report says and what follows from the facts."""

    path: str
    name: str
    theirs: Any
    ours: Any

    def is_renyi(self) -> bool:
        """Whether it is Rényi's second opinion, which `recompute.check_epsilon` holds between bounds, or names it."""
        named = str(self.theirs).startswith("dp-accounting ") and str(self.theirs).endswith(OF_LIBRARY)
        return self.name == "spent_second_accountant" or (
            self.path == "privacy.accountant" and self.ours == accountant.RENYI and named
        )

    def is_looser(self) -> bool:
        """Whether it is a figure that is larger than ours, by no more than versions of dp-accounting differ."""
        try:
            theirs, ours = number_of(self.theirs), number_of(self.ours)
        except (TypeError, ValueError):
            return False
        return self.name in FIGURES and self.name != "remaining" and ours < theirs <= LOOSER * ours


def _differing(theirs: Any, ours: Any, rounded: Collection[str], path: str = "", name: str = "") -> Iterator[_Field]:
    """Every field that differs; those in `rounded` by more than `TOLERANCE`."""
    if isinstance(theirs, Mapping) and isinstance(ours, Mapping) and theirs.keys() == ours.keys():
        for key in theirs:
            yield from _differing(theirs[key], ours[key], rounded, f"{path}.{key}" if path else key, key)
    elif isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        for index, (first, second) in enumerate(zip(theirs, ours, strict=True)):
            yield from _differing(first, second, rounded, f"{path}[{index}]", name)
    elif (type(theirs), theirs) != (type(ours), ours) and not (name in rounded and _near_texts(theirs, ours)):
        yield _Field(path, name, theirs, ours)


def _near_texts(theirs: Any, ours: Any) -> bool:
    try:
        return near(number_of(theirs), number_of(ours))
    except (TypeError, ValueError):
        return False
