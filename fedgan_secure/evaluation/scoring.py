"""What a run says of its own generator: a score on fresh phantoms, which cost nobody any privacy.

Never called with patients' images: there it would be a release that nothing pays for.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedgan_secure.data import PatientDataset
from fedgan_secure.data.phantoms import CLASSES, GRADES, PhantomSettings, write_hospitals
from fedgan_secure.data.reading import LoadSettings, load
from fedgan_secure.evaluation.images import split_patients
from fedgan_secure.evaluation.score import Draw, Effort, Progress, score_pictures
from fedgan_secure.models import ModelSpec

PATIENTS_PER_HOSPITAL = 75
"""Of a search's test phantoms."""
PATIENTS = 1640
"""Of a run's score, of all hospitals together: about 1,450 images to train the classifier with, as many as are
generated, and 1,500 to test on, as many as coverage and recall compare."""
EFFORT = Effort(pictures=1500, seeds=(1, 2), real_seeds=(1,), steps=600, batch=32)
"""Half of `evaluate`'s batch, and fewer classifiers: the end of a run should take less than a minute."""
TINY = 200
"""A run of fewer patients, of all hospitals together, is a trial of the machinery: its pictures are not worth more."""
TINY_EFFORT = Effort(pictures=200, seeds=(1, 2), real_seeds=(1,), steps=100, batch=32)
OTHER_PATIENTS = 1_000_003
"""Added to a run's seed: the phantoms of the score are other patients than those of the run."""


def phantom_score(
    draw: Draw,
    spec: ModelSpec,
    names: Sequence[str],
    preprocessing: str,
    seed: int,
    start_draw: Draw | None = None,
    progress: Progress | None = None,
    *,
    run_patients: int,
) -> dict[str, Any]:
    """Measure a generator on phantoms that nobody trained on.

    Args:
        draw: (labels int[n], seed) -> uint8[n, H, W, C]; a generator without classes is given zeros.
        spec: image size, channels and classes of the run.
        names: hospitals, each with its own camera.
        preprocessing: of the run.
        seed: of the run; the test phantoms are drawn from another one.
        start_draw: the public start alone, measured beside it.
        progress: told what is done.
        run_patients: of the run, of all hospitals together, as declared; below `TINY` there are fewer
            phantoms and pictures, and shorter trainings.

    Returns:
        JSON-ready, without NaN: see `Score.to_json`; the public start's figures begin with ``start_``, and
        ``sentence`` says what they mean.
    """
    tiny = run_patients < TINY
    patients = max((TINY if tiny else PATIENTS) // len(names), 2)
    phantoms = fresh_phantoms(spec, names, preprocessing, seed + OTHER_PATIENTS, patients)
    train, test = split_patients(phantoms, seed, share=0.49)
    effort = TINY_EFFORT if tiny else EFFORT
    return score_pictures(
        draw, train, test, spec.classes, effort=effort, seed=seed, start_draw=start_draw, progress=progress
    ).to_json()


def fresh_phantoms(
    spec: ModelSpec, names: Sequence[str], preprocessing: str, seed: int, patients: int = PATIENTS_PER_HOSPITAL
) -> PatientDataset:
    """Draw phantoms of every hospital's camera, write them and read them back as a run's own are.

    Args:
        spec: image size and channels.
        names: hospitals.
        preprocessing: of the images.
        seed: of the phantoms.
        patients: of every hospital.
    """
    settings = PhantomSettings(patients=patients, image_size=spec.image_size, seed=seed)
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
