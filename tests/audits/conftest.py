"""A small signed run, made of real keys, real figures and well-formed stand-ins for what other rooms write."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedgan_audits import canonical_json
from fedgan_audits.accounting.mechanism import MechanismRecord
from fedgan_audits.bundle.writing import write_atomic
from fedgan_audits.facts.binding import start_text
from fedgan_audits.facts.records import (
    AggregationFacts,
    Artefact,
    DataFacts,
    Flags,
    GovernanceEntry,
    HospitalFacts,
    Incident,
    MissingSignature,
    PrivacySettings,
    ReleaseFacts,
    RoundHeader,
    RoundRecord,
    SelfTestRow,
    Software,
    spending,
)
from fedgan_audits.facts.run import RunFacts
from fedgan_audits.facts.self_tests import NAMES, SelfTest
from fedgan_audits.pages import index, render
from fedgan_audits.publishing.manifest import write_manifest
from fedgan_audits.publishing.round import publish_round
from fedgan_audits.report.report import RoundDraft, build_round
from fedgan_audits.signing import envelope, public_keys
from fedgan_audits.signing.public_keys import public_pem, publish_trust

MECHANISM = MechanismRecord(
    sampling_probability=0.1,
    noise_multiplier=1.4,
    steps=20,
    l2_clip_norm=1.0,
    unit="patient",
    images_per_patient=2,
)
RELEASE = MechanismRecord(
    sampling_probability=1.0, noise_multiplier=2.5, steps=1, l2_clip_norm=1.0, unit="patient", images_per_patient=2
)
STATISTIC = "Class moments of public features and a histogram of colours."
FEATURES = f"271 features of the public start fundus64/1 (SHA-256 {'b' * 64})."
LAYOUT = {"classes": 5, "features": 271, "first_weight": 0.625, "bins": [8, 10, 10]}
PUBLIC_START = {"name": "fundus64/1", "digest": "b" * 64, "statement": "Trained on public phantoms, no patient."}
START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
HEADROOM = "4 inputs of at most 2^29 sum to at most 2^31, which is less than 2^32."
TRANSCRIPT = b"toy transcript of round "


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def small_png(shade: int) -> bytes:
    """A grey picture of 8 x 8 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + bytes([shade]) * 8 for _ in range(8))
    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def toy_transcript_check(context: Any) -> str:
    """Stands in for the protocol's check: the transcript names its round and the policy it ran under."""
    expected = TRANSCRIPT + f"{context.round} {context.policy_sha256}".encode()
    if context.data != expected:
        raise ValueError("the transcript is of another round or policy")
    return "as expected"


def rows_of(**outcomes: SelfTest) -> tuple[SelfTestRow, ...]:
    """All self-tests of a hospital, PASS but for those named."""
    return tuple(SelfTestRow(name=name, outcome=outcomes.get(name, "PASS")) for name in NAMES)


