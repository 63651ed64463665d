"""Thousands of short misfortunes of a federation, none of which may break a promise; seeded faults, each of which must.

The machines are in fuzz/machines.py. FEDGAN_SEQUENCES sets the number of sequences: by default the same 2,050 in every
run, with another number as many that are drawn anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.protocols.fuzz.adversary import Observer, Violation, observed
from tests.protocols.fuzz.machines import BadNetwork, LyingServer, Network, SparseNetwork, federation_of
from tests.protocols.fuzz.network import World

from fedgan_protocols import Code, Journal, ProtocolError, SessionParameters, Stage, checks, masking
from fedgan_protocols.client import machine as client_machine
from fedgan_protocols.client.states import Received

SEQUENCES = int(os.environ.get("FEDGAN_SEQUENCES", "0"))
DEFAULT_SEQUENCES = 2050


@pytest.fixture(autouse=True)
def watched() -> Iterator[None]:
    with observed():
        yield


def play(machine: type[Network], count: int, steps: int) -> None:
    if SEQUENCES:
        count = max(1, count * SEQUENCES // DEFAULT_SEQUENCES)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=count,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            derandomize=not SEQUENCES,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_a_bad_network_breaks_no_promise() -> None:
    play(BadNetwork, 1200, 16)


def test_a_lying_server_with_the_allowed_colluders_breaks_no_promise() -> None:
    play(LyingServer, 800, 22)


def test_a_bad_network_over_a_sparse_graph_breaks_no_promise() -> None:
    play(SparseNetwork, 50, 16)


# --- seeded faults: each makes a machine fail, for its own reason


def breaks(machine: type[Network], reason: str, count: int = 1000, steps: int = 22) -> None:
    """The machine finds a broken promise; always the same sequences, not shrunk."""
    with pytest.raises(Violation, match=reason):
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=count,
                stateful_step_count=steps,
                deadline=None,
                database=None,
                derandomize=True,
                report_multiple_bugs=False,
                print_blob=False,
                suppress_health_check=list(HealthCheck),
                phases=(Phase.generate,),
            ),
        )


class SecondModel(LyingServer):
    """In the second sum one member is shown another model than the others."""

    shapes, starts = ((4, 3, 2),), (5, 5)

    def up(self, *arguments: Any, **options: Any) -> None:
        super().up(*arguments, **options)
        self.the_server_shows_another_model(0)
        self.each_member_is_told_one_story(split=1, mix=False, close=False)


class SecondStory(LyingServer):
    shapes, starts = ((3, 2, 1), (4, 3, 1)), (1, 3)


class SecondSetOfDealers(LyingServer):
    shapes, starts = ((3, 2, 1), (4, 3, 1)), (1, 1)


class FirstStage(BadNetwork):
    shapes, starts = ((3, 2, 1),), (0, 1)


def test_a_masks_sign_swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = masking.add_streams

    def swapped(vector: Any, terms: Any, **options: Any) -> None:
        listed = list(terms)
        if Observer.view is not None and Observer.view.acting == 1:
            listed[-1] = (listed[-1][0], -listed[-1][1])
        honest(vector, listed, **options)

    monkeypatch.setattr(masking, "add_streams", swapped)
    breaks(BadNetwork, "is not exact")


def test_the_self_mask_omitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """By members and server alike: every sum is exact, and only what the server learns shows it."""
    honest = masking.add_streams

    def omitted(vector: Any, terms: Any, **options: Any) -> None:
        view = Observer.view
        assert view is not None
        honest(vector, [(key, sign) for key, sign in terms if view.seed_of[key] in view.pair_of], **options)

    monkeypatch.setattr(masking, "add_streams", omitted)
    breaks(BadNetwork, "the server learns")


def test_both_share_kinds_released_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = client_machine._HANDLERS[Stage.UNMASKING]

    def both(state: Any, *rest: Any) -> Any:
        new = honest(state, *rest)
        view = Observer.view
        assert view is not None
        me, last = state.context.member, new.last
        dealer = min(place[0] for place in view.openings if place[1] == me)
        other = "key" if dealer in state.u3 else "seed"
        reply = last.reply + view.openings[dealer, me, state.j, other]
        return replace(new, last=replace(last, reply=reply))

    monkeypatch.setitem(client_machine._HANDLERS, Stage.UNMASKING, both)
    breaks(BadNetwork, "both kinds of share")


def answers_again(monkeypatch: pytest.MonkeyPatch, *stages: Stage) -> None:
    """Members answer a second, different request of these stages from what they held before the first."""
    honest = client_machine.step
    before: dict[tuple[int, Stage], tuple[Any, Any]] = {}

    def step(state: Any, event: Any) -> Any:
        place = (id(state.context), getattr(event, "stage", None))
        try:
            answer = honest(state, event)
        except ProtocolError as error:
            if error.code is not Code.CONFLICTING or event.stage not in stages:
                raise
            earlier, vector = before[place]
            return honest(earlier, replace(event, vector=vector))
        if isinstance(event, Received) and answer[0] is not state:
            before[place] = (state, None if event.vector is None else event.vector.copy())
        return answer

    monkeypatch.setattr(client_machine, "step", step)


def test_a_vector_masked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    answers_again(monkeypatch, Stage.MASKED_INPUT)
    breaks(SecondSetOfDealers, "masked its vector of sum 0 twice")


def test_a_second_set_of_survivors_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    answers_again(monkeypatch, Stage.CONSISTENCY_CHECK, Stage.UNMASKING)
    breaks(SecondStory, "answered one stage twice")


def test_fewer_signatures_than_t_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = checks.require_enough

    def lenient(parameters: SessionParameters, members: Any, what: str, **options: Any) -> None:
        if what != "U4" or len(members) < parameters.threshold - 1:
            honest(parameters, members, what, **options)

    monkeypatch.setattr(checks, "require_enough", lenient)
    breaks(SecondStory, "answered unmasking with . members; t is")


def test_the_models_hash_not_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither into the mask seeds nor into the proofs of what the survivors masked: each alone stops the attack."""
    honest = masking.pair_seed
    monkeypatch.setattr(client_machine, "_check_dealers_inputs", lambda *_: None)
    monkeypatch.setattr(masking, "pair_seed", lambda *arguments: honest(*arguments[:-1], bytes(32)))
    breaks(SecondModel, "updates of 2 models")


