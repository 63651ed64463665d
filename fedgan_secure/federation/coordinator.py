"""The coordinator: keeps the global model, opens rounds, applies sums, and publishes what was signed.

A finished round is first staged, whole and durable, under ``checkpoints/``; then the hospitals sign it; then its
files move to ``public/``. A crash at any point therefore leaves either a round that never finished or one that the
next start can publish to the byte, and no hospital is ever asked to sign two reports of one round.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fedgan_audits.bundle import Inventory
from fedgan_audits.facts import Artefact, Incident, run
from fedgan_audits.publishing import manifest
from fedgan_audits.publishing import round as bundle
from fedgan_audits.report import RoundDraft, read_payload
from fedgan_audits.signing import envelope
from fedgan_protocols import AggregateResult, Member, ServerSession, SessionParameters
from fedgan_protocols.primitives import Identity
from fedgan_secure.errors import InputError
from fedgan_secure.federation.distributed_round import StepwiseRound
from fedgan_secure.federation.families.family import Family, KeptOptimiser, concluded
from fedgan_secure.federation.fedavg import model_digest
from fedgan_secure.federation.results.models_found import averaged
from fedgan_secure.federation.results.published_files import JUDGED, Published
from fedgan_secure.federation.review.late_sums import NAME, read_late, write_late
from fedgan_secure.federation.review.received_sums import LateSum
from fedgan_secure.policy import FederationPolicy
from fedgan_secure.privacy import Entropy
from fedgan_secure.processors import processors
from fedgan_secure.storage import (
    RunDirectory,
    explain_disk,
    read_array,
    read_json,
    sync_folder,
    write_array,
    write_bytes,
    write_json,
)

_MARK = "staged.json"
RunOutcome = Literal["running", "complete", "ended early", "refused"]
ArtefactKind = Literal["policy", "transcript", "samples", "model", "other"]


@dataclass(frozen=True)
class State:
    """Where a run stands, as ``checkpoints/state.json`` says it.

    Attributes:
        next_round: the next scheduled round to attempt.
        started: start of the round in progress (UTC, ISO 8601), or None between rounds.
        head: digest of the newest published report, or None before the first.
        finished: rounds whose sum was applied.
    """

    next_round: int
    started: str | None
    head: str | None
    finished: int


class Coordinator:
    """The coordinator's side of a federation.

    Args:
        run: the run's folder.
        identity: its Ed25519 identity.
        policy: the federation's policy.
        family: what the run trains; its layout is that of the model's vector.
    """

    def __init__(
        self, run: RunDirectory, identity: Identity, policy: FederationPolicy, family: Family, entropy: Entropy
    ) -> None:
        self.run = run
        self.identity = identity
        self.policy = policy
        self.family = family
        self.layout = family.layout
        self._entropy = entropy
        self.vector: np.ndarray = np.zeros(0, np.float32)
        self.average: np.ndarray = np.zeros(0, np.float32)
        self.state = State(next_round=1, started=None, head=None, finished=0)
        self.stepwise: StepwiseRound | None = None
        """The round in progress where noise is shared."""
        self._optimiser: KeptOptimiser | None = None
        self._inventory = Inventory()

    def begin(self, vector: np.ndarray) -> None:
        """Start a new run from `vector`, float32[d]."""
        self.vector, self.average = vector, vector.copy()
        self._save_model()
        self._save_state(self.state)

    def restore(self) -> None:
        """Take up a run where its files say it stands."""
        raw = read_json(self.run.checkpoints / "state.json", "the run's state")
        self.state = State(**raw)
        self.vector = read_array(self.run.checkpoints / "global.npy").astype(np.float32)
        self.average = read_array(self.run.checkpoints / "average.npy").astype(np.float32)

    def digest(self) -> bytes:
        """The digest that names the present global model."""
        return model_digest(self.layout.layout_hash, self.vector)

    def open_session(self, round_number: int) -> tuple[SessionParameters, ServerSession]:
        """The parameters of a new attempt (fresh session id) and the server's side of it."""
        parameters = SessionParameters(
            session=self._entropy(32),
            round=round_number,
            roster=tuple(Member(entry.name, bytes.fromhex(entry.public_key)) for entry in self.policy.hospitals),
            server_public_key=self.identity.public_key,
            threshold=self.policy.threshold,
            ring_bits=self.policy.ring_bits,
            lengths=self.policy.lengths(self.family.update_size, round_number),
            policy_hash=self.policy.digest(),
        )
        if not self.policy.is_stepwise(round_number):
            return parameters, ServerSession(parameters, self.identity, (self.digest(),), threads=processors())
        self.stepwise = StepwiseRound(
            parameters,
            self.identity,
            self.policy,
            self._shared_optimiser(),
            self.vector,
            self.digest(),
            self.layout.layout_hash,
        )
        return parameters, self.stepwise.server

    def _shared_optimiser(self) -> KeptOptimiser:
        """What turns sums into models where noise is shared; made on first use, from its checkpoint if there is one."""
        if self._optimiser is None:
            self._optimiser = self.family.optimiser(self._entropy)
            if self._kept_optimiser.exists():
                self._optimiser.restore(self._kept_optimiser)
        return self._optimiser

    @property
    def _kept_optimiser(self) -> Path:
        """Where the optimiser's state of the last whole round is (public: it follows from released sums)."""
        return self.run.checkpoints / "optimiser.npz"

    def mark_started(self, started: str) -> None:
        """Note, durably, that the next round is under way: from here on its number is used up."""
        self._save_state(State(self.state.next_round, started, self.state.head, self.state.finished))

    def apply(self, result: AggregateResult) -> tuple[np.ndarray, np.ndarray]:
        """The next global vector and the next averaged one, both float32[d]; nothing is kept until published."""
        if self.stepwise is not None:
            vector = self.stepwise.conclude(result)
        else:
            vector = concluded(self.family, self.state.next_round, self.vector, result)
        decay = self.policy.average_decay if self.state.finished else 0.0
        return vector, averaged(self.average, vector, decay)

    def stage(
        self,
        round_number: int,
        files: Mapping[str, bytes],
        vector: np.ndarray,
        average: np.ndarray,
        late: LateSum | None = None,
    ) -> Path:
        """Lay a round's public files and the next model down beside the old ones, without the report yet.

        `late` is the round's sum where a hospital did not receive it.
        """
        folder = self.run.staged(round_number)
        with explain_disk(folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            for name, data in files.items():
                target = folder / "public" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                write_bytes(target, data)
            write_array(folder / "global.npy", vector)
            write_array(folder / "average.npy", average)
            if late is not None:
                write_late(folder, late)
            if self._optimiser is not None:
                self._optimiser.save(folder / "optimiser.npz")
        return folder

    def staged(self, round_number: int) -> Published:
        """The models and samples of a staged round, and the model that it led to."""
        folder = self.run.staged(round_number)
        files = sorted(place for name in JUDGED for place in (folder / "public" / name).glob("*") if place.is_file())
        shown = {str(place.relative_to(folder / "public")): place.read_bytes() for place in files}
        return Published(shown, read_array(folder / "global.npy"))

    def seal(self, round_number: int, draft: RoundDraft, applied: bool) -> None:
        """Add the report to the staged files and mark them whole: from here on this is what the round was."""
        folder = self.run.staged(round_number)
        write_bytes(folder / "payload.json", draft.payload)
        write_bytes(folder / "round.html", draft.html)
        write_json(folder / _MARK, {"round": round_number, "digest": draft.digest, "applied": applied})
        sync_folder(self.run.checkpoints)

    def sealed(self, round_number: int) -> RoundDraft | None:
        """The sealed draft of a round that was not published yet, or None."""
        folder = self.run.staged(round_number)
        if not (folder / _MARK).exists():
            return None
        payload = (folder / "payload.json").read_bytes()
        html = (folder / "round.html").read_bytes()
        if hashlib.sha256(payload).hexdigest() != read_json(folder / _MARK, "the staged round")["digest"]:
            raise InputError(
                f"{folder / 'payload.json'} is not the report that was sealed", hint="restore it from a backup"
            )
        return RoundDraft(report=read_payload(payload)[0], payload=payload, html=html)

    def sign(self, draft: RoundDraft) -> envelope.Signature:
        """The coordinator's own signature."""
        return envelope.sign(draft.payload, self.identity.private_key, "coordinator")

    def publish(self, round_number: int, draft: RoundDraft, signatures: Sequence[envelope.Signature]) -> None:
        """Move a sealed, signed round to ``public/`` and advance the state. Safe to repeat after a crash."""
        folder = self.run.staged(round_number)
        applied = bool(read_json(folder / _MARK, "the staged round")["applied"])
        staged = folder / "public"
        with explain_disk(self.run.public):
            for source in sorted(path for path in staged.rglob("*") if path.is_file()):
                target = self.run.public / source.relative_to(staged)
                target.parent.mkdir(parents=True, exist_ok=True)
                write_bytes(target, source.read_bytes())
            bundle.publish_round(self.run.public, draft, signatures)
        self.vector = read_array(folder / "global.npy")
        self.average = read_array(folder / "average.npy")
        self._save_model()
        if (folder / "optimiser.npz").exists():
            write_bytes(self._kept_optimiser, (folder / "optimiser.npz").read_bytes(), private=True)
        if (folder / NAME).exists():
            write_bytes(self.run.checkpoints / NAME, (folder / NAME).read_bytes(), private=True)
        self.stepwise = None
        self._save_state(State(round_number + 1, None, draft.digest, self.state.finished + int(applied)))
        shutil.rmtree(folder, ignore_errors=True)

    def late_sum(self, round_number: int) -> LateSum | None:
        """The sum of a published round that not every hospital received, or None where none is kept of it."""
        return read_late(self.run.checkpoints, round_number)

    def draft_manifest(
        self, outcome: RunOutcome, reason: str, started: Any, ended: Any, incidents: Sequence[Incident]
    ) -> bytes:
        """Render the roll-up and list every public file; the bytes that are to be signed."""
        facts = run.RunFacts(
            run_id=self.policy.run_id,
            outcome=outcome,
            reason=reason,
            rounds_scheduled=self.policy.rounds,
            policy_sha256=self.policy.digest().hex(),
            started=started,
            ended=ended,
            incidents=tuple(incidents),
        )
        with explain_disk(self.run.public):
            return manifest.draft_manifest(self.run.public, facts, self._inventory)

    def publish_manifest(self, payload: bytes, signatures: Sequence[envelope.Signature]) -> None:
        """Publish a manifest with the coordinator's and the hospitals' signatures."""
        own = envelope.sign(payload, self.identity.private_key, "coordinator")
        with explain_disk(self.run.public):
            manifest.publish_manifest(self.run.public, payload, [own, *signatures])

    def _save_state(self, state: State) -> None:
        self.state = state
        write_json(self.run.checkpoints / "state.json", vars(state).copy(), private=True)

    def _save_model(self) -> None:
        write_array(self.run.checkpoints / "global.npy", self.vector)
        write_array(self.run.checkpoints / "average.npy", self.average)


def artefact(path: str, data: bytes, kind: ArtefactKind) -> Artefact:
    """A public file as a report lists it."""
    return Artefact(path=path, sha256=hashlib.sha256(data).hexdigest(), kind=kind)
