"""The measurements of `fedgan-secure evaluate`: a finished run's public generator against real images.

What comes out is a function of real images that no mechanism protects: it stays with the researcher.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from fedgan_secure.data import LoadSettings, load
from fedgan_secure.data.patients import PatientDataset
from fedgan_secure.errors import InputError
from fedgan_secure.evaluation.realism import realism
from fedgan_secure.evaluation.tstr import LabelledImages, split_patients, tstr
from fedgan_secure.models.dcgan import build_generator, draw_images, load_generator
from fedgan_secure.models.spec import ModelSpec, read_spec


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


def evaluate_run(request: EvaluationRequest) -> dict[str, Any]:
    """Load a run's generator and the real images, and measure.

    Returns:
        JSON-ready: ``tstr`` (None where there is nothing to measure it with, then ``tstr_missing_because``),
        ``realism``, ``real_images``, ``generated_images``.

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
    )
    return measure(generator, spec, loaded.dataset, request)


def measure(generator: Any, spec: ModelSpec, dataset: PatientDataset, request: EvaluationRequest) -> dict[str, Any]:
    """As `evaluate_run`, for a generator and a data set in memory."""
    if dataset.patients < 2:
        raise InputError("the real images are of fewer than two patients", hint="name a larger set")
    untrained = build_generator(spec, request.seed)
    asked = np.arange(request.count, dtype=np.int32) % spec.classes if spec.conditional else None

    def drawn(model: Any, seed: int) -> np.ndarray:
        return draw_images(model, spec, asked, request.count, seed)

    first, second = drawn(generator, request.seed), drawn(generator, request.seed + 1)
    sides = _halves(dataset, request.seed)
    judged = realism(
        sides,
        (first, second),
        (drawn(untrained, request.seed), drawn(untrained, request.seed + 1)),
        seed=request.seed,
        steps=max(request.steps // 2, 10),
    )
    result: dict[str, Any] = {
        "real_images": len(dataset),
        "generated_images": request.count,
        "realism": judged.to_json(),
        "tstr": None,
    }
    if not spec.conditional:
        result["tstr_missing_because"] = "the generator is unconditional"
    elif not (np.asarray(dataset.labels) >= 0).any():
        result["tstr_missing_because"] = "the real images have no labels"
    else:
        train, test = split_patients(dataset, request.seed)
        measured = tstr(
            LabelledImages(first, cast(np.ndarray, asked)),
            train,
            test,
            spec.classes,
            seeds=tuple(range(1, request.seeds + 1)),
            steps=request.steps,
        )
        result["tstr"] = measured.to_json()
    return result


def _halves(dataset: PatientDataset, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The pixels of a random half of the patients, and of the others."""
    order = np.random.default_rng(seed).permutation(dataset.patients)
    first = np.isin(np.asarray(dataset.patient), order[: dataset.patients // 2])
    return dataset.pixels(np.flatnonzero(first)), dataset.pixels(np.flatnonzero(~first))
