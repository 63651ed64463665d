"""What privacy costs a training step: `python benchmarks/dpsgd.py --json`.

Prints one JSON object on standard output (progress goes to standard error). Sections, each alone with `--only NAME`:

step      64 pixels, 64 real and 64 generated images: the whole discriminator step, its real half, and Keras' own step
split     that private step by cause: forward and backward, norms, sums, noise, optimiser
memory    peak memory of the step, private and plain, each in a process of its own
b512      28 pixels, 512 images
grid      28, 64 and 128 pixels, batches of 64 and 512
others    Opacus and tensorflow-privacy, each against its own framework's plain step

Medians of 15 interleaved steps. The headline figures are at the top level; None where their section was left out or
could not run. ``*_processor`` are the same ratios in processor time, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from dpsgd import environments, memory, timing

HEADLINES = (
    "step_ratio_64",
    "step_ratio_64_bounded_fakes",
    "real_half_ratio_64",
    "plain_over_keras",
    "memory_ratio_64",
    "step_ratio_28_b512",
    "opacus_ratio",
    "tfp_ratio",
)
MIB = 2**20


def step(rounds: int, image_size: int, batch: int) -> dict[str, Any]:
    """The whole step, its real half, and the baseline against Keras."""
    from dpsgd.steps import Steps

    steps = Steps(image_size, batch)
    times = timing.interleaved(
        {
            "plain": steps.plain(),
            "private": steps.private(),
            "keras": steps.keras(),
            "private_bounded_fakes": steps.private(bound_fakes=True),
            "plain_real_half": steps.plain_real_half(),
            "private_real_half": steps.private_real_half(),
        },
        rounds,
    )
    found: dict[str, Any] = {"parameters": steps.parameters, "rounds": rounds}
    for name, above, below in (
        ("step_ratio_64", "private", "plain"),
        ("step_ratio_64_bounded_fakes", "private_bounded_fakes", "plain"),
        ("real_half_ratio_64", "private_real_half", "plain_real_half"),
        ("plain_over_keras", "plain", "keras"),
    ):
        both = timing.ratio(times, above, below)
        found |= {
            name: both["ratio"],
            f"{name}_processor": both["processor_ratio"],
            f"{name}_within_rounds": both["median_of_rounds"],
        }
    found["seconds"] = {name: side.median for name, side in times.items()}
    found["processor_seconds"] = {name: side.processor_median for name, side in times.items()}
    return found


def split(rounds: int, image_size: int, batch: int) -> dict[str, Any]:
    """The private step by cause, as differences between steps that were cut short; seconds by the clock."""
    from dpsgd.steps import Steps

    steps = Steps(image_size, batch)
    times = timing.interleaved({"plain": steps.plain(), **steps.stages()}, rounds)
    found: dict[str, Any] = {"rounds": rounds}
    for key in ("median", "processor_median"):
        wall = {name: getattr(side, key) for name, side in times.items()}
        found["seconds" if key == "median" else "processor_seconds"] = {
            "forward_backward": wall["forward_backward"],
            "norms": wall["norms"] - wall["forward_backward"],
            "sum": wall["sum"] - wall["norms"],
            "noise": wall["noise"],
            "optimiser": wall["whole"] - wall["sum"] - wall["noise"],
            "whole": wall["whole"],
            "plain": wall["plain"],
        }
    return found


def peaks(image_size: int, batch: int) -> dict[str, Any]:
    """Peak memory in three senses (`dpsgd.memory`); the headline is the whole process's."""
    kinds = ("plain", "private", "bounded")
    found = {kind: memory.peak_bytes(kind, image_size, batch) for kind in kinds}

    def ratio(kind: str, sense: str) -> float | None:
        return found[kind][sense] / found["plain"][sense] if found["plain"][sense] else None

    return {
        "memory_ratio_64": ratio("private", "process"),
        "memory_ratio_64_bounded_fakes": ratio("bounded", "process"),
        "memory_ratio_64_beyond_start": ratio("private", "beyond_start"),
        "memory_ratio_64_tensors": ratio("private", "tensors"),
        "mib": {kind: {sense: value / MIB for sense, value in of.items()} for kind, of in found.items()},
    }


def one_size(rounds: int, image_size: int, batch: int) -> dict[str, Any]:
    """Private over plain at one size."""
    from dpsgd.steps import Steps

    steps = Steps(image_size, batch)
    times = timing.interleaved({"plain": steps.plain(), "private": steps.private()}, rounds)
    both = timing.ratio(times, "private", "plain")
    return {
        "image_size": image_size,
        "batch": batch,
        **both,
        "plain_seconds": times["plain"].median,
        "private_seconds": times["private"].median,
    }


def others(rounds: int, image_size: int, batch: int) -> dict[str, Any]:
    """The other libraries' ratios, or why there is none."""
    opacus = environments.OPACUS.measure(image_size, batch, rounds, timeout=900)
    tfp = environments.TENSORFLOW_PRIVACY.measure(image_size, batch, max(1, rounds // 5), timeout=1800)
    return {"opacus_ratio": opacus["ratio"], "tfp_ratio": tfp["ratio"], "opacus": opacus, "tensorflow_privacy": tfp}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import numpy as np
    import tensorflow as tf

    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "default"),
    }


def sections(quick: bool, rounds: int) -> dict[str, Callable[[], dict[str, Any]]]:
    """The sections by name; quick ones run small sizes, to see that everything works."""
    size, batch = (28, 4) if quick else (64, 64)
    sizes = [(28, 4)] if quick else [(size, batch) for size in (28, 64, 128) for batch in (64, 512)]
    return {
        "step": lambda: step(rounds, size, batch),
        "split": lambda: split(rounds, size, batch),
        "memory": lambda: peaks(size, batch),
        "b512": lambda: {"step_ratio_28_b512": (row := one_size(rounds, 28, 8 if quick else 512))["ratio"], "row": row},
        "grid": lambda: {"rows": [one_size(max(3, rounds // 3), *where) for where in sizes]},
        "others": lambda: others(rounds, size, batch),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object (always done; kept for scripts)")
    parser.add_argument("--only", action="append", choices=list(sections(True, 1)), help="this section; repeatable")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, no figure worth quoting")
    parser.add_argument("--rounds", type=int, default=None, help="interleaved steps (15, quick: 3)")
    given = parser.parse_args(arguments)
    rounds = given.rounds or (3 if given.quick else 15)
    found: dict[str, Any] = dict.fromkeys(HEADLINES)
    found |= {"quick": given.quick, "machine": machine()}
    for name, section in sections(given.quick, rounds).items():
        if given.only and name not in given.only:
            continue
        print(f"{name} ...", file=sys.stderr, flush=True)
        result = section()
        found[name] = result
        found |= {key: value for key, value in result.items() if key.startswith(HEADLINES)}
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
