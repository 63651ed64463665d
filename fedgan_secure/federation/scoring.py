"""What the default run says of its own generator: a score on fresh phantoms, which cost nobody any privacy."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedgan_secure.data.loading import LoadSettings, load
from fedgan_secure.data.patients import PatientDataset
from fedgan_secure.data.phantoms import CLASSES, GRADES, PhantomSettings, write_hospitals
from fedgan_secure.evaluation.phantom_score import generator_score
from fedgan_secure.federation.pictures import generator_of
from fedgan_secure.models.spec import ModelSpec

PATIENTS_PER_HOSPITAL = 75


def phantom_score(
    trained: np.ndarray, untrained: np.ndarray, spec: ModelSpec, names: Sequence[str], preprocessing: str, seed: int
) -> dict[str, Any]:
    """The scores of `evaluation.phantom_score` for two vectors, float32[d], on phantoms that nobody trained on.

    Args:
        names: hospitals, each with its own camera.
        seed: of the run; the test phantoms are drawn from another one.

    Returns:
        ``trained`` and ``untrained``, each with ``tstr_accuracy`` (higher is better; None when unconditional) and
        ``feature_distance`` (lower is better).
    """
    test = fresh_phantoms(spec, names, preprocessing, seed + 1_000_003)
    return {
        which: generator_score(generator_of(vector, spec), spec, test, seed)
        for which, vector in (("trained", trained), ("untrained", untrained))
    }


def fresh_phantoms(spec: ModelSpec, names: Sequence[str], preprocessing: str, seed: int) -> PatientDataset:
    """Phantoms of every hospital's camera, drawn from `seed`, written and read back as a run's own are."""
    settings = PhantomSettings(patients=PATIENTS_PER_HOSPITAL, image_size=spec.image_size, seed=seed)
    wanted = LoadSettings(
        layout="dicom",
        image_size=spec.image_size,
        channels=spec.channels,
        preprocessing=preprocessing,
        label_names=GRADES,
        classes=CLASSES,
    )
    with tempfile.TemporaryDirectory(prefix="fedgan-secure-") as folder:
        folders = write_hospitals(Path(folder), names, settings)
        parts = [load(place, wanted).dataset for place in folders.values()]
    first = np.cumsum([0, *(part.patients for part in parts)])
    return PatientDataset(
        images=np.concatenate([part.pixels(np.arange(len(part))) for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        patient=np.concatenate([part.patient + start for part, start in zip(parts, first[:-1], strict=True)]).astype(
            np.int32
        ),
        classes=CLASSES,
    )
