"""From the facts of a round to the report that is signed.

`build_round` is deterministic: the same record and picture give the same bytes, on every machine with the same
version of this software, so that a hospital can rebuild what it is asked to sign. The signed payload is an in-toto
Statement v1 in canonical JSON; its subjects are the digests of the HTML, the transcript, the samples, the models and
the policy. A report is chained to the last by the digest of that report's payload (not of its signatures).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from fedgan_audits import canonical_json
from fedgan_audits.accounting import MechanismRecord, accountant, colluders
from fedgan_audits.errors import AuditError, RecordInvalid
from fedgan_audits.facts import (
    NAMES,
    REPORT_TYPE,
    SCHEMA_NOTE,
    SCHEMA_VERSION,
    TEXTS,
    AggregationSection,
    ColluderRow,
    CompositionSection,
    DataSection,
    EvidenceSection,
    GovernanceSection,
    HospitalFacts,
    IncidentSection,
    MechanismRow,
    MechanismSection,
    PrivacySection,
    ProfilePoint,
    PyramidRow,
    RoundRecord,
    RoundReport,
    SelfTest,
    SelfTestLine,
    SelfTestRow,
    SeveralImages,
    Spent,
    TestName,
    Trajectory,
    TrajectoryPoint,
    VerificationSection,
    binding,
    controls,
    html_path,
    stem_of,
    summary,
)
from fedgan_audits.pages import render, renderers, wording
from fedgan_audits.report import figures, release_texts
from fedgan_audits.report.reading import check_sample, read_payload, record_of
from fedgan_audits.report.verdict import MAX_SOURCE, hospital_budget, hospitals, listed, verdict
from fedgan_audits.signing import envelope

PROFILE_FACTORS = (100.0, 10.0, 1.0, 0.1, 0.01)
LARGEST_PROFILE_DELTA = 0.1


@dataclass(frozen=True)
class RoundDraft:
    """A report before it is signed: its typed form, the payload's bytes and the HTML's bytes."""

    report: RoundReport
    payload: bytes
    html: bytes

    @property
    def stem(self) -> str:
        """The name that this round's files share, such as `round-0001`."""
        return stem_of(self.report.header.round)

    @property
    def digest(self) -> str:
        """SHA-256 of the payload: the next report's `previous_report`."""
        return hashlib.sha256(self.payload).hexdigest()

    @property
    def pae(self) -> bytes:
        """The bytes that are signed."""
        return envelope.pae(self.payload)


def commit_annex(salt: bytes, annex: bytes) -> str:
    """The commitment to a confidential annex: SHA-256 of a secret 32-byte salt followed by the annex.

    Without the salt a few small numbers could be guessed from their digest.
    """
    if len(salt) != 32:
        raise RecordInvalid(f"the salt of an annex has {len(salt)} bytes, expected 32")
    return hashlib.sha256(salt + annex).hexdigest()


def build_round(record: RoundRecord, *, sample_png: bytes | None = None) -> RoundDraft:
    """The report of one round.

    `sample_png` is embedded in the HTML; it must be the file that the record lists among its artefacts. Raises
    RecordInvalid where it is not, and NotAccounted for a mechanism that the accountant does not prove.
    """
    check_sample(record, sample_png)
    report = build_report(record)
    html = render.render_round(report, sample_png)
    subjects = {artefact.path: artefact.sha256 for artefact in record.artefacts}
    subjects[html_path(record.header.round)] = hashlib.sha256(html).hexdigest()
    return RoundDraft(report, envelope.statement(subjects, REPORT_TYPE, report.model_dump(mode="json")), html)


def build_report(record: RoundRecord, unsaid: Collection[str] = ()) -> RoundReport:
    """Sections A to M; the verdict without the reasons in `unsaid` (see `verdict.verdict`)."""
    privacy = record.privacy
    rows = [figures.budget(hospital, record) for hospital in record.hospitals]
    worst = figures.worst_ledger(record.hospitals, privacy.delta)
    parts: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "schema_note": SCHEMA_NOTE,
        "renderer": renderers.RENDERER,
        "header": record.header,
        "verdict": verdict(record, rows, unsaid),
        "privacy": _privacy(record, worst),
        "nist_sp_800_226": tuple(
            PyramidRow(layer=layer, topic=topic, assessment=assessment, text=text)
            for layer, topic, assessment, text in wording.NIST_ROWS
        ),
        "mechanism": _mechanism(record),
        "composition": _composition(record, rows, worst),
        "aggregation": _aggregation(record),
        "data": DataSection(facts=record.data, profile=wording.DEID_PROFILE, codes=(), residual_scan="NOT ASSESSED"),
        "empirical": EvidenceSection(status="not assessed", text=wording.EMPIRICAL_TEXT),
        "governance": GovernanceSection(
            entries=record.governance,
            text=wording.GOVERNANCE_TEXT if record.governance else wording.GOVERNANCE_EMPTY,
        ),
        "incidents": IncidentSection(
            incidents=record.incidents,
            missing_cosignatures=record.missing_cosignatures,
            withdrawals=wording.WITHDRAWALS_TEXT,
        ),
        "verification": _verification(record),
    }
    plain = {name: part.model_dump(mode="json") for name, part in parts.items() if hasattr(part, "model_dump")}
    return RoundReport(**parts, controls=controls.assess(plain, record.provisions_edition))