@dataclass
class Run:
    """A run under construction: keys, folder, chain."""

    folder: Path
    names: tuple[str, ...] = ("a", "b", "c", "d")
    rounds: int = 3
    run_id: str = "run-7"
    mechanism: MechanismRecord = MECHANISM
    target: float | None = 8.0
    release: MechanismRecord | None = None
    first_model: str | None = None
    flags: Flags = field(default_factory=Flags)
    keys: dict[str, Ed25519PrivateKey] = field(default_factory=dict)
    drafts: list[RoundDraft] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("coordinator", *self.names):
            self.keys.setdefault(name, Ed25519PrivateKey.generate())
        self.policy = canonical_json.canonical(
            {
                "run_id": self.run_id,
                "coordinator": {"public_key": self.raw("coordinator")},
                "hospitals": [{"name": name, "public_key": self.raw(name)} for name in self.names],
                "threshold": 3,
                "ring_bits": 32,
                "headroom": HEADROOM,
                "rounds": self.rounds,
                "mechanism": {
                    **self.mechanism.model_dump(exclude={"steps"}),
                    "steps_per_round": self.mechanism.steps,
                    "images_per_patient": self.mechanism.images_per_patient,
                    "delta": 1e-4,
                    "epsilon_target": self.target,
                    "declared_patients": 75,
                },
                "flags": {
                    "no_privacy": self.flags.no_privacy,
                    "insecure_deterministic": self.flags.insecure_deterministic,
                    "taken_from_data": [],
                },
                "data": {"image_size": 64, "channels": 3, "classes": 5, "phantoms": True, "unit_remark": ""},
                "initial_model": {
                    "pretraining": "none",
                    **({} if self.first_model is None else {"vector_digest": self.first_model}),
                },
                **self._release_policy(),
            }
        )
        write_atomic(self.public / "policy.json", self.policy)
        publish_trust(self.public, self.public_keys)

    def _release_policy(self) -> dict[str, Any]:
        """The keys that a policy with a release has and another has not."""
        if self.release is None:
            return {}
        names = {"noise_multiplier", "l2_clip_norm", "unit", "images_per_patient", "shares"}
        return {
            "start": PUBLIC_START,
            "release": {
                **self.release.model_dump(include=names),
                "dimension": 3_515,
                "layout": LAYOUT,
                "layout_sha256": sha256(canonical_json.canonical(LAYOUT)),
                "headroom": f"of the release: {HEADROOM}",
            },
        }

    def scheduled(self, number: int) -> MechanismRecord:
        """What round `number` reserves."""
        return self.release if self.release is not None and number == 1 else self.mechanism

    @property
    def release_facts(self) -> ReleaseFacts | None:
        if self.release is None:
            return None
        layout = sha256(canonical_json.canonical(LAYOUT))
        return ReleaseFacts(
            mechanism=self.release, statistic=STATISTIC, dimension=3_515, layout_sha256=layout, features=FEATURES
        )

    @property
    def public(self) -> Path:
        return self.folder / "public"

    @property
    def public_keys(self) -> dict[str, Ed25519PublicKey]:
        return {name: key.public_key() for name, key in self.keys.items()}

    def raw(self, name: str) -> str:
        key = self.keys[name].public_key()
        return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw).hex()

    def trust(self, folder: Path, names: Sequence[str] | None = None) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names or tuple(self.keys):
            (folder / f"{name}.pub.pem").write_bytes(public_pem(self.keys[name].public_key()))
        return folder

    def record(self, number: int, **changes: Any) -> RoundRecord:
        """The facts of round `number`; `changes` replace fields of the record, "hospital" fields of every hospital."""
        transcript = TRANSCRIPT + f"{number} {sha256(self.policy)}".encode()
        releasing = self.release if number == 1 else None
        files = {
            "policy.json": (self.policy, "policy"),
            f"transcripts/round-{number:04d}.cbor": (transcript, "transcript"),
            f"samples/round-{number:04d}.png": (small_png(40 * number % 256), "samples"),
            "model/generator.keras": (b"generator after round %d" % number, "model"),
            "model/discriminator.keras": (b"discriminator after round %d" % number, "model"),
        }
        for path, (data, _) in files.items():
            write_atomic(self.public / path, data)
        values: dict[str, Any] = {
            "header": RoundHeader(
                run_id=self.run_id,
                round=number,
                rounds_scheduled=self.rounds,
                started=START + timedelta(minutes=number),
                ended=START + timedelta(minutes=number, seconds=40),
                status="complete",
                policy_sha256=sha256(self.policy),
                coordinator_fingerprint=public_keys.fingerprint(self.keys["coordinator"].public_key()),
                previous_report=self.drafts[-1].digest if self.drafts else None,
                software=Software(
                    fedgan_secure="0.1.0",
                    lock_sha256="5" * 64,
                    python="3.11.7",
                    tensorflow="2.21.0",
                    dp_accounting="0.6.0",
                    cryptography="50.0.2",
                ),
            ),
            "privacy": PrivacySettings(
                unit=self.mechanism.unit,
                noise_placement=self.mechanism.noise_placement,
                delta=1e-4,
                epsilon_target=self.target,
                planned=self.mechanism,
                images_per_patient=self.mechanism.images_per_patient,
                sampling="An independent coin for every patient and step.",
                noise="Gaussian noise from a keyed stream.",
                clipping="The gradient of a patient is clipped to norm 1.",
                release=self.release_facts,
            ),
            "hospitals": [
                HospitalFacts(
                    **{
                        "name": name,
                        "fingerprint": public_keys.fingerprint(self.keys[name].public_key()),
                        "declared_patients": 75,
                        "reserved": self.scheduled(number),
                        "this_run": spending([(due, self.scheduled(due)) for due in range(1, number + 1)]),
                        "cap": None,
                        "ledger_lifetime": "run",
                        "took_part": True,
                        "receipt": "signed",
                        "annex_commitment": sha256(f"annex {name} {number}".encode()),
                        "self_test": "PASS",
                        "self_tests": rows_of(),
                        **changes.get("hospital", {}).get(name, {}),
                    }
                )
                for name in self.names
            ],
            "aggregation": AggregationFacts(
                roster_size=len(self.names),
                threshold=3,
                ring_bits=32,
                dimension=1_234_567 if releasing is None else 3_515,
                headroom=HEADROOM if releasing is None else f"of the release: {HEADROOM}",
                survivors=self.names,
                colluders_tolerated=1,
                transcript_sha256=sha256(transcript),
                model_before=sha256(b"model %d" % (number - 1)),
                model_after=sha256(b"model %d" % number),
                sum_sha256=sha256(b"sum %d" % number),
            ),
            "flags": self.flags,
            "data": DataFacts(
                layouts=("dicom",),
                image_size=64,
                channels=3,
                conditional=True,
                classes=5,
                synthetic_phantoms=True,
                start="" if self.release is None else start_text(**PUBLIC_START),
                deidentification="Pixels and a keyed pseudonym are read, nothing else.",
                fields_read=("PixelData", "PatientID"),
            ),
            "artefacts": [
                Artefact(path=path, sha256=sha256(data), kind=kind)  # type: ignore[arg-type]
                for path, (data, kind) in files.items()
            ],
        }
        values.update({name: value for name, value in changes.items() if name != "hospital"})
        return RoundRecord(**values)

    def report(self, number: int, signers: Sequence[str] | None = None, **changes: Any) -> RoundDraft:
        """Build, sign and publish round `number`."""
        record = self.record(number, **changes)
        sample = next((entry for entry in record.artefacts if entry.kind == "samples"), None)
        picture = (self.public / sample.path).read_bytes() if sample else None
        draft = build_round(record, sample_png=picture)
        self.publish(draft, signers)
        self.drafts.append(draft)
        return draft

    def publish(self, draft: RoundDraft, signers: Sequence[str] | None = None) -> None:
        names = tuple(self.keys) if signers is None else signers
        publish_round(self.public, draft, [envelope.sign(draft.payload, self.keys[name], name) for name in names])

    def facts(self, outcome: str = "complete", reason: str = "All scheduled rounds were run.") -> RunFacts:
        return RunFacts(
            run_id=self.run_id,
            outcome=outcome,  # type: ignore[arg-type]
            reason=reason,
            rounds_scheduled=self.rounds,
            policy_sha256=sha256(self.policy),
            started=START,
            ended=START + timedelta(minutes=9),
            incidents=(Incident(kind="quarantined file", text="Hospital b left out unreadable files."),),
        )

    def close(self, outcome: str = "complete", reason: str = "All scheduled rounds were run.") -> None:
        write_manifest(self.public, self.facts(outcome, reason), self.keys)

    def all_rounds(self) -> Run:
        for number in range(1, self.rounds + 1):
            self.report(number)
        self.close()
        return self


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A 3-round run, finished and signed. Shared: copy it before changing anything (`bundle`)."""
    return Run(tmp_path_factory.mktemp("runs") / "whole").all_rounds()


@pytest.fixture
def bundle(whole_run: Run, tmp_path: Path) -> Iterator[Path]:
    """A private copy of the finished run's public folder."""
    place = tmp_path / "copied"
    shutil.copytree(whole_run.public, place)
    yield place


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[..., Run]:
    """Makes an empty run with fresh keys."""

    def make(**settings: Any) -> Run:
        return Run(tmp_path / f"run-{os.urandom(4).hex()}", **settings)

    return make


