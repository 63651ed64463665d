"""Draw one fundus phantom: a picture that looks like a photograph of the back of an eye and belongs to nobody.

Coordinates: the disc of the eye is the unit disc, x to the right and y downwards, drawn as a right eye (optic disc to
the right of the macula); a left eye is its mirror image. Masks are drawn `OVERSAMPLING` times larger and averaged.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

OVERSAMPLING = 3
CURVE_POINTS = 13
OPTIC_DISC = (0.47, 0.02)
MACULA = (-0.12, 0.05)

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Camera:
    """How one hospital photographs: all of its pictures share these.

    `gain` and `gamma` are per channel; `field` is the radius of the eye's disc as a share of half the picture;
    `vignetting` darkens the rim; `noise` is the standard deviation of the sensor noise in grey levels of 255; `tilt` in
    radians; `glare` is a bluish haze at the rim.
    """

    gain: tuple[float, float, float]
    gamma: float
    field: float
    vignetting: float
    noise: float
    tilt: float
    glare: float


@dataclass(frozen=True)
class Anatomy:
    """What one patient's two eyes share: their vessels are mirror images, up to a little of each eye's own."""

    pigment: float
    disc_radius: float
    cup: float
    vessel_width: float
    tortuosity: float
    vessel_seed: int


def draw_camera(generator: np.random.Generator, index: int) -> Camera:
    """The camera of the hospital with this index: the first four are chosen to differ visibly, all vary a little."""
    casts = ((1.00, 1.00, 1.00), (1.08, 0.86, 0.72), (0.92, 1.06, 1.30), (1.02, 1.12, 0.66))
    cast = casts[index % len(casts)]
    jitter = generator.uniform(-0.03, 0.03, size=3)
    return Camera(
        gain=(cast[0] + jitter[0], cast[1] + jitter[1], cast[2] + jitter[2]),
        gamma=float((1.0, 1.12, 0.92, 1.05)[index % 4] + generator.uniform(-0.02, 0.02)),
        field=float((0.97, 0.93, 0.95, 0.90)[index % 4] + generator.uniform(-0.01, 0.01)),
        vignetting=float((0.35, 0.50, 0.25, 0.42)[index % 4] + generator.uniform(-0.03, 0.03)),
        noise=float((1.5, 2.5, 2.0, 3.0)[index % 4]),
        tilt=float((0.0, 0.06, -0.06, 0.03)[index % 4] + generator.uniform(-0.02, 0.02)),
        glare=float((0.02, 0.05, 0.0, 0.04)[index % 4]),
    )


def draw_anatomy(generator: np.random.Generator) -> Anatomy:
    """One patient's pigmentation, optic disc and vessels."""
    return Anatomy(
        pigment=float(generator.uniform(-1.0, 1.0)),
        disc_radius=float(generator.uniform(0.16, 0.19)),
        cup=float(generator.uniform(0.35, 0.6)),
        vessel_width=float(generator.uniform(0.90, 1.15)),
        tortuosity=float(generator.uniform(0.5, 1.0)),
        vessel_seed=int(generator.integers(2**31)),
    )


@functools.lru_cache(maxsize=8)
def _grid(size: int) -> tuple[Floats, Floats]:
    axis = (np.arange(size, dtype=np.float32) + 0.5) / np.float32(size / 2) - np.float32(1.0)
    return np.broadcast_to(axis[None, :], (size, size)), np.broadcast_to(axis[:, None], (size, size))


@functools.lru_cache(maxsize=1)
def _bernstein() -> NDArray[np.float64]:
    t = np.linspace(0.0, 1.0, CURVE_POINTS)
    return np.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], axis=1)


# Control points of the four great arcades (temporal and nasal, above and below), from the optic disc outwards.
_ARCADES = np.array(
    [
        [[0.47, 0.00], [0.38, -0.52], [-0.15, -0.72], [-0.74, -0.46]],
        [[0.47, 0.04], [0.38, 0.56], [-0.15, 0.76], [-0.74, 0.50]],
        [[0.47, 0.00], [0.52, -0.30], [0.66, -0.48], [0.80, -0.62]],
        [[0.47, 0.04], [0.52, 0.34], [0.66, 0.50], [0.80, 0.62]],
    ]
)


