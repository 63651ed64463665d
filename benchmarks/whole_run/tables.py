"""The figures of `dpsgd.py` and `cost_of_privacy.py` as Markdown, written between the marks of docs/privacy.md:

python benchmarks/whole_run/tables.py benchmarks/results docs/privacy.md

A block whose JSON is not in the folder is left as it is.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

STEP = ("<!-- price of a step: written by tables.py -->", "<!-- end of the price of a step -->")
RUN = ("<!-- cost of a run: written by tables.py -->", "<!-- end of the cost of a run -->")
SMALL = 0.01


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def measured_on(found: dict[str, Any]) -> str:
    machine = found["machine"]
    load = machine.get("load_average_1_minute")
    return (
        f"Measured on {machine['cores']} cores of {machine['cpu']}, Python {machine['python']}, TensorFlow "
        f"{machine['tensorflow']}, numpy {machine['numpy']}"
        + (f"; load average at the start {load:.1f}.\n" if load is not None else ".\n")
    )


def figure(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f}"


def step(found: dict[str, Any]) -> str:
    """The price of one discriminator step."""
    goals = (
        ("step_ratio_64", "64 pixels, 64 real and 64 generated images, generated ones unbounded", "at most 1.15"),
        ("step_ratio_64_bounded_fakes", "the same, every generated image bounded too (what a run does)", ""),
        ("real_half_ratio_64", "the real term alone", "at most 1.25"),
        ("step_ratio_28_b512", "28 pixels, 512 real and 512 generated images", "at most 1.2"),
        ("plain_over_keras", "the plain step over Keras' own `train_on_batch`", "at most 1.05"),
        ("memory_ratio_64", "peak memory, whole process", "at most 1.3"),
        ("memory_ratio_64_beyond_start", "peak memory beyond what the process held before the first step", ""),
        ("memory_ratio_64_tensors", "live tensors at their peak", ""),
        ("opacus_ratio", "Opacus over PyTorch's plain step", ""),
        ("tfp_ratio", "tensorflow-privacy over TensorFlow's plain step", ""),
    )
    rows = [(f"`{name}`", what, figure(found.get(name)), goal) for name, what, goal in goals]
    parts = [measured_on(found), table(("figure", "private over plain", "measured", "goal"), rows)]
    if "split" in found:
        seconds = found["split"]["seconds"]
        # cut after the norms, TensorFlow leaves out what the generated images give: norms and sums have one row
        of_step = {
            "forward and backward": seconds["forward_backward"],
            "norms, clipped and plain sums": seconds["norms"] + seconds["sum"],
            "noise, timed alone": seconds["noise"],
        }
        body = [
            (cause, f"{1000 * value:.0f} ms", f"{value / seconds['plain']:.2f}") for cause, value in of_step.items()
        ]
        body.append(("whole", f"{1000 * seconds['whole']:.0f} ms", f"{seconds['whole'] / seconds['plain']:.2f}"))
        parts.append(table(("of the private step", "by the clock", "over the plain step"), body))
    return "\n".join(parts)


def run(found: dict[str, Any]) -> str:
    """The cost of a whole run, by cause."""
    goals = (
        ("ratio", "`per_hospital`, everything", "at most 1.5"),
        ("ratio_without_start", "`per_hospital` without preparing, building and tracing", ""),
        ("ratio_processor", "`per_hospital`, everything, processor time", ""),
        ("ratio_distributed", "`distributed`, everything", ""),
        ("ratio_distributed_without_start", "`distributed` without preparing, building and tracing", ""),
    )
    rows = [(f"`{name}`", what, figure(found.get(name)), goal) for name, what, goal in goals]
    parts = [measured_on(found), table(("figure", "a run over plain FedAvg", "measured", "goal"), rows)]
    for name in ("per_hospital", "distributed"):
        if name in found:
            parts.append(causes(found[name]))
    return "\n".join(parts)


def causes(of: dict[str, Any]) -> str:
    """Seconds a round of both sides by cause, largest first; what is below a hundredth of a plain round together."""
    rounds = of["rounds"]
    total = sum(row["plain"]["seconds"] for row in of["causes"].values())
    body, small = [], [0.0, 0.0]
    for name, row in of["causes"].items():
        both = [row["private"]["seconds"], row["plain"]["seconds"]]
        if max(both) < SMALL * total:
            small = [small[0] + both[0], small[1] + both[1]]
        else:
            body.append((name, *both))
    body.append(("what is less than 1 % each", *small))
    body.append(("all", sum(row[1] for row in body), sum(row[2] for row in body)))
    rows = [
        (name, f"{ours / rounds:.2f} s", f"{theirs / rounds:.2f} s", f"{100 * (ours - theirs) / total:+.1f} %")
        for name, ours, theirs in body
    ]
    seconds = of["seconds"]
    preparing = sum(row["seconds"] for row in of["preparing"].values())
    text = (
        f"`{of['placement']}`: {of['hospitals']} hospitals, {of['rounds']} rounds of {of['steps_per_round']} steps, "
        f"{of['real_images_per_step']} real (expected) and {of['generated_images_per_step']} generated images a step, "
        f"{of['parameters']} parameters. Preparing the run (calibration of the noise, keys, policy), once: "
        f"{preparing:.1f} s; reading the images, not counted: {seconds['reading_images']:.1f} s.\n"
    )
    head = ("cause", "private, a round", "plain, a round", "difference, of a plain round")
    return f"{text}\n{table(head, rows)}"


def write(results: Path, page: Path) -> list[str]:
    """Fill the blocks whose figures are in `results`; returns the names of the files used.

    Raises:
        ValueError: figures of a quick run, or a page without the marks.
    """
    text, used = page.read_text(encoding="utf-8"), []
    blocks: tuple[tuple[str, tuple[str, str], Callable[[dict[str, Any]], str]], ...] = (
        ("dpsgd.json", STEP, step),
        ("cost_of_privacy.json", RUN, run),
    )
    for name, (begin, end), render in blocks:
        if not (results / name).exists():
            continue
        found = json.loads((results / name).read_text(encoding="utf-8"))
        if found["quick"]:
            raise ValueError(f"{results / name} comes from --quick: no figure worth quoting")
        if begin not in text or end not in text:
            raise ValueError(f"{page} has no marks {begin} ... {end}")
        before, rest = text.split(begin, 1)
        text = f"{before}{begin}\n\n{render(found)}\n{end}{rest.split(end, 1)[1]}"
        used.append(name)
    page.write_text(text, encoding="utf-8")
    return used


if __name__ == "__main__":
    print("written from", ", ".join(write(Path(sys.argv[1]), Path(sys.argv[2]))) or "nothing", file=sys.stderr)