def disagreements(
    payload: bytes,
    name: str,
    *,
    reserved: MechanismRecord | None,
    this_run: Sequence[Spent],
    earlier: Sequence[MechanismRecord],
    cap: float | None,
    annex_commitment: str | None,
    policy_sha256: str,
    previous_report: str | None,
    transcript_sha256: str | None,
    sample_png: bytes | None = None,
    policy: bytes | None = None,
    self_tests: Sequence[SelfTestRow] | None = None,
) -> list[str]:
    """What a hospital finds wrong in a report that it is asked to sign; an empty list means that it may sign.

    The hospital compares what it knows itself, then builds the whole report again from the facts in it: every
    figure, sentence and byte of HTML must follow from them. `sample_png` is the picture that the HTML embeds.
    `policy` are the bytes of the hospital's own `policy.json`: with them, every setting that the report repeats must
    be the policy's; without them, only their digest `policy_sha256` is compared. `self_tests` are the outcomes that the
    hospital found itself; None where it knows none.
    """
    try:
        report, _ = read_payload(payload)
    except canonical_json.EnvelopeError as error:
        return [str(error)]
    own = next((hospital for hospital in report.aggregation.participants if hospital.name == name), None)
    if own is None:
        return [f"the report does not list hospital {name}"]
    expected: list[tuple[str, object, object]] = [
        ("the mechanism reserved this round", own.reserved, reserved),
        ("the mechanisms of this run", own.this_run, tuple(this_run)),
        ("the mechanisms of earlier runs", set(figures.merged(own.earlier)), set(figures.merged(earlier))),
        ("the first mechanism of earlier runs", figures.first_kind(own.earlier), figures.first_kind(earlier)),
        ("the cap", own.cap, cap),
        ("the commitment to the annex", own.annex_commitment, annex_commitment),
        ("the policy", report.header.policy_sha256, policy_sha256),
        ("the previous report", report.header.previous_report, previous_report),
        ("the transcript", report.aggregation.facts.transcript_sha256, transcript_sha256),
        ("the outcome of the self-tests", own.self_tests, own.self_tests if self_tests is None else tuple(self_tests)),
    ]
    found = [f"{what} differs from the hospital's own record" for what, theirs, mine in expected if theirs != mine]
    record = record_of(report)
    found += [*_objections_to_policy(record, policy_sha256, policy), *binding.shortfalls(record)]
    try:
        rebuilt = build_round(record, sample_png=sample_png).payload
    except AuditError as error:
        return [*found, str(error)]
    if rebuilt != payload:
        found.append("the figures or the page of the report do not follow from its facts")
    return found


def _objections_to_policy(record: RoundRecord, policy_sha256: str, policy: bytes | None) -> list[str]:
    if policy is None:
        return []
    if hashlib.sha256(policy).hexdigest() != policy_sha256:
        return ["the policy's bytes are not those of its digest"]
    try:
        parsed = canonical_json.parse_canonical(policy)
        return binding.differences(record, parsed) if isinstance(parsed, dict) else ["the policy is no JSON object"]
    except AuditError as error:
        return [f"the policy cannot be read: {error}"]


