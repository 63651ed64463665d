"""The run: the fixed schedule of rounds, each an attempt that is spent whether it finishes or not.

Order inside a round: every hospital is asked whether its cap allows the round; each reserves; keys and shares are
exchanged; the hospitals train; the masked updates are summed; the round is staged, reviewed, signed and published.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fedgan_audits.facts import Incident
from fedgan_audits.report import RoundDraft, build_round
from fedgan_audits.report import record_of as facts_of
from fedgan_protocols import ClientSession, ProtocolError
from fedgan_secure.federation.coordinator import ArtefactKind, RunOutcome, artefact
from fedgan_secure.federation.drivers.local import DropOut, LocalDriver, parse_drop
from fedgan_secure.federation.hospital import Hospital
from fedgan_secure.federation.prepare import Federation
from fedgan_secure.federation.refusals import SignatureRefused
from fedgan_secure.federation.results.published_files import JUDGED, Published
from fedgan_secure.federation.review.late_sums import hand_over, late_of
from fedgan_secure.federation.rounds import RoundFacts, left_incidents, now, record_of
from fedgan_secure.federation.spent import HospitalSpent, several_hospitals, spent_of
from fedgan_secure.interruption import Interruption
from fedgan_secure.policy import model_of
from fedgan_secure.privacy import MechanismContradicted
from fedgan_secure.storage import sole_owner


class Display(Protocol):
    """Where progress goes; `fedgan_cli.terminal.Progress` is one."""

    def update(self, task: str, done: int, total: int) -> None: ...

    def note(self, text: str) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        status: "complete", "refused" (a cap) or "aborted" (no whole round left or the last one failed).
        reason: one sentence.
        finished: rounds whose sum was applied.
        spent: hospital -> its figures over this run and over its whole ledger.
        score: what the generator reaches on fresh phantoms (`scoring.phantom_score`); None for any other data.
        several_hospitals: epsilon of a patient in as many hospitals as the policy declares; None where that is one.
    """

    status: str
    reason: str
    finished: int
    spent: dict[str, HospitalSpent]
    score: dict[str, Any] | None
    several_hospitals: str | None = None

    @property
    def epsilons(self) -> dict[str, str]:
        """Every hospital's epsilon over this run alone, at the policy's delta, rounded up."""
        return {name: figures.this_run for name, figures in self.spent.items()}

    @property
    def exit_code(self) -> int:
        """As in the command line's table: 0 done, 3 refused, 4 aborted."""
        return {"complete": 0, "refused": 3, "aborted": 4}[self.status]


def carry_on(federation: Federation, display: Display) -> Outcome:
    """Attempt every scheduled round that is left, then end the run in order."""
    with sole_owner(federation.run.lock, f"the run {federation.run.root}"):
        run = _Run(federation, display)
        with run.interruption.caught():
            return run.carry_on()


