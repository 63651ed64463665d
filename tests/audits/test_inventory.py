"""A manifest after every round reads what is new, not everything again; and what was changed is read again."""

from __future__ import annotations

import json
import os
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from benchmarks.audit_trail import trail as trails

from fedgan_audits.inventory import Inventory
from fedgan_audits.manifest import RunFacts, draft_manifest, read_manifest
from fedgan_audits.reading import Bundle

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
