"""The self-tests of the mechanism: which there are, what a report says of them, and what a false alarm costs.

A hospital holds what it really did against what the accountant was told. Its figures (realised rates, moments of the
noise) depend on patients or break the noise and stay in the confidential annex; a report carries PASS, FAIL or NOT
ASSESSED for each test. A FAIL of a sound mechanism shows in the output, so it is charged: the tests that involve chance
raise a false alarm with probability at most `FALSE_ALARM` each, whatever the data, and F of them in all add
(1 + e^epsilon) F to delta (`failures`). The others hold bounds that no sound mechanism can break.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, get_args

from fedgan_audits.accounting import MechanismRecord, failures

SelfTest = Literal["PASS", "FAIL", "NOT ASSESSED"]
TestName = Literal[
    "clip_probe",
    "divisor_probe",
    "noise_probe",
    "rows",
    "sum_bound",
    "noise_mean",
    "noise_variance",
    "sampling_rate",
    "batch_sizes",
    "patient_counts",
]
NAMES: tuple[TestName, ...] = get_args(TestName)

TEXTS: Mapping[TestName, str] = {
    "clip_probe": "a made-up patient, with every image and a gradient far above the bound, adds no more than the bound",
    "divisor_probe": "three made-up patients add three times what one adds: the divisor is the public one",
    "noise_probe": "known noise is scaled as recorded, with and without patients",
    "rows": "in every step each drawn patient has one row, with their own images, weighed to one at the most",
    "sum_bound": "no step's sum is larger than the drawn patients can make it under the bound",
    "noise_mean": "the noise that was added is centred",
    "noise_variance": "the noise that was added has the recorded variance",
    "sampling_rate": "patients were drawn as often as recorded",
    "batch_sizes": "the sizes of batches scatter as independent coins make them",
    "patient_counts": "how often each patient was drawn scatters as independent coins make it",
}
"""What each test holds, for people."""

FALSE_ALARM = 1e-40
"""Bound on the probability that one test that involves chance fails a sound mechanism, for any data set."""
RANDOM_TESTS_PER_STEP = 4
"""The mean and the variance of the noise, of the step alone and of the round so far."""
RANDOM_TESTS_PER_RUN = 3
"""The three tests of sampling: each is one test over all of a run, looked at after every step (Ville's inequality)."""


def overall(outcomes: Iterable[SelfTest]) -> SelfTest:
    """FAIL if any test failed, PASS if there are tests and all passed, else NOT ASSESSED."""
    found = set(outcomes)
    if "FAIL" in found:
        return "FAIL"
    return "PASS" if found == {"PASS"} else "NOT ASSESSED"


def summary(outcomes: Sequence[tuple[str, SelfTest]]) -> str:
    """How many of a hospital's tests passed, and which did not: the overall word alone would hide nine that passed."""
    if not outcomes:
        return "not assessed: no step was trained"
    passed = sum(outcome == "PASS" for _, outcome in outcomes)
    said = [f"all {passed} passed" if passed == len(outcomes) else f"{passed} of {len(outcomes)} passed"]
    for outcome, word in (("FAIL", "failed"), ("NOT ASSESSED", "not assessed")):
        if names := [name.replace("_", " ") for name, found in outcomes if found == outcome]:
            said.append(f"{word}: {', '.join(names)}")
    return "; ".join(said)


def false_alarm_total(mechanisms: Sequence[MechanismRecord]) -> float:
    """Bound on the probability that any test fails over all of these sound mechanisms.

    The union bound over their steps; where a search's number of trials is random, over the expected number.
    """
    tests = sum((RANDOM_TESTS_PER_STEP + RANDOM_TESTS_PER_RUN) * mechanism.trained_steps for mechanism in mechanisms)
    return min(1.0, FALSE_ALARM * tests)


def delta_added(mechanisms: Sequence[MechanismRecord], epsilon: float) -> float:
    """What publishing the outcomes adds to delta at this epsilon: (1 + e^epsilon) F, rounded up; 0 for nothing spent.

    Every step is taken to have the three tests of its run, so that no count of runs is needed.
    """
    return failures.delta_charge(epsilon, false_alarm_total(mechanisms))
