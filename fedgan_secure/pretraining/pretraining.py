"""Make a public start: train both networks on public pictures, measure them, and write the file.

Nothing here is private and nothing here may see a patient of a run: what it trains on is public or declared so.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from fedgan_secure.errors import InputError
from fedgan_secure.interruption import Interruption
from fedgan_secure.networks import BATCH, to_unit, weights_of
from fedgan_secure.pretraining.feature_training import FeaturePhase
from fedgan_secure.pretraining.generator_training import GeneratorPhase, Players
from fedgan_secure.pretraining.phases import Progress, claim_folder, run_phase
from fedgan_secure.pretraining.public_set import PublicSet
from fedgan_secure.pretraining.public_statistics import public_statistics
from fedgan_secure.starts import IMAGE_SIZE, LATENT, metadata_text, start_bytes
from fedgan_secure.storage import explain_disk, sole_owner, write_bytes

FEATURE_STEPS = 2500
GENERATOR_STEPS = 16_600
FIRST_PART = 0.41
"""Part of the generator's steps that is made before the feature network joins."""
STATISTICS_PICTURES = 6000
MEASURED = 1000
VERSION = 1


@dataclass(frozen=True)
class PretrainSettings:
    """How to train a start: its name, steps and pictures a step of both networks, and the seed.

    Raises:
        InputError: for a number out of range.
    """

    name: str = "own/1"
    feature_steps: int = FEATURE_STEPS
    generator_steps: int = GENERATOR_STEPS
    feature_batch: int = 128
    generator_batch: int = 64
    seed: int = 1

    def __post_init__(self) -> None:
        limits = {"feature_steps": 10**6, "generator_steps": 10**6, "feature_batch": 4096, "generator_batch": 4096}
        for key, most in limits.items():
            least = 1 if key.startswith("feature") else 2
            if not least <= getattr(self, key) <= most:
                raise InputError(f"{key} is {getattr(self, key)}, expected {least} to {most}")
        if not 0 <= self.seed < 2**30:
            raise InputError(f"the seed is {self.seed}, expected 0 to {2**30 - 1}")

    @property
    def parts(self) -> tuple[int, int]:
        """Steps of the generator's two parts."""
        first = min(max(1, round(FIRST_PART * self.generator_steps)), self.generator_steps - 1)
        return first, self.generator_steps - first


def pretrain(
    public: PublicSet,
    settings: PretrainSettings,
    output: Path,
    *,
    progress: Progress | None = None,
    interruption: Interruption | None = None,
) -> dict[str, Any]:
    """Train a start on public pictures and write it to `output`.

    What was trained so far is kept in the folder ``OUTPUT.parts``, so the same command goes on after a kill; the folder
    is removed at the end.

    Args:
        public: pictures of nobody in a run.
        settings: name, steps, seed.
        output: a file that does not exist.
        progress: called with (task, done, total).
        interruption: looked at before every step.

    Returns:
        ``file``, ``digest``, ``name``, ``statement``, ``figures``.

    Raises:
        InputError: the output exists, its parts are of another training, or a value that no start may have.
        KeyboardInterrupt: the operator asked to stop; what was trained is kept.
    """
    metadata = _metadata(public, settings, {})
    metadata_text(metadata)  # refuse a name or label now, not after hours
    refuse_existing(output)
    parts = output.with_name(f"{output.name}.parts")
    with explain_disk(parts):
        parts.mkdir(parents=True, exist_ok=True)
    with sole_owner(parts / "lock", f"the training in {parts}"):
        claim_folder(parts, {**asdict(settings), "version": VERSION, "pictures": public.fingerprint()})
        network, generator = _train(public, settings, parts, progress, interruption or Interruption())
        statistics = _statistics(public, network, settings.seed)
        metadata = _metadata(public, settings, _measure(public, network, generator, settings.seed))
        data = start_bytes(metadata, weights_of(generator, network), statistics, public.digests)
        write_bytes(output, data)
    shutil.rmtree(parts, ignore_errors=True)
    return {
        "file": str(output),
        "digest": hashlib.sha256(data).hexdigest(),
        "name": settings.name,
        "statement": metadata["statement"],
        "figures": metadata["figures"],
    }


