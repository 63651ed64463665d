"""What a round was, as the audit room takes it: the facts of the coordinator, the protocol and every hospital."""

from __future__ import annotations

import datetime
import hashlib
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Literal

from fedgan_audits.accounting import share_variance
from fedgan_audits.facts import (
    AggregationFacts,
    Artefact,
    DataFacts,
    GovernanceEntry,
    HospitalFacts,
    Incident,
    MissingSignature,
    PrivacySettings,
    ReleaseFacts,
    RoundHeader,
    RoundRecord,
    Software,
    start_text,
)
from fedgan_audits.facts import Flags as ReportFlags
from fedgan_protocols import AggregateResult, ServerSession
from fedgan_secure.data.reading import fields_read
from fedgan_secure.federation.distributed_round import left_on_the_way
from fedgan_secure.policy import FederationPolicy, ReleasePolicy
from fedgan_secure.privacy import sums_digest
from fedgan_secure.release import starts_from_moments


def named_of(policy: FederationPolicy, round_number: int, digests: Sequence[bytes]) -> str:
    """Return the digest that stands for a round's sum, or for all of them where there are several, hex."""
    return (sums_digest(tuple(digests)) if policy.is_stepwise(round_number) else digests[0]).hex()


DEIDENTIFICATION = (
    "The loaders keep pixels, a label and a keyed pseudonym (HMAC-SHA256 under the hospital's own secret); names, "
    "identifiers, dates and all other header fields are dropped when an image is read and reach no training and no "
    "report. What stays in the hospital under its own names, in its cache and its confidential annexes: the paths of "
    "files that were set aside or are alike, and the identifiers of patients with equal images or left out by name. "
    "Text burned into pixels is not looked for."
)
SAMPLING = "an independent coin for every patient and step (Poisson), from the operating system's entropy"
NOISE = (
    "Gaussian in 32-bit floating point from an AES-256 stream that every hospital keys from the operating system's "
    "entropy and never repeats; the limits of floating point are not accounted (Mironov 2012)"
)
SHARED_NOISE = (
    "discrete Gaussian on the integers, drawn exactly: each of the {hospitals} hospitals adds a standard deviation of "
    "{deviation:.6g} steps of a grid of {grid:.6g} to every coordinate of its own sum in every step; any {honest} of "
    "them carry the noise that is accounted (threshold {threshold} less {colluders} colluders), and what more "
    "hospitals add is not counted. The bits come from an AES-256 stream that every hospital keys from the operating "
    "system's entropy"
)
NO_NOISE = "none: privacy is switched off"
SETTING: Literal["simulation", "federation"] = "simulation"
CLIPPING = "the mean gradient over a patient's images, clipped to the norm bound in Euclidean norm, exactly per patient"


def now() -> datetime.datetime:
    """The present time, UTC, in whole seconds."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


@dataclass
class RoundFacts:
    """The protocol's side of one attempt, filled as it goes."""

    number: int
    started: datetime.datetime
    model_before: bytes
    ended: datetime.datetime | None = None
    result: AggregateResult | None = None
    model_after: bytes | None = None
    transcript: bytes | None = None
    abort_code: str | None = None
    abort_detail: str | None = None
    killed: bool = False
    session: bytes | None = None
    dropped: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """The sum was formed and enough hospitals acknowledged it."""
        return self.result is not None and self.abort_code is None

    def note_server(self, server: ServerSession) -> None:
        """Keep what the server knows of the attempt, finished or not."""
        self.transcript = server.transcript_so_far()
        self.dropped = {name: (drop.stage, drop.code) for name, drop in server.dropped.items()}

    def hospital(self, name: str) -> dict[str, object]:
        """The protocol's facts of one hospital, as keywords of :class:`HospitalFacts`."""
        stage, reason = self.dropped.get(name, (None, None))
        if self.result is None or name not in self.result.survivors:
            receipt, why = "not due", None
        else:
            answer = self.result.receipts.get(name, "no answer")
            receipt = "signed" if answer == "ok" else ("missing" if name in self.dropped else "refused")
            why = None if answer == "ok" else answer
        return {
            "took_part": self.complete and self.result is not None and name in self.result.survivors,
            "dropped_at": stage,
            "drop_reason": reason,
            "receipt": receipt,
            "receipt_reason": why,
        }