def test_a_journal_that_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Journal, "record", lambda *_: None)
    breaks(FirstStage, "answered one stage twice|dealt its shares")


# --- the bound on colluders is tight


def two_groups(world: World) -> Callable[[], None]:
    """The attack: two stories about who survived, half of the honest members in each, the colluders in both."""
    first = world.branches[0]
    honest = list(world.members)
    half = set(honest[: len(honest) // 2])
    for _ in range(2):
        for name in first.phase.payloads if first.phase else ():
            world.deliver(first, name)
        first.close()
    second = first.fork()
    world.branches.append(second)
    for branch, told in ((first, half), (second, set(honest) - half)):
        for name in honest:  # the request for vectors is the same in both stories: everybody masks
            world.deliver(branch, name, arrives=name in told)

    def go_on() -> None:
        for branch in world.branches:
            while not branch.over:
                for name in list(branch.phase.payloads):  # type: ignore[union-attr]
                    if name in branch.colluders or branch.phase.stage is not Stage.MASKED_INPUT:  # type: ignore[union-attr]
                        world.deliver(branch, name)
                branch.close()

    return go_on


@pytest.mark.parametrize("more", [0, 1])
def test_the_bound_on_colluders_is_tight(tmp_path: Path, more: int) -> None:
    """n = 6, t = 4: with c = 2t - n - 1 = 1 the attack fails, with one colluder more it unmasks single members."""
    federation = federation_of(6, 4, 1)
    assert federation.parameters.colluders == 1
    names = federation.parameters.names
    world = World(federation, tmp_path, colluders=frozenset(names[5 - more :]))
    go_on = two_groups(world)
    if more:
        with pytest.raises(Violation, match=r"different sums|learns a sum of"):
            go_on()
    else:
        go_on()
        world.check()
        assert len(world.view.learned(0)) <= 1
