"""A long run's public folder without training: real keys, secure aggregation, reports, signatures and pages.

Two things are stand-ins. The models and sample pictures are small files of random bytes, whose size a verification
only hashes. And the figures of all reports but the newest are Rényi's, where a run has the tighter ones by privacy loss
distributions: these take about a second a round, and verifying a long run computes Rényi's for every round and the
others for the newest alone, whichever the report holds.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from fedgan_audits import canonical_json
from fedgan_audits.accounting import accountant
from fedgan_audits.accounting.mechanism import MechanismRecord
from fedgan_audits.bundle.writing import write_atomic
from fedgan_audits.facts import binding
from fedgan_audits.facts.records import (
    AggregationFacts,
    Artefact,
    DataFacts,
    HospitalFacts,
    PrivacySettings,
    RoundHeader,
    RoundRecord,
    SelfTestRow,
    Software,
    Spent,
)
from fedgan_audits.facts.run import RunFacts
from fedgan_audits.facts.self_tests import NAMES
from fedgan_audits.publishing.manifest import write_manifest
from fedgan_audits.publishing.round import publish_round
from fedgan_audits.report.report import build_round
from fedgan_audits.signing import envelope
from fedgan_audits.signing.public_keys import publish_trust
from fedgan_protocols import ClientSession, Identity, Member, ServerSession, SessionParameters, default_threshold
from fedgan_secure.federation.drivers.local import LocalDriver
from fedgan_secure.federation.rounds import CLIPPING, DEIDENTIFICATION, NOISE, SAMPLING

WORDS = 16
START = datetime(2026, 1, 5, 6, 0, tzinfo=UTC)
HEADROOM = "10 inputs of at most 2^26 sum to less than 2^31."
TARGET = 8.0
DELTA = 1e-5


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextmanager
def quick_figures() -> Iterator[None]:
    """Reports are built with Rényi's figures inside this block."""
    kept = accountant.epsilon, accountant.mu_gdp
    accountant.epsilon, accountant.mu_gdp = accountant.epsilon_rdp, lambda mechanisms, delta: 1.0
    try:
        yield
    finally:
        accountant.epsilon, accountant.mu_gdp = kept


