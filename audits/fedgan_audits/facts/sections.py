"""The signed report of one round, as typed sections A to M.

The report is the truth; HTML is rendered from it. Facts of the :class:`~fedgan_audits.facts.records.RoundRecord` are
embedded word for word, and everything derived from them (epsilons, the verdict, the controls) stands beside them, so
that a reader can recompute one from the other.

Epsilons are text: rounded up at the fourth digit, or "unbounded". This is schema version 3. A change to a model here,
or to a record, makes a new version, and `versions` a step that reads the old one.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedgan_audits.facts.records import (
    AggregationFacts,
    Artefact,
    DataFacts,
    Facts,
    Flags,
    GovernanceEntry,
    HospitalFacts,
    Incident,
    Label,
    MissingSignature,
    Name,
    PrivacySettings,
    RoundHeader,
    Text,
)
from fedgan_audits.facts.self_tests import SelfTest, TestName

SCHEMA_VERSION: Literal["3"] = "3"
REPORT_TYPE = "urn:fedgan-secure:audit:round-report:3"
MANIFEST_TYPE = "urn:fedgan-secure:audit:run-manifest:0"
SCHEMA_NOTE = "Schema version 3 of a round's report: later versions of this software go on reading and verifying it."
FIRST_NOTE = "Schema version 0: it may change without notice; no promise of compatibility is made yet."
"""Of manifests and sign-offs, whose version is still the first."""

EpsilonText = Annotated[str, Field(pattern=r"^(unbounded|[0-9]+(\.[0-9]+)?)$", max_length=40)]
DeltaText = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(e-[0-9]{1,3})?$", max_length=40)]
Verdict = Literal["PASS", "STOP", "INCOMPLETE"]
Status = Literal["evidence produced", "declared", "not assessed", "failed"]
Layer = Literal["top", "middle", "base"]
Assessment = Literal["evidenced", "declared", "not assessed"]
BudgetStatus = Literal["within budget", "no further round fits", "over budget", "unbounded"]


class HospitalBudget(Facts):
    """One hospital's epsilon over everything in its ledger, and what is left under its limits.

    `spent` holds where every run in the ledger was planned beforehand; `held` also where a later run was chosen after
    seeing what an earlier one gave. It is what a cap is compared with, and equals `spent` in the first run of a ledger.
    Reports before version 3 say neither `held` nor the two margins (None); `remaining` is the smaller margin.
    """

    name: Name
    spent: EpsilonText
    spent_second_accountant: EpsilonText
    spent_before_this_round: EpsilonText
    increase_this_round: EpsilonText
    spent_this_run: EpsilonText
    held: EpsilonText | None
    target: EpsilonText | None
    left_of_target: EpsilonText | None
    cap: EpsilonText | None
    left_of_cap: EpsilonText | None
    remaining: EpsilonText | None
    rounds_left: int | None
    status: BudgetStatus


class VerdictSection(Facts):
    """B: the answer in plain words."""

    verdict: Verdict
    may_continue: bool
    headline: Text
    reasons: tuple[Text, ...]
    spent: EpsilonText
    budget: EpsilonText | None
    budget_text: Text
    remaining: EpsilonText | None
    delta: DeltaText
    rounds_done: int
    rounds_scheduled: int
    rounds_left: int
    rounds_left_text: Text
    does_not_show: tuple[Text, ...]


class ProfilePoint(Facts):
    """One point of the privacy profile: at this delta, this epsilon holds."""

    delta: DeltaText
    epsilon: EpsilonText


class PrivacySection(Facts):
    """C: what is claimed, about whom, under which assumptions."""

    settings: PrivacySettings
    flags: Flags
    epsilon: EpsilonText
    delta: DeltaText
    gdp_mu: Text
    neighbouring_relation: Label
    accountant: Text
    second_accountant: Text
    setting: Text
    accesses_covered: tuple[Text, ...]
    outputs_covered: tuple[Text, ...]
    assumptions: tuple[Text, ...]
    profile: tuple[ProfilePoint, ...]


class PyramidRow(Facts):
    """D: one layer of NIST SP 800-226's pyramid and what this report holds for it."""

    layer: Layer
    topic: Label
    assessment: Assessment
    text: Text


