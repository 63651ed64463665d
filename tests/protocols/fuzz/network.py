"""Real sessions over a network that loses, delays, repeats and misroutes; members crash, and the server may lie.

A `Branch` is one server session. A lying server is a session that was copied: both copies hold the same key and the
same past, and go on with different replies, so what they sign contradicts itself without a packet built by hand.
Every answer of an honest member passes through `Member.ask`, which checks the promises of the client's machine.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tests.protocols.conftest import Federation, fixed_entropy
from tests.protocols.fuzz.adversary import Observer, View, require, share_threshold

from fedgan_protocols import ClientSession, Journal, Phase, ProtocolError, ServerSession, Stage
from fedgan_protocols.server import machine as server_machine
from fedgan_protocols.server.states import Finished, Reply
from fedgan_protocols.transcript.transcript import check

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - journals of a test, not of a hospital
STAGES = [stage for stage in Stage if stage is not Stage.CLOSING]


class Crash(BaseException):
    """The process of a member ends here."""


def expected_steps(sums: int) -> list[Stage]:
    """The stages that one member answers, in order, in a round of so many sums."""
    middle = [Stage.MASKED_INPUT, Stage.CONSISTENCY_CHECK, Stage.UNMASKING] * sums
    return [Stage.ADVERTISE_KEYS, Stage.SHARE_KEYS, *middle, Stage.RECEIPT]


@dataclass
class Member:
    """An honest member: its session, its journal if it keeps one, and all that it ever released."""

    name: str
    number: int
    session: ClientSession | None
    restart: Callable[[Journal | None], ClientSession] = field(repr=False)
    journal_path: Path | None = None
    journal: Journal | None = None
    aborted: bool = False
    replies: list[tuple[Stage, bytes]] = field(default_factory=list)
    asked: list[tuple[str, bytes]] = field(default_factory=list)

    def ask(self, view: View, stage: Stage, request: bytes) -> bytes | None:
        """The reply, or None after a refusal. Raises Violation when a promise of the client's machine is broken."""
        if self.session is None:
            return None
        view.acting = self.number
        try:
            reply = bytes(self.session.handle(stage.label, request))  # a masked vector comes as a view
        except ProtocolError as error:
            self.aborted = True
            require(self.session.phase == "Aborted", f"{self.name} refused a request and lives on: {error}")
            require(not self.session._inputs, f"{self.name} aborted and keeps its inputs")
            return None
        finally:
            view.acting = 0
        require(not self.aborted, f"{self.name} released something after an abort")
        self.asked.append((stage.label, request))
        if (stage, reply) not in self.replies:
            self.replies.append((stage, reply))
            steps = expected_steps(view.parameters.sums)
            done = [one for one, _ in self.replies]
            require(done == steps[: len(done)], f"{self.name} answered one stage twice: {[s.label for s in done]}")
            view.reply_released(self.number, reply)
        return reply

    def crash(self) -> None:
        """The process is gone; with a journal it starts again and knows nothing else."""
        self.session = None
        if self.journal_path is not None:
            if self.journal is not None:
                self.journal.close()
            self.journal = Journal(self.journal_path)
            self.session = self.restart(self.journal)
            self.aborted = False  # whatever aborted was forgotten; the journal must keep the promise

    def close(self) -> None:
        if self.journal is not None:
            self.journal.close()


