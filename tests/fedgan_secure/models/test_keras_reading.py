"""A hostile model file is refused with a sentence, before memory is asked for, and nothing of it runs."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from fedgan_secure.models.errors import ModelError
from fedgan_secure.models.spec import ModelSpec
from fedgan_secure.networks.dcgan import build_generator, draw_images
from fedgan_secure.networks.keras_file import CONFIG, METADATA, WEIGHTS, KerasForm, keras_bytes
from fedgan_secure.networks.keras_reading import entries_of, read_file, weights_from
from fedgan_secure.synthesis.loading import load_generator, read_network

if int(keras.__version__.split(".")[0]) < 3:
    pytest.skip("model files are written and read by Keras 3", allow_module_level=True)

SPEC = ModelSpec(
    image_size=28, channels=1, classes=3, latent_dim=4, generator_widths=(4, 2), discriminator_widths=(3,),
    discriminator_dense=4,
)  # fmt: skip
MODEL = build_generator(SPEC, 3)
DATA = keras_bytes(MODEL)


def packed(**changed: bytes) -> bytes:
    """The model's file with other entries (`config`, `metadata`, `weights`), stored."""
    names = {"metadata": METADATA, "config": CONFIG, "weights": WEIGHTS}
    held = entries_of(DATA) | {names[name]: data for name, data in changed.items()}
    return zipped(held, zipfile.ZIP_STORED)


def zipped(held: dict[str, bytes], how: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as archive:
        for name, data in held.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def rewritten(change: Callable[[h5py.File, str], None]) -> bytes:
    """The model's file whose HDF5 part was changed at its first weight."""
    buffer = io.BytesIO(entries_of(DATA)[WEIGHTS])
    with h5py.File(buffer, "r+") as file:
        change(file, KerasForm.of(MODEL).gaps[0].path)
    return packed(weights=buffer.getvalue())


def replaced(**how: Any) -> bytes:
    def change(file: h5py.File, path: str) -> None:
        shape = file[path].shape
        del file[path]
        file.create_dataset(path, **{"shape": shape, "dtype": "<f4", **how})

    return rewritten(change)


def linked(link: Any) -> bytes:
    def change(file: h5py.File, path: str) -> None:
        del file[path]
        file[path] = link

    return rewritten(change)


def extra(file: h5py.File, path: str) -> None:
    file["layers/more"] = np.zeros(7, np.float32)


def nan(file: h5py.File, path: str) -> None:
    file[path][0] = np.nan


ZERO_ENTRIES = zipped(dict.fromkeys((METADATA, CONFIG, WEIGHTS), b"\0" * 30_000_000), zipfile.ZIP_DEFLATED)
HOSTILE = {
    "empty": b"",
    "text": b"not a model" * 1000,
    "cut": DATA[:-40],
    "compressed": zipped(entries_of(DATA), zipfile.ZIP_DEFLATED),
    "inflates to 90 MB": ZERO_ENTRIES,
    "another entry": zipped({**entries_of(DATA), "photo.png": b"x"}, zipfile.ZIP_STORED),
    "a comment": DATA[:-2] + b"\x05\x00hello",
    "weights are text": packed(weights=b"x" * 5000),
    "another weight": rewritten(extra),
    "a lazy terabyte": replaced(shape=(1 << 38,), chunks=None),
    "never written": replaced(),
    "chunks": replaced(chunks=True, compression="gzip"),
    "doubles": replaced(dtype="<f8"),
    "a link to a file": linked(h5py.ExternalLink("/etc/passwd", "/")),
    "a soft link": linked(h5py.SoftLink("/layers")),
    "NaN": rewritten(nan),
}

BOMBS = [ZERO_ENTRIES, HOSTILE["a lazy terabyte"], HOSTILE["never written"], HOSTILE["compressed"]]


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_not_the_networks_weights_is_refused_within_its_own_size(name: str) -> None:
    data, form = HOSTILE[name], KerasForm.of(MODEL)
    tracemalloc.start()
    try:
        with pytest.raises(ModelError) as caught:
            weights_from(data, form)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.hint and str(caught.value)
    assert peak < 4 * len(data) + 20 * form.size + 2**20, peak


def test_a_file_of_another_keras_version_is_read_by_names() -> None:
    """Same weights, other metadata, other text of the configuration, and an HDF5 file that was written anew."""
    held = entries_of(DATA)
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file, h5py.File(io.BytesIO(held[WEIGHTS]), "r") as old:
        for gap in reversed(KerasForm.of(MODEL).gaps):
            file[gap.path] = old[gap.path][()]
    data = packed(metadata=b'{"keras_version": "3.99.0"}', config=b"whatever", weights=buffer.getvalue())
    for mine, read in zip(MODEL.get_weights(), weights_from(data, KerasForm.of(MODEL)), strict=True):
        assert np.array_equal(mine, read)


def place(folder: Path, data: bytes, policy: object) -> Path:
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (folder / "policy.json").write_text(json.dumps(policy))
    (folder / "model" / "generator.keras").write_bytes(data)
    return folder / "model" / "generator.keras"


def test_a_run_tells_the_network_and_the_file_the_weights(tmp_path: Path) -> None:
    path = place(tmp_path, DATA, {"model": SPEC.to_json()})
    labels = np.arange(3, dtype=np.int32)
    assert np.array_equal(draw_images(load_generator(path), SPEC, labels, 3, 1), draw_images(MODEL, SPEC, labels, 3, 1))


@pytest.mark.parametrize(
    "policy", [[], {}, {"model": 3}, {"model": {"family": "other"}}, {"model": SPEC.to_json() | {"image_size": 5}}]
)
def test_a_policy_that_describes_no_network_is_refused(tmp_path: Path, policy: object) -> None:
    with pytest.raises(ModelError):
        load_generator(place(tmp_path, DATA, policy))


@pytest.mark.parametrize(
    "widths", [{"generator_widths": [4096, 4096]}, {"latent_dim": 4096, "generator_widths": [4096, 1]}]
)
def test_a_policy_that_asks_for_gigabytes_is_refused_before_they_are_allocated(
    tmp_path: Path, widths: dict[str, Any]
) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match=r"expected .* for the [0-9]+ weights"):
            load_generator(place(tmp_path, DATA, {"model": SPEC.to_json() | widths}))
        assert tracemalloc.get_traced_memory()[1] < 20 * len(DATA)
    finally:
        tracemalloc.stop()