@pytest.fixture
def no_privacy_flags() -> Flags:
    return Flags(no_privacy=True)


@pytest.fixture(scope="session")
def transcript_check() -> Callable[[Any], str]:
    return toy_transcript_check


def variants(make: Callable[..., Any]) -> dict[str, RoundDraft]:
    """Every kind of round."""
    image = MechanismRecord(sampling_probability=0.05, noise_multiplier=2, steps=5, l2_clip_norm=1, unit="image")
    none = image.model_copy(update={"noise_multiplier": 0.0})
    killed = make().record(1).model_dump()
    killed["header"].update(
        status="incomplete", killed=True, abort_code="interrupted", abort_detail="The process ended."
    )
    killed["aggregation"].update(survivors=(), transcript_sha256=None, model_after=None, sum_sha256=None)
    killed["artefacts"] = [entry for entry in killed["artefacts"] if entry["kind"] == "policy"]
    for hospital in killed["hospitals"]:
        hospital.update(took_part=False, receipt="not due")
    record = type(make().record(1))
    released = make(release=RELEASE)
    released.report(1)
    separate = make().record(1).model_dump()
    separate["header"].update(setting="federation")
    separate["data"].update(synthetic_phantoms=False, taken_from_data=("declared patients",))
    separate["hospitals"][3].update(took_part=False, dropped_at="masked-input", drop_reason="late", receipt="not due")
    separate["aggregation"].update(survivors=("a", "b", "c"), dropouts=("d",))
    return {
        "pass": build_round(make().record(1)),
        "last": build_round(make(rounds=1).record(1)),
        "stop": build_round(make().record(1, hospital={"b": {"cap": 1.0}})),
        "image": build_round(make(mechanism=image).record(1)),
        "no privacy": build_round(make(mechanism=none, target=None).record(1, flags=Flags(no_privacy=True))),
        "insecure": build_round(make().record(1, flags=Flags(insecure_deterministic=True))),
        "unsigned": build_round(make().record(1, missing_cosignatures=(MissingSignature(name="c", reason="away"),))),
        "governed": build_round(make().record(1, governance=(GovernanceEntry(topic="Purpose", text="Research."),))),
        "release": released.drafts[0],
        "after release": build_round(released.record(2)),
        "release alone": build_round(make(release=RELEASE, mechanism=RELEASE, rounds=1).record(1)),
        "killed": build_round(record.model_validate(killed)),
        "separate": build_round(record.model_validate(separate)),
    }