@dataclass
class Branch:
    """One story that the server tells: its session, the members it asks, and its colluders' sessions."""

    server: ServerSession
    colluders: dict[str, ClientSession]
    models: tuple[bytes, ...]
    honest: bool = True
    phase: Phase | None = None
    arrived: dict[str, bytes] = field(default_factory=dict)
    held: list[tuple[str, bytes]] = field(default_factory=list)
    over: bool = False
    opened: ServerSession | None = field(default=None, repr=False)
    """The server as it was when this stage began."""
    unbound: ServerSession | None = None
    """The server as it was before it bound the model of this sum, if it was not known from the start."""

    def __post_init__(self) -> None:
        self.look()

    def look(self) -> None:
        """Take the next phase, binding a model where the server waits for one."""
        self.arrived = {}
        self.opened = copy.copy(self.server)
        try:
            self.phase = self.server.next_phase()
        except ProtocolError as error:
            require(error.code.value == "no-input", f"a server that neither aborted nor waits for a model: {error}")
            j = self.server._state.j + 1  # type: ignore[union-attr]
            self.unbound = copy.copy(self.server)
            self.server.bind_model(j, self.models[j])
            self.phase = self.server.next_phase()
            self.opened = copy.copy(self.server)
        self.over = self.phase is None

    def with_models(self, models: tuple[bytes, ...]) -> Branch:
        """The story in which other models were bound to the sum that waits for vectors."""
        twin = self.fork()
        twin.server, twin.models = copy.copy(self.unbound or self.server), models
        twin.look()
        return twin

    def fork(self) -> Branch:
        twin = copy.copy(self)
        twin.server = copy.copy(self.server)
        twin.colluders = {name: copied(session) for name, session in self.colluders.items()}
        twin.arrived, twin.held, twin.honest = dict(self.arrived), list(self.held), self.honest
        return twin

    def forget(self, name: str) -> None:
        """The server acts as if this member had not answered the stage."""
        if self.over or name not in self.arrived or self.opened is None:
            return
        self.server, replies, self.arrived = copy.copy(self.opened), self.arrived, {}
        for other, reply in replies.items():
            if other != name:
                self.arrive(other, reply)

    def arrive(self, name: str, packet: bytes) -> None:
        """A packet reaches the server as `name`'s; a second one changes nothing."""
        if self.over:
            return
        member = self.server.parameters.id_of(name)
        self.server._state, _ = server_machine.step(self.server._state, Reply(member, packet))
        self.arrived.setdefault(name, packet)

    def close(self) -> None:
        """The deadline of the stage."""
        if self.over:
            return
        self.unbound = None
        try:
            self.server.receive({})
        except ProtocolError:
            self.over = True
            return
        self.look()


def copied(session: ClientSession) -> ClientSession:
    """A second session with the same past, for a colluder that answers each story of the server."""
    twin = copy.copy(session)
    twin._inputs, twin._provided = dict(session._inputs), set(session._provided)
    return twin


class World:
    """A federation, its view, its honest members and the branches of its server."""

    def __init__(
        self,
        federation: Federation,
        folder: Path,
        *,
        journals: frozenset[str] = frozenset(),
        colluders: frozenset[str] = frozenset(),
        late_models: bool = False,
    ) -> None:
        self.federation, self.parameters = federation, federation.parameters
        names = self.parameters.names
        self.view = View(self.parameters, frozenset(self.parameters.id_of(name) for name in colluders))
        Observer.view = self.view
        self.known_models = (federation.models[0],) + (
            (b"",) * (self.parameters.sums - 1) if late_models else federation.models[1:]
        )
        self.late_models = late_models
        self.members: dict[str, Member] = {}
        for name in names:
            if name in colluders:
                continue
            path = folder / name if name in journals else None
            journal = Journal(path) if path else None
            member = Member(name, self.parameters.id_of(name), None, self._restart(name), path, journal)
            member.session = member.restart(journal)
            self.members[name] = member
        sessions = {name: federation.client(name, models=self.known_models) for name in sorted(colluders)}
        server = ServerSession(self.parameters, federation.server_identity, self.known_models)
        self.branches = [Branch(server, sessions, federation.models)]
        self.log: list[tuple[str, bytes]] = []

    def _restart(self, name: str) -> Callable[[Journal | None], ClientSession]:
        starts = iter(range(1 << 30))

        def start(journal: Journal | None) -> ClientSession:
            return self.federation.client(name, models=self.known_models, journal=journal, salt=str(next(starts)))

        return start

    def deliver(self, branch: Branch, name: str, *, arrives: bool = True) -> None:
        """Carry the current request of a branch to one member, and its answer back."""
        phase = branch.phase
        if branch.over or phase is None or name not in phase.payloads:
            return
        request = phase.payloads[name]
        self.log.append((phase.name, request))
        if name in branch.colluders:
            session = branch.colluders[name]
            self._provide(session, branch, name, phase)
            try:
                reply: bytes | None = bytes(session.handle(phase.name, request))
            except ProtocolError:
                return
        else:
            member = self.members[name]
            if member.session is None:
                return
            self._provide(member.session, branch, name, phase)
            reply = member.ask(self.view, phase.stage, request)
            if reply is not None:
                self._honoured(branch, phase, member)
                self.view.check(phase.sum)
        if reply is not None:
            self.log.append((phase.name, reply))
            if arrives:
                branch.arrive(name, reply)
            else:
                branch.held.append((name, reply))

    def _provide(self, session: ClientSession, branch: Branch, name: str, phase: Phase) -> None:
        if phase.stage is not Stage.MASKED_INPUT or phase.sum in session._provided or session._state is None:
            return
        model = branch.models[phase.sum] if self.late_models and phase.sum else None
        if name in self.members:
            self.view.models.setdefault((self.parameters.id_of(name), phase.sum), model or self.known_models[phase.sum])
        session.provide_input(phase.sum, self.federation.inputs[name, phase.sum].copy(), model)

    def _honoured(self, branch: Branch, phase: Phase, member: Member) -> None:
        """t: nobody honest goes on with fewer than t members in the set that this stage names."""
        if phase.stage is not Stage.ADVERTISE_KEYS:
            found, least = len(phase.payloads), self.parameters.threshold
            require(found >= least, f"{member.name} answered {phase.name} with {found} members; t is {least}")

    def finish(self) -> None:
        """Let every branch go on without further trouble, until it ends."""
        for branch in self.branches:
            while not branch.over:
                for name in branch.phase.payloads:  # type: ignore[union-attr]
                    if name not in branch.arrived:
                        self.deliver(branch, name)
                branch.close()

    def check(self, *, transcripts: bool = True) -> None:
        """The promises of the whole round, at any time."""
        for j in range(self.parameters.sums):
            self.view.check(j)
        for branch in self.branches:
            if branch.honest:
                self._check_branch(branch, transcripts)

    def _check_branch(self, branch: Branch, transcripts: bool) -> None:
        context = branch.server._state.context
        for j, survivors in enumerate(context.survivors):
            names = tuple(self.parameters.name_of(member) for member in survivors)
            require(len(names) >= self.parameters.threshold, f"sum {j} over fewer members than t")
            total = branch.server.sum_of(j)
            require(np.array_equal(total, self.federation.expected_sum(names, j)), f"sum {j} is not exact")
            for name in names:
                session = self.members[name].session if name in self.members else None
                if session is not None and len(session.sums) > j and len(self.branches) == 1:
                    require(np.array_equal(session.sums[j], total), f"{name} received another sum {j}")
        if not transcripts:
            return
        finished = isinstance(branch.server._state, Finished)
        data = branch.server.transcript_so_far()
        facts = check(data, self.federation.expectations(complete=finished))
        found = tuple(one.survivors for one in facts.sums if one.digest)
        wanted = tuple(tuple(self.parameters.name_of(m) for m in u3) for u3 in context.survivors)
        require(found == wanted, "the transcript names other survivors than the server used")
        for secret in self.view.secrets_made():
            require(secret not in data, "a secret stands in the transcript")

    def close(self) -> None:
        for member in self.members.values():
            member.close()
        Observer.view = None