def test_a_file_larger_than_the_limit_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 1000)
    with pytest.raises(ModelError, match="larger than 999"):
        read_file(tmp_path / "large", 999)
    with pytest.raises(ModelError, match="cannot be read"):
        read_file(tmp_path)


def test_code_in_a_file_never_runs_and_a_small_file_never_asks_for_much(tmp_path: Path) -> None:
    """A file of some kilobytes that Keras itself would open: a Lambda that writes a file, and a layer of gigabytes."""
    mark = tmp_path / "ran"
    x = keras.Input((4,), name="z")
    code = keras.layers.Lambda(lambda value, where=str(mark): (__import__("pathlib").Path(where).touch(), value)[1])
    keras.Model(x, code(x)).save(tmp_path / "lambda.keras")
    config = json.loads(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).to_json())
    config["config"]["layers"][-1]["config"]["units"] = 2_000_000_000
    large = zipped({**entries_of(DATA), CONFIG: json.dumps(config).encode()}, zipfile.ZIP_STORED)
    mark.unlink(missing_ok=True)
    for name, data in {"lambda": (tmp_path / "lambda.keras").read_bytes(), "large": large}.items():
        path = place(tmp_path / name, data, {"model": SPEC.to_json()})
        if name == "lambda":
            with pytest.raises(ModelError):
                read_network(path)
        else:
            assert np.array_equal(read_network(path).get_weights()[0], MODEL.get_weights()[0])
    assert not mark.exists()


def test_bombs_are_refused_in_a_process_that_has_little_memory(tmp_path: Path) -> None:
    """As above, with the address space of a process bounded at 200 MB above what it had before."""
    paths = [place(tmp_path / str(index), data, {"model": SPEC.to_json()}) for index, data in enumerate(BOMBS)]
    code = (
        "import resource, sys\nfrom pathlib import Path\n"
        "from fedgan_secure.synthesis.loading import read_network\nfrom fedgan_secure.models.errors import ModelError\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20,) * 2)\n"
        "for path in map(Path, sys.argv[1:]):\n"
        "    try:\n        read_network(path)\n        print('read')\n"
        "    except ModelError as error:\n        print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, paths)], capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["refused"] * len(BOMBS), done.stderr[-500:]
