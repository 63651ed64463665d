"""What a search found: its trials as points, the front that no other point beats, the chosen one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedgan_secure.errors import InputError
from fedgan_secure.tuning.directory import SearchDirectory
from fedgan_secure.tuning.experiment import Experiment
from fedgan_secure.tuning.search import RESULTS, experiment_of, open_study
from fedgan_secure.tuning.space import KEYS, Value

# Two-sided 95 % quantiles of Student's t for 1 to 19 degrees of freedom: seeds are few.
_STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093,
)  # fmt: skip


@dataclass(frozen=True)
class Tried:
    """One trial with a score.

    Attributes:
        number: of the trial, from 0.
        setting: what was searched.
        scores: one for every seed.
        epsilon: of one run of the setting, on its whole schedule; None without noise.
        delta: of it.
        noise_multiplier, sampling_probability, steps: of one run.
        minutes: of all its runs, wall time.
        pictures: the last sheet of samples of every run, where there is one.
        lost: rounds that its runs lost, to an interruption or a kill.
    """

    number: int
    setting: dict[str, Value]
    scores: tuple[float, ...]
    epsilon: float | None
    delta: float
    noise_multiplier: float
    sampling_probability: float
    steps: int
    minutes: float
    pictures: tuple[Path, ...]
    lost: int = 0

    @property
    def score(self) -> float:
        """The mean over the seeds."""
        return sum(self.scores) / len(self.scores)

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the mean over seeds (Student's t); None for one seed."""
        count = len(self.scores)
        if count < 2:
            return None
        mean = self.score
        deviation = math.sqrt(sum((one - mean) ** 2 for one in self.scores) / (count - 1))
        half = _STUDENT[min(count - 1, len(_STUDENT)) - 1] * deviation / math.sqrt(count)
        return mean - half, mean + half


@dataclass(frozen=True)
class Found:
    """All of a search's outcome; `tried` has the winner alone where nothing else may be shown."""

    experiment: Experiment
    info: dict[str, Any]
    tried: tuple[Tried, ...]
    failed: int | None
    best: Tried | None

    @property
    def front(self) -> tuple[Tried, ...]:
        """The trials that no other beats in both epsilon and score, by epsilon."""
        return front(self.tried, minimise=self.experiment.minimise)


def front(tried: Sequence[Tried], *, minimise: bool) -> tuple[Tried, ...]:
    """The Pareto front of `tried`: less epsilon is better, and a better score; in the order of epsilon.

    Epsilons that are the same to three digits count as one: noise that is calibrated to a target stays a little below
    it, here more and there less.
    """
    found: list[Tried] = []
    sign = 1 if minimise else -1
    for one in sorted(
        tried, key=lambda t: (math.inf if t.epsilon is None else float(f"{t.epsilon:.3g}"), sign * t.score)
    ):
        if not found or sign * one.score < sign * found[-1].score:
            found.append(one)
    return tuple(found)


def read(directory: SearchDirectory) -> Found:
    """What a search found. Raises InputError where it has not ended and may show its winner alone."""
    info = directory.read()
    experiment = experiment_of(info)
    if not directory.study.exists():
        raise InputError(f"the search {directory.root} has tried nothing yet", hint="resume it first")
    if experiment.winner_alone and info["status"] != "complete":
        raise InputError(
            "the search is not complete, and only the winner of all of its trials may be shown",
            hint=f"fedgan-secure tune --resume {directory.root}",
        )
    study = open_study(directory, experiment, 0)
    tried, failed = [], 0
    for trial in study.trials:
        if trial.value is None:
            failed += trial.state.is_finished()
            continue
        tried.append(_tried(directory, experiment, trial))
    sign = 1 if experiment.minimise else -1
    best = min(tried, key=lambda one: sign * one.score, default=None)
    if experiment.winner_alone:
        return Found(experiment, info, () if best is None else (best,), None, best)
    return Found(experiment, info, tuple(tried), failed, best)


def _tried(directory: SearchDirectory, experiment: Experiment, trial: Any) -> Tried:
    results = trial.user_attrs[RESULTS]
    first = results[0]
    pictures = tuple(
        directory.run(trial.number, seed) / result["picture"]
        for seed, result in enumerate(results, start=1)
        if result["picture"] is not None
    )
    return Tried(
        number=trial.number,
        setting={key: KEYS[key](trial.params[key]) for key in experiment.parsed},
        scores=tuple(float(result["score"]) for result in results),
        epsilon=first["epsilon"],
        delta=float(first["delta"]),
        noise_multiplier=float(first["noise_multiplier"]),
        sampling_probability=float(first["sampling_probability"]),
        steps=int(first["steps"]),
        minutes=sum(float(result["seconds"]) for result in results) / 60,
        pictures=tuple(path for path in pictures if path.is_file()),
        lost=sum(int(result["rounds"]) - int(result["finished"]) for result in results),
    )
