"""Hold a report against the protocol's own check of the transcript: the bridge from `audits` to `protocols`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedgan_audits.facts import RoundReport
    from fedgan_audits.verification import TranscriptContext
    from fedgan_protocols.transcript import TranscriptFacts


def check_transcript(context: TranscriptContext) -> str:
    """Give a round's transcript to the protocol's own check, with everything that policy and report say about it.

    Receipts and drop-outs of the report must be those of the transcript. Raises fedgan_protocols.ProtocolError where
    the transcript does not fit.
    """
    from fedgan_protocols import Code, Member, ProtocolError
    from fedgan_protocols.transcript import TranscriptExpectations, check

    facts, header = context.report.aggregation.facts, context.report.header
    finished = header.status == "complete"
    settings = context.report.privacy.settings
    scheduled = settings.scheduled(context.round)
    released = settings.release is not None and context.round == 1
    # with shared noise every step has a sum of its own; a release has one, whoever adds its noise
    shared = scheduled.noise_placement == "distributed" and not released
    sums = scheduled.steps if shared else 1

    def digest(text: str | None) -> tuple[bytes, ...] | None:
        return (bytes.fromhex(text),) if text else None

    found = check(
        context.data,
        TranscriptExpectations(
            roster=tuple(Member(name, key) for name, key in context.hospitals.items()),
            server_public_key=context.coordinator,
            session=bytes.fromhex(facts.session) if facts.session else None,
            round=context.round,
            threshold=facts.threshold,
            ring_bits=facts.ring_bits,
            lengths=(facts.dimension,) * sums,
            policy_hash=bytes.fromhex(context.policy_sha256),
            model_hashes=digest(facts.model_before) if finished and not shared else None,
            sum_digests=digest(facts.sum_sha256) if finished and not shared else None,
            survivors=(facts.survivors,) if finished and not shared else None,
            complete=True if finished else None,
        ),
    )
    named = found.sums[:1] if shared else found.sums
    if any(item.model_hash and item.model_hash.hex() != facts.model_before for item in named):
        raise ProtocolError(Code.TRANSCRIPT_MISMATCH, "the transcript's model is not the one that the report names")
    if shared and finished:
        _compare_sums(context.report, found)
    _compare_participants(context.report, found)
    return f"round {found.round}, last stage {found.stage}"


def _compare_sums(report: RoundReport, found: TranscriptFacts) -> None:
    """Raise ProtocolError unless a report of shared noise names all sums of the transcript, and who is in the last."""
    import hashlib

    from fedgan_protocols import Code, ProtocolError

    facts = report.aggregation.facts
    digests = b"".join(item.digest for item in found.sums)
    if hashlib.sha256(digests).hexdigest() != facts.sum_sha256:
        raise ProtocolError(Code.TRANSCRIPT_MISMATCH, "the transcript's sums are not those that the report names")
    if tuple(found.sums[-1].survivors) != facts.survivors:
        raise ProtocolError(Code.TRANSCRIPT_MISMATCH, "the transcript's last sum has other survivors than the report")


def _compare_participants(report: RoundReport, found: TranscriptFacts) -> None:
    """Raise ProtocolError unless the report's receipts and drop-outs are those that the transcript shows."""
    from fedgan_protocols import Code, ProtocolError

    finished = report.header.status == "complete"
    wrong = []
    for hospital in report.aggregation.participants:
        signed, drop = hospital.name in found.receipts, found.dropped.get(hospital.name)
        # an aborted round may hold receipts that came to nothing; one that is claimed must be there all the same
        if (hospital.receipt == "signed") != signed and (finished or not signed):
            wrong.append(f"the receipt of {hospital.name}")
        if hospital.dropped_at != (drop.stage if drop else None):
            wrong.append(f"the stage at which {hospital.name} dropped out")
        elif drop is not None and hospital.drop_reason is not None and not hospital.drop_reason.startswith(drop.code):
            wrong.append(f"the reason why {hospital.name} dropped out")
    if set(report.aggregation.facts.dropouts) != set(found.dropped):
        wrong.append("the list of drop-outs")
    if wrong:
        raise ProtocolError(
            Code.TRANSCRIPT_MISMATCH,
            f"the report and the transcript differ in {', '.join(wrong[:12])}",
            hint="the transcript holds the hospitals' own signatures; ask the coordinator why the report differs",
        )
