"""A hospital with a key, a ledger and small runs, and statements about its keys, for the tests of keys over time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.audit_trail import trail as trails
from click.testing import CliRunner, Result

from fedgan_audits.ledger.ledger import Ledger
from fedgan_audits.signing import key_statements
from fedgan_audits.signing.public_keys import public_pem, raw_of
from fedgan_cli.main import cli
from fedgan_protocols import Identity

WHO = "hospital-001"
NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
"""When the tests happen: after `trails.START`, whatever the machine's own clock says."""


@contextmanager
def at(moment: datetime) -> Iterator[None]:
    """Let commands that sign do so at `moment`."""
    with patch("fedgan_cli.clock.present", return_value=moment):
        yield


def command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [*map(str, arguments)])


def code_of(done: Result) -> int:
    return int(getattr(done.exception, "exit_code", done.exit_code))


@dataclass
class Site:
    """A hospital's folder with key, ledger and statements; everybody's first keys; the runs that were made."""

    root: Path
    others: dict[str, Identity]
    first: Identity
    runs: dict[str, trails.Trail] = field(default_factory=dict)

    @classmethod
    def new(cls, root: Path) -> Site:
        """A hospital with its first key, and nothing signed yet."""
        others = {name: Identity.generate() for name in ("hospital-002", "hospital-003", "coordinator")}
        made = cls(root, others, Identity.generate())
        made.key.parent.mkdir(parents=True)
        made.first.save(made.key)
        return made

    @property
    def key(self) -> Path:
        return self.root / WHO / "identity.pem"

    def run(
        self,
        name: str,
        signer: Identity,
        *,
        kept: bool = True,
        start: datetime = trails.START,
        ended: datetime | None = None,
    ) -> trails.Trail:
        """A run of one round in which `signer` signs as the hospital; `kept`: its ledger knows.

        Its report and its manifest are dated `ended`, or a hundred seconds and two minutes after `start`.
        """
        identities = [signer, *(self.others[who] for who in ("hospital-002", "hospital-003", "coordinator"))]
        with patch.object(trails.Identity, "generate", side_effect=identities):
            made = trails.Trail(self.root / name, 1, 3)
        with patch.object(trails, "START", start if ended is None else ended - timedelta(seconds=100)):
            made.add(1, quick=False)
        with patch.object(trails, "START", start if ended is None else ended - timedelta(minutes=2)):
            made.close(1)
        if kept:
            with Ledger.open(self.root / WHO / "ledger.sqlite", hospital=WHO, create=True) as ledger:
                ledger.record("report_signed", made.run_id, 1, {"digest": made.head})
        self.runs[name] = made
        return made

    def trust(self, folder: Path, *statements: Path, anchor: Identity | None = None) -> Path:
        folder.mkdir(parents=True)
        keys = {**self.others, WHO: anchor or self.first}
        for name, identity in keys.items():
            (folder / f"{name}.pub.pem").write_bytes(public_pem(identity.private_key.public_key()))
        for file in statements:
            shutil.copy(file, folder)
        return folder


def failures(public: Path, trust: Path, *more: str | Path) -> dict[str, str]:
    """Name of a check -> what is wrong; the exit code fits."""
    done = command("audit", "verify", public, "--trust", trust, "--json", *more)
    checks = json.loads(done.stdout)["checks"]
    wrong: dict[str, str] = {}
    for check in checks:
        if check["outcome"] == "FAIL":
            wrong[check["name"]] = f"{wrong.get(check['name'], '')} {check['file']}: {check['detail']}"
    assert done.exit_code == (5 if wrong else 0)
    return wrong


def make(site: Site, old: Identity, new: Identity, **changes: Any) -> bytes:
    values: dict[str, Any] = {"moment": NOW, "before": None, "signed": None, "ledger_head": None, **changes}
    return key_statements.rotation(WHO, old.private_key, new.private_key, **values)


def put(trust: Path, name: str, data: bytes) -> None:
    (trust / f"{name}.dsse.json").write_bytes(data)


def end(signer: Identity, revoked: Identity, since: datetime, **changes: Any) -> bytes:
    values: dict[str, Any] = {"moment": NOW, "successor": None, "signed": None, "ledger_head": None, **changes}
    raw = raw_of(revoked.private_key.public_key())
    return key_statements.revocation(WHO, raw, signer.private_key, since=since, reason="stolen", **values)
