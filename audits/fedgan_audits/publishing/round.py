"""Publish a round: the envelope is written last, so that a report that can be seen has all its companions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedgan_audits.bundle import write_atomic
from fedgan_audits.report import RoundDraft
from fedgan_audits.signing import envelope


def publish_round(public: Path, draft: RoundDraft, signatures: Sequence[envelope.Signature]) -> Path:
    """Write a round's HTML, signed bytes (.pae), single signatures and, last, its envelope; returns the envelope."""
    reports = public / "reports"
    write_atomic(reports / f"{draft.stem}.html", draft.html)
    write_atomic(reports / f"{draft.stem}.pae", draft.pae)
    for signature in signatures:
        write_atomic(reports / f"{draft.stem}.{signature.name}.sig", signature.sig)
    return write_atomic(reports / f"{draft.stem}.dsse.json", envelope.assemble(draft.payload, signatures))