class Trail:
    """A run of `rounds` scheduled rounds by `hospitals` hospitals, growing below `folder`/public."""

    def __init__(self, folder: Path, rounds: int, hospitals: int) -> None:
        self.public, self.rounds = folder / "public", rounds
        names = tuple(f"hospital-{number:03d}" for number in range(1, hospitals + 1))
        self.identities = {name: Identity.generate() for name in names}
        self.coordinator = Identity.generate()
        self.threshold = default_threshold(hospitals)
        self.mechanism = MechanismRecord(
            sampling_probability=0.01, noise_multiplier=4.0, steps=10, l2_clip_norm=1.0, unit="patient"
        )
        self.head: str | None = None
        self.model = os.urandom(32).hex()
        self.run_id = os.urandom(16).hex()
        self.policy = canonical_json.canonical(
            {
                "run_id": self.run_id,
                "coordinator": {"public_key": self.coordinator.public_key.hex()},
                "hospitals": [{"name": name, "public_key": self.identities[name].public_key.hex()} for name in names],
                "threshold": self.threshold,
                "ring_bits": 32,
                "headroom": HEADROOM,
                "rounds": rounds,
                "mechanism": {
                    **self.mechanism.model_dump(exclude={"steps"}),
                    "steps_per_round": self.mechanism.steps,
                    "delta": DELTA,
                    "epsilon_target": TARGET,
                    "declared_patients": 5000,
                },
                "flags": {"no_privacy": False, "insecure_deterministic": False, "taken_from_data": []},
                "data": {"image_size": 64, "channels": 3, "classes": 5, "phantoms": False, "unit_remark": ""},
                "initial_model": {"pretraining": "none"},
            }
        )
        write_atomic(self.public / "policy.json", self.policy)
        keys = {name: identity.private_key.public_key() for name, identity in self.identities.items()}
        publish_trust(self.public, {**keys, "coordinator": self.coordinator.private_key.public_key()})

    def add(self, number: int, *, quick: bool) -> None:
        """Aggregate, report, sign and publish round `number`; its figures are Rényi's where `quick`."""
        session, transcript, total = self._aggregate(number)
        after = os.urandom(32).hex()
        files = {
            "policy.json": (self.policy, "policy"),
            f"transcripts/round-{number:04d}.cbor": (transcript, "transcript"),
            f"samples/round-{number:04d}.png": (b"\x89PNG\r\n\x1a\n" + os.urandom(20_000), "samples"),
            "model/generator.keras": (os.urandom(100_000), "model"),
            "model/discriminator.keras": (os.urandom(100_000), "model"),
        }
        for path, (data, _) in files.items():
            write_atomic(self.public / path, data)
        record = RoundRecord(
            header=self._header(number),
            privacy=PrivacySettings(
                unit="patient",
                noise_placement="per_hospital",
                delta=DELTA,
                epsilon_target=TARGET,
                planned=self.mechanism,
                images_per_patient=1,
                sampling=SAMPLING,
                noise=NOISE,
                clipping=CLIPPING,
            ),
            hospitals=[self._hospital(name, number) for name in self.identities],
            aggregation=AggregationFacts(
                roster_size=len(self.identities),
                threshold=self.threshold,
                ring_bits=32,
                dimension=WORDS,
                headroom=HEADROOM,
                survivors=tuple(self.identities),
                colluders_tolerated=binding.colluders_against_lying(len(self.identities), self.threshold),
                transcript_sha256=sha256(transcript),
                model_before=self.model,
                model_after=after,
                sum_sha256=total,
                session=session,
            ),
            data=DataFacts(
                layouts=("dicom",),
                image_size=64,
                channels=3,
                conditional=True,
                classes=5,
                synthetic_phantoms=False,
                deidentification=DEIDENTIFICATION,
            ),
            artefacts=[Artefact(path=path, sha256=sha256(data), kind=kind) for path, (data, kind) in files.items()],  # type: ignore[arg-type]
        )
        picture = files[f"samples/round-{number:04d}.png"][0]
        if quick:
            with quick_figures():
                draft = build_round(record, sample_png=picture)
        else:
            draft = build_round(record, sample_png=picture)
        signers = {**self.identities, "coordinator": self.coordinator}
        signatures = [envelope.sign(draft.payload, signer.private_key, name) for name, signer in signers.items()]
        publish_round(self.public, draft, signatures)
        self.head, self.model = draft.digest, after

    def close(self, number: int) -> None:
        """Sign the manifest of the run as it stands after round `number`."""
        complete = number == self.rounds
        facts = RunFacts(
            run_id=self.run_id,
            outcome="complete" if complete else "running",
            reason="All scheduled rounds were run." if complete else "Rounds are left.",
            rounds_scheduled=self.rounds,
            policy_sha256=sha256(self.policy),
            started=START,
            ended=START + timedelta(minutes=number + 1),
        )
        keys = {name: identity.private_key for name, identity in self.identities.items()}
        write_manifest(self.public, facts, {**keys, "coordinator": self.coordinator.private_key})

    def _header(self, number: int) -> RoundHeader:
        return RoundHeader(
            run_id=self.run_id,
            round=number,
            rounds_scheduled=self.rounds,
            started=START + timedelta(minutes=number),
            ended=START + timedelta(minutes=number, seconds=40),
            status="complete",
            policy_sha256=sha256(self.policy),
            coordinator_fingerprint=self.coordinator.fingerprint,
            previous_report=self.head,
            software=Software(
                fedgan_secure="0.1.0",
                python="3.11.7",
                tensorflow="2.21.0",
                dp_accounting="0.6.0",
                cryptography="50.0.2",
            ),
            setting="federation",
        )

    def _hospital(self, name: str, number: int) -> HospitalFacts:
        return HospitalFacts(
            name=name,
            fingerprint=self.identities[name].fingerprint,
            declared_patients=5000,
            reserved=self.mechanism,
            this_run=(Spent(first_round=1, last_round=number, mechanism=self.mechanism),),
            ledger_lifetime="site",
            took_part=True,
            receipt="signed",
            annex_commitment=os.urandom(32).hex(),
            self_test="PASS",
            self_tests=tuple(SelfTestRow(name=test, outcome="PASS") for test in NAMES),
        )

    def _aggregate(self, number: int) -> tuple[str, bytes, str]:
        """One real secure aggregation of small vectors: session, transcript, digest of the sum."""
        parameters = SessionParameters(
            session=os.urandom(32),
            round=number,
            roster=tuple(Member(name, identity.public_key) for name, identity in self.identities.items()),
            server_public_key=self.coordinator.public_key,
            threshold=self.threshold,
            ring_bits=32,
            lengths=(WORDS,),
            policy_hash=hashlib.sha256(self.policy).digest(),
        )
        model = bytes.fromhex(self.model)
        server = ServerSession(parameters, self.coordinator, (model,))
        clients = {
            name: ClientSession(parameters, identity, (model,), os.urandom)
            for name, identity in self.identities.items()
        }

        def give(index: int, asked: tuple[str, ...]) -> None:
            for name in asked:
                clients[name].provide_input(index, np.zeros(WORDS, dtype=np.uint32))

        result = LocalDriver(server, clients, give).run()
        return parameters.session.hex(), result.transcript, result.sum_digests[0].hex()
