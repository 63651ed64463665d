"""Report, ledger, terminal and verification tell one story of a hospital's budget, whatever happened before."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedgan_audits.accounting import budget
from fedgan_audits.accounting.accountant import round_up
from fedgan_audits.accounting.mechanism import DistributedMechanism, MechanismRecord, NoiseShares
from fedgan_audits.errors import BudgetRefused
from fedgan_audits.facts import first_screen
from fedgan_audits.facts.checks import Verification
from fedgan_audits.facts.records import HospitalFacts, PrivacySettings, spending
from fedgan_audits.ledger.caps import smallest
from fedgan_audits.ledger.ledger import Ledger
from fedgan_audits.pages.renderers import RENDERER
from fedgan_audits.report import figures
from fedgan_audits.report.foresight import foresee
from fedgan_audits.report.verdict import hospital_budget
from fedgan_audits.verification.recompute import check_epsilon
from fedgan_secure.federation.spent import HospitalSpent, spent_of

FIELDS: dict[str, Any] = {"sampling_probability": 0.1, "l2_clip_norm": 1.0, "unit": "patient"}
SHARES = NoiseShares(threshold=3, colluders=1, grid_step=0.01, dimension=100)
MECHANISMS: dict[str, MechanismRecord] = {
    "quiet": MechanismRecord(noise_multiplier=2.0, steps=20, **FIELDS),
    "loud": MechanismRecord(noise_multiplier=1.0, steps=20, **FIELDS),
    "shared": DistributedMechanism(noise_multiplier=2.0, steps=20, shares=SHARES, **FIELDS),
    "release": MechanismRecord(noise_multiplier=4.0, steps=1, **{**FIELDS, "sampling_probability": 1.0}),
}
MOST = 3
Run = tuple[str, int, float, float | None]
"""A run: its mechanism, how many rounds it tries, delta, and the cap that its hospital sets."""

RUNS = st.tuples(
    st.sampled_from(list(MECHANISMS)),
    st.integers(1, 2),
    st.sampled_from([1e-4, 1e-5]),
    st.sampled_from([None, None, 3.0, 6.0, 9.0]),
)


def reserved(ledger: Ledger, name: str, run: Run, target: float | None = None, first: int = 1) -> int:
    """Reserve a run's rounds as long as the ledger takes them; return how many it took."""
    kind, rounds, delta, cap = run
    for number in range(first, first + rounds):
        try:
            ledger.reserve(name, number, MECHANISMS[kind], delta, cap, target)
        except BudgetRefused:
            return number - first
    return rounds


def report_of(ledger: Ledger, run: Run, target: float | None, scheduled: int) -> Any:
    """What a report of the run's last reserved round says of the hospital: the parts that verification reads."""
    kind, _, delta, _ = run
    own = ledger.reservations("this")
    last = max(own)
    facts = HospitalFacts(
        name="b", fingerprint="SHA256:" + "A" * 43, declared_patients=75, reserved=own[last],
        this_run=spending(own.items()), earlier=ledger.mechanisms(exclude_run="this"),
        cap=ledger.cap_of("this", last), ledger_lifetime="site", took_part=False,
    )  # fmt: skip
    privacy = PrivacySettings(
        unit="patient", noise_placement=MECHANISMS[kind].noise_placement, delta=delta, epsilon_target=target,
        planned=MECHANISMS[kind], images_per_patient=1, sampling="coins", noise="Gaussian", clipping="exact",
    )  # fmt: skip
    record = cast(Any, SimpleNamespace(
        privacy=privacy, hospitals=(facts,), header=SimpleNamespace(round=last, rounds_scheduled=scheduled)
    ))  # fmt: skip
    row = hospital_budget(figures.budget(facts, record), record)
    return SimpleNamespace(
        renderer=RENDERER,
        privacy=SimpleNamespace(settings=privacy, epsilon=row.spent),
        verdict=SimpleNamespace(spent=row.spent),
        aggregation=SimpleNamespace(participants=(facts,)),
        composition=SimpleNamespace(hospitals=(row,)),
    )


