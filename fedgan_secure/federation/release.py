"""Images out of a run: drawn from its released generator, with what the reports say of it beside them."""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path
from typing import Any

import numpy as np

from fedgan_audits.manifest import read_report, report_files
from fedgan_audits.reading import Bundle
from fedgan_secure.errors import InputError
from fedgan_secure.generate import Provenance, write_dicom, write_png
from fedgan_secure.models.spec import ModelSpec
from fedgan_secure.policy import FederationPolicy


def draw(run: Path, *, count: int, form: str, label: str | None, output: Path, seed: int | None) -> dict[str, Any]:
    """Draw `count` images into `output` as PNG or DICOM.

    Raises:
        InputError: no finished round, an unknown label, or an `output` that is not empty.
    """
    public = run / "public" if (run / "public").is_dir() else run
    model = public / "model" / "generator.keras"
    if not (public / "policy.json").is_file():
        raise InputError(f"no such run: {run}", hint="give the folder that `fedgan-secure run` printed")
    if not model.is_file():
        raise InputError(f"{run} has no generator: no round of it was finished", hint="finish a round first")
    policy = FederationPolicy.parse((public / "policy.json").read_bytes())
    spec = ModelSpec.from_json(policy.model)
    labels = _labels(policy, count, label)
    from fedgan_secure.models.dcgan import draw_images, load_generator

    generator = load_generator(model)
    used = secrets.randbits(31) if seed is None else seed
    images = draw_images(generator, spec, labels, count, used)
    report, digest = read_report(Bundle(public), list(report_files(public).values())[-1])
    provenance = Provenance(
        run=policy.run_id,
        model_digest=hashlib.sha256(model.read_bytes()).hexdigest(),
        report_digest=digest,
        epsilon=report.verdict.spent,
        delta=f"{policy.mechanism.delta:g}",
        unit=policy.mechanism.unit,
        rounds=report.header.round,
        statement=_statement(policy),
    )
    write = write_png if form == "png" else write_dicom
    named = list(policy.data.label_names) or None
    files = write(output, images, None if labels is None else [int(item) for item in labels], provenance, named)
    return {
        "run_id": policy.run_id,
        "count": count,
        "format": form,
        "output": str(output),
        "files": len(files),
        "epsilon": provenance.epsilon,
        "delta": provenance.delta,
        "model_digest": provenance.model_digest,
        "report_digest": provenance.report_digest,
    }


def _labels(policy: FederationPolicy, count: int, label: str | None) -> np.ndarray | None:
    names = policy.data.label_names
    if not names:
        if label is not None:
            raise InputError(f"--label {label}: this generator takes no label", hint="leave --label out")
        return None
    if label is None:
        return np.arange(count, dtype=np.int32) % len(names)
    if label in names:
        number = names.index(label)
    elif label.isdigit() and int(label) < len(names):
        number = int(label)
    else:
        raise InputError(f"--label {label}: no such label", hint=f"expected one of: {', '.join(names)}")
    return np.full(count, number, dtype=np.int32)


def _statement(policy: FederationPolicy) -> str:
    """What a person who finds the images should know of where they come from."""
    parts = ["Synthetic images; no patient is shown."]
    if policy.data.phantoms:
        parts.append("The generator was trained on phantoms that the software drew, not on patients.")
    if policy.flags.no_privacy:
        parts.append("It was trained WITHOUT differential privacy: its images may show what it was trained on.")
    if policy.flags.insecure_deterministic:
        parts.append("Its noise was repeatable: no privacy figure holds.")
    if policy.initial_model.pretraining != "none":
        parts.append(f"It started from {policy.initial_model.pretraining}.")
    return " ".join(parts)