def _vessels(own: np.random.Generator, anatomy: Anatomy) -> list[tuple[NDArray[np.float64], float]]:
    """Every vessel as (points [k,2], width in units of the disc's radius), the great ones first."""
    generator = np.random.default_rng(anatomy.vessel_seed)
    wobble = 0.05 * anatomy.tortuosity
    trunks = np.repeat(_ARCADES, 2, axis=0)
    trunks = trunks + generator.normal(0.0, wobble, size=trunks.shape) * np.array([0.25, 1, 1, 1])[None, :, None]
    trunks[:, 1:] += own.normal(0.0, 0.012, size=(8, 3, 2))
    trunks[1::2, 1:3] *= 0.90  # the artery runs a little inside its vein
    curves = np.einsum("tk,vkd->vtd", _bernstein(), trunks)
    widths = np.array([0.062, 0.044, 0.062, 0.044, 0.044, 0.034, 0.044, 0.034]) * anatomy.vessel_width
    drawn = []
    for curve, width in zip(curves, widths, strict=True):
        drawn.append((curve[:7], float(width)))
        drawn.append((curve[6:], float(width) * 0.72))
    # branches: from points along the trunks, turning off alternately to either side
    branch_count = 14
    trunk = np.array([0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 6, 0, 2])
    at = generator.integers(2, CURVE_POINTS - 3, size=branch_count)
    start = curves[trunk, at]
    heading = curves[trunk, at + 2] - start
    heading /= np.linalg.norm(heading, axis=1, keepdims=True) + 1e-9
    side = np.where(np.arange(branch_count) % 2 == 0, 1.0, -1.0)
    turn = side * generator.uniform(0.5, 0.95, size=branch_count)
    cosine, sine = np.cos(turn), np.sin(turn)
    turned = np.stack(
        [cosine * heading[:, 0] - sine * heading[:, 1], sine * heading[:, 0] + cosine * heading[:, 1]], axis=1
    )
    length = generator.uniform(0.28, 0.5, size=branch_count)[:, None]
    control = np.stack(
        [
            start,
            start + (0.6 * heading + 0.4 * turned) * length * 0.35,
            start + turned * length * 0.7 + generator.normal(0.0, wobble, size=(branch_count, 2)),
            start + turned * length,
        ],
        axis=1,
    )
    branches = np.einsum("tk,vkd->vtd", _bernstein()[::2], control)
    for curve in branches:
        near = np.hypot(curve[:, 0] - MACULA[0], curve[:, 1] - MACULA[1]) < 0.26
        kept = curve[: int(np.argmax(near))] if near.any() else curve
        if len(kept) > 2:
            drawn.append((kept, 0.030 * anatomy.vessel_width))
    return drawn


class _Canvas:
    """A grey mask, drawn larger than needed and averaged down."""

    def __init__(self, size: int, field: float) -> None:
        self._size = size
        self._image = Image.new("L", (size * OVERSAMPLING, size * OVERSAMPLING))
        self._draw = ImageDraw.Draw(self._image)
        self._half = size * OVERSAMPLING / 2
        self._scale = self._half * field
        self.used = False

    def line(self, points: NDArray[np.float64], width: float, value: int = 255) -> None:
        self.used = True
        flat = (points * self._scale + self._half).ravel().tolist()
        self._draw.line(flat, fill=value, width=max(1, round(width * self._scale)))

    def ellipse(self, x: float, y: float, rx: float, ry: float, value: int = 255) -> None:
        self.used = True
        cx, cy = x * self._scale + self._half, y * self._scale + self._half
        rx, ry = max(rx * self._scale, 0.8), max(ry * self._scale, 0.8)
        self._draw.ellipse((cx - rx, cy - ry, cx + rx, cy + ry), fill=value)

    def mask(self) -> Floats:
        reduced = self._image.reduce(OVERSAMPLING)
        return np.asarray(reduced, dtype=np.float32)[:, :, None] * np.float32(1 / 255)


def _scatter(generator: np.random.Generator, count: int, reach: float) -> NDArray[np.float64]:
    """`count` places on the retina, away from the optic disc and the very centre of the macula."""
    radius = reach * np.sqrt(generator.uniform(0.03, 1.0, size=count))
    angle = generator.uniform(0, 2 * np.pi, size=count)
    places = np.stack([radius * np.cos(angle) - 0.06, radius * np.sin(angle)], axis=1)
    near = np.hypot(places[:, 0] - OPTIC_DISC[0], places[:, 1] - OPTIC_DISC[1]) < 0.24
    places[near, 0] = -places[near, 0]
    return places


def _lesions(generator: np.random.Generator, grade: int, dark: _Canvas, bright: _Canvas, pale: _Canvas) -> None:
    """Lesions by grade (International Clinical Diabetic Retinopathy scale, Wilkinson et al. 2003, simplified).

    1: microaneurysms; 2: also haemorrhages and a few hard exudates; 3: haemorrhages in all quadrants, many exudates,
    cotton-wool spots; 4: also new vessels at the disc and a pre-retinal haemorrhage.
    """
    if grade == 0:
        return
    dots = (0, 9, 16, 22, 18)[grade]
    for x, y in _scatter(generator, dots, 0.72).tolist():
        dark.ellipse(x, y, 0.022, 0.022, 235)
    blots = (0, 0, 6, 16, 12)[grade]
    sizes = generator.uniform(0.03, 0.07, size=(blots, 2))
    for (x, y), (rx, ry) in zip(_scatter(generator, blots, 0.80).tolist(), sizes.tolist(), strict=True):
        dark.ellipse(x, y, rx, ry, 225)
    exudates = (0, 0, 10, 26, 20)[grade]
    if exudates:
        angle = generator.uniform(0, 2 * np.pi)
        spread = generator.normal(0.0, 1.0, size=(exudates, 2)) * np.array([0.16, 0.13])
        centre = np.array([MACULA[0] + 0.20 * np.cos(angle), MACULA[1] + 0.20 * np.sin(angle)])
        for (x, y), radius in zip(
            (centre + spread).tolist(), generator.uniform(0.014, 0.032, size=exudates).tolist(), strict=True
        ):
            bright.ellipse(x, y, radius, radius, 240)
    wool = (0, 0, 0, 5, 4)[grade]
    for x, y in _scatter(generator, wool, 0.62).tolist():
        for radius, value in ((0.085, 70), (0.062, 140), (0.038, 200)):
            pale.ellipse(x, y, radius, radius * 0.8, value)
    if grade == 4:
        turns = generator.uniform(0, 2 * np.pi, size=9)
        steps = np.linspace(0, 1, 9)[:, None]
        for angle in turns.tolist():
            curl = angle + 2.4 * steps[:, 0] * (1 if angle > np.pi else -1)
            reach = 0.06 + 0.24 * steps[:, 0]
            points = np.stack([OPTIC_DISC[0] + reach * np.cos(curl), OPTIC_DISC[1] + reach * np.sin(curl)], axis=1)
            dark.line(points, 0.022, 215)
        x, y = float(generator.uniform(-0.35, 0.1)), float(generator.uniform(0.38, 0.52))
        width = float(generator.uniform(0.26, 0.36))
        dark.ellipse(x, y, width, width * 0.42, 250)


