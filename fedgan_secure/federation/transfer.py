"""Starting from another run's released model instead of from a seed (``--init-from``).

Weights are taken over by name where the shape agrees. The generator's last layer is adapted between grey and colour: a
grey one paints all three colours alike, a colour one is averaged. What belongs to a class is taken over by the class's
name (`class_weights`). The first trained layer of a discriminator that sees other channels starts from the seed.

What the other run cost its own patients is stated by its reports, and repeated in this run's; its released model is
post-processing here. A model that was trained without privacy starts a private run only where a person declares that
its images are public.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fedgan_audits.bundle import Bundle
from fedgan_audits.errors import VerificationFailed
from fedgan_audits.facts import Verification
from fedgan_audits.publishing import read_report, report_files
from fedgan_audits.verification import verify_run
from fedgan_secure.errors import InputError
from fedgan_secure.federation.class_weights import with_classes
from fedgan_secure.federation.fedavg import model_digest
from fedgan_secure.models import ModelSpec
from fedgan_secure.policy import CLAIMS, FederationPolicy

_DIGEST = re.compile(r"[0-9a-f]{64}")
MAY_DIFFER = ("channels", "classes")
"""What of the architecture a start from another run need not share."""


@dataclass(frozen=True)
class Initial:
    """A released model to start from.

    Attributes:
        run_id: the run that made it.
        digest: SHA-256 over both model files, hex.
        statement: one sentence on what pretraining saw and what it cost.
        spec: its architecture.
        weights: name -> float32 array.
        label_names: its classes in order; empty where its generator takes no label.
    """

    run_id: str
    digest: str
    statement: str
    spec: ModelSpec
    weights: dict[str, np.ndarray]
    label_names: tuple[str, ...] = ()


def read_initial(
    root: Path, no_privacy: bool, declared_public: str | None = None, trust: Sequence[str] = ()
) -> Initial:
    """Read ``public/model`` of a run (or of a copied ``public`` folder, or a bundle), once it verifies and is PASS.

    `trust` says whose model it is: files or folders with keys from elsewhere, as `audit verify` takes them, or the
    digest of the run's newest report (64 hexadecimal digits), which vouches for the weights.

    The statement carries the whole chain of earlier runs. A model that was trained without privacy starts a run that
    claims none (`no_privacy`), or one whose operator declares the images public (`declared_public`: which, in words).

    Raises:
        InputError: no run, no model in it, not PASS, no `trust`, or a declaration that does not fit (exit code 2).
        VerificationFailed: its reports or files do not verify, or not against `trust` (exit code 5).
    """
    public = root / "public" if (root / "public").is_dir() else root
    policy_file, folder = public / "policy.json", public / "model"
    if policy_file.is_file() and FederationPolicy.parse(policy_file.read_bytes()).start is not None:
        raise InputError(
            f"--init-from {root}: that run adapted a public start, and its networks are not trained further",
            hint="give --start with the same public start instead, or name a run that was trained with --start none",
        )
    paths = (folder / "generator.keras", folder / "discriminator.keras")
    missing = [path for path in (policy_file, *paths) if not path.is_file()]
    if missing:
        raise InputError(
            f"--init-from {root}: {missing[0]} does not exist; expected a run with at least one finished round",
            hint="give the folder of a finished run",
        )
    keys, head = _trusted(root, trust)
    verified = verify_run(root, trust=keys or None, transcript_check=None, head=head)
    if head is not None and verified.ok and verified.digests[-1] != head:
        raise VerificationFailed(
            f"--init-from {root}: its newest report is {verified.digests[-1]}, and the digest that you "
            "trust is an older report's",
            hint="give the digest of the newest report, as you received it from the run's people",
        )
    if not verified.ok:
        failed = next(check for check in verified.checks if check.outcome == "FAIL")
        raise VerificationFailed(
            f"--init-from {root} does not verify: {failed.name}: {failed.detail}",
            hint=f"see `fedgan-secure audit verify {root}`",
        )
    policy = FederationPolicy.parse(policy_file.read_bytes())
    _check_standing(root, policy, verified, no_privacy, declared_public)
    from fedgan_secure.networks import named_weights
    from fedgan_secure.synthesis import read_network

    spec = ModelSpec.from_json(policy.model)
    digest = hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in paths)).hexdigest()
    weights = {
        name: np.asarray(weight, dtype=np.float32)
        for model in (read_network(path, spec, path.stem) for path in paths)
        for name, weight in named_weights(model)
    }
    statement = _statement(public, policy, declared_public)
    names = policy.data.label_names if spec.conditional else ()
    return Initial(policy.run_id, digest, statement, spec, weights, names)


def _trusted(root: Path, trust: Sequence[str]) -> tuple[list[Path], str | None]:
    """The places with keys and the digest in `trust`; raises InputError where they prove nothing."""
    if not trust:
        raise InputError(
            f"--init-from {root}: nothing says whose model that is, and hostile weights would break the privacy proof",
            hint="give --trust KEYS (the keys of that run's hospitals, as you received them) or --trust DIGEST (of its "
            "newest report: `head` in `fedgan-secure audit verify RUN --json`, as its people tell it)",
        )
    heads = [item for item in trust if _DIGEST.fullmatch(item)]
    keys = [Path(item) for item in trust if item not in heads]
    if len(set(heads)) > 1:
        raise InputError("--trust: several digests are given, and a run has one newest report", hint="give one of them")
    for place in keys:
        if not place.exists():
            raise InputError(
                f"--trust {place}: there is no such file or folder, and it is no digest of 64 hexadecimal digits",
                hint="give key files, a folder with them, or the digest of the newest report",
            )
        if place.resolve().is_relative_to(root.resolve()):
            raise InputError(
                f"--trust {place}: these keys lie in the run itself, so they say nothing of whose it is",
                hint="give the keys as you received them from the run's hospitals, or the digest of its newest report",
            )
    return keys, heads[0] if heads else None


def _check_standing(
    root: Path, policy: FederationPolicy, verified: Verification, no_privacy: bool, declared_public: str | None
) -> None:
    unprotected = policy.flags.no_privacy or policy.flags.insecure_deterministic
    if declared_public is not None:
        if not 5 <= len(declared_public.strip()) <= 500 or not declared_public.isprintable():
            raise InputError(
                "--public-pretraining: expected 5 to 500 printable characters that name the public images",
                hint='for instance --public-pretraining "RSNA 2023 Abdominal Trauma, public"',
            )
        if claim := CLAIMS.search(declared_public):
            raise InputError(f"--public-pretraining says {claim.group()!r}, a claim that no report makes")
    if unprotected and not no_privacy and declared_public is None:
        raise InputError(
            f"--init-from {root}: that model was trained without privacy; this run would claim an epsilon for it",
            hint="start from a private run, give --no-privacy here too, or declare its images public: "
            "--public-pretraining WHICH",
        )
    verdict = verified.run["verdicts"][-1]
    if verdict != "PASS" and not (verdict == "STOP" and unprotected):
        raise InputError(
            f"--init-from {root}: the verdict of its last round is {verdict}, expected PASS",
            hint=f"see `fedgan-secure audit show {root}`; finish that run first, or start from another one",
        )


def _statement(public: Path, policy: FederationPolicy, declared_public: str | None) -> str:
    """What the first weights saw, whose, and at what cost, for the policy and every report of the new run."""
    report, digest = read_report(Bundle(public), list(report_files(public).values())[-1])
    if declared_public is not None:
        seen = f"on images that the operator declares public ({declared_public.strip()})"
    elif policy.data.phantoms:
        seen = "on phantoms (no patients)"
    else:
        seen = f"on patients of its hospitals {', '.join(policy.names)[:200]}"
    cost = "without privacy: epsilon is unbounded"
    if not policy.flags.no_privacy:
        cost = (
            f"at epsilon {report.privacy.epsilon}, delta {report.privacy.delta}, per {policy.mechanism.unit}, over "
            "everything in its hospitals' ledgers"
        )
    if policy.flags.insecure_deterministic:
        cost += " (with repeatable noise: the figure does not hold)"
    before = policy.initial_model.pretraining
    chain = "" if before == "none" else f"; before that: {before}"
    return f"run {policy.run_id}, trained {seen} {cost}, as its own reports say (the last one: {digest}){chain}"


@lru_cache(maxsize=4)
def seeded_start(spec: ModelSpec, seed: int) -> str:
    """The digest (hex) of the first model that a policy without pretraining fixes by its seed."""
    from fedgan_secure.networks import VectorLayout

    layout = VectorLayout.of(spec)
    return model_digest(layout.layout_hash, layout.initial_vector(seed)).hex()


def initial_vector(
    layout: Any, seed: int, initial: Initial | None, spec: ModelSpec, label_names: Sequence[str] = ()
) -> np.ndarray:
    """float32[d]: the seeded start, with every weight of `initial` that fits laid over it (see the module).

    `label_names`: the new run's classes in order.

    Raises:
        InputError: the architectures differ in more than channels and classes, naming what differs.
    """
    vector: np.ndarray = layout.initial_vector(seed)
    if initial is None:
        return vector
    mine, theirs = spec.to_json(), initial.spec.to_json()
    wrong = [f"{name} {theirs[name]} there, {mine[name]} here" for name in mine if mine[name] != theirs[name]]
    wrong = [text for text in wrong if text.split()[0] not in MAY_DIFFER]
    if wrong:
        raise InputError(
            f"--init-from: run {initial.run_id} has another architecture: {'; '.join(wrong)}",
            hint="start from a run with the same --image-size and training.latent_dim",
        )
    last = f"generator/g_up{spec.doublings - 1}/"
    for entry in layout.entries:
        weight = initial.weights.get(entry.name)
        if weight is not None and entry.name.startswith(last):
            weight = _recoloured(weight, entry.shape)
        elif weight is not None:
            fresh = vector[entry.start : entry.stop].reshape(entry.shape)
            own = with_classes(
                entry.name,
                fresh,
                weight,
                latent_dim=spec.latent_dim,
                mine=label_names if spec.conditional else (),
                theirs=initial.label_names,
                seed=seed,
            )
            weight = weight if own is None else own
        if weight is not None and tuple(weight.shape) == tuple(entry.shape):
            vector[entry.start : entry.stop] = weight.reshape(-1)
    return vector


def _recoloured(weight: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The weight of a layer that paints, for another number of channels: the axis that differs is repeated or
    averaged."""
    axes = [axis for axis, (old, new) in enumerate(zip(weight.shape, shape, strict=True)) if old != new]
    if len(axes) != 1:
        return weight
    mean = weight.mean(axis=axes[0], keepdims=True)
    return np.repeat(mean, shape[axes[0]], axis=axes[0]).astype(np.float32)
