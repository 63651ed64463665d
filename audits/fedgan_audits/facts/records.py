"""The facts of one round, as typed records.

A :class:`RoundRecord` holds what `fedgan_secure` observed, and nothing that depends on patients: no realised batch
size, no loss, no count of images. Those stay in the hospital's confidential annex, to which a record is bound by a
salted commitment. Everything here is public and ends up in the signed report of the round, word for word.

Rules: every model is frozen and refuses unknown fields; numbers are finite; whole numbers stay below 2^53, since the
canonical JSON of RFC 8785 refuses larger ones; digests are 64 lowercase hexadecimal digits of SHA-256; key
fingerprints are written as OpenSSH writes them; times are
aware UTC datetimes without fractions of a second; free text is bounded and carries no control characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from fedgan_audits.accounting import AnyMechanism, DistributedMechanism, MechanismRecord, is_release
from fedgan_audits.facts.self_tests import SelfTest, TestName, overall

MAX_TEXT = 4_000
MAX_HOSPITALS = 10_000

_SAFE_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]")


def is_safe_path(text: str) -> bool:
    """Whether `text` is a relative POSIX path of at most six plain names: no "..", no leading dot, no odd character."""
    parts = text.split("/")
    return len(parts) <= 6 and all(_SAFE_PART.match(part) for part in parts)


def is_name(text: str) -> bool:
    """Whether `text` can be the name of a hospital or of a run."""
    return _NAME.match(text) is not None


def _safe_path(text: str) -> str:
    if not is_safe_path(text):
        raise ValueError("expected a relative path of plain names, such as reports/round-0001.html")
    return text


def _clean_text(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("text must not contain control characters")
    return text


def _utc_seconds(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("a time needs a time zone")
    try:
        return moment.astimezone(UTC).replace(microsecond=0)
    except OverflowError:
        raise ValueError("a time lies outside of the years 1 to 9999") from None


def _time_text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Fingerprint = Annotated[str, Field(pattern=r"^SHA256:[A-Za-z0-9+/]{43}$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
Text = Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(_clean_text)]
Label = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_clean_text)]
SafePath = Annotated[str, Field(min_length=1, max_length=300), AfterValidator(_safe_path)]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Positive = Annotated[int, Field(ge=1, lt=2**53)]
Delta = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Epsilon = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Time = Annotated[datetime, AfterValidator(_utc_seconds), PlainSerializer(_time_text, return_type=str)]

RoundStatus = Literal["complete", "incomplete"]
Receipt = Literal["signed", "missing", "refused", "not due"]


class Facts(BaseModel):
    """Base of all records: frozen, no unknown fields, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, str_strip_whitespace=False)


_Row = TypeVar("_Row", bound=Facts)


def as_tuple(value: Any) -> Any:
    """Lists and other sequences as tuples; anything else as it is, for pydantic to judge."""
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str | bytes | dict) else value


Names = Annotated[tuple[Name, ...], BeforeValidator(as_tuple)]
Mechanisms = Annotated[tuple[AnyMechanism, ...], BeforeValidator(as_tuple)]


class Spent(Facts):
    """The mechanism reserved in each of the rounds `first_round` to `last_round` of this run."""

    first_round: Positive
    last_round: Positive
    mechanism: AnyMechanism

    @model_validator(mode="after")
    def _ordered(self) -> Spent:
        if self.last_round < self.first_round:
            raise ValueError("last_round comes before first_round")
        return self


def spending(reservations: Iterable[tuple[int, MechanismRecord]]) -> tuple[Spent, ...]:
    """The canonical form of a run's reservations: `(round, mechanism of that round)`, neighbours that agree joined."""
    rows: list[Spent] = []
    for number, mechanism in sorted(reservations, key=lambda entry: entry[0]):
        if rows and rows[-1].last_round >= number:
            raise ValueError(f"round {number} is reserved twice")
        if rows and rows[-1].last_round + 1 == number and rows[-1].mechanism == mechanism:
            rows[-1] = Spent(first_round=rows[-1].first_round, last_round=number, mechanism=mechanism)
        else:
            rows.append(Spent(first_round=number, last_round=number, mechanism=mechanism))
    return tuple(rows)


class Software(Facts):
    """What ran: versions, and the digest of the lock file where one was used."""

    fedgan_secure: Label
    lock_sha256: Digest | None = None
    python: Label
    tensorflow: Label | None = None
    dp_accounting: Label
    cryptography: Label


class RoundHeader(Facts):
    """Which round this is, when it ran, under which policy, and what came before it."""

    run_id: Name
    round: Positive
    rounds_scheduled: Positive
    started: Time
    ended: Time
    status: RoundStatus
    abort_code: Label | None = None
    abort_detail: Text | None = None
    killed: bool = False
    policy_sha256: Digest
    coordinator_fingerprint: Fingerprint
    previous_report: Digest | None = None
    software: Software
    setting: Literal["simulation", "federation"] = "simulation"

    @model_validator(mode="after")
    def _consistent(self) -> RoundHeader:
        if self.round > self.rounds_scheduled:
            raise ValueError(f"round {self.round} of {self.rounds_scheduled} scheduled rounds")
        if (self.round == 1) != (self.previous_report is None):
            raise ValueError("the first round has no previous report and every later round has one")
        if self.status == "complete" and (self.killed or self.abort_code is not None):
            raise ValueError("a complete round was neither killed nor aborted")
        return self