def draw_eye(
    generator: np.random.Generator, camera: Camera, anatomy: Anatomy, grade: int, left: bool, size: int
) -> NDArray[np.uint8]:
    """One picture, uint8[size,size,3]: `grade` 0..4, mirrored when `left`."""
    field = camera.field
    veins, dark, bright, pale = (_Canvas(size, field) for _ in range(4))
    tilt = camera.tilt + float(generator.normal(0.0, 0.05))
    rotation = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    for points, width in _vessels(generator, anatomy):
        veins.line(points @ rotation, width, 255 if width > 0.04 else 215)
    _lesions(generator, grade, dark, bright, pale)
    x, y = _grid(size)
    u, v = x / np.float32(field), y / np.float32(field)
    radius2 = u * u + v * v
    disc_x, disc_y = (np.array(OPTIC_DISC) @ rotation + generator.normal(0.0, 0.01, size=2)).tolist()
    macula_x, macula_y = (np.array(MACULA) @ rotation).tolist()

    shade = 1.0 - np.float32(camera.vignetting) * radius2 * radius2
    shade += np.float32(generator.uniform(-0.07, 0.07)) * u + np.float32(generator.uniform(-0.07, 0.07)) * v
    to_macula = (u - np.float32(macula_x)) ** 2 + (v - np.float32(macula_y)) ** 2
    shade *= 1.0 - 0.38 * np.exp(to_macula * np.float32(-1 / 0.030)) - 0.10 * np.exp(to_macula * np.float32(-1 / 0.16))
    pigment = np.float32(anatomy.pigment)
    base = np.array([0.80 + 0.05 * pigment, 0.40 + 0.06 * pigment, 0.17 + 0.04 * pigment], dtype=np.float32)
    picture = shade[:, :, None] * base

    to_disc = np.sqrt((u - np.float32(disc_x)) ** 2 * np.float32(1.15) + (v - np.float32(disc_y)) ** 2)
    edge = np.float32(size * field / 2)
    rim = np.clip((np.float32(anatomy.disc_radius) - to_disc) * edge * 0.7 + 0.5, 0, 1)[:, :, None]
    cup = np.clip((np.float32(anatomy.disc_radius * anatomy.cup) - to_disc) * edge * 0.5 + 0.5, 0, 1)[:, :, None]
    picture += rim * (np.array([0.97, 0.74, 0.42], dtype=np.float32) - picture)
    picture += cup * (np.array([1.0, 0.90, 0.66], dtype=np.float32) - picture)
    picture += pale.mask() * (np.array([0.93, 0.80, 0.55], dtype=np.float32) - picture) if pale.used else 0.0
    blood = veins.mask()
    picture *= 1.0 - blood * np.array([0.36, 0.62, 0.55], dtype=np.float32)
    if bright.used:
        picture += bright.mask() * (np.array([0.99, 0.88, 0.36], dtype=np.float32) - picture)
    if dark.used:
        picture += dark.mask() * (np.array([0.36, 0.05, 0.03], dtype=np.float32) - picture)

    picture *= np.array(camera.gain, dtype=np.float32) * np.float32(generator.uniform(0.94, 1.06))
    picture += np.float32(camera.glare) * radius2[:, :, None] * np.array([0.6, 0.8, 1.0], dtype=np.float32)
    np.clip(picture, 0.0, 1.0, out=picture)
    if abs(camera.gamma - 1.0) > 1e-3:
        np.power(picture, np.float32(camera.gamma), out=picture)
    picture *= np.float32(255)
    picture += generator.standard_normal(picture.shape, dtype=np.float32) * np.float32(camera.noise)
    picture *= np.clip((1.0 - np.sqrt(radius2)) * edge + 0.5, 0, 1)[:, :, None]
    drawn = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(drawn[:, ::-1]) if left else drawn