class _Run:
    def __init__(self, federation: Federation, display: Display) -> None:
        self.federation = federation
        self.policy = federation.policy
        self.coordinator = federation.coordinator
        self.hospitals = federation.hospitals
        self.display = display
        self.incidents: list[Incident] = []
        self.dispute: str | None = None
        self.interruption = Interruption()
        info = federation.run.read_info()
        started = info.get("started")
        self.started = datetime.datetime.fromisoformat(started) if isinstance(started, str) else now()
        self._status("running", status_before=info.get("status"))

    def carry_on(self) -> Outcome:
        if (ended := self._ended_before()) is not None:
            return ended
        self._finish_interrupted()
        hand_over(self.hospitals.values(), self.coordinator.late_sum, self.display.note)
        status, reason, last_complete = "complete", "all scheduled rounds were attempted", True
        if (broken := self._broken()) is not None:
            status, reason = "aborted", f"{broken}; the run cannot go on, and what was reserved stays spent"
        while status == "complete" and (number := self.coordinator.state.next_round) <= self.policy.rounds:
            if (why := self._out_of_turn(number)) is not None:
                status, reason = "aborted", why
                break
            refusal = self._refusal(number)
            if refusal is not None:
                status, reason = "refused", refusal
                break
            last_complete = self._attempt(number)
            if self.interruption.asked:
                self._manifest("running", "The operator interrupted the run; it can be resumed.")
                raise KeyboardInterrupt
            if self.dispute is not None:
                status, reason = "aborted", self.dispute
                break
            self._manifest("running", "rounds are left")
        finished = self.coordinator.state.finished
        if status == "complete" and (finished == 0 or not self._last_complete(last_complete)):
            status, reason = (
                "aborted",
                f"{finished} of {self.policy.rounds} scheduled rounds were whole; the last was not",
            )
        elif status == "complete" and finished < self.policy.rounds:
            reason = f"{finished} of {self.policy.rounds} scheduled rounds were whole"
        ends: dict[str, RunOutcome] = {"complete": "complete", "refused": "refused", "aborted": "ended early"}
        self._manifest(ends[status], reason, ended=now())
        score = self._score() if finished else None
        outcome = Outcome(status, reason, finished, self._spent(), score, self._several_hospitals())
        self._status(
            status, reason=reason, ended=now().isoformat(), epsilon=outcome.epsilons, score=score,
            finished_rounds=finished,
        )  # fmt: skip
        return outcome

    def _ended_before(self) -> Outcome | None:
        """The outcome of a run that has nothing left to do, as it was noted then."""
        info = self.federation.run.read_info()
        if info.get("status_before") != "complete" or self.coordinator.state.next_round <= self.policy.rounds:
            return None
        self.display.note("the run was complete already; nothing was done")
        self._status("complete")
        score = info.get("score")
        return Outcome(
            "complete",
            str(info.get("reason", "")),
            self.coordinator.state.finished,
            self._spent(),
            score if isinstance(score, dict) else None,
            self._several_hospitals(),
        )

    def _spent(self) -> dict[str, HospitalSpent]:
        return {name: spent_of(hospital) for name, hospital in self.hospitals.items()}

    def _several_hospitals(self) -> str | None:
        return several_hospitals(self.policy, self.hospitals)

    # one attempt ----------------------------------------------------------------------------------------------

    def _attempt(self, number: int) -> bool:
        started = now()
        facts = RoundFacts(number, started, self.coordinator.digest())
        for hospital in self.hospitals.values():
            hospital.leave_out_withdrawn(number)
        self.coordinator.mark_started(started.isoformat())
        for hospital in self.hospitals.values():
            hospital.reserve(number)
        parameters, server = self.coordinator.open_session(number)
        facts.session = parameters.session
        vector, average = self.coordinator.vector, self.coordinator.average
        clients = {
            name: hospital.open_session(parameters, vector, self.coordinator.layout.layout_hash)
            for name, hospital in self.hospitals.items()
        }

        def before_input(sum_index: int, asked: tuple[str, ...]) -> None:
            for name in asked:
                self.interruption.check()
                self._give(clients[name], self.hospitals[name], number, sum_index)

        drops = [
            drop for text in self.federation.drops if (drop := parse_drop(text, self.policy.names)).round == number
        ]
        try:
            result = LocalDriver(server, clients, before_input, drops).run()
            facts.result = result
            if result.receipts_ok < self.policy.threshold:
                facts.abort_code = "too-few-receipts"
                facts.abort_detail = (
                    f"{result.receipts_ok} hospitals acknowledged the result, {self.policy.threshold} were needed; "
                    "the model was left as it was"
                )
            else:
                vector, average = self.coordinator.apply(result)
        except KeyboardInterrupt:
            facts.abort_code = "interrupted"
            facts.abort_detail = (
                "the operator interrupted the round; nothing of it was used, what was reserved is spent"
            )
            self.display.note(f"interrupted: writing round {number}'s report; its budget is spent and not refunded")
        except MechanismContradicted as error:
            self._contradicted(facts, error)
        except ProtocolError as error:
            facts.abort_code = str(error.code)
            facts.abort_detail = str(error) + (f" (blamed: {error.culprit})" if error.culprit else "")
        facts.note_server(server)
        self._conclude(facts, vector, average, self._incidents(facts, drops), parameters.colluders)
        self._tell_round(facts)
        return facts.complete

    def _incidents(self, facts: RoundFacts, drops: Sequence[DropOut]) -> list[Incident]:
        """What a report says went otherwise than planned, rehearsals included."""
        number = facts.number
        found = [
            Incident(
                kind="rehearsal",
                round=number,
                text=f"the operator rehearsed a drop-out: {drop.hospital} at {drop.stage}",
            )
            for drop in drops
        ]
        if facts.complete and facts.result is not None:
            found += left_incidents(number, facts.result, self.policy.names)
        if facts.abort_code is not None:
            found.append(Incident(kind="abort", round=number, text=facts.abort_detail or facts.abort_code))
        return found

    def _tell_round(self, facts: RoundFacts) -> None:
        """A line for the operator."""
        number = facts.number
        last = " (a run with --spare-rounds has rounds left for that)" if number == self.policy.rounds else ""
        what = f"{len(facts.result.survivors)} of {len(self.hospitals)} hospitals" if facts.result else f"aborted{last}"
        texts = [spent.this_run for spent in self._spent().values()]
        spent = max(texts, key=lambda text: float("inf") if text == "unbounded" else float(text))
        self.display.note(f"round {number} of {self.policy.rounds}: {what}, epsilon so far {spent}")

    def _contradicted(self, facts: RoundFacts, error: MechanismContradicted) -> None:
        """A hospital found that it did not do what it recorded: the round is void and the run ends."""
        facts.abort_code = "self-test"
        facts.abort_detail = f"{self._broken()}; nothing of this step was handed on, what was reserved is spent"
        self.display.note(f"round {facts.number}: {error}. {error.hint}")
        self.dispute = self._broken()

    def _broken(self) -> str | None:
        """Which hospitals' self-tests have failed in this run, or None."""
        found = [
            f"hospital {name}: self-test failed: {', '.join(failed)}"
            for name, hospital in self.hospitals.items()
            if (failed := hospital.failed_self_tests)
        ]
        return "; ".join(found) or None

    def _give(self, client: ClientSession, hospital: Hospital, number: int, sum_index: int) -> None:
        """Let a hospital make its vector of one sum and hand it to its own client."""
        stepwise = self.coordinator.stepwise
        if stepwise is None:
            client.provide_input(sum_index, self._train(hospital, number))
            return
        vector, model = hospital.train_step(sum_index, stepwise.weights)
        client.provide_input(sum_index, vector, model)
        self.display.update(f"round {number}: steps", sum_index + 1, self.policy.mechanism.steps_per_round)

    def _train(self, hospital: Hospital, number: int) -> np.ndarray:
        task = f"round {number}: hospital {hospital.name}"

        def step(done: int, total: int) -> None:
            self.display.update(task, done, total)
            self.interruption.check()

        return hospital.train(step)

    def _conclude(
        self,
        facts: RoundFacts,
        vector: np.ndarray,
        average: np.ndarray,
        incidents: list[Incident],
        colluders: int,
    ) -> None:
        """Stage, review, seal, sign and publish the attempt."""
        number = facts.number
        for hospital in self.hospitals.values():
            hospital.write_annex(number)
        applied = facts.complete
        if applied:
            from fedgan_secure.federation.fedavg import model_digest

            facts.model_after = model_digest(self.coordinator.layout.layout_hash, vector)
        files = self._files(facts, average)
        facts.ended = now()
        late = late_of(facts, tuple(self.hospitals), self.coordinator.vector, vector)
        self.coordinator.stage(number, files, vector, average, late)
        shown = Published({name: data for name, data in files.items() if name.startswith(JUDGED)}, vector)
        draft = self._draft(facts, files, incidents, colluders, shown)
        self.coordinator.seal(number, draft, applied)
        self._publish(number, draft, "round_finished" if applied else "round_aborted")

    def _files(self, facts: RoundFacts, average: np.ndarray) -> dict[str, bytes]:
        """The attempt's public files but for the report: name below ``public/`` -> bytes."""
        files: dict[str, bytes] = {}
        if facts.transcript is not None:
            files[f"transcripts/round-{facts.number:04d}.cbor"] = facts.transcript
        if facts.complete:
            family = self.coordinator.family
            files.update(family.files(average, self.display.update))
            files[f"samples/round-{facts.number:04d}.png"] = family.sheet(average)
        return files

    def _draft(
        self,
        facts: RoundFacts,
        files: dict[str, bytes],
        incidents: list[Incident],
        colluders: int,
        shown: Published,
    ) -> RoundDraft:
        """The report that every hospital would sign; a hospital that would not is listed with its reasons."""
        kinds: dict[str, ArtefactKind] = {"transcripts": "transcript", "samples": "samples", "model": "model"}
        artefacts = [artefact("policy.json", self.federation.run.policy.read_bytes(), "policy")]
        artefacts += [artefact(name, data, kinds[name.split("/")[0]]) for name, data in sorted(files.items())]
        sample = next((data for name, data in files.items() if name.startswith("samples/")), None)
        missing: dict[str, str] = {}
        while True:
            record = record_of(
                self.policy,
                facts,
                [hospital.facts(facts.number, **facts.hospital(name)) for name, hospital in self.hospitals.items()],
                dimension=self.policy.lengths(self.coordinator.family.update_size, facts.number)[0],
                colluders=colluders,
                previous=self.coordinator.state.head,
                coordinator_fingerprint=self.coordinator.identity.fingerprint,
                layouts=self.federation.source.layouts,
                artefacts=artefacts,
                incidents=incidents,
                missing=missing,
                lock=_lock_file(),
            )
            draft = build_round(record, sample_png=sample)
            objections = {
                name: found
                for name, hospital in self.hospitals.items()
                if name not in missing and (found := hospital.review(draft.payload, facts.transcript, sample, shown))
            }
            if not objections:
                self._note_dispute(facts, missing)
                return draft
            missing.update({name: "; ".join(found)[:1000] for name, found in objections.items()})

    def _note_dispute(self, facts: RoundFacts, missing: dict[str, str]) -> None:
        """End the run where fewer hospitals than the threshold sign, of a whole round those that hold its sum."""
        for name, reason in missing.items():
            self.display.note(f"hospital {name} does not sign the report of round {facts.number}: {reason}")
        holding = [name for name in self.hospitals if not facts.complete or facts.hospital(name)["receipt"] == "signed"]
        if len(set(holding) - set(missing)) < self.policy.threshold:
            self.dispute = (
                f"{len(missing)} of {len(self.hospitals)} hospitals did not sign the report of round {facts.number}; "
                f"fewer than {self.policy.threshold} agree on what happened"
            )

    def _publish(self, number: int, draft: RoundDraft, outcome: str) -> None:
        refused = {row.name for row in facts_of(draft.report).missing_cosignatures}
        signatures = [self.coordinator.sign(draft)]
        signatures += [hospital.sign(draft.payload) for name, hospital in self.hospitals.items() if name not in refused]
        for hospital in self.hospitals.values():
            hospital.finish_round(number, outcome)
        self.coordinator.publish(number, draft, signatures)
        hand_over(self.hospitals.values(), self.coordinator.late_sum, self.display.note)

    # before, between and after --------------------------------------------------------------------------------

    def _finish_interrupted(self) -> None:
        """Publish a round that was sealed before the process ended, or report one that was not as incomplete."""
        state = self.coordinator.state
        if state.started is None:
            return
        number = state.next_round
        draft = self.coordinator.sealed(number)
        if draft is not None:
            self.display.note(f"round {number} had finished; publishing its report")
            whole = facts_of(draft.report).header.status == "complete"
            self._review_sealed(number, draft)
            self._publish(number, draft, "round_finished" if whole else "round_aborted")
        else:
            self.display.note(f"round {number} was interrupted: its budget stays spent, its report says INCOMPLETE")
            started = datetime.datetime.fromisoformat(state.started)
            facts = RoundFacts(
                number,
                started,
                self.coordinator.digest(),
                abort_code="interrupted",
                abort_detail="the process ended during the round; nothing of it was used, what was reserved is spent",
                killed=True,
            )
            incidents = [Incident(kind="interruption", round=number, text=facts.abort_detail or "")]
            for hospital in self.hospitals.values():
                hospital.leave_out_withdrawn(number)  # the annex of a killed round has its row, too
            parameters, _ = self.coordinator.open_session(number)
            self._conclude(facts, self.coordinator.vector, self.coordinator.average, incidents, parameters.colluders)
        self._manifest("running", "the run was interrupted and goes on")

    def _review_sealed(self, number: int, draft: RoundDraft) -> None:
        """What a kill left sealed is reviewed again by everyone who is to sign it."""
        staged = self.federation.run.staged(number) / "public"
        transcript = staged / "transcripts" / f"round-{number:04d}.cbor"
        sample = staged / "samples" / f"round-{number:04d}.png"
        shown = self.coordinator.staged(number)
        refused = {row.name for row in facts_of(draft.report).missing_cosignatures}
        for name, hospital in self.hospitals.items():
            found = hospital.review(
                draft.payload,
                transcript.read_bytes() if transcript.exists() else None,
                sample.read_bytes() if sample.exists() else None,
                shown,
            )
            if found and name not in refused:
                raise SignatureRefused(
                    f"hospital {name} does not sign the staged report of round {number}: {'; '.join(found)}",
                    hint="the files below checkpoints/ were changed; restore them from a backup",
                )

    def _last_complete(self, last: bool) -> bool:
        """Whether the newest round is whole, also where this process attempted none."""
        newest = self.federation.run.public / "reports" / f"round-{self.coordinator.state.next_round - 1:04d}.dsse.json"
        if not last or not newest.exists():
            return last
        from fedgan_audits.report import read_payload
        from fedgan_audits.signing import parse

        return facts_of(read_payload(parse(newest.read_bytes()).payload)[0]).header.status == "complete"

    def _out_of_turn(self, number: int) -> str | None:
        """Why a hospital does not begin the round, whatever its budget, or None; asked before anyone pays."""
        for name, hospital in self.hospitals.items():
            if (why := hospital.out_of_turn(number)) is not None:
                text = f"round {number} did not take place: hospital {name} does not begin it: {why}"
                self.incidents.append(Incident(kind="refusal", round=number, text=text))
                self.display.note(text)
                return text
        return None

    def _refusal(self, number: int) -> str | None:
        """Ask every hospital before anyone pays; a refusal ends the run in order."""
        for hospital in self.hospitals.values():
            refused = hospital.refusal(number)
            if refused is not None:
                hospital.refuse(number)
                text = f"round {number} did not take place: {refused}"
                self.incidents.append(Incident(kind="refusal", round=number, text=text))
                self.display.note(text)
                return text
        return None

    def _manifest(self, outcome: RunOutcome, reason: str, ended: datetime.datetime | None = None) -> None:
        payload = self.coordinator.draft_manifest(outcome, reason, self.started, ended or now(), self.incidents)
        signed = [hospital.sign_manifest(payload, self.federation.run.public) for hospital in self.hospitals.values()]
        self.coordinator.publish_manifest(payload, [signature for signature in signed if signature is not None])

    def _score(self) -> dict[str, Any] | None:
        """On phantoms alone: a metric on patients' images would cost budget."""
        if not self.policy.data.phantoms:
            return None
        from fedgan_secure.evaluation import phantom_score

        family, average = self.coordinator.family, self.coordinator.average
        self.display.note("scoring the generator on fresh phantoms")
        score: dict[str, Any] = phantom_score(
            family.draw(average),
            model_of(self.policy),
            self.policy.names,
            self.policy.data.preprocessing,
            self.policy.initial_model.seed,
            start_draw=family.start_draw(average),
            progress=self.display.update,
            run_patients=self.policy.mechanism.declared_patients * len(self.policy.names),
        )
        json.dumps(score, allow_nan=False)
        return score

    def _status(self, status: str, **more: Any) -> None:
        info = {
            **self.federation.run.read_info(),
            "status": status,
            "started": self.started.isoformat(),
            **more,
        }
        self.federation.run.write_info(info)


def _lock_file() -> Path | None:
    """The hash-locked requirements beside a checkout, where there are any."""
    lock = Path(__file__).resolve().parents[2] / "requirements" / "run.txt"
    return lock if lock.is_file() else None
