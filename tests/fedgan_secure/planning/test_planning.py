"""Planning from Python: the page's own example, hospitals, drop-outs, and what-if of a run."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedgan_audits.accounting import accountant, budget, releases
from fedgan_audits.accounting.mechanism import DistributedMechanism, MechanismRecord, NoiseShares
from fedgan_audits.ledger.ledger import Ledger
from fedgan_secure.errors import InputError
from fedgan_secure.planning import DropOut, curve, drop_outs, for_hospitals, plan, what_if
from fedgan_secure.policy.policy import (
    CoordinatorEntry,
    DataPolicy,
    DistributedMechanismPolicy,
    FederationPolicy,
    HospitalEntry,
    InitialModel,
    MechanismPolicy,
    ReleasePolicy,
    RingPolicy,
)
from fedgan_secure.statistics.layout import ReleaseLayout

PAGE = Path(__file__).parents[3] / "docs" / "planning.md"


def test_the_pages_example_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 1
    code = blocks[0] + "\nimport sys\nassert 'tensorflow' not in sys.modules\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["100", "200", "300"]
    assert lines[3].startswith("one step costs ")


def test_three_of_four_are_needed() -> None:
    with pytest.raises(InputError, match="steps, epsilon are missing"):
        plan(delta=1e-5, sampling_probability=0.1, noise_multiplier=1.0)
    with pytest.raises(InputError, match="all four are given"):
        plan(delta=1e-5, sampling_probability=0.1, noise_multiplier=1.0, steps=1, epsilon=1.0)


def test_hospitals_share_a_probability_or_a_batch() -> None:
    schedule = plan(delta=1e-5, sampling_probability=0.1, noise_multiplier=2.0, steps=20)
    same = for_hospitals(schedule, {"a": 100, "b": 400})
    assert [row.plan.mechanism.sampling_probability for row in same] == [0.1, 0.1]
    batch = for_hospitals(schedule, {"a": 100, "b": 400}, same_batch=True)
    assert [row.plan.mechanism.sampling_probability for row in batch] == [0.1, 0.025]
    assert [row.expected_batch for row in batch] == [10.0, 10.0]
    with pytest.raises(InputError, match="hospital a has 0 patients"):
        for_hospitals(schedule, {"a": 0})


def test_missing_hospitals_change_the_noise_and_not_epsilon() -> None:
    own = plan(delta=1e-5, sampling_probability=0.1, noise_multiplier=2.0, steps=20)
    assert drop_outs(own, 4, 1, threshold=3) == (DropOut(0, 4, 2.0), DropOut(1, 3, 3**0.5))
    shares = NoiseShares(threshold=7, colluders=3, grid_step=1e-6, dimension=1000)
    shared = plan(delta=1e-5, sampling_probability=0.1, noise_multiplier=2.0, steps=20, shares=shares)
    found = drop_outs(shared, 10, 4)
    assert found[0].noise == pytest.approx(1.5811, abs=1e-4)  # the design's figure for n=10, t=7, c=3
    assert found[3].noise == pytest.approx((7 / 4) ** 0.5)
    assert found[4].noise is None
    with pytest.raises(InputError):
        drop_outs(own, 4, 4)


SHARES = NoiseShares(threshold=4, colluders=2, grid_step=2.0**-20, dimension=1000)


def policy(shared: bool = False, noise: float = 2.0, rounds: int = 10) -> FederationPolicy:
    fields: dict[str, Any] = {
        "sampling_probability": 0.1, "noise_multiplier": noise, "l2_clip_norm": 1.0, "steps_per_round": 5,
        "delta": 1e-4, "epsilon_target": None, "declared_patients": 75, "expected_batch_size": 7.5,
        "images_per_patient": 1,
    }  # fmt: skip
    mechanism: Any = MechanismPolicy(**fields)
    hospitals = 5 if shared else 4
    if shared:
        mechanism = DistributedMechanismPolicy(**fields, shares=SHARES)
    return FederationPolicy.model_construct(
        run_id="0" * 32,
        coordinator=CoordinatorEntry(public_key="9" * 64),
        hospitals=tuple(HospitalEntry(name=f"h{i}", public_key=f"{i + 2:064x}") for i in range(hospitals)),
        threshold=4 if shared else 3,
        rounds=rounds,
        spare_rounds=0,
        mechanism=mechanism,
        data=DataPolicy(image_size=28, channels=1, classes=0, preprocessing="plain/1"),
        model={},
        training={},
        ring=RingPolicy(ring_bits=32, update_bound=1.0, fraction_bits=20),
        ring_bits=32,
        average_decay=0.5,
        initial_model=InitialModel(seed=0),
    )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    def ask(of: FederationPolicy | None = None, **question: Any) -> Any:
        monkeypatch.setattr(sys.modules["fedgan_secure.planning.questions"], "read_policy", lambda run: of or policy())
        return what_if(tmp_path, **question)

    return ask


def cost(rounds: int, noise: float = 2.0) -> float:
    one = MechanismRecord(
        sampling_probability=0.1, noise_multiplier=noise, steps=5 * rounds, l2_clip_norm=1.0, unit="patient"
    )
    return accountant.epsilon([one], 1e-4)


def test_three_more_rounds_in_plain_words(asked: Callable[..., Any]) -> None:
    found = asked(more_rounds=3)
    assert found.figures["epsilon"] == cost(10)
    assert found.figures["epsilon_with_more_rounds"] == cost(13)
    noise = found.figures["noise_for_more_rounds"]
    assert cost(13, noise) <= cost(10) < cost(13, noise * 0.995)
    assert "With 3 rounds more, 13 in all, at the same noise" in found.sentences[1]
    assert accountant.round_up(cost(13)) in found.sentences[1]
    assert "% more" in found.sentences[2] and "cannot be raised" in found.sentences[2]


def test_a_smaller_cap_says_how_many_rounds_fit(asked: Callable[..., Any]) -> None:
    cap = (cost(6) + cost(7)) / 2
    found = asked(cap=cap)
    assert found.figures["rounds_within_cap"] == 6
    assert cost(10, found.figures["noise_for_cap"]) <= cap
    assert any("6 rounds of 10 would fit" in sentence for sentence in found.sentences)
    roomy = asked(cap=100.0)
    assert any("all 10 scheduled rounds fit" in sentence for sentence in roomy.sentences)


def test_a_ledgers_other_runs_count(asked: Callable[..., Any], tmp_path: Path) -> None:
    earlier = MechanismRecord(sampling_probability=0.1, noise_multiplier=2, steps=30, l2_clip_norm=1, unit="patient")
    with Ledger.open(tmp_path / "ledger.sqlite", hospital="a", create=True) as ledger:
        ledger.reserve("earlier", 1, earlier, 1e-4)
    alone, with_others = asked(cap=4.0), asked(cap=4.0, ledger=tmp_path / "ledger.sqlite")
    own = [policy().mechanism_record().model_copy(update={"steps": 50})]
    assert with_others.figures["epsilon"] == budget.capped_epsilon({"earlier": [earlier], "own": own}, 1e-4, None)
    assert with_others.figures["epsilon"] > alone.figures["epsilon"]
    assert with_others.figures["rounds_within_cap"] < alone.figures["rounds_within_cap"] + 1


def test_a_ledger_is_asked_as_it_would_hold_its_cap(asked: Callable[..., Any], tmp_path: Path) -> None:
    """In the order in which its runs began, and at the smallest delta that it ever reserved at."""
    later = MechanismRecord(sampling_probability=0.02, noise_multiplier=0.8, steps=30, l2_clip_norm=1, unit="patient")
    first = policy().mechanism_record()
    with Ledger.open(tmp_path / "ledger.sqlite", hospital="a", create=True) as ledger:
        ledger.reserve(policy().run_id, 1, first, 1e-4)
        ledger.reserve("later", 1, later, 1e-7, 7.0)
    found = asked(cap=4.0, ledger=tmp_path / "ledger.sqlite")
    own = list(budget.repeated(first, 10))
    assert found.figures["delta"] == 1e-7
    assert found.figures["epsilon"] == budget.capped_epsilon({"own": own, "later": [later]}, 1e-7, 7.0)
    assert found.figures["epsilon"] != budget.capped_epsilon({"later": [later], "own": own}, 1e-7, 7.0)
    again = asked(more_rounds=3, cap=15.0, ledger=tmp_path / "ledger.sqlite")
    assert again.figures["epsilon"] == found.figures["epsilon"]  # a cap that is asked about changes no plan


def test_the_runs_own_target_is_the_runs_own(asked: Callable[..., Any], tmp_path: Path) -> None:
    """What a run would need to stay at its target has nothing to do with the other runs in the ledger."""
    earlier = MechanismRecord(sampling_probability=0.1, noise_multiplier=2, steps=300, l2_clip_norm=1, unit="patient")
    with Ledger.open(tmp_path / "ledger.sqlite", hospital="a", create=True) as ledger:
        ledger.reserve("earlier", 1, earlier, 1e-4, 60.0)
    alone, with_others = asked(more_rounds=3), asked(more_rounds=3, ledger=tmp_path / "ledger.sqlite")
    assert with_others.figures["noise_for_more_rounds"] == alone.figures["noise_for_more_rounds"]
    assert with_others.figures["epsilon_with_more_rounds"] > alone.figures["epsilon_with_more_rounds"]
    assert "of this run, without the other runs" in with_others.sentences[2]


def test_one_more_hospital(asked: Callable[..., Any]) -> None:
    found = asked(more_hospitals=1)
    assert found.figures["epsilon_with_more_hospitals"] == found.figures["epsilon"]
    assert found.figures["noise_in_mean_times"] == pytest.approx((4 / 5) ** 0.5)
    assert "epsilon stays" in found.sentences[1]
    shared = asked(policy(shared=True), more_hospitals=2)
    assert shared.figures["threshold"] == 5
    assert "could collude" in shared.sentences[1]


def test_a_question_has_to_be_one(asked: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing is asked"):
        asked()
    with pytest.raises(InputError, match="the cap is -1"):
        asked(cap=-1.0)
    with pytest.raises(InputError, match="more rounds"):
        asked(more_rounds=-1)
    silent = policy().model_copy(update={"flags": policy().flags.model_copy(update={"no_privacy": True})})
    with pytest.raises(InputError, match="has no noise"):
        asked(silent, more_rounds=1)


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such run"):
        what_if(tmp_path, more_rounds=1)


LAYOUT = ReleaseLayout(classes=5, features=271, bins=(8, 10, 10))
RELEASE = releases.record(noise_multiplier=2.285, l2_clip_norm=1.0, unit="patient")


def released(of: FederationPolicy, noise: float = 2.285, **changes: Any) -> FederationPolicy:
    """The same policy with a release as its first round."""
    shared = of.distributed is not None
    release = ReleasePolicy(
        noise_multiplier=noise,
        l2_clip_norm=1.0,
        images_per_patient=1,
        dimension=LAYOUT.dimension,
        layout=LAYOUT.to_json(),
        layout_sha256=LAYOUT.digest(),
        ring=of.ring,
        shares=SHARES.model_copy(update={"dimension": LAYOUT.dimension}) if shared else None,
    )
    return of.model_copy(update={"release": release, **changes})


def composed(rounds: int, noise: float = 2.0) -> float:
    """A release and so many rounds of steps."""
    steps = policy(noise=noise).mechanism_record().model_copy(update={"steps": 5 * rounds})
    return accountant.epsilon([RELEASE, steps], 1e-4)


def test_a_plan_counts_its_release() -> None:
    with_one = plan(delta=1e-4, sampling_probability=0.1, noise_multiplier=2.0, steps=45, release=RELEASE)
    assert with_one.epsilon == composed(9)
    assert with_one.epsilon_of_release == accountant.epsilon([RELEASE], 1e-4)
    line = curve(with_one, points=3)
    assert line[-1] == (45, composed(9)) and line[0] == (15, composed(3))
    assert with_one.known_to(2) == accountant.epsilon([RELEASE, with_one.mechanism] * 2, 1e-4)
    rows = for_hospitals(with_one, {"a": 100, "b": 400}, same_batch=True)
    assert rows[1].plan.epsilon > with_one.epsilon_of_release
    with pytest.raises(InputError, match="one sum of all patients"):
        plan(delta=1e-4, sampling_probability=0.1, noise_multiplier=2.0, steps=45, release=with_one.mechanism)


def test_more_rounds_of_a_run_with_a_release(asked: Callable[..., Any]) -> None:
    found = asked(released(policy()), more_rounds=3)
    assert found.figures["epsilon"] == composed(9) and found.figures["release_noise_multiplier"] == 2.285
    assert found.figures["epsilon_with_more_rounds"] == composed(12)
    noise = found.figures["noise_for_more_rounds"]
    assert composed(12, noise) <= composed(9) < composed(12, noise * 0.99)
    assert "As planned, a release and 9 rounds of 5 steps cost one patient" in found.sentences[0]
    assert "(2.285 in the release)" in found.sentences[0]
    assert "the noise multiplier of the steps would have had to be" in found.sentences[2]


def test_a_cap_counts_the_release_as_the_first_round(asked: Callable[..., Any], tmp_path: Path) -> None:
    cap = (composed(4) + composed(5)) / 2
    found = asked(released(policy()), cap=cap)
    assert found.figures["rounds_within_cap"] == 5
    assert composed(9, found.figures["noise_for_cap"]) <= cap
    tight = asked(released(policy()), cap=composed(1) * 0.5)
    assert tight.figures["rounds_within_cap"] == 0 and tight.figures["noise_for_cap"] is None
    assert "the release, with what the ledger holds, is too much" in tight.sentences[-1]
    earlier = MechanismRecord(sampling_probability=0.1, noise_multiplier=2, steps=30, l2_clip_norm=1, unit="patient")
    with Ledger.open(tmp_path / "ledger.sqlite", hospital="a", create=True) as ledger:
        ledger.reserve("earlier", 1, earlier, 1e-4)
    beside = asked(released(policy()), more_hospitals=1, ledger=tmp_path / "ledger.sqlite")
    own = [RELEASE, policy().mechanism_record().model_copy(update={"steps": 45})]
    assert beside.figures["epsilon"] == budget.capped_epsilon({"earlier": [earlier], "own": own}, 1e-4, None)


def test_more_hospitals_share_the_release_as_well(asked: Callable[..., Any]) -> None:
    of = released(policy(shared=True))
    found = asked(of, more_hospitals=2)
    counts = {"threshold": found.figures["threshold"], "colluders": found.figures["colluders"]}
    records = []
    for record in (of.record_of(1), of.record_of(2)):
        assert isinstance(record, DistributedMechanism)
        records.append(record.model_copy(update={"shares": record.shares.model_copy(update=counts)}))
    cost_of_all = accountant.epsilon([records[0], *[records[1]] * 9], 1e-4)
    assert found.figures["epsilon_with_more_hospitals"] == pytest.approx(cost_of_all, rel=1e-12)


def test_a_run_of_a_release_alone(asked: Callable[..., Any]) -> None:
    alone = released(policy(), noise=3.0)
    fields = {**alone.mechanism.model_dump(), "sampling_probability": 1.0, "noise_multiplier": 3.0}
    fields |= {"steps_per_round": 1, "expected_batch_size": 75.0}
    alone = alone.model_copy(update={"rounds": 1, "mechanism": MechanismPolicy(**fields)})
    found = asked(alone, more_rounds=1)
    one = RELEASE.model_copy(update={"noise_multiplier": 3.0})
    assert found.figures["epsilon"] == accountant.epsilon([one], 1e-4)
    assert found.figures["epsilon_with_more_rounds"] == accountant.epsilon([one, one], 1e-4)
    assert "As planned, one release and nothing else costs one patient" in found.sentences[0]