class MechanismRow(Facts):
    """E: one hospital's mechanism in this round and the outcome of its self-tests (figures are confidential)."""

    name: Name
    sampling_probability: float | None
    noise_multiplier: float | None
    l2_clip_norm: float | None
    steps: int | None
    self_test: SelfTest
    self_test_summary: Text


class SelfTestLine(Facts):
    """E: one self-test, what it holds, and where it passed, failed or could not tell."""

    name: TestName
    holds: Text
    passed: tuple[Name, ...]
    failed: tuple[Name, ...]
    not_assessed: tuple[Name, ...]


class MechanismSection(Facts):
    sampler: Text
    noise: Text
    clipping: Text
    random_source: Text
    rows: tuple[MechanismRow, ...]
    self_tests: tuple[SelfTestLine, ...]
    self_test_delta: DeltaText | None
    self_test_text: Text


class TrajectoryPoint(Facts):
    """Epsilon after a round: as planned, and as spent where the round has been."""

    round: int
    planned: EpsilonText
    spent: EpsilonText | None


class Trajectory(Facts):
    """Epsilon over the rounds, for the hospitals whose figures agree."""

    hospitals: tuple[Name, ...]
    points: tuple[TrajectoryPoint, ...]
    target: EpsilonText | None
    cap: EpsilonText | None


class ColluderRow(Facts):
    """What the figure is worth when others pool what they know."""

    who: Text
    epsilon: EpsilonText | Literal["not assessed"]


class SeveralImages(Facts):
    """What a patient with `images` images faces when the unit is one image."""

    images: int
    epsilon: EpsilonText


class CompositionSection(Facts):
    """F: cumulative epsilon, never a sum of epsilons."""

    hospitals: tuple[HospitalBudget, ...]
    two_hospitals: EpsilonText
    two_hospitals_text: Text
    declared_hospitals: int
    declared_hospitals_epsilon: EpsilonText
    declared_hospitals_text: Text
    several_images: tuple[SeveralImages, ...]
    several_images_text: Text
    increase_text: Text
    colluders: tuple[ColluderRow, ...]
    trajectories: tuple[Trajectory, ...]


class AggregationSection(Facts):
    """G: secure aggregation."""

    facts: AggregationFacts
    participants: tuple[HospitalFacts, ...]
    adversary: tuple[Text, ...]
    not_covered: tuple[Text, ...]


class DataSection(Facts):
    """H: de-identification."""

    facts: DataFacts
    profile: Text
    codes: tuple[Label, ...]
    residual_scan: SelfTest


class EvidenceSection(Facts):
    """I: empirical evidence."""

    status: Literal["not assessed"]
    text: Text


class GovernanceSection(Facts):
    """J: declared, not verified."""

    entries: tuple[GovernanceEntry, ...]
    text: Text


class IncidentSection(Facts):
    """K: what an officer should read twice."""

    incidents: tuple[Incident, ...]
    missing_cosignatures: tuple[MissingSignature, ...]
    withdrawals: Text


class Control(Facts):
    """L: one provision, the evidence in this report, its status, and what it does not show."""

    id: Label
    provision: Text
    title: Text
    evidence: Text
    evidence_field: Text
    status: Status
    does_not_show: Text
    proposed: bool = False


class ControlSection(Facts):
    as_of: Label
    edition: Label
    sources: tuple[Text, ...]
    controls: tuple[Control, ...]


class VerificationSection(Facts):
    """M: what is signed, by whom, and how to check it."""

    signers: tuple[Name, ...]
    artefacts: tuple[Artefact, ...]
    commands: tuple[Text, ...]
    text: Text


class RoundReport(Facts):
    """The predicate of a round's in-toto statement."""

    schema_version: Literal["3"]
    schema_note: Text
    renderer: Label
    header: RoundHeader
    verdict: VerdictSection
    privacy: PrivacySection
    nist_sp_800_226: tuple[PyramidRow, ...]
    mechanism: MechanismSection
    composition: CompositionSection
    aggregation: AggregationSection
    data: DataSection
    empirical: EvidenceSection
    governance: GovernanceSection
    incidents: IncidentSection
    controls: ControlSection
    verification: VerificationSection