class ReleaseFacts(Facts):
    """The release round: one vector for every patient, clipped and summed once, with noise, before any training.

    Fields:
        mechanism: what round 1 reserves: one step in which every patient takes part (sampling probability 1).
        statistic: one sentence that says what the vector is.
        dimension: numbers in the vector.
        layout_sha256: digest of the layout in the policy, which says what every number of the vector means.
        features: which frozen public features are computed of an image, with the digest of the start they come from.
    """

    mechanism: AnyMechanism
    statistic: Text
    dimension: Positive
    layout_sha256: Digest
    features: Text

    @model_validator(mode="after")
    def _one_sum_of_everyone(self) -> ReleaseFacts:
        mechanism = self.mechanism
        if not is_release(mechanism):
            raise ValueError(
                f"a release has sampling probability {mechanism.sampling_probability:g} and {mechanism.steps} steps, "
                "expected probability 1, one step and no search"
            )
        if isinstance(mechanism, DistributedMechanism) and mechanism.shares.dimension != self.dimension:
            raise ValueError(
                f"the shares of a release's noise are for {mechanism.shares.dimension} numbers, "
                f"its vector has {self.dimension}"
            )
        return self


class PrivacySettings(Facts):
    """The declared privacy parameters of the run.

    `planned` is the mechanism of one scheduled round. Where there is a `release`, scheduled round 1 reserves its
    mechanism and every later scheduled round reserves `planned`.
    """

    unit: Literal["patient", "image"]
    noise_placement: Literal["per_hospital", "distributed"]
    delta: Delta
    epsilon_target: Epsilon | None = None
    planned: AnyMechanism
    images_per_patient: Positive
    hospitals_per_patient: Positive = 1
    sampling: Text
    noise: Text
    clipping: Text
    release: ReleaseFacts | None = None

    @model_validator(mode="after")
    def _release_fits(self) -> PrivacySettings:
        if self.release is not None:
            said = (self.release.mechanism.unit, self.release.mechanism.noise_placement)
            if said != (self.unit, self.noise_placement):
                raise ValueError(
                    f"the release has unit {said[0]} and noise {said[1]}, the run {self.unit} and "
                    f"{self.noise_placement}: they have no common figure"
                )
        return self

    def scheduled(self, number: int) -> MechanismRecord:
        """Return the mechanism that scheduled round `number` (from 1) reserves."""
        return self.release.mechanism if self.release is not None and number == 1 else self.planned


class SelfTestRow(Facts):
    """One self-test of one hospital in one round; its figures are confidential."""

    name: TestName
    outcome: SelfTest


class HospitalFacts(Facts):
    """One hospital in one round: what it reserved, what it has spent so far, whether it took part.

    `this_run` says what was reserved in which round of this run, this round included (make it with
    :func:`spending`); `earlier` are the mechanisms of other runs in the same ledger. An attempt that failed is in
    `this_run`: what was reserved is spent.
    """

    name: Name
    fingerprint: Fingerprint
    declared_patients: Positive
    reserved: AnyMechanism | None
    this_run: Annotated[tuple[Spent, ...], BeforeValidator(as_tuple)]
    earlier: Mechanisms = ()
    cap: Epsilon | None = None
    ledger_lifetime: Literal["run", "site"]
    took_part: bool
    dropped_at: Label | None = None
    drop_reason: Text | None = None
    receipt: Receipt = "not due"
    receipt_reason: Text | None = None
    annex_commitment: Digest | None = None
    self_test: SelfTest = "NOT ASSESSED"
    self_tests: Annotated[tuple[SelfTestRow, ...], BeforeValidator(as_tuple)] = ()

    @model_validator(mode="after")
    def _consistent(self) -> HospitalFacts:
        if len({row.name for row in self.self_tests}) != len(self.self_tests):
            raise ValueError(f"a self-test of {self.name} is listed twice")
        if self.self_tests and self.self_test != overall(row.outcome for row in self.self_tests):
            raise ValueError(f"the self-tests of {self.name} do not amount to {self.self_test}")
        if self.took_part and self.reserved is None:
            raise ValueError(f"{self.name} took part without a reservation in its ledger")
        for earlier, later in pairwise(self.this_run):
            joined = earlier.last_round + 1 == later.first_round and earlier.mechanism == later.mechanism
            if later.first_round <= earlier.last_round or joined:
                raise ValueError(f"the reservations of {self.name} are not in their canonical form")
        return self

    def reserved_in(self, number: int) -> MechanismRecord | None:
        """The mechanism reserved in round `number` of this run, if any."""
        for spent in self.this_run:
            if spent.first_round <= number <= spent.last_round:
                return spent.mechanism
        return None