@pytest.fixture(scope="session")
def drafts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RoundDraft]:
    """A report of every kind of round."""

    def make(**settings: Any) -> Any:
        return Run(tmp_path_factory.mktemp("page"), **settings)

    return variants(make)


@pytest.fixture(scope="session")
def pages(drafts: dict[str, RoundDraft], whole_run: Run) -> dict[str, bytes]:
    """Pages of every kind of round, and of every kind of run."""
    found = {name: draft.html for name, draft in drafts.items()}
    found["with picture"] = whole_run.drafts[1].html
    found["index"] = (whole_run.public / "index.html").read_bytes()
    reports = [draft.report for draft in whole_run.drafts]
    rows = [index.IndexRow.of(report) for report in reports]
    for outcome in ("running", "ended early", "refused"):
        found[f"index {outcome}"] = index.render_index(whole_run.facts(outcome, "As said."), rows, reports[-1])
    found["index empty"] = index.render_index(whole_run.facts("refused", "Every hospital refused."), [], None)
    return found


@pytest.fixture(scope="session")
def german(drafts: dict[str, RoundDraft], whole_run: Run) -> dict[str, bytes]:
    """The same pages in German."""
    found = {name: render.render_round(draft.report, None, "de") for name, draft in drafts.items()}
    reports = [draft.report for draft in whole_run.drafts]
    rows = [index.IndexRow.of(report) for report in reports]
    for outcome in ("running", "complete", "ended early", "refused"):
        found[f"index {outcome}"] = index.render_index(
            whole_run.facts(outcome), rows, reports[-1], small_png(7), language="de"
        )
    found["index empty"] = index.render_index(whole_run.facts("refused"), [], None, language="de")
    return found