def refuse_existing(output: Path) -> None:
    """Refuse to write where a file is already.

    Raises:
        InputError: the file exists, or its folder does not.
    """
    if output.exists():
        raise InputError(f"{output} exists already", hint="choose another --output, or move it away first")
    if not output.parent.is_dir():
        raise InputError(f"no such folder: {output.parent}", hint="make it first")


def _train(
    public: PublicSet, settings: PretrainSettings, parts: Path, progress: Progress | None, interruption: Interruption
) -> tuple[keras.Model, keras.Model]:
    """Return the trained feature network and the averaged generator."""
    features = FeaturePhase(public, steps=settings.feature_steps, batch=settings.feature_batch, seed=settings.seed)
    run_phase(features, parts, progress, interruption)
    players = Players(public, settings.seed)
    for part, steps in enumerate(settings.parts, start=1):
        phase = GeneratorPhase(
            part,
            players,
            public,
            steps=steps,
            batch=settings.generator_batch,
            seed=settings.seed,
            guide=features.network if part == 2 else None,
        )
        run_phase(phase, parts, progress, interruption)
        players.use_average()
    return features.network, players.generator


def _statistics(public: PublicSet, network: keras.Model, seed: int) -> dict[str, NDArray[np.float32]]:
    rows = np.random.default_rng(seed).permutation(public.training)
    chosen, rest = rows[:STATISTICS_PICTURES], rows[STATISTICS_PICTURES:]
    rare = ~np.isin(public.labels[rest], public.labels[chosen])  # every class needs a mean
    chosen = np.concatenate([chosen, rest[rare]])
    return public_statistics(_raw(network, public.images, chosen), public.labels[chosen], public.architecture)


def _measure(public: PublicSet, network: keras.Model, generator: keras.Model, seed: int) -> dict[str, Any]:
    """Measure on pictures that were not trained on, and on generated ones."""
    classes, outputs = public.architecture.classes, public.architecture.outputs

    def share(raw: NDArray[np.float32], labels: NDArray[np.int32]) -> float:
        grade = raw[:, -outputs:][:, :classes].argmax(axis=1)
        return round(float((grade == labels).mean()), 3)

    asked = np.arange(MEASURED, dtype=np.int32) % classes
    z = np.random.default_rng(seed).standard_normal((MEASURED, LATENT), dtype=np.float32)
    pictures = np.concatenate(
        [
            np.asarray(generator([z[first : first + BATCH], asked[first : first + BATCH, None]], training=False))
            for first in range(0, MEASURED, BATCH)
        ]
    )
    levels = np.clip(np.rint((pictures + 1.0) * 127.5), 0, 255).astype(np.uint8)
    held_out = public.labels[public.held_out]
    return {
        "grade_accuracy_held_out": share(_raw(network, public.images, public.held_out), held_out),
        "held_out_pictures": len(held_out),
        "grade_agreement_generated": share(_raw(network, levels, np.arange(MEASURED)), asked),
        "generated_pictures": MEASURED,
    }


def _raw(network: keras.Model, images: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    parts = [
        np.asarray(network(to_unit(tf.constant(images[rows[first : first + BATCH]])), training=False))
        for first in range(0, len(rows), BATCH)
    ]
    return np.concatenate(parts)


def _metadata(public: PublicSet, settings: PretrainSettings, figures: Mapping[str, Any]) -> dict[str, Any]:
    architecture = public.architecture
    statement = (
        f"The public start {settings.name} was trained without privacy on {public.origin}; "
        "anatomy, sharpness and the shapes in the generated pictures come from it"
    )
    made = {
        **public.made,
        "pictures": len(public.training),
        "statistics_pictures": min(len(public.training), STATISTICS_PICTURES),
        "trained_with": "fedgan-secure pretrain (TensorFlow)",
        "pretraining_version": VERSION,
        **asdict(settings),
    }
    return {
        "name": settings.name,
        "image_size": IMAGE_SIZE,
        "channels": architecture.channels,
        "classes": architecture.classes,
        "counts": architecture.counts,
        "label_names": list(public.label_names),
        "statement": statement + ".",
        "figures": dict(figures),
        "made": made,
    }
