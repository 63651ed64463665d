"""A public start as data: weights, statistics of the public pictures, and a sentence on where they come from."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedgan_secure.errors import InputError
from fedgan_secure.starts.architecture import IMAGE_SIZE, Architecture
from fedgan_secure.starts.archive import Archive, ArchiveError, pack, read_file

FORMAT = "fedgan-secure public start/1"
SHIPPED = {"fundus64/1": ("fundus64.npz", "84d97376d9e37bd9a4faa72b4c09aa8730c71f403b8b7d72519bc75cc3f9825c")}
"""Name -> file and its SHA-256: an installed file that was changed is refused."""
DIGEST_BYTES = 16
MOST_PICTURES = 2_000_000
MOST_METADATA = 65_536
_FOLDER = Path(__file__).parent / "shipped"
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,39}/[0-9]{1,4}")
_STATISTICS = ("feature_mean", "feature_std", "public_means", "public_covariance")
_KEYS = {"format", "name", "image_size", "channels", "classes", "counts", "label_names", "statement", "figures", "made"}
_HINT = "make one with `fedgan-secure pretrain`, or leave the option out to use the shipped start"

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class PublicStart:
    """Hold a public start.

    `name`, e.g. ``fundus64/1``; `digest`, SHA-256 (hex) of the file; `statement`, one sentence: what it was trained on
    and what comes from it; `weights`, float32 by ``g_.../i`` and ``f_.../i``; `feature_mean` and `feature_std`,
    float32[d] of the raw features of public pictures; `public_means` float32[classes, d] and `public_covariance`
    float32[d, d] (within classes) of the standardised ones; `blocks`, feature columns (first, end) of colours, shape of
    colours, responses and outputs; `figures`, measured on public pictures or phantoms; `made`, how it was made;
    `picture_digests`, uint8[n, 16] of the public pictures when they were a user's own, otherwise empty.
    """

    name: str
    digest: str
    image_size: int
    channels: int
    classes: int
    counts: int
    label_names: tuple[str, ...]
    statement: str
    weights: Mapping[str, Floats]
    feature_mean: Floats
    feature_std: Floats
    public_means: Floats
    public_covariance: Floats
    blocks: tuple[tuple[int, int], ...]
    figures: Mapping[str, Any] = field(default_factory=dict)
    made: Mapping[str, Any] = field(default_factory=dict)
    picture_digests: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, DIGEST_BYTES), np.uint8))

    @property
    def features(self) -> int:
        """Number of features d."""
        return self.blocks[-1][1]

    @property
    def outputs(self) -> slice:
        """Columns of the features that tell the grade and the counts."""
        return slice(*self.blocks[-1])

    @property
    def architecture(self) -> Architecture:
        """The networks' shapes."""
        return Architecture(self.classes, self.counts, self.channels)


def shipped_start(name: str = "fundus64/1") -> PublicStart:
    """Return a start that comes with this package.

    Raises:
        InputError: for an unknown name, or when the installed file was changed.
    """
    if name not in SHIPPED:
        raise InputError(f"the public start {name[:60]!r} is not known", hint=f"known: {', '.join(SHIPPED)}")
    return _shipped(name)


@functools.lru_cache(maxsize=2)
def _shipped(name: str) -> PublicStart:
    file, digest = SHIPPED[name]
    start = read_start(_FOLDER / file)
    if start.digest != digest or start.name != name:
        raise InputError(
            f"the installed public start {file} has the SHA-256 {start.digest}, expected {digest}",
            hint="install the package again",
        )
    return start


def read_start(path: Path) -> PublicStart:
    """Read a start file that may be hostile: its arrays must have exactly the names, shapes and dtypes of a start.

    Nothing larger than such arrays is read or allocated, nothing is unpickled, and every number must be finite.

    Raises:
        InputError: naming the file, what was found and what was expected.
    """
    try:
        data = read_file(path)
        return _start_of(Archive(data), hashlib.sha256(data).hexdigest())
    except ArchiveError as error:
        raise InputError(f"{path} is not a usable public start: {error}", hint=_HINT) from None


def check_fits(start: PublicStart, image_size: int, channels: int) -> None:
    """Refuse a start whose pictures are not those of a run.

    Raises:
        InputError: when size or channels differ.
    """
    if (start.image_size, start.channels) != (image_size, channels):
        raise InputError(
            f"the public start {start.name} makes {_kind(start.image_size, start.channels)}, "
            f"but the run trains {_kind(image_size, channels)}",
            hint="train at the start's size and channels, use another start, or train without one",
        )


def _kind(size: int, channels: int) -> str:
    return f"{'grey' if channels == 1 else 'colour'} pictures of {size} x {size} pixels"


