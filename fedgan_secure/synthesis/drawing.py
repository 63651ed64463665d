"""Images out of a run: drawn from its released generator, with what the reports say of it beside them.

The figures that go into every file are those of reports that were verified first; what stands against exporting the run
is said beside them.
"""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path
from typing import Any

import numpy as np

from fedgan_secure.errors import InputError
from fedgan_secure.models import read_spec
from fedgan_secure.policy import FederationPolicy
from fedgan_secure.release import Judgement, judge
from fedgan_secure.synthesis.generate import Provenance, sheet_name, write_images
from fedgan_secure.synthesis.layouts import FLAT, LAYOUTS, forms_of


def draw(
    run: Path, *, count: int, output: Path, form: str | None, layout: str, label: str | None, seed: int | None
) -> dict[str, Any]:
    """Draw `count` images into `output`.

    Args:
        form: png, jpeg, dicom or npz; None: the layout's own.
        layout: ``auto`` (the one that the run was trained from), ``flat``, or one of the loaders' layouts.
        label: only this one, or None for all in turn.
        seed: of the noise vectors; None: fresh ones.

    Raises:
        InputError: no finished round, an unknown label or layout, or an `output` that is not empty.
        VerificationFailed: the run does not verify, so nothing could be said of where the images come from.
    """
    public = run / "public" if (run / "public").is_dir() else run
    model = public / "model" / "generator.keras"
    if not (public / "policy.json").is_file():
        raise InputError(f"no such run: {run}", hint="give the folder that `fedgan-secure run` printed")
    if not model.is_file():
        raise InputError(f"{run} has no generator: no round of it was finished", hint="finish a round first")
    policy = FederationPolicy.parse((public / "policy.json").read_bytes())
    spec = read_spec(policy.model)
    labels = _labels(policy, count, label)
    judgement = judge(run)
    chosen, form, notes = _layout(layout, form, judgement, phantoms=policy.data.phantoms)
    from fedgan_secure.networks import draw_images
    from fedgan_secure.synthesis.loading import load_generator

    generator = load_generator(model, spec)
    used = secrets.randbits(31) if seed is None else seed
    images = draw_images(generator, spec, labels, count, used)
    report = judgement.report
    provenance = Provenance(
        run=policy.run_id,
        model_digest=hashlib.sha256(model.read_bytes()).hexdigest(),
        report_digest=judgement.digest,
        epsilon=report.verdict.spent,
        delta=f"{policy.mechanism.delta:g}",
        unit=policy.mechanism.unit,
        rounds=report.header.round,
        statement=_statement(policy, judgement),
    )
    files = write_images(
        output,
        images,
        None if labels is None else [int(item) for item in labels],
        provenance,
        list(policy.data.label_names) or None,
        layout=chosen,
        form=form,
        preprocessing=policy.data.preprocessing,
    )
    return {
        "run_id": policy.run_id,
        "count": count,
        "format": form,
        "layout": chosen,
        "output": str(output),
        "sheet": str(output / sheet_name(chosen)),
        "files": len(files),
        "epsilon": provenance.epsilon,
        "delta": provenance.delta,
        "model_digest": provenance.model_digest,
        "report_digest": provenance.report_digest,
        "gate": "PASS" if judgement.passed else "not PASS",
        "objections": list(judgement.objections),
        "notes": notes,
    }


def _layout(asked: str, form: str | None, judgement: Judgement, *, phantoms: bool) -> tuple[str, str, list[str]]:
    """Which layout and file type to write, and what a person should know of the choice."""
    if asked != "auto":
        return asked, form or forms_of(asked)[0], []
    trained = judgement.report.data.facts.layouts
    if phantoms or len(trained) != 1 or trained[0] not in LAYOUTS:
        return FLAT, form or forms_of(FLAT)[0], []
    own = trained[0]
    if form is not None and form not in forms_of(own):
        note = f"the layout {own}, from which the run was trained, has no {form} files: numbered files were written"
        return FLAT, form, [note]
    return own, form or forms_of(own)[0], []


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


def _statement(policy: FederationPolicy, judgement: Judgement) -> str:
    """What a person who finds the images should know of where they come from."""
    parts = ["Synthetic images: none was taken of a patient."]
    if policy.start is not None:
        parts.append(policy.start.statement)
    if policy.data.phantoms:
        adapted = "The generator was adapted to phantoms that the software drew, not to patients."
        trained = "The generator was trained on phantoms that the software drew, not on patients."
        parts.append(trained if policy.start is None else adapted)
    if policy.flags.no_privacy:
        done = "trained" if policy.start is None else "adapted"
        parts.append(f"It was {done} WITHOUT differential privacy: its images may show what it was trained on.")
    if policy.flags.insecure_deterministic:
        parts.append("Its noise was repeatable: no privacy figure holds.")
    if policy.initial_model.pretraining != "none":
        parts.append(f"It started from {policy.initial_model.pretraining}.")
    if judgement.unfinished:
        parts.append("When they were drawn, the run was not PASS: " + " ".join(judgement.unfinished))
    elif judgement.private and not (policy.flags.no_privacy or policy.flags.insecure_deterministic):
        parts.append("The run was not PASS: " + " ".join(judgement.private))
    return " ".join(parts)
