"""One form for every network: equal networks give equal files, in whatever process, and Keras reads them."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

from fedgan_secure.models.spec import ModelSpec
from fedgan_secure.networks.dcgan import build_discriminator, build_generator
from fedgan_secure.networks.keras_file import ENTRIES, KerasForm, keras_bytes

if int(keras.__version__.split(".")[0]) < 3:
    pytest.skip("model files of this form are those of Keras 3", allow_module_level=True)

SPEC = ModelSpec(
    image_size=28, channels=1, classes=3, latent_dim=4, generator_widths=(4, 2), discriminator_widths=(3,),
    discriminator_dense=4,
)  # fmt: skip


def network() -> keras.Model:
    """A network whose layers and operations have no names of their own, with a network inside."""
    layers, ops = keras.layers, keras.ops
    inner_input = keras.Input((3,), name="x")
    inner = keras.Model(inner_input, ops.multiply(layers.Dense(2)(inner_input), 3.0), name="inner")
    x, y = keras.Input((3,), name="x"), keras.Input((2,), name="y")
    hidden = layers.Multiply()([inner(x), y])
    return keras.Model([x, y], layers.ReLU()(ops.concatenate([hidden, inner(x)], axis=-1) + 1.0), name="outer")


def test_equal_networks_give_equal_files_whatever_was_built_before() -> None:
    first = network()
    for _ in range(12):
        keras.layers.Multiply()([keras.Input((2,)), keras.Input((2,))])
    second = network()
    assert [layer.name for layer in first.layers] != [layer.name for layer in second.layers]
    second.set_weights(first.get_weights())
    assert keras_bytes(first) == keras_bytes(second)


@pytest.mark.parametrize("build", [build_generator, build_discriminator])
def test_keras_reads_the_file_and_the_weights_stand_where_the_form_says(build: object, tmp_path: Path) -> None:
    model = build(SPEC, 7)  # type: ignore[operator]
    data = keras_bytes(model)
    (tmp_path / "network.keras").write_bytes(data)
    again = keras.models.load_model(tmp_path / "network.keras", compile=False)
    form = KerasForm.of(model)
    assert form.size == len(data) and form.parameters == model.count_params()
    found = form.weights_of(data)
    assert found is not None and form.file(found) == data
    for mine, read, placed in zip(model.get_weights(), again.get_weights(), found, strict=True):
        assert np.array_equal(mine, read) and np.array_equal(mine, placed)
    assert form.weights_of(data + b"x") is None
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert tuple(archive.namelist()) == ENTRIES and archive.testzip() is None


def test_a_weight_of_another_shape_is_refused() -> None:
    form = KerasForm.of(network())
    with pytest.raises(ValueError, match="has the shape"):
        form.file([np.zeros((1, 1), np.float32) for _ in form.gaps])


def test_another_process_writes_the_same_bytes() -> None:
    code = (
        "import hashlib, keras\nfrom tests.fedgan_secure.models.test_keras_file import network\n"
        "from fedgan_secure.networks.keras_file import keras_bytes\n"
        "[keras.ops.exp(keras.Input((2,))) for _ in range(3)]\nmodel = network()\n"
        "model.set_weights([weight * 0 + 2 for weight in model.get_weights()])\n"
        "print(hashlib.sha256(keras_bytes(model)).hexdigest())"
    )
    import hashlib

    model = network()
    model.set_weights([weight * 0 + 2 for weight in model.get_weights()])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == hashlib.sha256(keras_bytes(model)).hexdigest(), done.stderr[-500:]
