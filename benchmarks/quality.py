"""What pictures are worth: real runs on phantoms, at several epsilons and with parts left out, each scored alike.

    python benchmarks/quality.py --json                              # the default run and its start, once
    python benchmarks/quality.py --full --repeats 3 --results q.json # every setting; hours; resumable
    python benchmarks/quality.py --quick --json                      # tiny sizes: every path, no meaningful figure

Every setting is a whole `fedgan-secure run`: ledgers, masks, reports and signatures included. A repeat has the same
phantoms and other keys and noise. The generator is scored on phantoms of other patients, with the classifier of
`evaluate`: three seeds, pictures by the thousand, intervals over classifier seeds and test images.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PICTURES, TEST_PATIENTS = 4000, 4000
SETTINGS: dict[str, list[str]] = {
    "default, epsilon 8": ["--epsilon", "8"],
    "default, epsilon 3": ["--epsilon", "3"],
    "default, epsilon 1": ["--epsilon", "1"],
    "release alone, epsilon 8": ["--rounds", "1", "--epsilon", "8"],
    "release alone, epsilon 1": ["--rounds", "1", "--epsilon", "1"],
    "shared noise, epsilon 8": ["--noise-placement", "distributed", "--epsilon", "8"],
    "shared noise, epsilon 1": ["--noise-placement", "distributed", "--epsilon", "1"],
    "without noise": ["--no-privacy"],
    "without a public start, epsilon 8": ["--start", "none", "--epsilon", "8"],
    "3 hospitals, epsilon 8": ["--hospitals", "3", "--epsilon", "8"],
    "7 hospitals, epsilon 8": ["--hospitals", "7", "--epsilon", "8"],
    "10 hospitals, epsilon 8": ["--hospitals", "10", "--epsilon", "8"],
}
SHORT = ("default, epsilon 8",)
TINY = ["--phantom-patients", "40", "--declared-patients", "1000", "--steps-per-round", "2"]


def one_run(options: list[str], folder: Path) -> dict[str, Any]:
    """Run a federation with its own command; returns its summary and how long it took."""
    command = [sys.executable, "-m", "fedgan_cli.main", "run", "--output", str(folder), "--json", "--quiet", *options]
    begun = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(options)} ended with {done.returncode}: {done.stderr[-2000:]}")
    summary: dict[str, Any] = json.loads(done.stdout)
    return {
        "epsilon": max(summary["epsilon"].values()),
        "seconds": round(time.monotonic() - begun, 1),
        "rounds": summary["rounds_finished"],
    }


def score(folder: Path, quick: bool) -> dict[str, Any]:
    """Score a finished run's generator, and the public start alone where there is one."""
    from fedgan_secure.evaluation.images import split_patients
    from fedgan_secure.evaluation.score import Effort, score_pictures
    from fedgan_secure.evaluation.scoring import OTHER_PATIENTS, fresh_phantoms
    from fedgan_secure.federation.families.choosing import family_of
    from fedgan_secure.models.spec import read_spec
    from fedgan_secure.policy.policy import FederationPolicy
    from fedgan_secure.starts.start import shipped_start
    from fedgan_secure.storage.files import read_array

    policy = FederationPolicy.parse((folder / "public" / "policy.json").read_bytes())
    family = family_of(policy, None if policy.start is None else shipped_start(policy.start.name))
    vector = read_array(folder / "checkpoints" / "average.npy")
    spec = read_spec(policy.model)
    patients = (60 if quick else TEST_PATIENTS) // len(policy.names)
    names, seed = policy.names, policy.initial_model.seed
    phantoms = fresh_phantoms(spec, names, policy.data.preprocessing, seed + OTHER_PATIENTS, patients)
    train, test = split_patients(phantoms, 0)
    effort = Effort(pictures=20 if quick else PICTURES, steps=2 if quick else 600)
    draw, start = family.draw(vector), family.start_draw(vector)
    return score_pictures(draw, train, test, spec.classes, effort=effort, seed=1, start_draw=start).to_json()


def main() -> None:
    """Run what is asked for and is not in the results yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--full", action="store_true", help="every setting")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, no meaningful figure")
    parser.add_argument("--only", action="append", help="this setting (repeatable)")
    parser.add_argument("--repeats", type=int, default=1, help="runs of every setting")
    parser.add_argument("--results", type=Path, help="keep results here and go on from them")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.only or ()) - set(SETTINGS))
    if unknown:
        parser.error(f"no setting {unknown[0]!r}; expected one of: {', '.join(SETTINGS)}")
    kept = arguments.results
    results: dict[str, list[dict[str, Any]]] = {}
    if kept is not None and kept.exists():
        results = json.loads(kept.read_text(encoding="utf-8"))
    chosen = arguments.only or (list(SETTINGS) if arguments.full else list(SHORT))
    for repeat in range(arguments.repeats):
        for name in chosen:
            rows = results.setdefault(name, [])
            if len(rows) > repeat:
                continue
            with tempfile.TemporaryDirectory(prefix="fedgan-quality-") as folder:
                run = Path(folder) / "run"
                options = [*SETTINGS[name], *(TINY if arguments.quick else [])]
                rows.append({**one_run(options, run), **score(run, arguments.quick)})
            if kept is not None:
                kept.write_text(json.dumps(results, indent=1), encoding="utf-8")
            print(f"{name}: {rows[-1].get('tstr')}", file=sys.stderr)
    if arguments.json:
        print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
