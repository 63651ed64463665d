"""One hospital: its site, its ledger, its patients, its signature.

A hospital trusts nobody's word for its own facts. It reserves the round's mechanism in its ledger before a step is
taken, refuses what would exceed its cap, and signs a report only after comparing it with what it knows itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedgan_audits.accounting import MechanismRecord
from fedgan_audits.bundle import Inventory
from fedgan_audits.errors import BudgetRefused
from fedgan_audits.facts import HospitalFacts, SelfTestRow, overall, spending
from fedgan_audits.ledger import Ledger, smallest
from fedgan_audits.report import disagreements, foresee, read_payload, record_of
from fedgan_audits.signing import Signature, envelope
from fedgan_protocols import ClientSession, Journal, PolicyFloors, SessionParameters
from fedgan_protocols.primitives import Identity
from fedgan_secure.data import PatientDataset
from fedgan_secure.federation.attempt import Attempt
from fedgan_secure.federation.families.choosing import family_of
from fedgan_secure.federation.families.family import Family
from fedgan_secure.federation.fedavg import model_digest
from fedgan_secure.federation.refusals import SessionRefused, SignatureRefused
from fedgan_secure.federation.results.models_found import ModelsFound
from fedgan_secure.federation.results.published_files import Published, listed_files
from fedgan_secure.federation.review.manifest_review import signable
from fedgan_secure.federation.review.own_words import objections_to_words
from fedgan_secure.federation.review.received_sums import LateSum, SumKeeper
from fedgan_secure.federation.review.result_review import ResultReview
from fedgan_secure.federation.review.session_review import SessionReview
from fedgan_secure.federation.start_model import StartBundle, own_start
from fedgan_secure.federation.turns import foreign_parameters, open_once, out_of_turn, refuse_foreign
from fedgan_secure.moments import AnyStart
from fedgan_secure.policy import FederationPolicy
from fedgan_secure.privacy import Entropy, MechanismContradicted, MechanismWatch, step_digest
from fedgan_secure.processors import processors
from fedgan_secure.site import (
    commitment_of,
    open_release_watch,
    open_watch,
    plain,
    published,
    read_annex,
    save_watch,
    take_effect,
    write_annex,
)
from fedgan_secure.storage import SiteDirectory, private_folder

Step = Callable[[int, int], None]


@dataclass(repr=False)
class Hospital:
    """A hospital's side of a federation. Nothing but :class:`HospitalFacts`, protocol bytes and signatures leaves it.

    Args:
        site: its own folder.
        identity: its Ed25519 identity.
        ledger: its privacy ledger, open.
        dataset: its patients; never leaves this object.
        policy: the federation's policy, already checked.
        cap: what its settings say bounds epsilon over its whole ledger, or None; a smaller one in the ledger counts.
        findings: what its loader found; goes to the confidential annex alone.
        start: the public start that the policy names, or None where it names none.
        bundle: the released model that the run starts from, as this hospital was given it; None where there is none.
    """

    site: SiteDirectory
    identity: Identity
    ledger: Ledger
    dataset: PatientDataset
    policy: FederationPolicy
    name: str
    cap: float | None
    findings: dict[str, Any]
    entropy: Entropy
    journal: Journal
    start: AnyStart | None = None
    bundle: StartBundle | None = None
    _family: Family | None = None
    _trainer: Any = None
    _watch: MechanismWatch | None = None
    _release_watch: MechanismWatch | None = None
    _attempt: Attempt | None = None
    _trained: set[bytes] = field(default_factory=set)
    _reviewed: set[str] = field(default_factory=set)
    _statistics: dict[int, dict[str, Any]] = field(default_factory=dict)
    _incidents: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    _inventory: Inventory = field(default_factory=Inventory)

    @property
    def run_id(self) -> str:
        return self.policy.run_id

    @property
    def watch(self) -> MechanismWatch:
        """The self-tests of this run."""
        if self._watch is None:
            self._watch = open_watch(self.policy, self.dataset, self.site.self_tests)
        return self._watch

    @property
    def release_watch(self) -> MechanismWatch:
        """The self-tests of the release round, which is a mechanism of its own."""
        if self._release_watch is None:
            self._release_watch = open_release_watch(self.policy, self.dataset, self.site.release_self_tests)
        return self._release_watch

    @property
    def failed_self_tests(self) -> tuple[str, ...]:
        """The self-tests that failed in this run so far."""
        release = () if self.policy.release is None else self.release_watch.failed
        return tuple(dict.fromkeys((*release, *self.watch.failed)))

    @property
    def family(self) -> Family:
        """What this run trains, made from this hospital's own copy of the policy."""
        if self._family is None:
            self._family = family_of(self.policy, self.start)
        return self._family

    @contextmanager
    def _watched(self, round_number: int) -> Iterator[None]:
        """Keep the figures of the self-tests for the annex, and at once the fact that one failed."""
        release = self.policy.is_release(round_number)
        watch = self.release_watch if release else self.watch
        try:
            yield
        except MechanismContradicted:
            save_watch(watch, self.site.release_self_tests if release else self.site.self_tests)
            raise
        finally:
            self._statistics.setdefault(round_number, {})["self_tests"] = watch.figures()

    def leave_out_withdrawn(self, round_number: int) -> None:
        """Train from this round on without the patients on the site's list (`withdrawals`).

        Raises:
            InputError: the list cannot be read.
        """
        found = take_effect(self.site.withdrawals, self.dataset, self.run_id, round_number)
        self._incidents[round_number] = [*found.incidents]
        if found.patients is not self.dataset:
            if self._watch is not None:
                save_watch(self._watch, self.site.self_tests)
            if self._release_watch is not None:
                save_watch(self._release_watch, self.site.release_self_tests)
            self.dataset, self._trainer, self._watch, self._release_watch = found.patients, None, None, None

    def refusal(self, round_number: int) -> BudgetRefused | None:
        """Why this hospital would refuse a round, or None; asked before anybody reserves, so nobody pays in vain."""
        return self.ledger.refusal(self.run_id, round_number, **self._asked(round_number))

    def _asked(self, round_number: int) -> dict[str, Any]:
        """What a round asks; raises NotAccounted where a report could not print the figures."""
        mechanism, record = self.policy.mechanism, self.policy.record_of(round_number)
        earlier, own = self.ledger.mechanisms(exclude_run=self.run_id), self.ledger.mechanisms(self.run_id)
        foresee(earlier, (*own, record), mechanism.delta, self.standing_cap)
        return {"mechanism": record, "delta": mechanism.delta, "cap": self.cap, "target": mechanism.epsilon_target}

    @property
    def standing_cap(self) -> float | None:
        """The cap that counts now: the smallest of the settings' and the ledger's."""
        return smallest(self.cap, self.ledger.standing_cap())

    def cap_in(self, round_number: int) -> float | None:
        """The cap that a round's reservation was held against; where nothing is reserved, the one that counts now."""
        nothing = self._reserved(round_number) is None
        return self.standing_cap if nothing else self.ledger.cap_of(self.run_id, round_number)

    def refuse(self, round_number: int) -> None:
        """Let the ledger refuse a round that :meth:`refusal` foresaw, and keep that it did."""
        with suppress(BudgetRefused):
            self.reserve(round_number)

    def out_of_turn(self, round_number: int) -> str | None:
        """Why this hospital does not begin a round now, whatever its budget, or None; asked before anybody reserves."""
        return out_of_turn(self.policy, self.ledger, self._models, self.dataset, round_number)

    def _refuse_out_of_turn(self, round_number: int) -> None:
        if (why := self.out_of_turn(round_number)) is not None:
            raise SessionRefused(
                f"hospital {self.name} does not begin round {round_number}: {why}",
                hint="finish the run's rounds in order and get each report signed; more rounds are a new run",
            )

    def reserve(self, round_number: int) -> None:
        """Spend the round's mechanism in the ledger, durably, before the step that uses it.

        Raises:
            BudgetRefused: the hospital's cap or the policy's target does not allow it.
            SessionRefused: it is not the round's turn (`turns`).
        """
        self._refuse_out_of_turn(round_number)
        self.ledger.reserve(self.run_id, round_number, **self._asked(round_number))

    def open_session(self, parameters: SessionParameters, vector: np.ndarray, layout_hash: str) -> ClientSession:
        """A client of this round's secure aggregation, bound to the global model `vector`, float32[d].

        The hospital believes nothing that it can check: roster, coordinator, threshold, ring and policy must be those
        of its own copy of the policy, the round must be reserved in its ledger, and the model must be the one that the
        last report it signed led to, or at first the one of the policy's seed. It computes the model's digest itself;
        a coordinator that sends different models to different hospitals finds that nobody's masks cancel (Pasquini et
        al. 2021).

        What it receives is in its ledger before its receipt leaves (`received_sums`). One reservation pays for one
        session: which one is written to the ledger first, so that a round is never opened again, under another session
        or after a restart, for fresh coins and noise that nobody has paid for.

        Raises:
            SessionRefused: naming what differs, or that the round was opened before.
        """
        model = model_digest(layout_hash, vector)
        self._check_session(parameters, vector.size, model)
        self._refuse_out_of_turn(parameters.round)
        open_once(self.policy, self.ledger, parameters, self.name)
        client = ClientSession(
            parameters,
            self.identity,
            (model, *(b"",) * (parameters.sums - 1)),
            self.entropy,
            floors=PolicyFloors(
                least_roster=len(self.policy.hospitals),
                least_threshold=self.policy.threshold,
                least_ring_bits=self.policy.ring_bits,
            ),
            journal=self.journal,
            threads=processors(),
            on_receipt=lambda sums, who: self._sums.keep(parameters.round, vector, layout_hash, sums, who),
        )
        self._attempt = Attempt(parameters, client, vector, layout_hash, self.policy)
        return client

    def _check_session(self, parameters: SessionParameters, size: int, model: bytes) -> None:
        update = size if self.policy.start is None else self.family.update_size
        wrong = foreign_parameters(self.policy, parameters, update)
        if model.hex() != (self._models.newest() or self.first_model() or model.hex()):
            wrong.append("the model")
        if self._reserved(parameters.round) != self.policy.record_of(parameters.round):
            wrong.append("the reservation of the round")
        refuse_foreign(wrong, self.name, parameters.round)

    def train(self, progress: Step | None) -> np.ndarray:
        """Train the open round's steps on this hospital's patients, from the model that the session is bound to.

        Returns:
            uint32[d] or uint64[d], the clamped fixed-point update. Not masked: it goes to the client session alone.

        Raises:
            SessionRefused: no session is open, or it was trained for already: one reservation pays for one training.
            MechanismContradicted: a self-test failed; there is no vector then, and nothing of the round leaves.
        """
        attempt = self._attempt
        stepwise = attempt is not None and self.policy.is_stepwise(attempt.parameters.round)
        if attempt is None or attempt.parameters.session in self._trained or stepwise:
            raise SessionRefused(
                f"hospital {self.name} does not train: one open round pays for one training",
                hint="open a new round; this one's budget is spent",
            )
        self._trained.add(attempt.parameters.session)
        number = attempt.parameters.round
        trainer = self._made_trainer()
        if self.policy.is_release(number):
            with self._watched(number):
                vector, statistics = trainer.release(self.release_watch, progress)
            self._statistics[number] |= statistics
            return np.asarray(vector)
        with self._watched(number):
            result = trainer.train(attempt.vector, self.policy.mechanism.steps_per_round, progress)
        codec = self.policy.fixed_point()
        self._statistics[number] |= {
            **result.statistics,
            "clamped_coordinates": int(codec.count_clamped(result.update)),
            "seconds": round(float(result.seconds), 3),
        }
        return codec.encode(result.update)

    def train_step(self, j: int, weights: np.ndarray | None) -> tuple[np.ndarray, bytes | None]:
        """One step with shared noise: this hospital's clamped, rounded and noised sum j of the open round.

        Args:
            j: the step, from 0; each one is taken once.
            weights: float32[k], what the coordinator sent for it; None for the first, which starts from the global
                model that the session is bound to.

        Returns:
            uint32[d] or uint64[d] for the client session alone, and the digest of `weights`, computed here, 32 bytes.

        Raises:
            SessionRefused: no session is open, or step j was taken already: a vector is masked once.
            MechanismContradicted: a self-test failed; there is no sum then.
        """
        attempt, shared = self._attempt, self.policy.distributed
        stepwise = attempt is not None and self.policy.is_stepwise(attempt.parameters.round)
        wrong = attempt is None or attempt.next_step != j or (weights is None) != (j == 0)
        if attempt is None or shared is None or wrong or not stepwise:
            raise SessionRefused(
                f"hospital {self.name} does not take step {j}: every step of an open round is taken once, in order",
                hint="open a new round; this one's budget is spent",
            )
        attempt.next_step += 1
        trainer = self._made_trainer()
        number = attempt.parameters.round
        with self._watched(number):
            if j == 0:
                trainer.begin(attempt.vector)
            vector: np.ndarray = trainer.step(weights)
            if j + 1 == shared.steps_per_round:
                trainer.end_round()
        self._statistics[number] |= trainer.statistics()
        model = None if weights is None else step_digest(attempt.layout_hash, weights)
        attempt.models.append(model or model_digest(attempt.layout_hash, attempt.vector))
        return vector, model

    def _made_trainer(self) -> Any:
        """What makes this hospital's part of a round, made on first use and taken up where it was left."""
        if self._trainer is None:
            self._trainer = self.family.trainer(self.dataset, self.entropy, self.watch)
            if self.policy.distributed is None and self.site.optimiser.exists():
                self._trainer.restore(self.site.optimiser)
        return self._trainer

    def write_annex(self, round_number: int) -> None:
        """Write the confidential annex of a round (mode 0600); see `annex`."""
        annex = {
            "hospital": self.name,
            "run_id": self.run_id,
            "round": round_number,
            "patients": self.dataset.patients,
            "images": len(self.dataset),
            "data": self.findings,
            "incidents": self._incidents.pop(round_number, []),
            "training": plain(self._statistics.pop(round_number, {})),
        }
        private_folder(self.site.confidential)
        write_annex(self.site.annex(round_number), annex)

    def facts(self, round_number: int, **round_facts: Any) -> HospitalFacts:
        """What a report says of this hospital; `round_facts` are the protocol's (took part, receipt, drop-out)."""
        return HospitalFacts(
            name=self.name,
            fingerprint=self.identity.fingerprint,
            declared_patients=self.policy.mechanism.declared_patients,
            reserved=self._reserved(round_number),
            this_run=self._spent(),
            earlier=self.ledger.mechanisms(exclude_run=self.run_id),
            cap=self.cap_in(round_number),
            ledger_lifetime="site" if self.site.lasting else "run",
            annex_commitment=commitment_of(self.site.annex(round_number)),
            self_test=overall(row.outcome for row in self._self_tests(round_number)),
            self_tests=self._self_tests(round_number),
            **round_facts,
        )

    def review(
        self, payload: bytes, transcript: bytes | None, sample_png: bytes | None, published: Published | None = None
    ) -> list[str]:
        """How a report differs from what this hospital knows; empty where it would sign it.

        Compared are its own reservations, cap and annex, the policy and what follows from it, the report and the model
        it knows last, the transcript (verified again, against its own session and model), the model that the report
        names as the result, which must be the one that its sum leads to, and what a whole round publishes, which must
        be what it makes itself from that result: all from its ledger and folder, so that it holds after a restart.
        Without a sum it signs as one that has seen the report (`models_found`).
        """
        record = record_of(read_payload(payload)[0])
        number = record.header.round
        found = SessionReview(self._sums, self.ledger).objections(record, transcript, self._attempt)
        found += objections_to_words(record, self.policy, self.name, lasting=self.site.lasting)
        found += disagreements(
            payload,
            self.name,
            reserved=self._reserved(number),
            this_run=self._spent(),
            earlier=self.ledger.mechanisms(exclude_run=self.run_id),
            cap=self.cap_in(number),
            annex_commitment=commitment_of(self.site.annex(number)),
            self_tests=self._self_tests(number),
            policy_sha256=self.policy.digest().hex(),
            previous_report=self.head(before=number),
            transcript_sha256=None if transcript is None else hashlib.sha256(transcript).hexdigest(),
            sample_png=sample_png,
            policy=self.policy.canonical(),
        )
        found += self.result_review().objections(record, published, self._attempt)
        if not found:
            self._reviewed.add(hashlib.sha256(payload).hexdigest())
        return found

    def result_review(self) -> ResultReview:
        """Return this hospital's review of what a whole round publishes."""
        return ResultReview(self._models, lambda: self.family, self.policy.average_decay)

    def waits_for(self) -> int | None:
        """Return the round whose report this hospital has only seen, since it does not hold its sum, or None."""
        waiting = self._models.waits_for()
        return None if waiting is None else waiting[0]

    def take_late(self, late: LateSum) -> None:
        """Take the sum of the round that it waits for; raises SessionRefused where it is not the one."""
        self._sums.take_late(late)

    @property
    def _sums(self) -> SumKeeper:
        return SumKeeper(self.policy, self.name, self._models, lambda: self.family, self.first_model)

    @property
    def _models(self) -> ModelsFound:
        return ModelsFound(self.site.models, self.ledger, self.run_id)

    def sign(self, payload: bytes) -> Signature:
        """Sign a report that :meth:`review` found nothing against, and keep its digest in the ledger first.

        Signing the same report again gives the same signature; a second, different report of one round is refused.

        Raises:
            SignatureRefused: it was not reviewed, or another report of this round was signed before.
        """
        digest = hashlib.sha256(payload).hexdigest()
        record = record_of(read_payload(payload)[0])
        number = record.header.round
        if digest not in self._reviewed:
            raise SignatureRefused(
                f"{self.name} has not reviewed this report of round {number}", hint="a report is reviewed, then signed"
            )
        signed = self.ledger.signed_heads(self.run_id).get(number)
        if signed is None:
            model = record.aggregation.model_after or record.aggregation.model_before
            facts = {"digest": digest, "model": model, "files": listed_files(record)}
            whole = record.header.status == "complete"
            facts |= self._models.facts(number, whole=whole, named_sum=record.aggregation.sum_sha256)
            self.ledger.record("report_signed", self.run_id, number, facts)
        elif signed != digest:
            raise SignatureRefused(
                f"{self.name} has signed another report of round {number} ({signed[:16]}...)",
                hint="the coordinator shows different histories; compare the ledgers before going on",
            )
        return envelope.sign(payload, self.identity.private_key, self.name)

    def sign_manifest(self, payload: bytes, public: Path) -> Signature | None:
        """Sign the list of the files in `public`: of the reports, models and samples that this hospital signed, and of
        the roll-up page that they render to. After one that calls the run complete no round is begun."""
        manifest = signable(payload, public, self.head(), self._models.signed(), self._inventory, self.policy.names)
        if manifest is None:
            return None
        self.ledger.end_run(self.run_id, manifest.run.outcome)
        return envelope.sign(payload, self.identity.private_key, self.name)

    def finish_round(self, round_number: int, outcome: str) -> None:
        """Keep the optimiser's state and the round's end."""
        if self._trainer is not None and self.policy.distributed is None:
            self._trainer.save(self.site.optimiser)
        if self._watch is not None:
            save_watch(self._watch, self.site.self_tests)
        if self._release_watch is not None:
            save_watch(self._release_watch, self.site.release_self_tests)
        self.ledger.record(outcome, self.run_id, round_number, {})

    def head(self, before: int | None = None) -> str | None:
        """The digest of the newest report that this hospital signed in this run (of a round below `before`)."""
        heads = self.ledger.signed_heads(self.run_id)
        rounds = [number for number in heads if before is None or number < before]
        return heads[max(rounds)] if rounds else None

    def _self_tests(self, round_number: int) -> tuple[SelfTestRow, ...]:
        kept = read_annex(self.site.annex(round_number))
        return published(None if kept is None else kept["annex"])

    def first_model(self) -> str:
        """The model (SHA-256, hex) that the run starts from, made here from the seed, public start or bundle; raises
        SessionRefused where it cannot be, or is not the policy's (`start_model.own_start`).

        Weights that a hostile coordinator makes could amplify rounding (docs/privacy.md, "Floating point in the clip").
        """
        return own_start(self.policy, self.family, self.ledger, self.bundle, self.name)

    def close(self) -> None:
        """Close the ledger and the journal."""
        self.ledger.close()
        self.journal.close()

    def _reserved(self, round_number: int) -> MechanismRecord | None:
        return self.ledger.reservations(self.run_id).get(round_number)

    def _spent(self) -> tuple[Any, ...]:
        return spending(self.ledger.reservations(self.run_id).items())