def terminal_of(ledger: Ledger, run: Run, target: float | None) -> HospitalSpent:
    """What the end of the run says on the terminal."""
    mechanism = SimpleNamespace(delta=run[2], epsilon_target=target)
    return spent_of(cast(Any, SimpleNamespace(
        ledger=ledger, policy=SimpleNamespace(mechanism=mechanism), run_id="this",
        standing_cap=smallest(run[3], ledger.standing_cap()),
    )))  # fmt: skip


def by_run(ledger: Ledger) -> dict[str, list[MechanismRecord]]:
    """The reservations of each run in a ledger, as it holds them against its cap."""
    found: dict[str, list[MechanismRecord]] = {}
    for entry in ledger.entries():
        if entry.mechanism is not None:
            found.setdefault(str(entry.run_id), []).append(entry.mechanism)
    return found


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Iterator[Path]]:
    """A new file for each history; in memory where the machine has such a folder, since each entry is synced."""
    shared = Path("/dev/shm")  # noqa: S108 - a folder of this test's own is made in it
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else tmp_path) as folder:
        yield (Path(folder) / f"{number}.sqlite" for number in range(10**6))


def test_they_agree_on_epsilon_on_what_is_left_and_on_rounds_left(places: Iterator[Path]) -> None:
    """2,000 histories; each kind comes up often, since a test that only ever saw refusals would hold anything."""
    seen: Counter[str] = Counter()

    @settings(max_examples=2_000, deadline=None, derandomize=True, database=None)
    @given(
        earlier=st.lists(RUNS, max_size=2),
        run=RUNS,
        target=st.sampled_from([None, 1.0, 2.0, 4.0]),
        killed=st.booleans(),
    )
    def play(earlier: list[Run], run: Run, target: float | None, killed: bool) -> None:
        place = next(places)
        with Ledger.open(place, hospital="b", create=True) as ledger:
            for number, before in enumerate(earlier):
                reserved(ledger, f"run-{number}", before)
            done = reserved(ledger, "this", run, target)
            if not killed:
                seen.update(tell_one_story(ledger, run, target, done))
        if killed:  # the process ends after a reservation; a resumed one finds nothing but the file
            with Ledger.open(place, hospital="b") as ledger:
                seen.update(tell_one_story(ledger, run, target, done))
        place.unlink()

    play()
    assert all(seen[what] > 50 for what in ("history", "stopped", "went on", "refused", *MECHANISMS)), seen


def tell_one_story(ledger: Ledger, run: Run, target: float | None, done: int) -> list[str]:
    """Assert that whoever reads the ledger's state comes to the same figures, and that the next rounds bear it out."""
    terminal = terminal_of(ledger, run, target)
    held = by_run(ledger)
    if done == 0:
        return ["refused"]
    report = report_of(ledger, run, target, done + MOST)
    (row,) = report.composition.hospitals
    assert (row.spent, row.held, row.spent_this_run) == (terminal.ledger, terminal.held, terminal.this_run)
    assert (row.left_of_target, row.left_of_cap) == (terminal.left_of_target, terminal.left_of_cap)
    assert row.cap == (None if terminal.cap is None else figures.given(terminal.cap))
    assert row.held == round_up(budget.capped_epsilon(held, run[2], terminal.cap))
    assert first_screen.all_runs(report).spent == row.held and float(row.held) >= float(row.spent)
    assert terminal.has_history == first_screen.has_history(report) == (len(held) > 1)
    result = Verification()
    check_epsilon(result, report, "report", pld=True)
    assert result.ok, result.checks
    foresee(ledger.mechanisms(exclude_run="this"), ledger.mechanisms("this"), run[2], terminal.cap)
    more = (run[0], MOST, run[2], run[3])
    taken = reserved(ledger, "this", more, target, first=done + 1)
    assert taken == row.rounds_left
    kinds = {"history": len(held) > 1, "stopped": taken < MOST, "went on": taken > 0, run[0]: True}
    return [kind for kind, is_so in kinds.items() if is_so]
