"""The measurements of `fedgan-secure evaluate`: a finished run's public generator against real images.

What comes out is a function of real images that no mechanism protects: it stays with the researcher.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from fedgan_secure.data import PatientDataset
from fedgan_secure.data.reading import LoadSettings, load
from fedgan_secure.errors import InputError
from fedgan_secure.evaluation.images import split_patients
from fedgan_secure.evaluation.realism import realism
from fedgan_secure.evaluation.score import Draw, Effort, Measured, Progress, Score, score_pictures
from fedgan_secure.models import AdaptedSpec, AnySpec, ModelSpec, read_spec
from fedgan_secure.networks import build_generator, draw_images
from fedgan_secure.synthesis import load_generator

JUDGE = "training the judge of realism"


@dataclass(frozen=True)
class EvaluationRequest:
    """What to measure: the run's folder, the real images and how they lie, and how much work to spend."""

    run: Path
    real: Path
    layout: str = "auto"
    unit: str = "patient"
    count: int = 2000
    seeds: int = 3
    steps: int = 600
    seed: int = 1


def evaluate_run(request: EvaluationRequest, progress: Progress | None = None) -> dict[str, Any]:
    """Load a run's generator and the real images, and measure.

    Args:
        request: what to measure.
        progress: told what is done.

    Returns:
        What `measure` returns.

    Raises:
        InputError: the folder holds no finished run, or the real images cannot be used with its generator.
    """
    public = request.run / "public" if (request.run / "public").is_dir() else request.run
    policy_file = public / "policy.json"
    if not policy_file.is_file():
        raise InputError(f"no such run: {request.run}", hint="give the folder that `fedgan-secure run` printed")
    try:
        policy = json.loads(policy_file.read_bytes())
        described, data = policy["model"], policy.get("data", {})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{policy_file} is not the policy of a run") from error
    spec = read_spec(described)
    generator = load_generator(public / "model" / "generator.keras", spec)
    loaded = load(
        request.real,
        LoadSettings(
            layout=request.layout,
            image_size=spec.image_size,
            channels=spec.channels,
            unit=cast(Literal["patient", "image"], request.unit),
            preprocessing=data.get("preprocessing", "auto"),
            label_names=tuple(data.get("label_names", ())) or None,
            classes=spec.classes or None,
        ),
        progress,
    )
    untrained, start = None, None
    if isinstance(spec, AdaptedSpec):
        start = start_alone(spec)
    elif isinstance(spec, ModelSpec):
        untrained = drawing(build_generator(spec, request.seed), spec)
    return measure(drawing(generator, spec), loaded.dataset, request, spec.classes, untrained, start, progress)


def start_alone(spec: AdaptedSpec) -> Draw | None:
    """Return what draws pictures of a model's public start alone; None where it is not one that comes with us."""
    from fedgan_secure.adaptation import StartAlone
    from fedgan_secure.starts import SHIPPED, shipped_start

    known = (shipped_start(name) for name in SHIPPED)
    found = next((start for start in known if start.digest == spec.start_sha256), None)
    return None if found is None else StartAlone(spec, found)


def drawing(generator: Any, spec: AnySpec) -> Draw:
    """Return a function that draws from a generator of this specification: (labels, seed) -> uint8[n, H, W, C]."""

    def draw(labels: np.ndarray, seed: int) -> np.ndarray:
        return draw_images(generator, spec, labels if spec.conditional else None, len(labels), seed)

    return draw


def measure(
    draw: Draw,
    dataset: PatientDataset,
    request: EvaluationRequest,
    classes: int,
    untrained: Draw | None = None,
    start_draw: Draw | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a generator against real images in memory.

    Args:
        draw: the generator; see `score.Draw`.
        dataset: real images of at least two patients; a half of them is trained with, the other tested on.
        request: how much work to spend.
        classes: of the generator; 0 where it takes none.
        untrained: the floor of realism; without it realism is not measured.
        start_draw: the public start alone, measured beside it.
        progress: told what is done.

    Returns:
        JSON-ready: ``tstr`` and ``diversity`` (the attributes of `TstrResult` and `Diversity`; ``tstr`` is None where
        there is nothing to measure it with, and ``tstr_missing_because`` says why), ``start`` (the same two keys, or
        None), ``gain_over_start`` and ``gain_over_start_interval_95`` with a start, ``realism`` (or None),
        ``real_images``, ``real_training_images``, ``real_test_images``, ``generated_images``, ``embedding`` and
        ``sentence``, what the figures mean.

    Raises:
        InputError: there are fewer than two patients, or sizes differ.
    """
    train, test = split_patients(dataset, request.seed)
    seeds = tuple(range(1, request.seeds + 1))
    effort = Effort(request.count, seeds, seeds, request.steps)
    score = score_pictures(
        draw, train, test, classes, effort=effort, seed=request.seed, start_draw=start_draw, progress=progress
    )
    judged = None
    if untrained is not None:
        if progress is not None:
            progress(JUDGE, 0, 1)
        asked = np.arange(request.count, dtype=np.int32) % max(classes, 1)
        pairs = [
            (one(asked, request.seed), one(asked, request.seed + 1)) for one in (draw, untrained)
        ]  # fmt: skip
        judged = realism(
            (train.images, test.images), *pairs, seed=request.seed, steps=max(request.steps // 2, 10)
        ).to_json()
        if progress is not None:
            progress(JUDGE, 1, 1)
    return {**_nested(score), "real_images": len(dataset), "realism": judged}


def _nested(score: Score) -> dict[str, Any]:
    """Return a score with its parts under keys of their own."""

    def parts(measured: Measured) -> dict[str, Any]:
        usefulness = None if measured.tstr is None else measured.tstr.to_json()
        return {"tstr": usefulness, "diversity": measured.diversity.to_json()}

    flat = score.to_json()
    result = {
        **parts(score.made),
        "start": None if score.start is None else parts(score.start),
        "real_training_images": score.real_training_images,
        "real_test_images": score.real_images,
        **{key: flat[key] for key in ("generated_images", "embedding", "sentence")},
    }
    optional = ("tstr_missing_because", "gain_over_start", "gain_over_start_interval_95")
    return {**result, **{key: flat[key] for key in optional if key in flat}}