def _privacy(record: RoundRecord, worst: tuple[MechanismRecord, ...]) -> PrivacySection:
    privacy = record.privacy
    deltas = sorted(
        delta
        for factor in PROFILE_FACTORS
        if accountant.DELTA_MIN <= (delta := float(f"{privacy.delta * factor:.6g}")) <= LARGEST_PROFILE_DELTA
    )
    profile = accountant.epsilon_profile(worst, deltas) if worst else tuple(0.0 for _ in deltas)
    per_hospital = privacy.noise_placement == "per_hospital"
    return PrivacySection(
        settings=privacy,
        flags=record.flags,
        epsilon=figures.shown(figures.epsilon(worst, privacy.delta)),
        delta=repr(privacy.delta),
        gdp_mu=figures.shown(accountant.mu_gdp(worst, privacy.delta)) if worst else "0",
        neighbouring_relation="add or remove one " + privacy.unit,
        accountant=accountant.accountant_name(worst, privacy.delta, record.header.software.dp_accounting),
        second_accountant=(wording.SECOND_DISTRIBUTED if accountant.is_distributed(worst) else accountant.RENYI),
        setting=wording.SETTING_PER_HOSPITAL if per_hospital else wording.SETTING_DISTRIBUTED,
        accesses_covered=(*release_texts.accesses(record), *_pretraining(record)),
        outputs_covered=release_texts.outputs(record),
        assumptions=(
            *release_texts.assumptions(record),
            *((wording.HISTORY_ASSUMPTION,) if any(entry.earlier for entry in record.hospitals) else ()),
        ),
        profile=tuple(
            ProfilePoint(delta=repr(delta), epsilon=figures.shown(value))
            for delta, value in zip(deltas, profile, strict=True)
        ),
    )


def _pretraining(record: RoundRecord) -> tuple[str, ...]:
    """What section C says of the first weights, where they did not come from a seed alone."""
    source = record.data.pretraining
    return () if source == "none" else (wording.PRETRAINING_ACCESS.format(source=source[:MAX_SOURCE].rstrip(". ")),)


def _mechanism(record: RoundRecord) -> MechanismSection:
    def row(hospital: HospitalFacts) -> MechanismRow:
        reserved = hospital.reserved
        return MechanismRow(
            name=hospital.name,
            sampling_probability=reserved.sampling_probability if reserved else None,
            noise_multiplier=reserved.noise_multiplier if reserved else None,
            l2_clip_norm=reserved.l2_clip_norm if reserved else None,
            steps=reserved.steps if reserved else None,
            self_test=hospital.self_test,
            self_test_summary=summary([(test.name, test.outcome) for test in hospital.self_tests]),
        )

    insecure = record.flags.insecure_deterministic
    return MechanismSection(
        sampler=record.privacy.sampling,
        noise=record.privacy.noise,
        clipping=record.privacy.clipping,
        random_source=wording.INSECURE_NOTE if insecure else wording.RANDOM_SOURCE,
        rows=tuple(row(hospital) for hospital in record.hospitals),
        self_tests=_self_tests(record),
        self_test_delta=figures.self_test_delta(record.hospitals, record.privacy.delta),
        self_test_text=wording.SELF_TEST_TEXT,
    )


def _self_tests(record: RoundRecord) -> tuple[SelfTestLine, ...]:
    """For each test who passed, who failed, and where it could not tell; empty where nobody was tested."""
    found = {hospital.name: {row.name: row.outcome for row in hospital.self_tests} for hospital in record.hospitals}

    def those(name: TestName, outcome: SelfTest) -> tuple[str, ...]:
        return tuple(who for who, outcomes in found.items() if outcomes.get(name, "NOT ASSESSED") == outcome)

    return tuple(
        SelfTestLine(
            name=name,
            holds=TEXTS[name],
            passed=those(name, "PASS"),
            failed=those(name, "FAIL"),
            not_assessed=those(name, "NOT ASSESSED"),
        )
        for name in NAMES
        if any(name in outcomes for outcomes in found.values())
    )


def _composition(
    record: RoundRecord, rows: Sequence[figures.Budget], worst: tuple[MechanismRecord, ...]
) -> CompositionSection:
    delta = record.privacy.delta
    several = figures.several_images(worst, delta)
    return CompositionSection(
        hospitals=tuple(hospital_budget(row, record) for row in rows),
        two_hospitals=figures.shown(figures.two_hospitals(record.hospitals, delta)),
        two_hospitals_text=(
            wording.TWO_HOSPITALS_TEXT
            if record.privacy.noise_placement == "per_hospital"
            else wording.TWO_HOSPITALS_DISTRIBUTED
        ),
        declared_hospitals=record.privacy.hospitals_per_patient,
        declared_hospitals_epsilon=figures.shown(
            figures.several_hospitals(record.hospitals, delta, record.privacy.hospitals_per_patient)
        ),
        declared_hospitals_text=wording.DECLARED_HOSPITALS_TEXT,
        several_images=tuple(SeveralImages(images=images, epsilon=figures.shown(value)) for images, value in several),
        several_images_text=(
            wording.SEVERAL_IMAGES_PATIENT if record.privacy.unit == "patient" else wording.IMAGE_UNIT_NOTE
        ),
        increase_text=wording.INCREASE_TEXT,
        colluders=_colluders(record, max(row.spent for row in rows), worst),
        trajectories=_trajectories(record),
    )


