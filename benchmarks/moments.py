"""What a start from moments is worth: five hospitals share MNIST, at two epsilons and with both placements of noise.

    python benchmarks/moments.py mnist.npz --repeats 3 --results m.json --json
    python benchmarks/moments.py mnist.npz --quick --json            # 600 images, every path, no meaningful figure

The file holds x_train, y_train, x_test, y_test as Keras ships them. Every setting is a whole `fedgan-secure run
--start moments`: ledgers, masks, reports and signatures included. Its pictures train the classifier of `evaluate`, from
three seeds, which is tested on the 10,000 test images; beside it the same classifier trained on all training images.
The setting with two classes has as many images as PneumoniaMNIST has for training, 4,708, of the digits 4 and 9, at
three hospitals.
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

import numpy as np

HOSPITALS, DELTA, PICTURES, SEEDS, STEPS = 5, 1e-5, 20_000, (1, 2, 3), 1500
SETTINGS: dict[str, list[str]] = {
    "epsilon 10, shared noise": ["--epsilon", "10", "--noise-placement", "distributed"],
    "epsilon 10, each hospital's own noise": ["--epsilon", "10"],
    "epsilon 1, shared noise": ["--epsilon", "1", "--noise-placement", "distributed"],
    "epsilon 1, each hospital's own noise": ["--epsilon", "1"],
    "without noise": ["--no-privacy"],
    "two classes, epsilon 8": ["--epsilon", "8"],
    "epsilon 10, one holder of all data": [],
    "epsilon 1, one holder of all data": [],
}
ONE_HOLDER = {"epsilon 10, one holder of all data": 10.0, "epsilon 1, one holder of all data": 1.0}
TWO = ("two classes, epsilon 8", (4, 9), 4708, 3)


def one_run(data: Path, options: list[str], folder: Path) -> dict[str, Any]:
    """Run a federation with its own command; returns its largest epsilon and how long all of it took."""
    kind = ["--unit", "image", "--image-size", "28", "--channels", "1", "--start", "moments"]
    command = [sys.executable, "-m", "fedgan_cli.main", "run", "--dataset", str(data)]
    begun = time.monotonic()
    done = subprocess.run(
        [*command, *kind, *options, "--output", str(folder), "--json", "--quiet"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(options)} ended with {done.returncode}: {done.stderr[-2000:]}")
    found = json.loads(done.stdout)["epsilon"].values()
    return {"epsilon": max(found), "seconds": round(time.monotonic() - begun, 1)}


def one_holder(epsilon: float) -> list[str]:
    """Return the options of a run whose sum holds the noise that one holder of all images would add at this epsilon.

    Shared noise is `multiplier x sqrt(n / (t - c))` in the sum over n hospitals: that of a run is chosen so that the
    sum's is the holder's own. The epsilon that such a run reports is the federation's, and larger.
    """
    from fedgan_audits.accounting import releases
    from fedgan_audits.facts.binding import colluders_against_lying
    from fedgan_protocols.parameters import default_threshold

    threshold = default_threshold(HOSPITALS)
    honest = threshold - colluders_against_lying(HOSPITALS, threshold)
    multiplier = releases.noise(epsilon, DELTA, 1.0) * (honest / HOSPITALS) ** 0.5
    return ["--noise-placement", "distributed", "--release-noise", f"{multiplier:.6f}"]


def tstr(folder: Path, test: Any, *, quick: bool) -> list[float]:
    """Return the accuracy on real test images of a classifier trained on a run's pictures, one for each seed."""
    from fedgan_secure.evaluation.images import LabelledImages
    from fedgan_secure.evaluation.tstr import accuracy
    from fedgan_secure.models.spec import read_spec
    from fedgan_secure.networks.dcgan import draw_images
    from fedgan_secure.synthesis.loading import read_network

    spec = read_spec(json.loads((folder / "public" / "policy.json").read_bytes())["model"])
    labels = np.arange(200 if quick else PICTURES, dtype=np.int32) % spec.classes
    network = read_network(folder / "public" / "model" / "generator.keras", spec)
    drawn = LabelledImages(draw_images(network, spec, labels, len(labels), 1, batch=250), labels)
    return [round(float(one), 4) for one in accuracy(drawn, test, spec.classes, SEEDS, 2 if quick else STEPS).mean(1)]


def main() -> None:
    """Run what is asked for and is not in the results yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="mnist.npz; without it nothing is run, and that is said")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="few images, no meaningful figure")
    parser.add_argument("--repeats", type=int, default=1, help="runs of every setting, with other noise")
    parser.add_argument("--only", action="append", choices=list(SETTINGS), help="this setting (repeatable)")
    parser.add_argument("--results", type=Path, help="keep results here and go on from them")
    arguments = parser.parse_args()
    if arguments.data is None:
        print(json.dumps({"not run": "this benchmark needs MNIST: python benchmarks/moments.py mnist.npz --json"}))
        return
    kept = arguments.results
    results: dict[str, list[dict[str, Any]]] = {}
    if kept is not None and kept.exists():
        results = json.loads(kept.read_text(encoding="utf-8"))

    from fedgan_secure.evaluation.images import LabelledImages
    from fedgan_secure.evaluation.tstr import accuracy

    with np.load(arguments.data) as arrays:
        images, labels = arrays["x_train"], arrays["y_train"].astype(np.int32)
        test = LabelledImages(arrays["x_test"][..., None], arrays["y_test"].astype(np.int32))
    with tempfile.TemporaryDirectory(prefix="fedgan-moments-") as folder:
        data = arguments.data
        if arguments.quick:
            data = Path(folder) / "few.npz"
            np.savez(data, x_train=images[:600], y_train=labels[:600])
        two = Path(folder) / "two.npz"
        chosen = np.flatnonzero(np.isin(labels, TWO[1]))[: 600 if arguments.quick else TWO[2]]
        np.savez(two, x_train=images[chosen], y_train=(labels[chosen] == TWO[1][1]).astype(np.uint8))
        rows_of_two = np.isin(test.labels, TWO[1])
        of_two = LabelledImages(test.images[rows_of_two], (test.labels[rows_of_two] == TWO[1][1]).astype(np.int32))
        if "real images" not in results and not arguments.quick:
            real = accuracy(LabelledImages(images[..., None], labels), test, 10, SEEDS, STEPS).mean(1)
            results["real images"] = [{"tstr": [round(float(one), 4) for one in real]}]
        for repeat in range(arguments.repeats):
            for name in arguments.only or list(SETTINGS):
                rows = results.setdefault(name, [])
                if len(rows) > repeat:
                    continue
                run = Path(folder) / f"run-{repeat}-{list(SETTINGS).index(name)}"
                few = name == TWO[0]
                own = one_holder(ONE_HOLDER[name]) if name in ONE_HOLDER else SETTINGS[name]
                options = [*own, "--hospitals", str(TWO[3] if few else HOSPITALS), "--delta", str(DELTA)]
                if arguments.quick:
                    options += ["--declared-patients", "120"]
                ran = one_run(two if few else data, options, run)
                if name in ONE_HOLDER:
                    ran["epsilon"] = f"{ONE_HOLDER[name]:.4f}, as one holder"
                rows.append({**ran, "tstr": tstr(run, of_two if few else test, quick=arguments.quick)})
                if kept is not None:
                    kept.write_text(json.dumps(results, indent=1), encoding="utf-8")
                print(f"{name}: {rows[-1]['tstr']}", file=sys.stderr)
    if arguments.json:
        print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
