"""A data set of four times the memory that a process may still take trains: its pixels stay in the mapped file.

What is limited is RLIMIT_DATA, the memory that a process owns (anonymous and private writable mappings): the kernel
refuses more. Pages of a file that is mapped read-only are not owned; under pressure they are given back. TensorFlow
reserves far more address space than it uses, so the process first takes steps on a small data set, and then may own a
margin more than it does at that moment. The data set is four margins; its cache is built and it is trained from under
that limit. A control that copies the pixels into memory must be refused by the same limit.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

MARGIN = 96 * 2**20
IMAGE_BYTES = 64 * 64 * 3
PROGRAM = """
import os, resource, sys
from pathlib import Path
import numpy as np
from fedgan_secure.data import LoadSettings, load
from fedgan_secure.policy.training import TrainingSettings
from fedgan_secure.training.training import LocalTrainer
from fedgan_secure.models.spec import ModelSpec
from fedgan_secure.networks.vectors import VectorLayout

folder, margin = Path(sys.argv[1]), int(sys.argv[2])
spec = ModelSpec.default(64, 3, 0)

def owned():
    words = Path("/proc/self/status").read_text().split()
    return int(words[words.index("VmData:") + 1]) * 1024

def read(name):
    wanted = LoadSettings(layout="npz", unit="image", image_size=64, secret=b"0" * 32, cache_dir=folder / "cache")
    return load(folder / f"{name}.npz", wanted).dataset

def train(dataset):
    settings = TrainingSettings(
        sampling_probability=32 / len(dataset), expected_batch_size=32.0, noise_multiplier=1.0, images_per_patient=1,
        unit="image", fake_batch_size=16, generator_batch_size=16,
    )
    trainer = LocalTrainer(spec, settings, dataset, os.urandom)
    return trainer.train(VectorLayout.of(spec).initial_vector(0), 3).update

train(read("small"))
limit = owned() + margin
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
large = read("large")
assert large.images.nbytes >= 4 * margin, large.images.nbytes
update = train(large)
assert np.isfinite(update).all() and np.any(update)
print("trained", len(large), "images,", large.images.nbytes // margin, "margins")
try:
    np.array(large.images)
except MemoryError:
    print("the control was refused")
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="RLIMIT_DATA and VmData are Linux's")
def test_a_data_set_of_four_times_the_limit_trains(tmp_path: Path) -> None:
    count = 4 * MARGIN // IMAGE_BYTES + 1
    for name, images in (("small", 256), ("large", count)):
        pixels = np.zeros((images, 64, 64, 3), np.uint8)
        pixels[:, 20:40, 20:40] = (np.arange(images) % 200 + 20).astype(np.uint8)[:, None, None, None]
        np.savez_compressed(tmp_path / f"{name}.npz", x_train=pixels)
    del pixels
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), str(MARGIN)], capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"trained {count} images, 4 margins" in done.stdout
    assert "the control was refused" in done.stdout, "the limit limits nothing"
