"""Write Keras files in one form only: equal networks give equal bytes, and no byte but the weights is anybody's choice.

What Keras writes differs from process to process: layers that nobody named are numbered over the whole process, dates
are written down, and objects are marked by their place in memory. Here such layers are numbered within their network,
the dates are constant and the marks are left out. A party that knows the architecture therefore knows the file but for
the values of its weights, and where each of them stands: it takes the weights out of a stranger's file by their places,
without asking any part of that file what it is.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

METADATA, CONFIG, WEIGHTS = "metadata.json", "config.json", "model.weights.h5"
ENTRIES = (METADATA, CONFIG, WEIGHTS)
KEPT = 4
"""Forms that a process keeps."""
_LOCAL_HEADER = 30
_NUMBERED = re.compile(r"(?P<base>.*?)(_[0-9]+)?")
KERAS_3 = int(keras.__version__.split(".")[0]) >= 3
"""Whether model files are those of Keras 3."""


@dataclass(frozen=True)
class Gap:
    """Where a weight stands.

    Attributes:
        path: of the data set within the weights' HDF5 file.
        shape: of the float32 values, little-endian, in C order.
        start: of its first byte in the HDF5 file.
    """

    path: str
    shape: tuple[int, ...]
    start: int

    @property
    def size(self) -> int:
        """Bytes of the weight."""
        return 4 * int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True, eq=False)
class KerasForm:
    """The file of an architecture with gaps for the weights.

    Attributes:
        config: the text of ``config.json``, canonical.
        gaps: of the weights, in the order of the model's `get_weights`.
        frame: the HDF5 file; what stands in its gaps means nothing.
    """

    config: bytes
    gaps: tuple[Gap, ...]
    frame: bytes

    @classmethod
    def of(cls, model: keras.Model) -> KerasForm:
        """Return the form of a model's architecture; made on first use, then kept.

        Args:
            model: a functional model with float32 weights, not compiled.
        """
        described = _plain(json.loads(model.to_json()))
        config = json.dumps(described, sort_keys=True, separators=(",", ":")).encode("ascii")
        key = hashlib.sha256(config).digest()
        if key not in _KEPT:
            _KEPT[key] = cls(config, *_frame(described))
        _KEPT.move_to_end(key)
        while len(_KEPT) > KEPT:
            _KEPT.popitem(last=False)
        return _KEPT[key]

    @property
    def parameters(self) -> int:
        """How many numbers the weights are."""
        return sum(gap.size for gap in self.gaps) // 4

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self._pack(self.frame))

    def file(self, weights: Sequence[np.ndarray]) -> bytes:
        """Return the file of a model with these weights, float32 arrays in the order of the gaps."""
        frame = bytearray(self.frame)
        for gap, weight in zip(self.gaps, weights, strict=True):
            values = np.ascontiguousarray(weight, "<f4")
            if values.shape != gap.shape:
                raise ValueError(f"weight {gap.path} has the shape {list(values.shape)}, expected {list(gap.shape)}")
            frame[gap.start : gap.start + gap.size] = values.tobytes()
        return self._pack(bytes(frame))

    def weights_of(self, data: bytes) -> list[np.ndarray] | None:
        """Return what stands where the weights stand in a file of this form, or None for a file of another length.

        Whether `data` is of this form is not looked at here: it is where ``file(weights_of(data)) == data``.
        """
        if len(data) != self.size:
            return None
        first = self._weights_start
        return [
            np.frombuffer(data, "<f4", gap.size // 4, first + gap.start).astype(np.float32).reshape(gap.shape)
            for gap in self.gaps
        ]

    @property
    def _metadata(self) -> bytes:
        return json.dumps({"keras_version": keras.__version__, "date_saved": "1980-01-01@00:00:00"}).encode("ascii")

    @property
    def _weights_start(self) -> int:
        """The first byte of the HDF5 file in the archive, whose entries are stored one after the other."""
        names = sum(len(name) for name in ENTRIES)
        return len(ENTRIES) * _LOCAL_HEADER + names + len(self._metadata) + len(self.config)

    def _pack(self, frame: bytes) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in zip(ENTRIES, (self._metadata, self.config, frame), strict=True):
                entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
                entry.create_system, entry.external_attr = 3, 0o600 << 16
                archive.writestr(entry, content)
        return buffer.getvalue()


_KEPT: OrderedDict[bytes, KerasForm] = OrderedDict()


def keras_bytes(model: keras.Model) -> bytes:
    """Return the ``.keras`` file of a model; `keras.models.load_model` reads it.

    Keras 2, which has another format, writes the file itself: it is then not the same to the byte every time.
    """
    if not KERAS_3:
        with tempfile.TemporaryDirectory(prefix="fedgan-secure-") as folder:
            place = Path(folder) / "model.keras"
            model.save(place)
            return place.read_bytes()
    return KerasForm.of(model).file(model.get_weights())


def _frame(described: dict[str, Any]) -> tuple[tuple[Gap, ...], bytes]:
    """Build a model of this description, let Keras write it, and find each weight by what was put into it."""
    model = keras.saving.deserialize_keras_object(described)
    shapes = [tuple(int(side) for side in weight.shape) for weight in model.weights]
    model.set_weights([np.full(shape, number, np.float32) for number, shape in enumerate(shapes)])
    with tempfile.TemporaryDirectory(prefix="fedgan-secure-") as folder:
        place = Path(folder) / "network.keras"
        model.save(place)
        with zipfile.ZipFile(place) as archive:
            frame = archive.read(WEIGHTS)
    gaps: dict[int, Gap] = {}
    with h5py.File(io.BytesIO(frame), "r") as file:

        def note(path: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                gaps[int(np.asarray(item).flat[0])] = Gap(path, tuple(item.shape), int(item.id.get_offset()))

        file.visititems(note)
    ordered = tuple(gaps[number] for number in range(len(shapes)))
    if [gap.shape for gap in ordered] != shapes:
        raise ValueError("Keras wrote the weights of a network in a way that this software does not know")
    return ordered, frame


def _plain(described: dict[str, Any]) -> dict[str, Any]:
    """A model's description without what differs between processes (see the module)."""
    text: dict[str, Any] = _without_marks(described)
    if isinstance(text.get("config"), dict) and "layers" in text["config"]:
        _number(text["config"])
    return text


