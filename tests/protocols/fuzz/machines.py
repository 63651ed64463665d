"""Rule-based machines over real sessions: an honest server on a bad network, and a server that lies with colluders.

A sequence starts after some stages have passed well, so that trouble comes at every depth. Blows that a member may not
survive are rationed, so that many sequences go on behind them. What must hold is in adversary.py and network.py.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from tests.protocols.conftest import Federation, Lab
from tests.protocols.fuzz.adversary import Observer, Violation
from tests.protocols.fuzz.network import (
    MEMORY,
    STAGES,
    Branch,
    World,
    count_for_another_model,
    crash_inside,
    lower_threshold,
)

from fedgan_protocols import PolicyFloors, Stage
from fedgan_protocols.primitives.graph import SparseGraph

SMALL = st.integers(0, 1 << 16)
NO_FLOORS = PolicyFloors(least_roster=2, least_sparse_roster=0, least_sparse_corruption=0.0, least_graph_bits=0.0)
Shape = tuple[int, ...]
"""Members, threshold, sums; and for a sparse graph how many neighbours each draws, and how many rebuild a secret."""


@lru_cache(maxsize=32)
def federation_of(n: int, t: int, sums: int, degree: int = 0, share_threshold: int = 0) -> Federation:
    """With a graph far too small for its claim, so the members' floor on it is lifted."""
    graph = SparseGraph(degree, share_threshold, 0) if degree else None
    federation = Lab().federation(n=n, t=t, d=4, sums=sums, graph=graph)
    return replace(federation, floors=NO_FLOORS)


@lru_cache(maxsize=32)
def other_rounds_packets(*shape: int) -> tuple[tuple[str, bytes], ...]:
    """Every packet, both ways, of an honest round of the same members under another session."""
    Observer.view = None
    base = federation_of(*shape)
    other = replace(base, parameters=replace(base.parameters, session=bytes(32), round=2))
    packets: list[tuple[str, bytes]] = []

    def note(name: str, phase: str, packet: bytes) -> bytes:
        packets.append((phase, packet))
        return packet

    other.run(to_client=note, to_server=note)
    return tuple(packets)


