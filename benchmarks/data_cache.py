"""What building the cache of decoded images costs: `python benchmarks/data_cache.py --json`.

Prints one JSON object on standard output (progress goes to standard error). Files are drawn first: JPEG photographs of
eyes (class folders), and CT slices in RLE DICOM. The cache is built from them with one process and with two, beside a
bare loop in one process that decodes each file with Pillow or pydicom and calls the same preprocessing, and nothing
else: no digest, no quarantine, no file written. All are timed in turn, by the clock, and again; `KIND_one_core` and
`KIND_two_cores` are images per second of the cache over those of the bare loop, the median over the turns. The start of
worker processes is counted. `KIND_bare_two_processes` is what the machine itself gives: the bare loop over half of the
files in each of two processes, their start not counted, over the bare loop in one; two cores that share an arithmetic
unit or memory stay below 2. `KIND_second_start_seconds` is opening the finished cache again, digests checked.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless, generate_uid
from secure_aggregation import machine

from fedgan_secure.data import LoadSettings, load
from fedgan_secure.data.pixels.preprocess import CT_ABDOMEN, CT_WINDOW, FUNDUS, preprocess, to_levels

SIZE = 64


@dataclass(frozen=True)
class Sizes:
    """How many files of each kind, how many pixels a side, and how often all are timed in turn."""

    photographs: int
    photograph_side: int
    slices: int
    slice_side: int
    turns: int


FULL = Sizes(photographs=1000, photograph_side=1024, slices=4000, slice_side=512, turns=3)
QUICK = Sizes(photographs=70, photograph_side=96, slices=70, slice_side=64, turns=1)
HEADLINES = (
    "photograph_one_core", "photograph_two_cores", "photograph_bare_two_processes", "photograph_second_start_seconds",
    "slice_one_core", "slice_two_cores", "slice_bare_two_processes", "slice_second_start_seconds",
)  # fmt: skip


def draw_photographs(root: Path, count: int, side: int) -> None:
    """JPEG files ``CLASS/pNNNN_L.jpg``: a disc on black with vessels of noise, each a little different."""
    generator = np.random.default_rng(1)
    rows, columns = np.mgrid[:side, :side] / (side - 1) * 2 - 1
    disc = (rows**2 + columns**2 < 0.85)[:, :, None]
    coarse = generator.normal(0, 1, (side // 8 + 2, side // 8 + 2, 3))
    texture = np.repeat(np.repeat(coarse, 8, axis=0), 8, axis=1)
    for number in range(count):
        shifted = np.roll(texture, (number % 97, number % 89), axis=(0, 1))[:side, :side]
        picture = np.clip((np.array([150, 80, 40]) + 12 * shifted - 40 * rows[:, :, None] ** 2) * disc, 0, 255)
        folder = root / f"grade{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"p{number:05d}_L.jpg", quality=90)


def draw_slices(root: Path, count: int, side: int) -> None:
    """CT slices of 12 bits in RLE Lossless, as the RSNA's abdominal set has them."""
    generator = np.random.default_rng(2)
    root.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[:side, :side] / (side - 1) * 2 - 1
    body = np.where(rows**2 + columns**2 < 0.7, 1060, 24)
    noise = generator.integers(-30, 30, (side, side))
    for number in range(count):
        pixels = (body + np.roll(noise, number, axis=0)).astype(np.uint16)
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset = FileDataset("", {}, preamble=bytes(128), file_meta=meta)
        dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        dataset.PatientID, dataset.Modality = f"P{number:05d}", "CT"
        dataset.RescaleSlope, dataset.RescaleIntercept = "1", "-1024"
        dataset.Rows = dataset.Columns = side
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
        dataset.PixelData = pixels.tobytes()
        dataset["PixelData"].VR = "OW"
        dataset.compress(RLELossless)
        dataset.save_as(root / f"{number:05d}.dcm", enforce_file_format=True)


def bare_photograph(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        return preprocess(np.asarray(picture.convert("RGB")), FUNDUS, SIZE, 3)


def bare_slice(path: Path) -> NDArray[np.uint8]:
    dataset = pydicom.dcmread(path)
    values = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    centre, width = CT_WINDOW
    return preprocess(to_levels(values, centre - width / 2, centre + width / 2), CT_ABDOMEN, SIZE, 1)


@dataclass(frozen=True)
class Timed:
    """Seconds by the clock and of processors (workers included)."""

    seconds: float
    cpu_seconds: float


def timed(work: Callable[[], Any]) -> tuple[Timed, Any]:
    def processors() -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in used)

    before, start = processors(), time.perf_counter()
    result = work()
    return Timed(time.perf_counter() - start, processors() - before), result