def _without_marks(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_marks(item) for key, item in value.items() if key != "shared_object_id"}
    return [_without_marks(item) for item in value] if isinstance(value, list) else value


def _number(network: dict[str, Any]) -> None:
    """Number the layers of a network that have no name of their own, in their order; networks within it, too."""
    counts: dict[str, int] = {}
    names: dict[str, str] = {}
    for layer in network["layers"]:
        match = _NUMBERED.fullmatch(layer["name"])
        base = match["base"] if match else ""
        if base.replace("_", "") == layer["class_name"].lower():
            counts[base] = counts.get(base, -1) + 1
            names[layer["name"]] = f"{base}_{counts[base]}"
    for layer in network["layers"]:
        if "layers" in layer["config"]:
            _number(layer["config"])
        layer["name"] = layer["config"]["name"] = names.get(layer["name"], layer["name"])
        layer["inbound_nodes"] = _renamed(layer["inbound_nodes"], names)
    for ends in ("input_layers", "output_layers"):
        network[ends] = _renamed_ends(network[ends], names)


def _renamed(value: Any, names: dict[str, str]) -> Any:
    """Where a layer's inputs come from, by the new names."""
    if isinstance(value, dict):
        return {
            key: [names.get(item[0], item[0]), *item[1:]] if key == "keras_history" else _renamed(item, names)
            for key, item in value.items()
        }
    return [_renamed(item, names) for item in value] if isinstance(value, list) else value


def _renamed_ends(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, list):
        return [_renamed_ends(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value