def _start_of(archive: Archive, digest: str) -> PublicStart:
    metadata = _metadata(archive.text("metadata", MOST_METADATA))
    architecture = Architecture(metadata["classes"], metadata["counts"], metadata["channels"])
    shapes = architecture.weight_shapes()
    expected = {*shapes, *_STATISTICS, "metadata", "picture_digests"}
    if archive.names != expected:
        odd = sorted(archive.names ^ expected)
        raise ArchiveError(f"arrays are missing or should not be there: {', '.join(odd)[:200]}")
    size = architecture.features
    weights = {name: _finite(name, archive.array(name, shape)) for name, shape in shapes.items()}
    statistics = {
        name: _finite(name, archive.array(name, shape, ("<f4",)))
        for name, shape in zip(_STATISTICS, ((size,), (size,), (architecture.classes, size), (size, size)), strict=True)
    }
    _check_statistics(statistics)
    return PublicStart(
        name=metadata["name"],
        digest=digest,
        image_size=metadata["image_size"],
        channels=architecture.channels,
        classes=architecture.classes,
        counts=architecture.counts,
        label_names=tuple(metadata["label_names"]),
        statement=metadata["statement"],
        weights=MappingProxyType(weights),
        blocks=architecture.blocks,
        figures=MappingProxyType(metadata["figures"]),
        made=MappingProxyType(metadata["made"]),
        picture_digests=archive.rows("picture_digests", DIGEST_BYTES, MOST_PICTURES),
        **statistics,
    )


def _finite(name: str, values: NDArray[np.generic]) -> Floats:
    result = values.astype(np.float32)
    if not np.isfinite(result).all():
        raise ArchiveError(f"{name} has values that are not finite")
    result.flags.writeable = False
    return result


def _check_statistics(statistics: Mapping[str, Floats]) -> None:
    if statistics["feature_std"].min() <= 0:
        raise ArchiveError("feature_std has values that are not above 0")
    covariance = statistics["public_covariance"]
    if not np.allclose(covariance, covariance.T, rtol=1e-4, atol=1e-4) or covariance.diagonal().min() < 0:
        raise ArchiveError("public_covariance is not symmetric with a diagonal of at least 0")


def _metadata(text: str) -> dict[str, Any]:
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError):
        raise ArchiveError("its metadata is not JSON") from None
    if not isinstance(metadata, dict) or set(metadata) != _KEYS or metadata["format"] != FORMAT:
        raise ArchiveError(f"its metadata is not that of the format {FORMAT!r}")
    for key in ("image_size", "channels", "classes", "counts"):
        if type(metadata[key]) is not int:
            raise ArchiveError(f"its {key} is {str(metadata[key])[:40]!r}, expected an integer")
    if metadata["image_size"] != IMAGE_SIZE:
        raise ArchiveError(f"its pictures are of {metadata['image_size']} pixels, expected {IMAGE_SIZE}")
    try:
        Architecture(metadata["classes"], metadata["counts"], metadata["channels"])
    except ValueError as error:
        raise ArchiveError(str(error)) from None
    _check_words(metadata)
    return metadata


def _check_words(metadata: dict[str, Any]) -> None:
    if not isinstance(metadata["name"], str) or not _NAME.fullmatch(metadata["name"]):
        raise ArchiveError(f"its name is {str(metadata['name'])[:60]!r}, expected one like fundus64/1")
    names = metadata["label_names"]
    if not isinstance(names, list) or len(names) != metadata["classes"] or not all(_plain(name, 80) for name in names):
        raise ArchiveError(f"its label_names are not {metadata['classes']} short names")
    if not _plain(metadata["statement"], 1000):
        raise ArchiveError("its statement is not one line of at most 1000 printable characters")
    if not isinstance(metadata["figures"], dict) or not isinstance(metadata["made"], dict):
        raise ArchiveError("its figures or how it was made are not objects")


def _plain(text: object, most: int) -> bool:
    return isinstance(text, str) and 0 < len(text) <= most and text.isprintable()


def metadata_text(metadata: Mapping[str, Any]) -> str:
    """Return a start's metadata as it stands in the file, checked as it is when it is read.

    Raises:
        InputError: naming the value that no start file may have.
    """
    text = json.dumps({"format": FORMAT, **metadata}, sort_keys=True)
    try:
        _metadata(text)
    except ArchiveError as error:
        raise InputError(f"no public start can be made: {error}", hint="change what the message names") from None
    return text


def start_bytes(
    metadata: Mapping[str, Any],
    weights: Mapping[str, NDArray[np.floating]],
    statistics: Mapping[str, Floats],
    picture_digests: NDArray[np.uint8] | None = None,
) -> bytes:
    """Return the bytes of a start file; weights are rounded to float16.

    Args:
        metadata: everything but ``format``: name, image_size, channels, classes, counts, label_names, statement,
            figures, made.
        weights: by layer, as `Architecture.weight_shapes` names them.
        statistics: feature_mean, feature_std, public_means, public_covariance.
        picture_digests: uint8[n, 16] of a user's own public pictures, or None.

    Raises:
        InputError: when the file could not be read back.
    """
    none = np.zeros((0, DIGEST_BYTES), np.uint8)
    arrays: dict[str, NDArray[np.generic]] = {
        **{name: value.astype(np.float16) for name, value in weights.items()},
        **{name: value.astype(np.float32) for name, value in statistics.items()},
        "metadata": np.array(metadata_text(metadata)),
        "picture_digests": none if picture_digests is None else picture_digests,
    }
    data = pack(arrays)
    try:
        _start_of(Archive(data), "")
    except ArchiveError as error:
        raise InputError(f"the start that was trained is not usable: {error}", hint="train it again") from None
    return data