def _colluders(record: RoundRecord, spent: float, worst: tuple[MechanismRecord, ...]) -> tuple[ColluderRow, ...]:
    if record.privacy.noise_placement == "distributed":
        return _shared_colluders(record, worst)
    facts = record.aggregation
    others = facts.roster_size - 1
    tolerated = min(binding.colluders_against_lying(facts.roster_size, facts.threshold), others)
    value = figures.shown(spent)
    who = ["The coordinator alone"]
    if tolerated:
        who.append(f"The coordinator and up to {tolerated} of the {others} other hospitals")
    if others > tolerated:
        who.append(
            f"The coordinator and all {others} other hospitals"
            if others > 1
            else "The coordinator and the other hospital"
        )
    return tuple(ColluderRow(who=text, epsilon=value) for text in who)


def _shared_colluders(record: RoundRecord, worst: tuple[MechanismRecord, ...]) -> tuple[ColluderRow, ...]:
    """Epsilon of shared noise against 0, 1, ... colluders: who knows their own noise takes it out of the sum."""
    rows = []
    for row in colluders.table(worst, record.privacy.delta):
        who = "The coordinator alone" if row.colluders == 0 else f"The coordinator and {hospitals(row.colluders)}"
        note = " (accounted for; the binding figure)" if row.declared else ""
        note += wording.BEYOND_AGGREGATION if row.colluders > record.aggregation.colluders_tolerated else ""
        rows.append(ColluderRow(who=who + note, epsilon=figures.shown(row.epsilon)))
    return tuple(rows)


def _trajectories(record: RoundRecord) -> tuple[Trajectory, ...]:
    """One chart for all hospitals whose figures agree."""
    privacy, header = record.privacy, record.header
    groups: dict[tuple[Any, ...], list[HospitalFacts]] = {}
    for hospital in record.hospitals:
        groups.setdefault((hospital.this_run, hospital.earlier, hospital.cap), []).append(hospital)
    found = []
    for members in groups.values():
        first = members[0]
        points = []
        shown = figures.chart_rounds(header.round, header.rounds_scheduled, first=privacy.release is not None)
        for number in shown:
            planned = (*first.earlier, *figures.as_scheduled(privacy, number))
            spent = figures.of_ledger(first, until=number)
            points.append(
                TrajectoryPoint(
                    round=number,
                    planned=figures.shown(figures.epsilon(figures.merged(planned), privacy.delta)),
                    spent=figures.shown(figures.epsilon(spent, privacy.delta)) if number <= header.round else None,
                )
            )
        found.append(
            Trajectory(
                hospitals=tuple(member.name for member in members),
                points=tuple(points),
                target=None if privacy.epsilon_target is None else figures.given(privacy.epsilon_target),
                cap=None if first.cap is None else figures.given(first.cap),
            )
        )
    return tuple(found)


def _aggregation(record: RoundRecord) -> AggregationSection:
    facts = record.aggregation
    honest = binding.colluders_against_honest(facts.threshold)
    lying = binding.colluders_against_lying(facts.roster_size, facts.threshold)
    return AggregationSection(
        facts=facts,
        participants=record.hospitals,
        adversary=(
            f"Hidden from a coordinator that follows the protocol together with up to {hospitals(honest)}.",
            f"Hidden from a coordinator that lies together with up to {hospitals(lying)}.",
        ),
        not_covered=wording.NOT_COVERED,
    )


def _verification(record: RoundRecord) -> VerificationSection:
    missing = {entry.name for entry in record.missing_cosignatures}
    signers = ("coordinator", *(hospital.name for hospital in record.hospitals if hospital.name not in missing))
    stem = stem_of(record.header.round)
    return VerificationSection(
        signers=signers,
        artefacts=record.artefacts,
        commands=(
            "fedgan-secure audit verify RUN --trust KEYS",
            f"openssl pkeyutl -verify -pubin -inkey KEYS/coordinator.pub.pem -rawin -in reports/{stem}.pae "
            f"-sigfile reports/{stem}.coordinator.sig",
        ),
        text=f"{wording.VERIFY_TEXT} Signed by {listed(signers)}.",
    )