class AggregationFacts(Facts):
    """Secure aggregation of the round: who was in, what the ring was, what was hashed."""

    roster_size: Positive
    threshold: Positive
    ring_bits: Literal[32, 64]
    dimension: Positive
    headroom: Text
    survivors: Names
    dropouts: Names = ()
    colluders_tolerated: Count
    semi_honest_colluders: Count | None = None
    transcript_sha256: Digest | None = None
    model_before: Digest | None = None
    model_after: Digest | None = None
    sum_sha256: Digest | None = None
    session: Label | None = None


class DataFacts(Facts):
    """What kind of data was read, and what the loaders do to it. No counts: those are confidential.

    `taken_from_data` names the public settings that the one operator read off the patients' data, such as "declared
    patients" or "label names"; `pretraining` says where the first weights came from ("none": from a seed alone).
    `start` says what the public start is and what of an image comes from it (empty where there is none). `unit_remark`
    is printed as it is.
    """

    layouts: Annotated[tuple[Label, ...], BeforeValidator(as_tuple)]
    image_size: Positive
    channels: Literal[1, 3]
    conditional: bool
    classes: Count = 0
    synthetic_phantoms: bool
    taken_from_data: Annotated[tuple[Label, ...], BeforeValidator(as_tuple)] = ()
    pretraining: Text = "none"
    start: Text = ""
    unit_remark: Text = ""
    deidentification: Text
    fields_read: Annotated[tuple[Label, ...], BeforeValidator(as_tuple)] = ()


class Artefact(Facts):
    """A file below `public/` that this round made or depends on."""

    path: SafePath
    sha256: Digest
    kind: Literal["policy", "transcript", "samples", "model", "other"]


class Incident(Facts):
    """Something an officer should read: an abort, a refusal, an override, a patient's withdrawal."""

    kind: Label
    text: Text
    round: Positive | None = None
    person: Label | None = None


class Flags(Facts):
    """Circumstances in which the figures below prove nothing, or less than usual."""

    no_privacy: bool = False
    insecure_deterministic: bool = False


class MissingSignature(Facts):
    """A hospital that should have signed the report and did not, with the reason."""

    name: Name
    reason: Text


class GovernanceEntry(Facts):
    """A declaration that the software repeats and cannot verify."""

    topic: Label
    text: Text


class RoundRecord(Facts):
    """All facts of one round. Hospitals come in the order of the policy's roster."""

    header: RoundHeader
    privacy: PrivacySettings
    hospitals: Annotated[tuple[HospitalFacts, ...], BeforeValidator(as_tuple)]
    aggregation: AggregationFacts
    data: DataFacts
    artefacts: Annotated[tuple[Artefact, ...], BeforeValidator(as_tuple)]
    incidents: Annotated[tuple[Incident, ...], BeforeValidator(as_tuple)] = ()
    flags: Flags = Flags()
    missing_cosignatures: Annotated[tuple[MissingSignature, ...], BeforeValidator(as_tuple)] = ()
    governance: Annotated[tuple[GovernanceEntry, ...], BeforeValidator(as_tuple)] = ()
    provisions_edition: Label | None = None
    """Edition of the provisions of section L; None is the newest."""

    @model_validator(mode="after")
    def _consistent(self) -> RoundRecord:
        names = [hospital.name for hospital in self.hospitals]
        if not names or len(names) > MAX_HOSPITALS:
            raise ValueError(f"expected 1 to {MAX_HOSPITALS} hospitals, found {len(names)}")
        if len(set(names)) != len(names) or "coordinator" in names:
            raise ValueError("hospital names must differ, and none may be called coordinator")
        release = self.privacy.release
        if release is not None and self.header.rounds_scheduled == 1 and self.privacy.planned != release.mechanism:
            raise ValueError("the one scheduled round is the release, but another mechanism is planned for it")
        known = set(names)
        for listed in (
            self.aggregation.survivors,
            self.aggregation.dropouts,
            tuple(missing.name for missing in self.missing_cosignatures),
        ):
            if not known.issuperset(listed) or len(set(listed)) != len(listed):
                raise ValueError("survivors, drop-outs and missing signatures must name hospitals of the roster once")
        for hospital in self.hospitals:
            last = hospital.this_run[-1].last_round if hospital.this_run else 0
            if last > self.header.round or hospital.reserved_in(self.header.round) != hospital.reserved:
                raise ValueError(f"what {hospital.name} reserved this round differs from its cumulative record")
        took_part = {hospital.name for hospital in self.hospitals if hospital.took_part}
        if took_part != set(self.aggregation.survivors):
            raise ValueError("the hospitals that took part must be the survivors of the aggregation")
        paths = [artefact.path for artefact in self.artefacts]
        if len(set(paths)) != len(paths):
            raise ValueError("an artefact is listed twice")
        return self
