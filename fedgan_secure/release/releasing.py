"""A release bundle: a run's weights with everything that says where they come from and what they may cost.

```
BUNDLE/
  MODEL_CARD.md     what the model is, from which data as declared, what it is for, what is not shown
  PRIVACY.md        the statement: epsilon, delta, unit, mechanism, assumptions
  release.json      the same for programs: digests of every file, the gate's outcome, an override
  public/           the run's public folder as the hospitals signed it: weights (model/*.keras), policy, reports,
                    signatures, transcripts, keys; `audit verify BUNDLE` checks it
```

The weights are not copied beside ``public/``: a second copy would lie outside of what was signed. The same run gives
the same bytes, so a bundle can be made again from a bundle and compared.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedgan_audits.bundle import Bundle, is_stray
from fedgan_audits.signing import load_trust
from fedgan_audits.verification import TranscriptCheck, public_folder
from fedgan_secure.errors import InputError
from fedgan_secure.policy import FederationPolicy
from fedgan_secure.release.export_gate import Judgement, Override, judge
from fedgan_secure.release.model_card import model_card, privacy_statement
from fedgan_secure.storage import explain_disk

SCHEMA = "fedgan-secure/release/1"
CARD = "MODEL_CARD.md"
STATEMENT = "PRIVACY.md"
DESCRIPTION = "release.json"
GENERATOR, DISCRIMINATOR = "model/generator.keras", "model/discriminator.keras"
MODELS = (GENERATOR, DISCRIMINATOR)
"""What a run publishes; one that adapts a public start has no discriminator."""


def release(
    run: Path,
    output: Path,
    *,
    trust: Sequence[Path] = (),
    transcript_check: TranscriptCheck | None = None,
    override: Override | None = None,
) -> dict[str, Any]:
    """Write the bundle of a run to `output`, whole or not at all; returns what ``release.json`` says.

    The copy is verified, not the original, so that what is described is what lies in the bundle.

    Args:
        run: a run's folder, a copy of its public folder, or a bundle.
        output: a folder that is not there yet, or an empty one.
        trust: the hospitals' keys from a source other than the run.
        transcript_check: the protocol's own check of the transcripts.
        override: who answers for a run that is not PASS.

    Raises:
        RecordInvalid, InputError: no run, no finished round, or a wrong `output` (exit code 2).
        ExportRefused: the run is not PASS and nobody overrides that (exit code 3, or 2 where it is only unfinished).
        VerificationFailed: a check fails (exit code 5); no override helps.
    """
    source = public_folder(run)
    if trust:
        load_trust(trust)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output} is there already and not empty", hint="choose another --output")
    missing = [name for name in MODELS if not (source / name).is_file()]
    if missing and (missing != [DISCRIMINATOR] or not _adapts_a_start(source)):
        raise InputError(f"{run} has no {missing[0]}: no round of it was finished", hint="finish a round first")
    if output.resolve().is_relative_to(source.resolve()):
        raise InputError(f"{output} lies inside the folder that is released", hint="choose another --output")
    with explain_disk(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{output.name}-building-", dir=output.parent))
        try:
            building.chmod(0o755)
            _copy(source, building / "public")
            judgement = judge(building, trust=trust, transcript_check=transcript_check)
            judgement.require(override)
            described = _describe(building, judgement, override)
            if output.exists():
                output.rmdir()
            building.rename(output)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return described


def _adapts_a_start(public: Path) -> bool:
    """Whether the policy names a public start; read before anything is verified, to choose a sentence alone."""
    try:
        policy = json.loads((public / "policy.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(policy, dict) and policy.get("start") is not None


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _copy(source: Path, target: Path) -> None:
    """Copy plain files alone, but what a file manager left; a link or an odd name must arrive, to be refused there."""

    def strays(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if is_stray(name) and _is_plain(Path(folder) / name)]

    shutil.copytree(source, target, ignore=strays, symlinks=True, copy_function=shutil.copyfile)
    for path in target.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)


def _describe(building: Path, judgement: Judgement, override: Override | None) -> dict[str, Any]:
    public = building / "public"
    policy = FederationPolicy.parse((public / "policy.json").read_bytes())
    bundle = Bundle(public)
    files = {f"public/{path}": bundle.digest(path)[1] for path, problem in bundle.walk() if not is_stray(path, problem)}
    published = MODELS if policy.start is None else (GENERATOR,)
    models = {f"public/{name}": files[f"public/{name}"] for name in published}
    texts = {
        CARD: model_card(policy, judgement, override, models),
        STATEMENT: privacy_statement(policy, judgement, override),
    }
    for name, text in texts.items():
        data = text.encode("utf-8")
        (building / name).write_bytes(data)
        files[name] = hashlib.sha256(data).hexdigest()
    report = judgement.report
    described = {
        "schema": SCHEMA,
        "run_id": policy.run_id,
        "gate": "PASS" if judgement.passed else "OVERRIDDEN",
        "objections": list(judgement.objections),
        "override": None if override is None else override.to_json(),
        "epsilon": report.privacy.epsilon,
        "delta": report.privacy.delta,
        "unit": policy.mechanism.unit,
        "neighbouring_relation": report.privacy.neighbouring_relation,
        "phantoms": policy.data.phantoms,
        **({} if policy.start is None else {"public_start": policy.start.model_dump(include={"name", "digest"})}),
        "head": judgement.digest,
        "not_checked": sorted(
            {check.name for check in judgement.verification.checks if check.outcome == "NOT CHECKED"}
        ),
        "sha256": dict(sorted(files.items())),
    }
    text = json.dumps(described, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    (building / DESCRIPTION).write_text(text, encoding="utf-8")
    return described
