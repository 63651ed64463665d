"""Starting from another run's released model instead of from a seed (``--init-from``).

Weights are taken over by name where the shape agrees; the rest starts from the seed. What a released model may cost
its own patients is stated by that run's reports; it is post-processing here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fedgan_audits.verify import verify_run
from fedgan_secure.errors import InputError
from fedgan_secure.federation.fedavg import model_digest
from fedgan_secure.models.spec import ModelSpec
from fedgan_secure.policy import FederationPolicy


@dataclass(frozen=True)
class Initial:
    """A released model to start from.

    Attributes:
        run_id: the run that made it.
        digest: SHA-256 over both model files, hex.
        statement: one sentence on what pretraining saw.
        weights: name -> float32 array.
    """

    run_id: str
    digest: str
    statement: str
    weights: dict[str, np.ndarray]


def read_initial(root: Path, no_privacy: bool) -> Initial:
    """Read ``public/model`` of a run (or of a copied ``public`` folder), once its reports and files verify.

    The statement carries the whole chain of earlier runs. A model that was trained without privacy starts only a run
    that claims none (`no_privacy`).

    Raises:
        InputError: no run, or no model in it.
    """
    public = root / "public" if (root / "public").is_dir() else root
    policy_file, folder = public / "policy.json", public / "model"
    paths = (folder / "generator.keras", folder / "discriminator.keras")
    missing = [path for path in (policy_file, *paths) if not path.is_file()]
    if missing:
        raise InputError(
            f"--init-from {root}: {missing[0]} does not exist; expected a run with at least one finished round",
            hint="give the folder of a finished run",
        )
    verified = verify_run(root, trust=None, transcript_check=None)
    if not verified.ok:
        failed = next(check for check in verified.checks if check.outcome == "FAIL")
        raise InputError(
            f"--init-from {root} does not verify: {failed.name}: {failed.detail}",
            hint=f"see `fedgan-secure audit verify {root}`",
        )
    policy = FederationPolicy.parse(policy_file.read_bytes())
    if (policy.flags.no_privacy or policy.flags.insecure_deterministic) and not no_privacy:
        raise InputError(
            f"--init-from {root}: that model was trained without privacy; this run would claim an epsilon for it",
            hint="start from a private run, or give --no-privacy here too",
        )
    from fedgan_secure.models.dcgan import load_generator
    from fedgan_secure.models.vectors import named_weights

    digest = hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in paths)).hexdigest()
    weights = {
        name: np.asarray(weight, dtype=np.float32)
        for model in map(load_generator, paths)
        for name, weight in named_weights(model)
    }
    seen = "phantoms (no patients)" if policy.data.phantoms else "patients, accounted in that run's own reports"
    before = policy.initial_model.pretraining
    chain = f"run {policy.run_id}, trained on {seen}" + ("" if before == "none" else f"; before that: {before}")
    return Initial(policy.run_id, digest, chain, weights)


@lru_cache(maxsize=4)
def seeded_start(spec: ModelSpec, seed: int) -> str:
    """The digest (hex) of the first model that a policy without pretraining fixes by its seed."""
    from fedgan_secure.models.vectors import VectorLayout

    layout = VectorLayout.of(spec)
    return model_digest(layout.layout_hash, layout.initial_vector(seed)).hex()


def initial_vector(layout: Any, seed: int, initial: Initial | None, spec: ModelSpec) -> np.ndarray:
    """float32[d]: the seeded start, with every weight of `initial` that has the same name and shape laid over it.

    Raises:
        InputError: nothing of `initial` fits this run's networks.
    """
    vector: np.ndarray = layout.initial_vector(seed)
    if initial is None:
        return vector
    taken = 0
    for entry in layout.entries:
        weight = initial.weights.get(entry.name)
        if weight is not None and tuple(weight.shape) == tuple(entry.shape):
            vector[entry.start : entry.stop] = weight.reshape(-1)
            taken += entry.stop - entry.start
    if not taken:
        raise InputError(
            f"--init-from: no weight of run {initial.run_id} fits a {spec.image_size}-pixel model",
            hint="start from a run with the same --image-size and --channels",
        )
    return vector