def record_of(
    policy: FederationPolicy,
    facts: RoundFacts,
    hospitals: Sequence[HospitalFacts],
    *,
    dimension: int,
    colluders: int,
    previous: str | None,
    coordinator_fingerprint: str,
    layouts: Sequence[str],
    artefacts: Sequence[Artefact],
    incidents: Sequence[Incident],
    missing: Mapping[str, str],
    lock: Path | None,
) -> RoundRecord:
    """All facts of one attempt, finished or not."""
    mechanism = policy.mechanism
    result = facts.result
    return RoundRecord(
        header=RoundHeader(
            run_id=policy.run_id,
            round=facts.number,
            rounds_scheduled=policy.rounds,
            started=facts.started,
            ended=facts.ended or now(),
            status="complete" if facts.complete else "incomplete",
            abort_code=facts.abort_code,
            abort_detail=facts.abort_detail,
            killed=facts.killed,
            policy_sha256=policy.digest().hex(),
            coordinator_fingerprint=coordinator_fingerprint,
            previous_report=previous,
            software=software(lock),
            setting=SETTING,
        ),
        privacy=PrivacySettings(
            unit=mechanism.unit,
            noise_placement=mechanism.noise_placement,
            delta=mechanism.delta,
            epsilon_target=mechanism.epsilon_target,
            planned=policy.mechanism_record(),
            images_per_patient=mechanism.images_per_patient,
            hospitals_per_patient=mechanism.hospitals_per_patient,
            sampling=SAMPLING,
            noise=NO_NOISE if policy.flags.no_privacy else noise_of(policy),
            clipping=CLIPPING,
            release=None if policy.release is None else release_facts(policy, policy.release),
        ),
        hospitals=tuple(hospitals),
        aggregation=AggregationFacts(
            roster_size=len(policy.hospitals),
            threshold=policy.threshold,
            ring_bits=policy.ring_bits,
            dimension=dimension,
            headroom=policy.release.headroom if policy.release and policy.is_release(facts.number) else policy.headroom,
            survivors=result.survivors if result is not None and facts.complete else (),
            dropouts=tuple(name for name in policy.names if name in facts.dropped),
            colluders_tolerated=colluders,
            semi_honest_colluders=max(0, policy.threshold - 2),
            transcript_sha256=None if facts.transcript is None else hashlib.sha256(facts.transcript).hexdigest(),
            model_before=facts.model_before.hex(),
            model_after=None if facts.model_after is None else facts.model_after.hex(),
            sum_sha256=named_sum(policy, facts.number, result) if result is not None and facts.complete else None,
            session=None if facts.session is None else facts.session.hex(),
        ),
        data=DataFacts(
            layouts=tuple(layouts),
            image_size=policy.data.image_size,
            channels=policy.data.channels,
            conditional=policy.data.classes > 0,
            classes=policy.data.classes,
            synthetic_phantoms=policy.data.phantoms,
            taken_from_data=policy.flags.taken_from_data,
            pretraining=policy.initial_model.pretraining,
            start="" if policy.start is None else start_text(**policy.start.model_dump()),
            unit_remark=policy.data.unit_remark,
            deidentification=DEIDENTIFICATION,
            fields_read=fields_read(layouts),
        ),
        artefacts=tuple(artefacts),
        incidents=tuple(incidents),
        flags=ReportFlags(
            no_privacy=policy.flags.no_privacy, insecure_deterministic=policy.flags.insecure_deterministic
        ),
        missing_cosignatures=tuple(
            MissingSignature(name=name, reason=reason) for name, reason in sorted(missing.items())
        ),
        governance=tuple(GovernanceEntry(topic=entry.topic, text=entry.text) for entry in policy.governance),
    )


def noise_of(policy: FederationPolicy) -> str:
    """Who adds which noise, for people."""
    shared = policy.distributed
    if shared is None:
        return NOISE
    shares = shared.shares
    return SHARED_NOISE.format(
        hospitals=len(policy.hospitals),
        deviation=math.sqrt(share_variance(shared.record())),
        grid=shares.grid_step,
        honest=shares.honest_shares,
        threshold=shares.threshold,
        colluders=shares.colluders,
    )


RELEASE = (
    "the mean over a patient's images of public features and their squares, each in the block of the image's class, "
    "and one cell of a histogram of mean colours; the vector is clipped to the norm bound"
)
MOMENTS_RELEASE = (
    "the mean over a patient's images of their coefficients and of all products of two of these, each in the block of "
    "the image's class; the vector is clipped to the norm bound"
)
COEFFICIENTS = "{count} coefficients of {name}, a fixed basis of cosines (SHA-256 of the start: {digest})"
FEATURES = "{count} features of the frozen public network of {name} (SHA-256 of the start: {digest})"


def release_facts(policy: FederationPolicy, release: ReleasePolicy) -> ReleaseFacts:
    """What the first round releases, for the report."""
    start, of_moments = policy.start, starts_from_moments(policy)
    return ReleaseFacts(
        mechanism=release.record(),
        statistic=MOMENTS_RELEASE if of_moments else RELEASE,
        dimension=release.dimension,
        layout_sha256=release.layout_sha256,
        features=(COEFFICIENTS if of_moments else FEATURES).format(
            count=release.release_layout().features,
            name="" if start is None else start.name,
            digest="" if start is None else start.digest,
        ),
    )


def named_sum(policy: FederationPolicy, round_number: int, result: AggregateResult) -> str:
    """The digest that stands for a round's sum, or for all its sums where there are several; 64 hexadecimal digits."""
    return named_of(policy, round_number, result.sum_digests)


def left_incidents(number: int, result: AggregateResult, names: Sequence[str]) -> list[Incident]:
    """One line for each hospital that is in some of a round's sums and not in the last."""
    total = len(result.survivors_per_sum)
    return [
        Incident(
            kind="drop-out",
            round=number,
            text=f"hospital {name} dropped out on the way: {count} of the {total} sums of the round hold its patients",
        )
        for name, count in left_on_the_way(result.survivors_per_sum, names).items()
    ]


def software(lock: Path | None) -> Software:
    """The versions at work; the lock's digest where the run was started beside one."""

    def version(name: str) -> str | None:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return None

    return Software(
        fedgan_secure=version("fedgan-secure") or "unknown",
        lock_sha256=None if lock is None else hashlib.sha256(lock.read_bytes()).hexdigest(),
        python=platform.python_version(),
        tensorflow=version("tensorflow"),
        dp_accounting=version("dp-accounting") or "unknown",
        cryptography=version("cryptography") or "unknown",
    )
