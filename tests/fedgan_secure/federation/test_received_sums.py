"""A hospital signs no model and trains from no model that it cannot derive from a sum, whoever kills it when."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedgan_audits.ledger.ledger import Ledger
from fedgan_protocols.errors import Code, ProtocolError
from fedgan_protocols.session import ClientSession
from fedgan_secure.federation.drivers.local import DropOut
from fedgan_secure.federation.refusals import SessionRefused, SignatureRefused
from fedgan_secure.federation.review.late_sums import read_late, write_late
from tests.fedgan_secure.federation.small_federation import FIRST, SmallFederation, digest

EVIL = np.full(7, 1e30, np.float32)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[SmallFederation]:
    made = SmallFederation(tmp_path)
    yield made
    made.close()


def sign_all(world: SmallFederation, played: Any, average: np.ndarray) -> None:
    """Let every hospital sign the honest report."""
    report = world.report(played, average)
    for name, hospital in world.hospitals.items():
        assert world.review(name, played, report) == []
        hospital.sign(report[0].payload)


def test_the_sum_and_its_model_are_in_the_ledger_before_the_receipt_leaves(world: SmallFederation) -> None:
    played = world.play(1, FIRST)
    for hospital in world.hospitals.values():
        (entry,) = [entry for entry in hospital.ledger.entries() if entry.kind == "sum_received"]
        assert entry.facts["sum"] == played.result.sum_digests[0].hex()
        assert entry.facts["survivors"] == list("abcd") and entry.facts["model"] == digest(played.after)
        assert (hospital.site.models / f"{entry.facts['average']}.npy").exists()


def test_after_a_restart_only_the_model_that_the_sum_leads_to_is_signed(world: SmallFederation) -> None:
    """Before, a hospital that was restarted between sum and signature signed whatever model was named."""
    played = world.play(1, FIRST)
    restarted = world.restart("a")
    evil = world.report(played, EVIL, after=EVIL)
    assert any("not what the sum leads to" in text for text in world.review("a", played, evil))
    honest = world.report(played, played.after)
    assert world.review("a", played, honest) == []
    restarted.sign(honest[0].payload)
    assert world.signed("a", 1)["model"] == digest(played.after) and "seen" not in world.signed("a", 1)  # type: ignore[index]
    for hospital in world.hospitals.values():
        if hospital.name != "a":
            assert world.review(hospital.name, played, honest) == []
            hospital.sign(honest[0].payload)
    with pytest.raises(SessionRefused, match="the model differ"):
        world.play(2, EVIL)


@pytest.mark.parametrize("how", ["absent", "share-keys", "masked-input", "unmasking"])
@pytest.mark.parametrize("restarted", [False, True])
def test_without_the_sum_a_report_is_only_seen_and_no_round_begun(
    world: SmallFederation, how: str, restarted: bool
) -> None:
    """Before, a hospital that was left out signed any model that the report named, and trained from it next."""
    drops = [] if how == "absent" else [DropOut("d", 1, how)]
    played = world.play(1, FIRST, drops, absent="d" if how == "absent" else "")
    if restarted:
        world.restart("d")
    evil = world.report(played, EVIL, after=EVIL)
    assert world.review("a", played, evil) and world.review("d", played, evil) == []
    hospital = world.hospitals["d"]
    hospital.sign(evil[0].payload)
    facts = world.signed("d", 1)
    assert facts is not None and facts["seen"] is True and facts["sum"] == played.result.sum_digests[0].hex()
    assert hospital.waits_for() == 1
    for vector in (EVIL, played.after, FIRST):
        with pytest.raises(SessionRefused, match="does not hold the sum"):
            hospital.reserve(2)
        with pytest.raises(SessionRefused):
            hospital.open_session(world.session(2), vector, "ab" * 32)
    for late in (played.late(after=EVIL), played.late(before=EVIL), played.late()):
        with pytest.raises(SessionRefused, match="does not take the sum of round 1"):
            hospital.take_late(late)
    assert hospital.waits_for() == 1 and hospital.ledger.reservations(world.policy.run_id).keys() <= {1}


@pytest.mark.parametrize("restarted", [False, True])
def test_with_the_sum_that_the_receipts_name_it_goes_on_and_checks_again(
    world: SmallFederation, restarted: bool, tmp_path: Path
) -> None:
    played = world.play(1, FIRST, [DropOut("d", 1, "unmasking")])
    sign_all(world, played, played.after)
    hospital = world.restart("d") if restarted else world.hospitals["d"]
    elsewhere = SmallFederation(tmp_path / "elsewhere", world.keys)
    other = elsewhere.play(1, FIRST, absent="d")
    elsewhere.close()
    changed = (played.result.sums[0] + np.uint32(1),)
    for wrong in (
        played.late(sums=changed), played.late(before=EVIL), played.late(sums=()), played.late(transcript=b"x"),
        played.late(transcript=other.transcript), other.late(),
    ):  # fmt: skip
        with pytest.raises(SessionRefused, match="does not take the sum of round 1"):
            hospital.take_late(wrong)
        assert hospital.waits_for() == 1
    write_late(tmp_path, played.late())
    assert read_late(tmp_path, 2) is None
    late = read_late(tmp_path, 1)
    assert late is not None
    hospital.take_late(late)
    assert hospital.waits_for() is None
    with pytest.raises(SessionRefused, match="waits for no sum"):
        hospital.take_late(late)
    second = world.play(2, played.after)
    average = np.asarray(0.5 * played.after + 0.5 * second.after, np.float32)
    assert world.review("d", second, world.report(second, average)) == []
    assert any("another model" in text for text in world.review("d", second, world.report(second, average * 2)))


def test_receipts_that_are_too_few_prove_no_sum(world: SmallFederation) -> None:
    drops = [DropOut("d", 1, "unmasking"), DropOut("c", 1, "receipt")]
    played = world.play(1, FIRST, drops)
    assert played.result.receipts_ok == 2
    found = world.review("d", played, world.report(played, played.after))
    assert "2 receipts name the sum, and 3 are needed" in found


class Killed(BaseException):
    """The process ends here; no code of the product catches it."""


class Mortal:
    """The session of a hospital that dies in its receipt: its peers find that it answers no more."""

    def __init__(self, client: ClientSession, deaths: Deaths) -> None:
        self._client, self._deaths = client, deaths

    def handle(self, phase: str, payload: Any) -> Any:
        if phase != "receipt":
            return self._client.handle(phase, payload)
        try:
            with self._deaths.armed():
                return self._client.handle(phase, payload)
        except Killed:
            raise ProtocolError(Code.NO_ANSWER, "killed") from None


class Deaths:
    """Ends the process at one operation on a hospital's files: before it or after it, counted from 0."""

    def __init__(self, folder: Path, at: int) -> None:
        self._only, self._at = f"{folder}/", at
        self.seen: list[str] = []
        self.dead = False

    def _counted(self, what: str, place: object, act: Callable[[], Any]) -> Any:
        if not str(place).startswith(self._only):
            return act()
        for moment in ("before", "after"):
            self.seen.append(f"{moment} {what}")
            if len(self.seen) > self._at:
                self.dead = True
                raise Killed
            done = act() if moment == "before" else done  # noqa: F821 - set in the first pass
        return done

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Watch renames, syncs, writes to the journal and entries of the ledger (an entry dies uncommitted)."""
        rename, sync, write, append = Path.replace, os.fsync, os.pwrite, Ledger._append

        def opened(handle: int) -> str:
            return str(Path(f"/proc/self/fd/{handle}").readlink())

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "replace", lambda a, b: self._counted("rename", a, lambda: rename(a, b)))
            patch.setattr(os, "fsync", lambda a: self._counted("sync", opened(a), lambda: sync(a)))
            patch.setattr(os, "pwrite", lambda a, *b: self._counted("journal", opened(a), lambda: write(a, *b)))
            patch.setattr(Ledger, "_append", lambda a, *b: self._counted(b[0], a.path, lambda: append(a, *b)))
            yield


@pytest.mark.parametrize("first", ["honest", "evil"])
def test_killed_at_any_file_operation_it_signs_no_model_that_it_cannot_derive(tmp_path: Path, first: str) -> None:
    """At each operation of the receipt and of the review: then a restart, and a report of the coordinator's choice."""
    seen: set[str] = set()
    for at in itertools.count():
        world = SmallFederation(tmp_path / str(at))
        deaths = Deaths(world.folder / "a", at)
        mortal = lambda client, deaths=deaths: Mortal(client, deaths) if client.name == "a" else client  # noqa: E731
        played = world.play(1, FIRST, seen_as=mortal)
        honest = world.report(played, played.after)
        with suppress(Killed):
            if not deaths.dead:
                with deaths.armed():
                    assert world.review("a", played, honest) == []
                    world.hospitals["a"].sign(honest[0].payload)
        seen |= set(deaths.seen)
        hospital = world.restart("a")
        if first == "evil":
            evil = world.report(played, EVIL, after=EVIL)
            if world.review("a", played, evil) == []:
                with suppress(SignatureRefused):
                    hospital.sign(evil[0].payload)
        if world.signed("a", 1) is None and world.review("a", played, honest) == []:
            hospital.sign(honest[0].payload)
        facts = world.signed("a", 1)
        assert facts is not None, deaths.seen
        assert facts.get("seen") or facts["model"] == digest(played.after), deaths.seen
        if hospital.waits_for() is not None:
            with pytest.raises(SessionRefused, match="does not hold the sum"):
                hospital.reserve(2)
            with suppress(SessionRefused):
                hospital.take_late(played.late())
        assert (hospital.waits_for() is None) == (facts["model"] == digest(played.after))
        if hospital.waits_for() is None:
            hospital.reserve(2)
            with pytest.raises(SessionRefused, match="the model differ"):
                hospital.open_session(world.session(2), EVIL, "ab" * 32)
            hospital.open_session(world.session(2), played.after, "ab" * 32)
        world.close()
        if not deaths.dead:
            break
    what = {text.split(" ", 1)[1] for text in seen}
    assert {"rename", "sync", "journal", "sum_received", "report_signed"} <= what and at > 10
