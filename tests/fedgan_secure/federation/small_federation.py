"""Four hospitals and a coordinator with models of seven weights: real sessions, ledgers, transcripts and reports."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from fedgan_audits.ledger.ledger import Ledger
from fedgan_audits.report.report import RoundDraft, build_round
from fedgan_protocols.journal import Journal
from fedgan_protocols.parameters import Member, SessionParameters
from fedgan_protocols.primitives.keys import Identity
from fedgan_protocols.session import AggregateResult, ClientSession, ServerSession
from fedgan_secure.data.patients import PatientDataset
from fedgan_secure.federation.coordinator import artefact
from fedgan_secure.federation.drivers.local import DropOut, LocalDriver
from fedgan_secure.federation.fedavg import apply_sum, model_digest
from fedgan_secure.federation.hospital import Hospital
from fedgan_secure.federation.results.published_files import Published
from fedgan_secure.federation.review.received_sums import LateSum
from fedgan_secure.federation.rounds import RoundFacts, now, record_of
from fedgan_secure.policy.policy import CoordinatorEntry, FederationPolicy, HospitalEntry
from fedgan_secure.storage.site import SiteDirectory
from tests.audits.conftest import small_png
from tests.fedgan_secure.federation.test_policy import fields

LAYOUT = "ab" * 32
FIRST = np.linspace(-1, 1, 7, dtype=np.float32)
NAMES = "abcd"
MODEL = "model/generator.keras"


class Toy:
    """A family whose model is a vector of seven numbers, published as its own bytes."""

    update_size = 7
    layout = SimpleNamespace(layout_hash=LAYOUT, size=7)

    def __init__(self, policy: FederationPolicy) -> None:
        self._policy = policy

    def first_model(self, seed: int) -> str:
        return digest(FIRST)

    def next_vector(self, number: int, vector: np.ndarray, total: np.ndarray, survivors: int) -> np.ndarray:
        return apply_sum(vector, total, survivors, self._policy.fixed_point())

    def may_lead_to(self, number: int, before: np.ndarray, after: np.ndarray) -> bool:
        return True

    def objections(self, average: np.ndarray, models: Mapping[str, bytes], sheet: bytes) -> list[str]:
        return [] if models == {MODEL: average.tobytes()} else ["another model is published"]


def four_patients() -> PatientDataset:
    """Four patients with a black image each, without labels."""
    return PatientDataset(
        images=np.zeros((4, 28, 28, 1), np.uint8),
        labels=np.full(4, -1, np.int32),
        patient=np.arange(4, dtype=np.int32),
        classes=0,
    )


def digest(vector: np.ndarray) -> str:
    """How a model of the toy family is named."""
    return model_digest(LAYOUT, vector).hex()


@dataclass
class Played:
    """A round after its last message: what the coordinator holds of it."""

    number: int
    before: np.ndarray
    after: np.ndarray
    result: AggregateResult
    transcript: bytes
    parameters: SessionParameters

    def late(self, **changes: Any) -> LateSum:
        """What a coordinator hands to a hospital that did not receive the sum."""
        whole = {"before": self.before, "after": self.after, "sums": self.result.sums, "transcript": self.transcript}
        return LateSum(self.number, **{**whole, **changes})


class SmallFederation:
    """The federation; `hospitals` are replaced by :meth:`restart`."""

    def __init__(self, folder: Path, keys: dict[str, Identity] | None = None, **policy: Any) -> None:
        self.folder = folder
        self.keys = keys or {name: Identity.generate() for name in (*NAMES, "coordinator")}
        self.policy = FederationPolicy.build(
            **fields(
                coordinator=CoordinatorEntry(public_key=self.keys["coordinator"].public_key.hex()),
                hospitals=tuple(HospitalEntry(name=n, public_key=self.keys[n].public_key.hex()) for n in NAMES),
                threshold=3,
                average_decay=0.5,
                **policy,
            )
        )
        self.family = Toy(self.policy)
        self.hospitals = {name: self.hospital(name) for name in NAMES}

    def hospital(self, name: str) -> Hospital:
        """A hospital as its own files make it."""
        site = SiteDirectory(self.folder / name, self.policy.run_id, lasting=False).prepare()
        made = Hospital(
            site=site,
            identity=self.keys[name],
            ledger=Ledger.open(site.ledger, hospital=name, create=True),
            dataset=four_patients(),
            policy=self.policy,
            name=name,
            cap=None,
            findings={},
            entropy=os.urandom,
            journal=Journal(site.journal),
        )
        made._family = self.family  # type: ignore[assignment]
        return made

    def restart(self, name: str) -> Hospital:
        """The same hospital in a new process: its files, none of its memory."""
        self.hospitals[name].close()
        self.hospitals[name] = self.hospital(name)
        return self.hospitals[name]

    def close(self) -> None:
        """Close every ledger and journal."""
        for hospital in self.hospitals.values():
            hospital.close()

    def session(self, number: int) -> SessionParameters:
        """The parameters of a new session of a round."""
        return SessionParameters(
            session=os.urandom(32),
            round=number,
            roster=tuple(Member(n, self.keys[n].public_key) for n in NAMES),
            server_public_key=self.keys["coordinator"].public_key,
            threshold=self.policy.threshold,
            ring_bits=32,
            lengths=(7,),
            policy_hash=self.policy.digest(),
        )

    def play(
        self,
        number: int,
        before: np.ndarray,
        drops: Sequence[DropOut] = (),
        absent: str = "",
        seen_as: Callable[[ClientSession], Any] = lambda client: client,
    ) -> Played:
        """Play a round from `before`; `absent` are never asked, `drops` leave on the way.

        `seen_as`: what the driver gets for a hospital's session.
        """
        parameters = self.session(number)
        server = ServerSession(parameters, self.keys["coordinator"], (model_digest(LAYOUT, before),))
        clients: dict[str, ClientSession] = {}
        for name, hospital in self.hospitals.items():
            if name not in absent:
                hospital.reserve(number)
                clients[name] = hospital.open_session(parameters, before, LAYOUT)
        codec = self.policy.fixed_point()

        def give(j: int, asked: tuple[str, ...]) -> None:
            for name in asked:
                clients[name].provide_input(j, codec.encode(np.full(7, NAMES.index(name) / 8, np.float32)))

        gone = [DropOut(name, number, "advertise-keys") for name in absent]
        carried = {name: seen_as(client) for name, client in clients.items()}
        result = LocalDriver(server, carried, give, [*drops, *gone]).run()
        after = self.family.next_vector(number, before, result.sums[0], len(result.survivors))
        return Played(number, before, after, result, server.transcript_so_far(), parameters)

    def report(
        self, played: Played, average: np.ndarray, after: np.ndarray | None = None
    ) -> tuple[RoundDraft, bytes, Published]:
        """The report of a whole round, its picture and its files, as a coordinator makes them.

        `after` is the model that it names; by default the honest one.
        """
        after = played.after if after is None else after
        facts = RoundFacts(played.number, now(), model_digest(LAYOUT, played.before), ended=now())
        facts.result, facts.transcript, facts.model_after = (
            played.result,
            played.transcript,
            model_digest(LAYOUT, after),
        )
        facts.session = played.parameters.session
        facts.dropped = {name: (drop.stage, drop.code) for name, drop in played.result.drops.items()}
        sheet = small_png(40 * played.number)
        files = {MODEL: average.tobytes(), f"samples/round-{played.number:04d}.png": sheet}
        for name, hospital in self.hospitals.items():
            if not hospital.site.annex(played.number).exists():
                hospital.write_annex(played.number)
            assert name == hospital.name
        heads = {hospital.head(before=played.number) for hospital in self.hospitals.values()}
        listed = [artefact("policy.json", self.policy.canonical(), "policy")]
        listed += [artefact(f"transcripts/round-{played.number:04d}.cbor", played.transcript, "transcript")]
        listed += [artefact(name, data, "samples" if "png" in name else "model") for name, data in files.items()]
        record = record_of(
            self.policy,
            facts,
            [one.facts(played.number, **facts.hospital(name)) for name, one in self.hospitals.items()],
            dimension=7,
            colluders=played.parameters.colluders,
            previous=next(iter(heads)),
            coordinator_fingerprint=self.keys["coordinator"].fingerprint,
            layouts=("folders",),
            artefacts=listed,
            incidents=(),
            missing={},
            lock=None,
        )
        return build_round(record, sample_png=sheet), sheet, Published(files, after)

    def review(self, name: str, played: Played, report: tuple[RoundDraft, bytes, Published]) -> list[str]:
        """What a hospital has against a report."""
        draft, sheet, shown = report
        return self.hospitals[name].review(draft.payload, played.transcript, sheet, shown)

    def signed(self, name: str, number: int) -> dict[str, Any] | None:
        """What a hospital's ledger says of the report of a round that it signed."""
        hospital = self.hospitals[name]
        for entry in hospital.ledger.entries():
            if entry.kind == "report_signed" and entry.round == number:
                return entry.facts
        return None
