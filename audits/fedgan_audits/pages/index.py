"""The roll-up page of a run: a row for every round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from fedgan_audits.facts import RoundReport
from fedgan_audits.pages.render import page, picture, sample_path

if TYPE_CHECKING:
    from fedgan_audits.facts import RunFacts, SignOff


@dataclass(frozen=True)
class IndexRow:
    """What the roll-up says of one round."""

    round: int
    verdict: str
    took_part: int
    hospitals: int
    dropped_out: tuple[str, ...]
    spent: str
    remaining: str | None
    ended: datetime
    release: bool = False

    @classmethod
    def of(cls, report: RoundReport) -> IndexRow:
        facts = report.aggregation.facts
        return cls(
            round=report.header.round,
            verdict=report.verdict.verdict,
            took_part=len(facts.survivors),
            hospitals=len(report.aggregation.participants),
            dropped_out=facts.dropouts,
            spent=report.verdict.spent,
            remaining=report.verdict.remaining,
            ended=report.header.ended,
            release=report.privacy.settings.release is not None and report.header.round == 1,
        )

    @property
    def page(self) -> str:
        """Where the round's own page is, from the roll-up."""
        return f"reports/round-{self.round:04d}.html"


def render_index(
    facts: RunFacts,
    rows: Sequence[IndexRow],
    last: RoundReport | None,
    sample_png: bytes | None = None,
    language: str = "en",
    *,
    reviews: Sequence[SignOff] = (),
) -> bytes:
    """The roll-up page of a run, UTF-8: a row for every round in order, the newest report, who reviewed what."""
    return page(
        "index.html.j2",
        {
            "run": facts,
            "rows": rows,
            "last": last,
            "picture": picture(sample_png),
            "sample_path": sample_path(last) if last else None,
            "reviews": reviews,
        },
        language,
    )