class Network(RuleBasedStateMachine):
    """Rules that every machine has: carry, lose, delay, repeat, misroute, crash, close."""

    world: World
    shapes: tuple[Shape, ...] = ((3, 2, 1), (3, 3, 1), (4, 3, 1), (4, 3, 2), (4, 4, 1), (5, 4, 1), (6, 4, 1))
    """Drawn from."""
    starts: tuple[int, int] = (0, 8)
    """How many stages may have passed well when trouble begins."""
    world_is_up = False

    def up(self, shape: Shape, stages: int, trouble: int, **options: Any) -> None:
        """A world in which `stages` stages have passed well. `trouble`: how many blows a member may not survive."""
        self.elsewhere = other_rounds_packets(*shape)
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY))
        self.world = World(federation_of(*shape), self.folder, **options)
        self.world_is_up, self.finishes, self.trouble = True, True, trouble
        for _ in range(stages):
            self.carry_to_all(0)
            self.world.branches[0].close()

    def branch(self, pick: int) -> Branch:
        return self.world.branches[pick % len(self.world.branches)]

    def name(self, pick: int) -> str:
        names = self.world.parameters.names
        return names[pick % len(names)]

    def some_packet(self, pick: int) -> tuple[str, bytes]:
        pool = self.world.log if pick % 2 and self.world.log else self.elsewhere
        return pool[pick // 2 % len(pool)]

    @precondition(lambda self: self.world_is_up)
    @rule(which=SMALL)
    def carry_to_all(self, which: int) -> None:
        branch = self.branch(which)
        if branch.phase is not None and not branch.over:
            for name in branch.phase.payloads:
                if name not in branch.arrived:
                    self.world.deliver(branch, name)

    @precondition(lambda self: self.world_is_up)
    @rule(which=SMALL, whom=SMALL)
    def carry_to_all_but_one_and_close(self, which: int, whom: int) -> None:
        branch, loser = self.branch(which), self.name(whom)
        if branch.phase is not None and not branch.over:
            for name in branch.phase.payloads:
                if name not in branch.arrived and (whom % 4 or name != loser):
                    self.world.deliver(branch, name)
            self.the_deadline_passes(which)

    @precondition(lambda self: self.world_is_up)
    @rule(which=SMALL, whom=SMALL, arrives=st.booleans())
    def carry_to_one(self, which: int, whom: int, arrives: bool) -> None:
        """Also a repetition: the same request again, before or after a reply."""
        self.world.deliver(self.branch(which), self.name(whom), arrives=arrives)

    @precondition(lambda self: self.world_is_up)
    @rule(which=SMALL, pick=SMALL)
    def a_late_reply_arrives(self, which: int, pick: int) -> None:
        branch = self.branch(which)
        if branch.held:
            branch.arrive(*branch.held.pop(pick % len(branch.held)))

    @precondition(lambda self: self.world_is_up)
    @rule(which=SMALL)
    def the_deadline_passes(self, which: int) -> None:
        branch = self.branch(which)
        if len(branch.arrived) >= branch.server._state.context.parameters.threshold or self.strike():
            branch.close()

    def strike(self) -> bool:
        self.trouble -= 1
        return self.trouble >= 0

    def teardown(self) -> None:
        if not self.world_is_up:
            return
        try:
            self.world.check(transcripts=False)
            if self.finishes:
                self.world.finish()
            self.world.check()
        finally:
            self.world.close()
            shutil.rmtree(self.folder, ignore_errors=True)
            Observer.view = None


class BadNetwork(Network):
    """An honest server, honest members, and everything that a network and a power cut can do to them."""

    @initialize(data=st.data())
    def start(self, data: Any) -> None:
        shape = data.draw(st.sampled_from(self.shapes))
        names, journals = federation_of(*shape).parameters.names, data.draw(st.integers(0, 63))
        kept = frozenset(name for place, name in enumerate(names) if journals >> place & 1)
        self.up(shape, data.draw(st.integers(*self.starts)), data.draw(st.integers(0, 3)), journals=kept)
        self.finishes = data.draw(st.integers(0, 3)) < 3

    @precondition(lambda self: self.world_is_up)
    @rule(whom=SMALL, pick=SMALL, stage=st.integers(-1, len(STAGES) - 1))
    def an_old_or_foreign_packet_reaches_a_member(self, whom: int, pick: int, stage: int) -> None:
        if not self.strike():
            return
        phase, packet = self.some_packet(pick)
        named = STAGES[stage] if stage >= 0 else Stage.of(phase)
        member = self.world.members[self.name(whom)]
        released = len(member.replies)
        member.ask(self.world.view, named, packet)
        current = self.world.branches[0].phase
        mine = current is not None and packet == current.payloads.get(member.name)
        # The opening request is the same for everybody, so a member that it never reached may answer it, however late.
        opening = Stage.of(phase) is STAGES[0] and any(packet == sent for _, sent in self.world.log)
        if len(member.replies) > released and not mine and not (opening and released == 0):
            raise Violation(f"{member.name} answered a packet that was not meant for it now")

    @precondition(lambda self: self.world_is_up)
    @rule(whom=SMALL, pick=SMALL)
    def an_old_or_foreign_packet_reaches_the_server(self, whom: int, pick: int) -> None:
        if self.name(whom) in self.world.branches[0].arrived or self.strike():
            self.world.branches[0].arrive(self.name(whom), self.some_packet(pick)[1])

    @precondition(lambda self: self.world_is_up)
    @rule(whom=SMALL)
    def a_member_asked_before_is_asked_again(self, whom: int) -> None:
        member = self.world.members[self.name(whom)]
        if member.asked and member.session is not None:
            phase, request = member.asked[-1]
            first = member.replies[-1][1]
            again = member.ask(self.world.view, Stage.of(phase), request)
            if again not in (None, first):
                raise Violation(f"{member.name} answered the same request with other bytes")

    @precondition(lambda self: self.world_is_up)
    @rule(whom=SMALL, asked_again=st.booleans())
    def a_member_crashes(self, whom: int, asked_again: bool) -> None:
        if self.strike():
            self.world.members[self.name(whom)].crash()
            if asked_again:
                self.a_member_asked_before_is_asked_again(whom)

    @precondition(lambda self: self.world_is_up)
    @rule(whom=SMALL, written=st.sampled_from([0.0, 0.1, 0.6, 1.0]))
    def a_member_crashes_while_it_writes(self, whom: int, written: float) -> None:
        member = self.world.members[self.name(whom)]
        if not self.strike():
            return
        with crash_inside(member, written):
            self.world.deliver(self.world.branches[0], member.name)

    @precondition(lambda self: self.world_is_up)
    @rule(whom=SMALL)
    def a_member_waits_no_longer(self, whom: int) -> None:
        member = self.world.members[self.name(whom)]
        if member.session is not None and self.strike():
            over = member.session.phase in ("Finished", "Aborted")
            member.session.deadline()
            member.aborted = member.aborted or not over


class LyingServer(Network):
    """A server that tells several stories and sets its own threshold, and as many colluders as the design allows."""

    shapes = ((4, 3, 1), (5, 4, 1), (4, 3, 2), (5, 4, 2), (6, 5, 1), (3, 3, 1))

    @initialize(data=st.data())
    def start(self, data: Any) -> None:
        shape = data.draw(st.sampled_from(self.shapes))
        parameters = federation_of(*shape).parameters
        count = parameters.colluders
        colluders = frozenset(parameters.names[-count:] if count else ())
        stages, trouble = data.draw(st.integers(*self.starts)), data.draw(st.integers(0, 2))
        self.up(shape, stages, trouble, colluders=colluders, late_models=True)
        self.finishes = data.draw(st.integers(0, 3)) < 3

    @precondition(lambda self: self.world_is_up and len(self.world.branches) < 3)
    @rule(which=SMALL)
    def the_server_tells_another_story(self, which: int) -> None:
        self.world.branches.append(self.branch(which).fork())

    @precondition(lambda self: self.world_is_up and len(self.world.branches) < 3)
    @rule(which=SMALL, one=SMALL, other=SMALL)
    def the_server_signs_two_sets(self, which: int, one: int, other: int) -> None:
        """Everybody answers; each of two stories leaves out the answer of another member."""
        self.carry_to_all(which)
        branch = self.branch(which)
        twin = branch.fork()
        self.world.branches.append(twin)
        for story, left_out in ((branch, one), (twin, other)):
            story.forget(self.name(left_out))
            self.the_deadline_passes(self.world.branches.index(story))

    @precondition(lambda self: self.world_is_up and any(branch.unbound for branch in self.world.branches[:2]))
    @rule(which=SMALL)
    def the_server_shows_another_model(self, which: int) -> None:
        branch = self.branch(which)
        if branch.unbound is not None and len(self.world.branches) < 3:
            self.world.branches.append(branch.with_models(tuple(bytes(32 - len(m)) + m[::-1] for m in branch.models)))

    @precondition(lambda self: self.world_is_up and len(self.world.branches) > 1)
    @rule(split=SMALL, mix=st.booleans(), close=st.booleans())
    def each_member_is_told_one_story(self, split: int, mix: bool, close: bool) -> None:
        """The colluders are told all of them; then, perhaps, vectors of one model are added to those of another."""
        stories = self.world.branches
        for place, name in enumerate(self.world.parameters.names):
            for index, branch in enumerate(stories):
                told = name in branch.colluders or (split >> place) % len(stories) == index
                if told and name not in branch.arrived:
                    self.world.deliver(branch, name)
        for index in range(len(stories)):
            if mix:
                self.vectors_for_another_model_are_added(index)
        for index in range(len(stories)):
            if close:
                self.the_deadline_passes(index)

    @precondition(lambda self: self.world_is_up and len(self.world.branches) > 1)
    @rule(which=SMALL, whom=SMALL)
    def a_reply_is_shown_in_every_story(self, which: int, whom: int) -> None:
        branch, name = self.branch(which), self.name(whom)
        for other in self.world.branches:
            if other is not branch and name in branch.arrived and name not in other.arrived:
                other.arrive(name, branch.arrived[name])

    @precondition(lambda self: self.world_is_up)
    @rule(which=SMALL)
    def vectors_for_another_model_are_added(self, which: int) -> None:
        branch = self.branch(which)
        phase = branch.phase
        for other in self.world.branches:
            if other is branch or phase is None or phase.stage is not Stage.MASKED_INPUT or other.phase is None:
                continue
            if (other.phase.stage, other.phase.sum) == (phase.stage, phase.sum) and other.models != branch.models:
                for name in branch.arrived:
                    count_for_another_model(other, name, branch.arrived[name], branch.models[phase.sum])

    @precondition(lambda self: self.world_is_up)
    @rule(which=SMALL, short=st.booleans())
    def the_server_lowers_its_threshold(self, which: int, short: bool) -> None:
        """And, perhaps, at once closes a stage that one member less than t has answered."""
        branch = self.branch(which)
        if branch.over or branch.phase is None:
            return
        lower_threshold(branch)
        for name in branch.phase.payloads:
            if short and len(branch.arrived) < self.world.parameters.threshold - 1:
                self.world.deliver(branch, name)
        if short:
            branch.close()


class SparseNetwork(BadNetwork):
    """The bad network over small sparse graphs."""

    shapes = ((7, 5, 1, 4, 3), (6, 4, 2, 4, 3))