def lower_threshold(branch: Branch) -> None:
    """From now on this server goes on with any number of members, under the same signed parameters."""
    state: Any = branch.server._state
    lenient = copy.copy(state.context.parameters)
    vars(lenient)["parameters_hash"] = state.context.parameters.parameters_hash
    vars(lenient)["threshold"] = 1
    branch.server._state = replace(state, context=replace(state.context, parameters=lenient))
    branch.honest = False


def count_for_another_model(branch: Branch, name: str, reply: bytes, model: bytes) -> None:
    """This server adds a vector that was masked for another model, which its honest code refuses."""
    state: Any = branch.server._state
    if branch.over or branch.phase is None or branch.phase.stage is not Stage.MASKED_INPUT:
        return
    j = branch.phase.sum
    models = state.context.model_hashes
    lying = replace(state.context, model_hashes=(*models[:j], model, *models[j + 1 :]))
    taken, _ = server_machine.step(replace(state, context=lying), Reply(branch.server.parameters.id_of(name), reply))
    context = replace(taken.context, model_hashes=models)
    branch.server._state = replace(taken, context=context)
    branch.arrived.setdefault(name, reply)
    branch.honest = False


@contextmanager
def crash_inside(member: Member, written: float) -> Iterator[None]:
    """The member's process ends while it writes its journal: after this part of the frame (1: all of it, unsynced)."""
    journal = member.journal
    if journal is None:
        yield
        return

    def append(frame: bytes) -> None:
        os.pwrite(journal._handle, frame[: int(len(frame) * written)], journal._end)
        raise Crash

    journal._append = append  # type: ignore[method-assign]
    try:
        yield
    except Crash:
        member.crash()
    finally:
        vars(journal).pop("_append", None)


__all__ = [
    "Branch",
    "Crash",
    "Member",
    "World",
    "count_for_another_model",
    "crash_inside",
    "fixed_entropy",
    "lower_threshold",
    "share_threshold",
]
