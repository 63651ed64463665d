"""One run of one setting: a whole federation in a folder of its own, and its score. Loads TensorFlow when called.

A trial that was cut short goes on where its files say it stands: an attempted round is never run again, so that what
was reserved for the search is never exceeded.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from fedgan_secure.errors import InputError
from fedgan_secure.policy import RunSettings
from fedgan_secure.storage import read_json, write_json

RESULT = "trial.json"
"""What a finished trial gave, in its folder: a trial that ended just before a kill is not scored again."""
TEST_IMAGES = 600
TRAIN_IMAGES = 800
STEPS = 160
"""Of the classifier of `tstr` on phantoms: short, because a search trains one for every trial."""


@dataclass(frozen=True)
class Job:
    """What a worker is asked to do.

    Attributes:
        folder: the run's own, below the search's.
        settings: of the run, as JSON.
        objective: the experiment's [objective], as JSON.
        seed: of the run and its score.
        allowed: (sampling probability, noise multiplier, steps) that were reserved, or None where nothing was.
        patients_of: the lasting sites of the hospitals whose patients are trained on: who withdrew there is left out.
    """

    folder: Path
    settings: Mapping[str, Any]
    objective: Mapping[str, Any]
    seed: int
    allowed: tuple[float, float, int] | None = None
    patients_of: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "folder": str(self.folder), "settings": dict(self.settings), "objective": dict(self.objective),
            "seed": self.seed, "allowed": None if self.allowed is None else list(self.allowed),
            "patients_of": None if self.patients_of is None else str(self.patients_of),
        }  # fmt: skip

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Job:
        """Read what `to_json` wrote."""
        allowed = values["allowed"]
        return cls(
            Path(values["folder"]), values["settings"], values["objective"], int(values["seed"]),
            None if allowed is None else (float(allowed[0]), float(allowed[1]), int(allowed[2])),
            None if values.get("patients_of") is None else Path(values["patients_of"]),
        )  # fmt: skip


class _Quiet:
    """A display that shows nothing."""

    def update(self, task: str, done: int, total: int) -> None: ...

    def note(self, text: str) -> None: ...


def run_trial(job: Job) -> dict[str, Any]:
    """Run (or go on with) a trial and score it.

    Returns:
        ``score`` (None where no round was whole), ``epsilon`` of the whole schedule, ``noise_multiplier``, ``seconds``
        of this call, ``picture`` (the sheet of samples, or None), ``finished`` rounds.

    Raises:
        FedganError, AuditError: as a run does.
    """
    from fedgan_audits.accounting import accountant, budget
    from fedgan_secure.federation import Request, carry_on, resume, start

    begun = time.monotonic()
    kept = job.folder / RESULT
    if kept.exists():
        found: dict[str, Any] = read_json(kept, "result of a trial")
        return found
    settings = RunSettings.merged(dict(job.settings), {})
    if job.folder.exists() and not (job.folder / "public" / "policy.json").exists():
        if any(_spent(file) for file in job.folder.glob("site/*/ledger.sqlite")):
            raise InputError(
                f"{job.folder} has spent budget and no policy: a trial that was begun would be run again",
                hint="restore the search's folder from a backup; what was reserved for it is spent",
            )
        shutil.rmtree(job.folder)  # interrupted before its policy was written: nothing was done to anybody
    if job.folder.exists():
        federation = resume(job.folder, None)
    else:
        federation = start(Request(settings=settings, output=job.folder, patients_of=job.patients_of), None)
    try:
        policy = federation.policy
        mechanism = policy.mechanism
        total = mechanism.steps_per_round * policy.rounds
        if job.allowed is not None:
            q, sigma, steps = job.allowed
            if mechanism.sampling_probability > q or mechanism.noise_multiplier < sigma or total > steps:
                raise InputError(
                    "a trial would do more than was reserved for it; nothing was run",
                    hint="the search's files were changed, or made by another version: begin a new search",
                )
        outcome = carry_on(federation, _Quiet())
        planned = budget.repeated(policy.mechanism_record(), policy.rounds)
        epsilon = accountant.epsilon(planned, mechanism.delta)
    finally:
        federation.close()
    shutil.rmtree(job.folder / "phantoms", ignore_errors=True)
    pictures = sorted((job.folder / "public" / "samples").glob("round-*.png"))
    result = {
        "score": _finite(score_of(job)) if outcome.finished else None,
        "epsilon": epsilon if epsilon != float("inf") else None,
        "noise_multiplier": mechanism.noise_multiplier,
        "sampling_probability": mechanism.sampling_probability,
        "steps": total,
        "delta": mechanism.delta,
        "finished": outcome.finished,
        "rounds": policy.rounds,
        "seconds": round(time.monotonic() - begun, 3),
        "picture": None if not pictures else str(pictures[-1].relative_to(job.folder)),
    }
    write_json(kept, result, private=True)
    return result


def _spent(file: Path) -> bool:
    """Whether anything was reserved in a trial's own ledger: not where a kill came while it was being made."""
    from fedgan_audits.ledger import Ledger

    with Ledger.open(file, hospital=file.parent.name, create=True) as ledger:
        return bool(ledger.mechanisms())


