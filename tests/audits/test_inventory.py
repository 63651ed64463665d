"""A manifest after every round reads what is new, not everything again; and what was changed is read again."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from benchmarks.audit_trail import trail as trails

from fedgan_audits.bundle.inventory import Inventory
from fedgan_audits.bundle.reading import Bundle
from fedgan_audits.facts.run import RunFacts
from fedgan_audits.publishing.manifest import MANIFEST_TYPE, draft_manifest, objections_to_index, read_manifest
from fedgan_audits.signing import envelope

ROUNDS = 8
MOMENT = datetime(2026, 1, 5, 6, 0, tzinfo=UTC)


def facts(trail: trails.Trail) -> RunFacts:
    return RunFacts(
        run_id=trail.run_id, outcome="running", reason="rounds are left", rounds_scheduled=ROUNDS,
        policy_sha256="0" * 64, started=MOMENT, ended=MOMENT,
    )  # fmt: skip


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file was opened for reading through a bundle."""
    counts: Counter[str] = Counter()
    plain = Bundle._open

    def counted(self: Bundle, path: str) -> int:
        counts[path] += 1
        return plain(self, path)

    monkeypatch.setattr(Bundle, "_open", counted)
    return counts


def test_reads_grow_with_the_rounds_and_not_with_their_square(tmp_path: Path, opened: Counter[str]) -> None:
    trail, inventory = trails.Trail(tmp_path, ROUNDS, 3), Inventory()
    added = []
    for number in range(1, ROUNDS + 1):
        trail.add(number, quick=True)
        before = opened.total()
        payload = draft_manifest(trail.public, facts(trail), inventory)
        added.append(opened.total() - before)
        assert payload == draft_manifest(trail.public, facts(trail)), "what is remembered differs from what is there"
    assert len(set(added[1:])) == 1, f"a later round reads more than an earlier one: {added}"
    assert len(read_manifest(payload)[0].reports) == ROUNDS


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    trail, inventory = trails.Trail(tmp_path, ROUNDS, 3), Inventory()
    trail.add(1, quick=True)
    page = trail.public / "reports/round-0001.html"
    os.utime(page, ns=(0, 0))  # written long ago: no clock is so coarse that the change has the same time
    first = read_manifest(draft_manifest(trail.public, facts(trail), inventory))[1]
    page.write_bytes(page.read_bytes()[:-1] + b"!")
    second = read_manifest(draft_manifest(trail.public, facts(trail), inventory))[1]
    changed: dict[str, Any] = {path: digest for path, digest in second.items() if first[path] != digest}
    assert set(changed) == {"reports/round-0001.html"}, json.dumps(changed)


# what a hospital looks at before it signs -------------------------------------------------------------------------


def test_a_hospital_signs_the_page_that_the_reports_render_to_and_no_other(tmp_path: Path) -> None:
    trail, own = trails.Trail(tmp_path, ROUNDS, 3), Inventory()
    for number in (1, 2):
        trail.add(number, quick=True)
        assert objections_to_index(trail.public, draft_manifest(trail.public, facts(trail)), own) == []
    honest = draft_manifest(trail.public, facts(trail))
    manifest, subjects = read_manifest(honest)

    def objected(**changes: Any) -> bool:
        other = envelope.statement(
            changes.pop("subjects", subjects),
            MANIFEST_TYPE,
            manifest.model_copy(update=changes).model_dump(mode="json"),
        )
        return bool(objections_to_index(trail.public, other, own))

    assert not objected()
    false = (trail.public / "index.html").read_bytes().replace(b"PASS", b"Epsilon 0.10, HIPAA compliant")
    assert objected(subjects={**subjects, "index.html": hashlib.sha256(false).hexdigest()})
    assert objected(subjects={path: digest for path, digest in subjects.items() if path != "index.html"}, files=tuple(
        entry for entry in manifest.files if entry.path != "index.html"
    ))  # fmt: skip
    assert objected(run=manifest.run.model_copy(update={"reason": "all is well"}))
    assert objected(head=manifest.reports[0].digest) and objected(reports=manifest.reports[:1])


def test_a_hospital_signs_no_manifest_of_other_reports_than_the_published_ones(tmp_path: Path) -> None:
    """A report between the first and the newest is bound to both: another in its place breaks the chain."""
    trail, other = trails.Trail(tmp_path / "one", ROUNDS, 3), trails.Trail(tmp_path / "other", ROUNDS, 3)
    for number in (1, 2, 3):
        trail.add(number, quick=True)
        other.add(number, quick=True)
    honest = draft_manifest(trail.public, facts(trail))
    assert objections_to_index(trail.public, honest, Inventory()) == []
    name = "reports/round-0002.dsse.json"
    (trail.public / name).write_bytes((other.public / name).read_bytes())
    assert objections_to_index(trail.public, honest, Inventory())
    assert objections_to_index(trail.public, draft_manifest(trail.public, facts(trail)), Inventory())
