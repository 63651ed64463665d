"""The point that a free search picks, on a real data set, beside a default run at the same epsilon; several seeds.

    python benchmarks/tuned_against_default.py --data fundus-eyepacs-layout --full --json > tuned.json
    python benchmarks/tuned_against_default.py --quick --json      # tiny phantoms: every path, no figure

The search is on phantoms and free: epsilon is fixed and the same as the default run's, so that only clip norm, batch,
steps, rates and the ratio of discriminator to generator steps are searched. Both kinds of run then train on the data
set, split over four hospitals, and both are measured by `evaluate` on the same images with the same settings. Without
--full or --quick it says that it was skipped: it takes more than an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

EXPERIMENT = """
name = "tuned"
[search]
method = "random"
trials = {trials}
[objective]
metric = "feature_distance"
[space.privacy]
l2_clip_norm = [1.0, 2.0, 4.0, 8.0]
sampling_probability = [0.125, 0.25, 0.5]
[space.federation]
rounds = [12, 24]
steps_per_round = [25, 60]
[space.training]
steps_per_generator_step = [1, 2]
discriminator_learning_rate = {{ low = 2e-4, high = 2e-3, log = true }}
generator_learning_rate = {{ low = 3e-4, high = 3e-3, log = true }}
[settings.data]
image_size = {size}
phantom_patients = {patients}
[settings.federation]
hospitals = 4
[settings.privacy]
epsilon = {epsilon}
delta = {delta}
declared_patients = {patients}
"""


def fedgan(*arguments: str | Path) -> str:
    """Run the command; its stdout."""
    done = subprocess.run(
        [sys.executable, "-m", "fedgan_cli.main", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"fedgan-secure {' '.join(map(str, arguments))} ended with {done.returncode}: {done.stderr}")
    return done.stdout


def measured(
    folder: Path, settings: list[str | Path], data: list[str | Path], real: Path, seeds: int, steps: int
) -> Any:
    """Runs with these settings on these data, one for each seed, and what `evaluate` says of each."""
    rows = []
    for seed in range(1, seeds + 1):
        begun = time.monotonic()
        out = folder / f"run-{seed}"
        run = json.loads(fedgan("run", *settings, *data, "--seed", str(seed), "--output", out, "--json", "--quiet"))
        source = real if real.is_dir() else out / "phantoms" / "a"
        layout = "eyepacs" if real.is_dir() else "dicom"
        score = json.loads(
            fedgan(
                "evaluate", out, "--real", source, "--layout", layout, "--seeds", "3", "--steps", str(steps), "--json"
            )
        )
        rows.append(
            {
                "seed": seed,
                "epsilon": run["epsilon"],
                "noise_multiplier": run["noise_multiplier"],
                "tstr": None if score["tstr"] is None else score["tstr"]["tstr"],
                "trtr": None if score["tstr"] is None else score["tstr"]["trtr"],
                "chance": None if score["tstr"] is None else score["tstr"]["chance"],
                "realism_ratio": score["realism"]["ratio"],
                "seconds": round(time.monotonic() - begun, 1),
            }
        )
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds."""
    found: dict[str, Any] = {"runs": rows}
    for key in ("tstr", "realism_ratio"):
        values = [row[key] for row in rows if row[key] is not None]
        if values:
            found[key] = {"mean": fmean(values), "deviation": stdev(values) if len(values) > 1 else None}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="a data set in the EyePACS layout")
    parser.add_argument("--epsilon", type=float, default=8.0)
    parser.add_argument("--delta", type=float, default=1e-3)
    parser.add_argument("--image-size", type=int, default=28, choices=(28, 64))
    parser.add_argument("--patients", type=int, default=75, help="declared patients of a hospital")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if not (asked.full or asked.quick):
        print(json.dumps({"skipped": "it takes more than an hour: give --full and --data, or --quick"}))
        return
    if asked.full and (asked.data is None or not asked.data.is_dir()):
        parser.error("--full needs --data, a folder in the EyePACS layout")
    trials, seeds, patients, steps = asked.trials, asked.seeds, asked.patients, 600
    if asked.quick:
        trials, seeds, patients, steps = 2, 1, 12, 10
    with tempfile.TemporaryDirectory(prefix="fedgan-tuned-") as name:
        folder = Path(name)
        text = EXPERIMENT.format(
            trials=trials, size=asked.image_size, patients=patients, epsilon=asked.epsilon, delta=asked.delta
        )
        if asked.quick:
            text = text.replace("[12, 24]", "[1, 2]").replace("[25, 60]", "[1, 2]")
        (folder / "experiment.toml").write_text(text, encoding="utf-8")
        begun = time.monotonic()
        fedgan("tune", folder / "experiment.toml", "--output", folder / "search", "--quiet")
        searched = round(time.monotonic() - begun, 1)
        report = json.loads(fedgan("tune", "report", folder / "search", "--json"))
        data: list[str | Path] = ["--hospitals", "4", "--epsilon", str(asked.epsilon), "--delta", str(asked.delta)]
        data += ["--declared-patients", str(patients), "--image-size", str(asked.image_size)]
        real = asked.data if asked.full else folder / "none"
        if asked.full:
            data += ["--dataset", asked.data, "--layout", "eyepacs"]
        else:
            data += ["--phantom-patients", str(patients)]
        (folder / "tuned").mkdir()
        (folder / "default").mkdir()
        tuned = measured(folder / "tuned", [report["federation"]], data, real, seeds, steps)
        short: list[str | Path] = ["--rounds", "1", "--steps-per-round", "1"] if asked.quick else []
        default = measured(folder / "default", short, data, real, seeds, steps)
    found = {
        "epsilon": asked.epsilon,
        "delta": asked.delta,
        "image_size": asked.image_size,
        "declared_patients": patients,
        "quick": asked.quick,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "search": {"trials": trials, "seconds": searched, "score": report["score"], "setting": report["setting"]},
        "tuned": summary(tuned),
        "default": summary(default),
    }
    if asked.json:
        print(json.dumps(found, indent=2, sort_keys=True))
        return
    for kind in ("tuned", "default"):
        part = found[kind]
        print(kind, {key: part[key] for key in ("tstr", "realism_ratio") if key in part})


if __name__ == "__main__":
    main()