def _finite(score: float) -> float | None:
    """A score that is no number counts as none: whether a search ends must not depend on it."""
    return score if math.isfinite(score) else None


def score_of(job: Job) -> float:
    """The objective of a finished run: a number that does not depend on any patient but through the released model."""
    from fedgan_secure.models import ModelSpec
    from fedgan_secure.policy import FederationPolicy

    policy = FederationPolicy.parse((job.folder / "public" / "policy.json").read_bytes())
    spec = ModelSpec.from_json(policy.model)
    if job.objective["measured_on"] == "phantoms":
        return _phantom_score(job, spec, policy.names)
    return _public_score(job, spec, policy)


@lru_cache(maxsize=4)
def _phantoms(spec: Any, names: tuple[str, ...], seed: int) -> Any:
    """Test phantoms, the same for every trial of a seed: drawn once in a worker's life."""
    from fedgan_secure.evaluation import fresh_phantoms

    return fresh_phantoms(spec, names, "fundus-crop/1", seed)


def _phantom_score(job: Job, spec: Any, names: tuple[str, ...]) -> float:
    """On phantoms that nobody trained on: distance of features, or accuracy of a classifier of generated images."""
    import numpy as np

    from fedgan_secure.data.phantoms import CLASSES
    from fedgan_secure.evaluation import LabelledImages, accuracy, feature_distance
    from fedgan_secure.networks import draw_images
    from fedgan_secure.synthesis import load_generator

    generator = load_generator(job.folder / "public" / "model" / "generator.keras")
    test = _phantoms(spec, names, job.seed + 1_000_003)
    rows = np.sort(np.random.default_rng(job.seed).permutation(len(test))[:TEST_IMAGES])
    if job.objective["metric"] == "tstr":
        if spec.classes != CLASSES:
            raise InputError(
                "objective.metric = tstr on phantoms needs a generator of the phantoms' grades",
                hint="choose feature_distance, or measure on public images",
            )
        labels = np.arange(TRAIN_IMAGES, dtype=np.int32) % spec.classes
        made = LabelledImages(draw_images(generator, spec, labels, TRAIN_IMAGES, job.seed), labels)
        real = LabelledImages(test.pixels(rows), np.asarray(test.labels)[rows])
        return float(accuracy(made, real, spec.classes, (job.seed,), STEPS).mean())
    asked = np.arange(TEST_IMAGES, dtype=np.int32) % spec.classes if spec.conditional else None
    return feature_distance(draw_images(generator, spec, asked, TEST_IMAGES, job.seed), test.pixels(rows))


def _public_score(job: Job, spec: Any, policy: Any) -> float:
    from fedgan_secure.evaluation import EvaluationRequest, evaluate_run

    objective = job.objective
    if objective["metric"] == "feature_distance":
        return _public_distance(job, spec, policy)
    result = evaluate_run(
        EvaluationRequest(
            run=job.folder, real=Path(objective["dataset"]), layout=objective["layout"], unit=objective["unit"],
            count=int(objective["count"]), seeds=1, steps=int(objective["steps"]), seed=job.seed + 1,
        )
    )  # fmt: skip
    if objective["metric"] == "realism":
        return float(result["realism"]["ratio"])
    if result["tstr"] is None:
        raise InputError(f"objective.metric = tstr: {result['tstr_missing_because']}", hint="choose another metric")
    return float(result["tstr"]["tstr"])


def _public_distance(job: Job, spec: Any, policy: Any) -> float:
    import numpy as np

    from fedgan_secure.data.reading import LoadSettings, load
    from fedgan_secure.evaluation import feature_distance
    from fedgan_secure.networks import draw_images
    from fedgan_secure.synthesis import load_generator

    objective = job.objective
    wanted = LoadSettings(
        layout=objective["layout"], image_size=spec.image_size, channels=spec.channels, unit=objective["unit"],
        preprocessing=policy.data.preprocessing,
    )  # fmt: skip
    dataset = load(Path(objective["dataset"]), wanted).dataset
    rows = np.sort(np.random.default_rng(job.seed).permutation(len(dataset))[: int(objective["count"])])
    asked = np.arange(int(objective["count"]), dtype=np.int32) % spec.classes if spec.conditional else None
    generator = load_generator(job.folder / "public" / "model" / "generator.keras")
    drawn = draw_images(generator, spec, asked, int(objective["count"]), job.seed)
    return feature_distance(drawn, dataset.pixels(rows))