def bare_half(kind: str, files: list[Path], barrier: Barrier, seconds: Queue[float]) -> None:
    bare = bare_slice if kind == "slice" else bare_photograph
    bare(files[0])
    barrier.wait()
    seconds.put(timed(lambda: [bare(path) for path in files])[0].seconds)


def in_two_processes(kind: str, files: list[Path]) -> float:
    """Seconds until the slower of two processes has decoded its half."""
    context = multiprocessing.get_context("spawn")
    barrier, seconds = context.Barrier(2), context.Queue()
    both = [context.Process(target=bare_half, args=(kind, files[half::2], barrier, seconds)) for half in (0, 1)]
    for process in both:
        process.start()
    slower = max(seconds.get(timeout=900) for _ in both)
    for process in both:
        process.join()
    return float(slower)


def measure(kind: str, root: Path, count: int, turns: int, scratch: Path) -> dict[str, Any]:
    """Time one kind of files; raises RuntimeError where the cache holds other pixels than the bare loop makes."""
    slices = kind == "slice"
    files = sorted(path for path in root.rglob("*") if path.is_file())
    bare = bare_slice if slices else bare_photograph
    base = LoadSettings(
        layout="dicom" if slices else "folders",
        preprocessing=CT_ABDOMEN if slices else FUNDUS,
        image_size=SIZE,
        channels=1 if slices else 3,
        secret=b"a secret of this benchmark alone",
    )
    found: dict[str, list[Timed]] = {"bare": [], "one": [], "two": [], "again": []}
    halves: list[float] = []
    for turn in range(turns):
        time_, expected = timed(lambda: [bare(path) for path in files])
        found["bare"].append(time_)
        for name, workers in (("one", 1), ("two", 2)):
            settings = LoadSettings(
                **{**vars(base), "workers": workers, "cache_dir": scratch / f"{kind}-{turn}-{workers}"}
            )
            time_, result = timed(lambda settings=settings: load(root, settings))
            found[name].append(time_)
            if len(result.dataset) != count or not np.array_equal(result.dataset.images, np.stack(expected)):
                raise RuntimeError(f"{kind}: the cache does not hold what the bare loop decodes")
        half = in_two_processes(kind, files)
        halves.append(found["bare"][-1].seconds / half)
        found["again"].append(timed(lambda settings=settings: load(root, settings))[0])
        print(f"{kind}, turn {turn + 1}: {found['bare'][-1]}, {found['one'][-1]}, {found['two'][-1]}", file=sys.stderr)

    def ratio(name: str, attribute: str) -> float:
        pairs = zip(found["bare"], found[name], strict=True)
        return statistics.median(getattr(one, attribute) / getattr(other, attribute) for one, other in pairs)

    return {
        f"{kind}_one_core": ratio("one", "seconds"),
        f"{kind}_two_cores": ratio("two", "seconds"),
        f"{kind}_bare_two_processes": statistics.median(halves),
        f"{kind}_one_core_processor": ratio("one", "cpu_seconds"),
        f"{kind}_two_cores_processor": ratio("two", "cpu_seconds"),
        f"{kind}_bare_images_per_second": count / statistics.median(item.seconds for item in found["bare"]),
        f"{kind}_second_start_seconds": statistics.median(item.seconds for item in found["again"]),
        f"{kind}_turns": {name: [vars(item) for item in items] for name, items in found.items()},
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="data_cache.py", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the whole object (default: the headlines alone)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: every code path, no meaningful figure")
    options = parser.parse_args(arguments)
    sizes = QUICK if options.quick else FULL
    result: dict[str, Any] = dict.fromkeys(HEADLINES)
    result |= {"quick": options.quick, "machine": machine.describe(), "sizes": vars(sizes)}
    with tempfile.TemporaryDirectory(prefix="fedgan-cache-", dir=os.environ.get("TMPDIR")) as folder:
        root = Path(folder)
        draw_photographs(root / "photographs", sizes.photographs, sizes.photograph_side)
        draw_slices(root / "slices", sizes.slices, sizes.slice_side)
        result |= measure("photograph", root / "photographs", sizes.photographs, sizes.turns, root)
        result |= measure("slice", root / "slices", sizes.slices, sizes.turns, root)
    result["load_average_after"] = os.getloadavg()[0]
    print(json.dumps(result if options.json else {key: result[key] for key in HEADLINES}, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
