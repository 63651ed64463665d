"""Pictures outside DICOM are read as their format says, or set aside; what is transparent stays hidden."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.fedgan_secure.data.references import by_tiff2rgba, difference

from fedgan_secure.data.deidentification.files import Settings, Task, deidentify_batch
from fedgan_secure.data.deidentification.keyed import Keys
from fedgan_secure.data.pixels.pictures import Unreadable, read_picture

WIDTH, HEIGHT = 31, 20
RNG = np.random.default_rng(2)
COLOUR = RNG.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
ALPHA = RNG.integers(0, 256, (HEIGHT, WIDTH, 1)).astype(np.uint8)
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8


def packed(samples: np.ndarray, bits: int) -> list[bytes]:
    """Rows of samples of 1 to 16 bits, the highest bit first."""
    rows = []
    for row in samples.reshape(samples.shape[0], -1):
        text = "".join(format(int(value), f"0{bits}b") for value in row)
        text = text.ljust((len(text) + 7) // 8 * 8, "0")
        rows.append(bytes(int(text[at : at + 8], 2) for at in range(0, len(text), 8)))
    return rows


def tiff(path: Path, data: bytes, photometric: int, bits: tuple[int, ...], order: str = "<", **more: Any) -> Path:
    """A baseline TIFF of one strip. `more`: tag numbers with a leading t, each (type, values)."""
    tags = {256: (3, [WIDTH]), 257: (3, [HEIGHT]), 258: (3, bits), 259: (3, [1]), 262: (3, [photometric]),
            273: (4, [0]), 277: (3, [len(bits)]), 278: (3, [HEIGHT]), 279: (4, [len(data)])}  # fmt: skip
    tags.update({int(name[1:]): value for name, value in more.items()})
    after = 8 + 2 + 12 * len(tags) + 4
    entries, values = b"", b""
    sizes = sum(max(0, len(v) * (2 if k == 3 else 4)) for k, v in tags.values() if len(v) * (2 if k == 3 else 4) > 4)
    tags[273] = (4, [after + sizes])
    for tag, (kind, numbers) in sorted(tags.items()):
        raw = struct.pack(f"{order}{len(numbers)}{'H' if kind == 3 else 'I'}", *numbers)
        place = raw.ljust(4, b"\0") if len(raw) <= 4 else struct.pack(f"{order}I", after + len(values))
        values += raw if len(raw) > 4 else b""
        entries += struct.pack(f"{order}HHI", tag, kind, len(numbers)) + place
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags))
    path.write_bytes(start + entries + bytes(4) + values + data)
    return path


def png(path: Path, depth: int, kind: int, rows: list[bytes], *chunks: tuple[bytes, bytes]) -> Path:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, kind, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    middle = b"".join(chunk(name, data) for name, data in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + middle + body + chunk(b"IEND", b""))
    return path


def ours(path: Path) -> np.ndarray:
    return read_picture(path)[0]


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("photometric", [WHITE_IS_ZERO, BLACK_IS_ZERO])
def test_grey_tiff_is_as_libtiff_reads_it_or_set_aside(photometric: int, bits: int, tmp_path: Path) -> None:
    values = RNG.integers(0, 2**bits, (HEIGHT, WIDTH))
    for order in "<>":
        data = values.astype(f"{order}u2").tobytes() if bits == 16 else b"".join(packed(values, bits))
        file = tiff(tmp_path / "a.tif", data, photometric, (bits,), order)
        if (photometric, bits, order) == (WHITE_IS_ZERO, 16, ">"):
            with pytest.raises(Unreadable, match="a TIFF that is broken, or of a kind that is not read"):
                ours(file)
        else:
            assert difference(ours(file), by_tiff2rgba(file)) <= 1


def test_colour_tiff_is_as_libtiff_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "a.tif"
    deep = COLOUR.astype("<u2") * 257 + 5
    assert difference(ours(tiff(file, COLOUR.tobytes(), RGB, (8,) * 3)), by_tiff2rgba(file)) <= 1
    assert difference(ours(tiff(file, deep.tobytes(), RGB, (16,) * 3)), by_tiff2rgba(file)) <= 1
    assert difference(ours(tiff(file, COLOUR.tobytes(), YCBCR, (8,) * 3, t530=(3, [1, 1]))), by_tiff2rgba(file)) <= 1
    for bits in (1, 2, 4, 8):
        indices = b"".join(packed(RNG.integers(0, 2**bits, (HEIGHT, WIDTH)), bits))
        colours = RNG.integers(0, 65536, 3 * 2**bits).tolist()
        tiff(file, indices, PALETTE, (bits,), t320=(3, colours))
        assert difference(ours(file), by_tiff2rgba(file)) <= 1, bits
    for compression in ("jpeg", "tiff_lzw", "packbits"):
        Image.fromarray(COLOUR).save(file, compression=compression)
        assert difference(ours(file), by_tiff2rgba(file)) <= 1, compression


@pytest.mark.parametrize("extra", [1, 2])
def test_alpha_of_a_tiff_is_composed_on_black_as_libtiff_does(extra: int, tmp_path: Path) -> None:
    colours = np.minimum(COLOUR, ALPHA) if extra == 1 else COLOUR
    samples = np.concatenate([colours, ALPHA], axis=2)
    file = tiff(tmp_path / "a.tif", samples.tobytes(), RGB, (8,) * 4, t338=(3, [extra]))
    assert difference(ours(file), by_tiff2rgba(file)) <= 1
    if extra == 1:
        grey = tiff(tmp_path / "grey.tif", samples[:, :, 2:].tobytes(), BLACK_IS_ZERO, (8, 8), t338=(3, [1]))
        assert difference(ours(grey), by_tiff2rgba(grey)) <= 1
        broken = np.full((HEIGHT, WIDTH, 2), (200, 0), np.uint8)  # more light than alpha lets through
        assert ours(tiff(grey, broken.tobytes(), BLACK_IS_ZERO, (8, 8), t338=(3, [1]))).max() == 0
    hidden = np.concatenate([np.full_like(COLOUR, 200), np.zeros_like(ALPHA)], axis=2)
    assert ours(tiff(file, hidden.tobytes(), RGB, (8,) * 4, t338=(3, [extra]))).max() == 0


GREY = COLOUR[:, :, 0]
TIFF_ASIDE: dict[str, tuple[bytes, int, tuple[int, ...], dict[str, Any], str]] = {
    "32 bits": (bytes(4 * GREY.size), BLACK_IS_ZERO, (32,), {}, "32 bits of this kind"),
    "12 bits": (bytes(2 * GREY.size), BLACK_IS_ZERO, (12,), {}, "12 bits of this kind"),
    "signed 16 bits": (bytes(2 * GREY.size), BLACK_IS_ZERO, (16,), {"t339": (3, [2])}, "no known range"),
    "floating point": (bytes(4 * GREY.size), BLACK_IS_ZERO, (32,), {"t339": (3, [3])}, "no known range"),
    "an unknown extra channel": (bytes(4 * GREY.size), RGB, (8,) * 4, {"t338": (3, [0])}, "extra channel"),
    "grey with alpha": (bytes(2 * GREY.size), BLACK_IS_ZERO, (8, 8), {"t338": (3, [2])}, "extra channel"),
    "CMYK": (bytes(4 * GREY.size), CMYK, (8,) * 4, {}, "CMYK"),
    "LAB": (COLOUR.tobytes(), LAB, (8,) * 3, {}, "LAB"),
    "a palette of 8 bits": (GREY.tobytes(), PALETTE, (8,), {"t320": (3, list(range(256)) * 3)}, "its range is unknown"),
}


@pytest.mark.parametrize("kind", TIFF_ASIDE)
def test_a_tiff_whose_range_its_type_does_not_say_is_set_aside(kind: str, tmp_path: Path) -> None:
    data, photometric, bits, more, reason = TIFF_ASIDE[kind]
    with pytest.raises(Unreadable, match=reason):
        ours(tiff(tmp_path / "a.tif", data, photometric, bits, **more))


def test_several_pages_and_animations_are_set_aside(tmp_path: Path) -> None:
    one, other = Image.fromarray(COLOUR), Image.fromarray(255 - COLOUR)
    for name in ("a.tif", "a.png"):
        one.save(tmp_path / name, save_all=True, append_images=[other])
        with pytest.raises(Unreadable, match="several pictures"):
            ours(tmp_path / name)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_png_of_any_depth_is_scaled_by_it_and_what_is_transparent_is_black(depth: int, tmp_path: Path) -> None:
    values = RNG.integers(0, 2**depth, (HEIGHT, WIDTH))
    rows, file = packed(values, depth), tmp_path / "a.png"
    levels = np.rint(values * (255 / (2**depth - 1)))
    assert difference(ours(png(file, depth, 0, rows)), levels) <= 1
    hidden = int(values[3, 4])
    expected = np.where(values == hidden, 0, levels)
    assert difference(ours(png(file, depth, 0, rows, (b"tRNS", struct.pack(">H", hidden)))), expected) <= 1
    if depth <= 8:
        colours = RNG.integers(0, 256, (2**depth, 3)).astype(np.uint8)
        alpha = RNG.integers(0, 256, 2**depth).astype(np.uint8)
        plte = (b"PLTE", colours.tobytes())
        assert np.array_equal(ours(png(file, depth, 3, rows, plte)), colours[values])
        shown = np.rint(colours[values] * (alpha[values] / 255)[:, :, None])
        assert difference(ours(png(file, depth, 3, rows, plte, (b"tRNS", alpha.tobytes()))), shown) <= 1


def test_alpha_of_png_is_composed_on_black(tmp_path: Path) -> None:
    samples, file = np.concatenate([COLOUR, ALPHA], axis=2), tmp_path / "a.png"
    shown = np.rint(COLOUR * (ALPHA / 255))
    assert difference(ours(png(file, 8, 6, packed(samples, 8))), shown) <= 1
    assert difference(ours(png(file, 8, 4, packed(samples[:, :, 2:], 8))), shown[:, :, 2]) <= 1
    one = tuple(int(value) for value in COLOUR[3, 4])
    found = ours(png(file, 8, 2, packed(COLOUR, 8), (b"tRNS", struct.pack(">HHH", *one))))
    assert found[3, 4].max() == 0 and np.array_equal(found[5], COLOUR[5])
    deep = samples.astype(np.uint16) * 257
    with pytest.raises(Unreadable, match="transparent in part"):
        ours(png(file, 16, 6, packed(deep, 16)))
    deep[:, :, 3] = np.where(ALPHA[:, :, 0] > 127, 65535, 0)
    shown = np.where(ALPHA > 127, COLOUR, 0)
    assert difference(ours(png(file, 16, 6, packed(deep, 16))), shown) <= 1
    with pytest.raises(Unreadable, match="16 bits that is declared transparent"):
        ours(png(file, 16, 2, packed(deep[:, :, :3], 16), (b"tRNS", bytes(6))))


def test_a_transparent_redaction_is_not_undone_in_a_copy(tmp_path: Path, secret: bytes) -> None:
    """What stands under it is neither trained on nor written."""
    samples = np.full((HEIGHT, WIDTH, 4), 255, np.uint8)
    samples[5:9, 3:20] = (250, 10, 10, 0)
    for name, image in (("a.png", Image.fromarray(samples)), ("b.png", Image.fromarray(samples[:, :, 2:]))):
        image.save(tmp_path / name)
        (tmp_path / "out").mkdir(exist_ok=True)
        settings = Settings(tmp_path, tmp_path / "out", Keys(secret), reviewed=True)
        (record,) = deidentify_batch(settings, [Task(name, "picture", "P1", 1, 1)])
        assert record.outcome == "written"
        with Image.open(tmp_path / "out" / record.target) as copy:
            pixels = np.asarray(copy)
        assert pixels[5:9, 3:20].max() == 0 and pixels[0, 0].min() == 255


@pytest.mark.parametrize("maximum", [100, 255, 4095, 65535])
def test_a_portable_map_is_scaled_by_its_own_maximum(maximum: int, tmp_path: Path) -> None:
    file, kind = tmp_path / "a.pgm", ">u1" if maximum < 256 else ">u2"
    for mark, shape in ((b"P5", (HEIGHT, WIDTH)), (b"P6", (HEIGHT, WIDTH, 3))):
        values = RNG.integers(0, maximum + 1, shape)
        file.write_bytes(b"%s\n%d %d\n%d\n" % (mark, WIDTH, HEIGHT, maximum) + values.astype(kind).tobytes())
        assert difference(ours(file), np.rint(values * (255 / maximum))) <= 1


def test_other_kinds_without_a_fixed_meaning_are_set_aside(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    Image.fromarray(COLOUR).convert("CMYK").save(file)
    with pytest.raises(Unreadable, match="CMYK"):
        ours(file)
    file.write_bytes(b"Pf\n%d %d\n-1.0\n" % (WIDTH, HEIGHT) + bytes(4 * WIDTH * HEIGHT))
    with pytest.raises(Unreadable, match="no known range"):
        ours(file)
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate([COLOUR, ALPHA], axis=2)).save(buffer, "BMP")
    file.write_bytes(buffer.getvalue())
    with pytest.raises(Unreadable, match="fourth channel"):
        ours(file)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied_once(orientation: int, tmp_path: Path) -> None:
    file = tiff(tmp_path / "a.tif", COLOUR.tobytes(), RGB, (8,) * 3, t274=(3, [orientation]))
    flips = {1: COLOUR, 2: COLOUR[:, ::-1], 3: COLOUR[::-1, ::-1], 4: COLOUR[::-1]}
    turned = COLOUR.transpose(1, 0, 2)
    flips |= {5: turned, 6: turned[:, ::-1], 7: turned[::-1, ::-1], 8: turned[::-1]}
    assert np.array_equal(ours(file), flips[orientation])
