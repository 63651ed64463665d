"""An attack on the training that a run's policy describes, rehearsed on made-up patients: no budget is spent.

One hospital's training is made again as the policy says, by the code that hospitals run (without their self-tests), on
images that the run's own generator drew and on canaries (`canaries`). What the adversary shows is a lower bound on
epsilon (`fedgan_audits.accounting.one_run`), held against what the accountant proves for the same steps. It
says nothing of the run's own noise, coins or patients, which nobody can see afterwards, and sees grave faults of the
noisy gradient alone.
Runs that adapt a public start are attacked otherwise (`adapted_run`).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fedgan_audits.accounting import MechanismRecord, accountant, one_run
from fedgan_audits.errors import VerificationFailed
from fedgan_secure.attacks.canaries import Adversary, Canaries, WatchedTrainer
from fedgan_secure.attacks.finished_run import read_policy
from fedgan_secure.attacks.verdict import CONFIDENCE, Guesses, Verdict, refutes
from fedgan_secure.data import PatientDataset
from fedgan_secure.errors import InputError
from fedgan_secure.models import ModelSpec
from fedgan_secure.networks import VectorLayout, draw_images
from fedgan_secure.policy import TrainingSettings, model_of, training_of
from fedgan_secure.privacy import Entropy
from fedgan_secure.synthesis import load_generator

SHARES = ((1 / 2, 1 / 2), (1 / 8, 1 / 8), (1 / 16, 1 / 16), (1 / 4, 0.0))
"""Of the canaries, the surest that are guessed to be in, and to be out: fixed beforehand, and all four are paid."""
LEAST_CANARIES, MOST_CANARIES, OTHERS = 16, 2000, 64
_EXPECTED_FAILURES = 1e-4
"""Delta of the attack times canaries, at most: with a delta of a policy's size the guesses could hardly show anything,
and what is proved has an epsilon for every delta."""
Progress = Callable[[str, int, int], None]


def attack_run(
    run: Path,
    *,
    canaries: int,
    steps: int | None = None,
    progress: Progress | None = None,
    entropy: Entropy = os.urandom,
) -> Verdict:
    """Attack the training of the run at `run`, from untrained weights.

    Args:
        run: its folder, or its public part.
        canaries: how many, half of them in on average; at most MOST_CANARIES.
        steps: how many of the policy's; None: as many as should show most of a training without noise.
        progress: called with ("attack", steps done, steps), then with ("control", ...).
        entropy: of canaries, coins and noise.

    Raises:
        InputError: no finished run, one without noise or with shared noise, too few or too many canaries, or a training
            whose gradients are no numbers.
        VerificationFailed: the training is told another mechanism than the ledger.
    """
    public, policy = read_policy(run)
    if policy.start is not None:
        raise InputError(
            f"{run} adapts a public start: it trains no discriminator on images",
            hint="use `adapted_run.attack_adapted_run`, which attacks its release and a step of its heads",
        )
    if policy.mechanism.noise_placement != "per_hospital":
        raise InputError(
            f"{run} has {policy.mechanism.noise_placement} noise; only per_hospital noise can be attacked",
            hint="the noise of one hospital alone has no epsilon; attack a run with per_hospital noise",
        )
    model = public / "model" / "generator.keras"
    spec, training, mechanism = model_of(policy), training_of(policy), policy.mechanism_record()
    check_same(training, mechanism)
    scheduled = policy.rounds * policy.mechanism.steps_per_round
    others = min(OTHERS, policy.mechanism.declared_patients)
    labels = np.arange(others, dtype=np.int32) % max(spec.classes, 1)
    try:
        drawn = draw_images(load_generator(model, spec), spec, labels if spec.conditional else None, others, 1)
    except ValueError as error:
        raise InputError(
            f"{model} is not the generator of this run's policy", hint="restore the run's folder"
        ) from error
    return attack(
        spec,
        training,
        mechanism,
        PatientDataset(drawn, labels, np.arange(others, dtype=np.int32), max(spec.classes, 1)),
        canaries=canaries,
        steps=min(steps or _most_telling(mechanism, policy.mechanism.delta, canaries, scheduled), scheduled),
        steps_per_round=policy.mechanism.steps_per_round,
        delta=policy.mechanism.delta,
        start=VectorLayout.of(spec).initial_vector(policy.initial_model.seed),
        progress=progress,
        entropy=entropy,
    )


def attack(
    spec: ModelSpec,
    training: TrainingSettings,
    mechanism: MechanismRecord,
    others: PatientDataset,
    *,
    canaries: int,
    steps: int,
    steps_per_round: int,
    delta: float,
    start: np.ndarray,
    progress: Progress | None = None,
    entropy: Entropy = os.urandom,
) -> Verdict:
    """As attack_run, of one training, and of the same without noise as a control.

    Args:
        training: what is done; a test may let it differ from `mechanism`.
        mechanism: what the accountant and the adversary are told; its own steps are not looked at.
        others: patients that the adversary knows.
        delta: of the policy; the guesses are held against what is proved at a smaller one.
        start: float32[d], the first model.
    """
    _check(canaries)
    begun = time.monotonic()
    record = mechanism.model_copy(update={"steps": steps})
    small = _delta(delta, canaries)
    epsilon = accountant.epsilon([record], small)
    told = replace(training, **{name: getattr(mechanism, name) for name in _SHARED})

    def rehearse(done: TrainingSettings, name: str) -> tuple[np.ndarray, np.ndarray, tuple[Guesses, ...]]:
        made = Canaries.drawn(spec, canaries, entropy)
        trainer = WatchedTrainer(spec, done, others, made, partial(Adversary, spec, told, canaries=made), entropy)
        _train(trainer, start, steps, steps_per_round, None if progress is None else partial(progress, name))
        rows = tuple(_guesses(trainer.scores, made.present, counts, epsilon, small) for counts in _counts(canaries))
        return trainer.scores, made.present, rows

    scores, present, rows = rehearse(training, "attack")
    _, _, control = rehearse(replace(training, noise_multiplier=0.0), "control")
    roc, area = _roc(scores, present)
    return Verdict(
        epsilon=epsilon,
        delta=small,
        claimed=(accountant.epsilon([record], delta), delta),
        control=refutes(control),
        steps=steps,
        canaries=canaries,
        others=others.patients,
        rows=rows,
        roc=roc,
        area=area,
        seconds=time.monotonic() - begun,
    )


def _train(
    trainer: WatchedTrainer, start: np.ndarray, steps: int, per_round: int, progress: Callable[[int, int], None] | None
) -> None:
    """Train in rounds, as a hospital that is alone. Raises InputError where the adversary saw what is no number."""
    vector, done = start, 0
    while done < steps:

        def heard(step: int, _: int, before: int = done) -> None:
            if progress is not None:
                progress(before + step, steps)

        vector = vector + trainer.train(vector, min(per_round, steps - done), heard).update
        done = min(steps, done + per_round)
    if not np.isfinite(trainer.scores).all():
        raise InputError(
            "the rehearsed training gave gradients that are no numbers, so nothing can be guessed",
            hint="attack fewer steps (--steps), or lower the learning rates",
        )


_SHARED = ("sampling_probability", "noise_multiplier", "l2_clip_norm", "images_per_patient", "unit")


def check_same(training: Any, mechanism: MechanismRecord) -> None:
    """Refuse a training that is told another mechanism than the ledger.

    Args:
        training: the settings of a trainer.
        mechanism: the record.

    Raises:
        VerificationFailed: naming what differs.
    """
    for name in _SHARED:
        done, told = getattr(training, name), getattr(mechanism, name)
        if done != told:
            raise VerificationFailed(
                f"training is told {name} = {done}, but the ledger {told}: the record is not what is done"
            )


def _check(canaries: int) -> None:
    if not LEAST_CANARIES <= canaries <= MOST_CANARIES:
        raise InputError(
            f"{canaries} canaries; {LEAST_CANARIES} to {MOST_CANARIES} are expected",
            hint="fewer can show next to nothing; more take memory and time with their square and cube",
        )


def _delta(delta: float, canaries: int) -> float:
    return min(delta, _EXPECTED_FAILURES / canaries)


def _counts(canaries: int) -> tuple[tuple[int, int], ...]:
    return tuple((int(canaries * ins), int(canaries * outs)) for ins, outs in SHARES)


def _without_noise(mechanism: MechanismRecord, epsilon: float, delta: float, canaries: int) -> float:
    """The most that guesses about a training without noise can show, on average: p, corrected for the four looks.

    As if every canary that was ever drawn were known to be in, and the others guessed at random. It chooses how many
    steps; what an attack is worth, the control says.
    """
    missed = (1 - mechanism.sampling_probability) ** mechanism.steps
    known = canaries / 2 * (1 - missed)
    smallest = 1.0
    for ins, outs in _counts(canaries):
        right = math.floor(min(ins, known) + max(0.0, ins - known) * missed / (1 + missed) + outs / (1 + missed))
        told = {"canaries": canaries, "guesses": ins + outs, "right": right, "delta": delta}
        smallest = min(smallest, one_run.p_value(epsilon=epsilon, **told))  # type: ignore[arg-type]
    return min(1.0, smallest * len(SHARES))


def _most_telling(mechanism: MechanismRecord, delta: float, canaries: int, scheduled: int) -> int:
    """The number of steps after which a training without noise could be refuted most clearly."""
    _check(canaries)
    small = _delta(delta, canaries)

    def shown(steps: int) -> float:
        record = mechanism.model_copy(update={"steps": steps})
        return _without_noise(record, accountant.epsilon([record], small), small, canaries)

    steps = {1, scheduled} | {number for power in range(11) for number in (2**power, 3 * 2**power)}
    return min((count for count in sorted(steps) if count <= scheduled), key=shown)


def _guesses(scores: np.ndarray, present: np.ndarray, counts: tuple[int, int], epsilon: float, delta: float) -> Guesses:
    """The surest guesses that canaries are in, and that they are out."""
    ins, outs = counts
    order = np.argsort(scores, kind="stable")
    right = int((~present[order[:outs]]).sum() + present[order[len(order) - ins :]].sum())
    level = 1 - (1 - CONFIDENCE) / len(SHARES)
    asked = partial(one_run.least_epsilon, canaries=len(scores), guesses=ins + outs, delta=delta, confidence=level)
    return Guesses(
        ins=ins,
        outs=outs,
        right=right,
        least_epsilon=asked(right=right),
        ceiling=asked(right=ins + outs),
        p_value=one_run.p_value(canaries=len(scores), guesses=ins + outs, right=right, epsilon=epsilon, delta=delta),
    )


def _roc(scores: np.ndarray, present: np.ndarray) -> tuple[tuple[tuple[float, float], ...], float]:
    """The curve over all thresholds, from (0, 0) to (1, 1), and the area under it (1/2 where one side is empty)."""
    chosen = present[np.argsort(-scores, kind="stable")]
    inside, outside = np.cumsum(chosen), np.cumsum(~chosen)
    if not inside[-1] or not outside[-1]:
        return ((0.0, 0.0), (1.0, 1.0)), 0.5
    true, false = np.concatenate([[0], inside / inside[-1]]), np.concatenate([[0], outside / outside[-1]])
    return tuple(zip(false.tolist(), true.tolist(), strict=True)), float(np.trapezoid(true, false))
