"""The public simulator: fundus phantoms of other cameras, other eyes and another disease than the private ones.

It shares with the private simulator (`phantom_drawing`) only the plan of the eye: disc, macula, four arcades with
branches, round lesions. Everything that differs is a constant below, with the private simulator's value beside it.
The public start is trained on these pictures, so no private picture has to look like them. Every picture has a random
stream of its own, from a public seed: the result does not depend on the number of processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from fedgan_secure.data.phantoms.drawing import (
    MACULA,
    NOISE_SPARE,
    OPTIC_DISC,
    Anatomy,
    Camera,
    Canvas,
    Floats,
    draw_vessels,
    retina_grid,
    rgb,
    scatter_places,
    sensor_noise,
)
from fedgan_secure.data.pixels.preprocess import FUNDUS, preprocess
from fedgan_secure.data.reading.layouts import DR_GRADES
from fedgan_secure.data.reading.parallel import Failed, default_workers, map_batches
from fedgan_secure.errors import InputError

VERSION = "public-fundus/1"
"""Names these constants and this order of draws; a change of any picture changes the number."""
CLASSES = len(DR_GRADES)
LESIONS = ("dots", "blots", "exudates", "cotton wool", "new vessels", "pre-retinal blood")
TASK = "drawing public phantoms"
TARGET = "fedgan_secure.data.phantoms.public_phantoms:draw_batch"
_STREAM = 987  # the first word of every picture's seed; private phantoms use (seed, hospital, patient)
_BATCH = 50

# Cameras: six, none of them private. The private casts are (1, 1, 1), (1.08, .86, .72), (.92, 1.06, 1.30), (1.02, 1.12,
# .66); gammas .92 to 1.12; fields .90 to .97; vignetting .25 to .50; noise 1.5 to 3; glare 0 to .05.
CASTS = (
    (0.92, 0.74, 0.88),
    (0.80, 0.62, 0.50),
    (1.10, 0.74, 1.05),
    (0.86, 0.84, 1.02),
    (1.0, 0.66, 0.62),
    (0.74, 0.7, 0.56),
)
GAMMAS = (0.78, 1.20, 1.00, 1.35, 0.88, 0.80)
FIELDS = (0.995, 0.88, 0.96, 0.86, 0.92, 0.98)
VIGNETTING = (0.05, 0.60, 0.20, 0.75, 0.45, 0.10)
NOISE = (3.0, 4.0, 6.0, 3.5, 5.0, 4.5)
GLARE = (0.0, 0.03, 0.06, 0.0, 0.02, 0.04)
CAST_JITTER, VIGNETTING_JITTER = (-0.03, 0.03), (-0.03, 0.03)
GAMMA_JITTER, FIELD_JITTER = (-0.03, 0.03), (-0.01, 0.005)  # private -.02 to .02, -.01 to .01
CAMERA_TILT = (-0.10, 0.10)  # private -.08 to .08
PICTURE_TILT = 0.08  # standard deviation in radians; private .05
BLURRED_SHARE, BLUR_RADIUS = 0.5, (0.3, 0.9)  # private: no picture is out of focus

# Eyes.
DISC_RADIUS = (0.12, 0.155)  # private .16 to .19
CUP = (0.2, 0.75)  # private .35 to .6
VESSEL_WIDTH = (0.55, 0.90)  # private .90 to 1.15
TORTUOSITY = (1.1, 2.2)  # private .5 to 1
DISC_SHIFT, MACULA_SHIFT = 0.03, 0.02  # standard deviations; private .01 and 0
DISC_STRETCH, RIM_EDGE, CUP_EDGE = 1.3, 0.5, 0.4  # private 1.15, .7, .5
SLANT = (-0.15, 0.15)  # of the light across the picture; private -.07 to .07
MACULA_DEPTH, MACULA_AREA = (0.2, 0.5), 0.045  # private .38, .030
HALO_DEPTH, HALO_AREA = 0.06, 0.2  # private .10, .16
BRIGHTNESS = (0.85, 1.12)  # private .94 to 1.06

# Colours, and how much a patient's pigment changes the base.
BASE, BASE_PIGMENT = (0.74, 0.36, 0.24), (0.08, 0.08, 0.06)  # private (.80, .40, .17), (.05, .06, .04)
RIM_COLOUR, CUP_COLOUR = (0.92, 0.66, 0.50), (0.98, 0.84, 0.72)  # private (.97, .74, .42), (1, .90, .66)
WOOL_COLOUR, EXUDATE_COLOUR = (0.88, 0.76, 0.62), (0.96, 0.80, 0.48)  # private (.93, .80, .55), (.99, .88, .36)
VESSEL_ABSORPTION, BLOOD_COLOUR = (0.28, 0.52, 0.42), (0.30, 0.09, 0.08)  # private (.36, .62, .55), (.36, .05, .03)
GLARE_COLOUR = (0.8, 0.7, 0.8)  # private (.6, .8, 1)
VESSEL_VALUES = (230, 190)  # great and small vessels; private 255, 215

# Disease: Poisson means by grade; the private counts are fixed.
DOTS = (0, 5, 10, 13, 11)  # private 0, 9, 16, 22, 18
BLOTS = (0, 0, 3, 8, 8)  # private 0, 0, 6, 16, 12
EXUDATES = (0, 0, 5, 13, 14)  # private 0, 0, 10, 26, 20, in one cluster beside the macula
WOOL = (0, 0, 0, 2.5, 2.5)  # private 0, 0, 0, 5, 4
DOT_REACH, DOT_RADIUS, DOT_SHAPE, DOT_VALUE = 0.85, (0.026, 0.040), (0.8, 1.2), 215  # private .72, .022, round, 235
BLOT_REACH, BLOT_RADIUS, BLOT_VALUE = 0.70, (0.035, 0.095), 200  # private .80, .03 to .07, 225
EXUDATE_REACH, EXUDATE_RADIUS, EXUDATE_VALUE = 0.60, (0.018, 0.042), 225  # private .014 to .032, 240
WOOL_REACH, WOOL_SCALE, WOOL_SHAPE = 0.75, (0.8, 1.3), 0.9  # private .62, 1, .8
WOOL_RINGS = ((0.085, 60), (0.062, 120), (0.038, 170))  # radius and value; private values 70, 140, 200
NEW_VESSELS_SHARE, FEWEST_DARK = 0.7, 8  # of grade 4, and always below so many dots and blots; private: all of grade 4
ARMS = (5, 8)  # of new vessels, the last excluded; private 9
ARM_CURL, ARM_REACH, ARM_WIDTH, ARM_VALUE = 3.2, (0.05, 0.19), 0.030, 200  # private 2.4, (.06, .24), .022, 215
PRERETINAL_SHARE = 0.3  # of grade 4 with new vessels, and all without; private: all of grade 4
PRERETINAL_X, PRERETINAL_Y = (-0.45, 0.25), (0.2, 0.5)  # above or below; private -.35 to .1, .38 to .52 below
PRERETINAL_RADIUS, PRERETINAL_SHAPE, PRERETINAL_VALUE = (0.18, 0.30), 0.6, 230  # private .26 to .36, .42, 250
LABEL_NOISE = 0.04  # share of labels that are one grade off; grades are uniform (private .28 .18 .22 .16 .16)


@dataclass(frozen=True)
class PublicPictures:
    """Hold public phantoms: `images` uint8[n,s,s,3], `labels` int32[n] in 0..4, `lesions` float32[n,6], by LESIONS."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int32]
    lesions: NDArray[np.float32]


def draw_public(
    count: int,
    *,
    first: int = 0,
    seed: int = 1,
    size: int = 64,
    workers: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> PublicPictures:
    """Draw the public phantoms `first` to ``first + count - 1`` of a seed, prepared as fundus pictures are.

    Args:
        count: how many, at least 1.
        first, seed: index of the first one and public seed, at least 0.
        size: side of a picture in pixels; it is drawn a quarter larger.
        workers: processes; all processors when None.
        progress: called with (task, done, total).

    Raises:
        InputError: for a count, an index or a seed out of range.
    """
    if count < 1 or first < 0 or seed < 0:
        raise InputError(
            f"{count} public phantoms from index {first} of seed {seed} were asked for, "
            "expected at least 1, from index 0 or more, of a seed that is not negative"
        )
    drawn: list[tuple[NDArray[np.uint8], int, tuple[int, ...]]] = []
    indices = range(first, first + count)
    for batch in map_batches(TARGET, (seed, size), indices, batch=_BATCH, workers=workers or default_workers()):
        for picture in batch:
            if isinstance(picture, Failed):
                raise InputError(f"a public phantom could not be drawn: {picture.reason}")
        drawn += batch
        if progress is not None:
            progress(TASK, len(drawn), count)
    images, labels, lesions = zip(*drawn, strict=True)
    return PublicPictures(np.stack(images), np.array(labels, np.int32), np.array(lesions, np.float32))


def draw_batch(common: tuple[int, int], indices: list[int]) -> list[tuple[NDArray[np.uint8], int, tuple[int, ...]]]:
    """Draw some public phantoms of (seed, size); runs in a worker. For each the picture, the label and the lesions."""
    seed, size = common
    return [_picture(seed, index, size) for index in indices]


def _picture(seed: int, index: int, size: int) -> tuple[NDArray[np.uint8], int, tuple[int, ...]]:
    generator = np.random.default_rng([_STREAM, seed, index])
    grade = int(generator.integers(CLASSES))
    camera = draw_public_camera(generator, int(generator.integers(len(CASTS))))
    anatomy = draw_public_anatomy(generator)
    left = bool(generator.integers(2))
    picture, lesions = _draw_eye(generator, camera, anatomy, grade, left, size * 5 // 4)
    prepared = preprocess(picture, FUNDUS, size, 3)
    if generator.uniform() < LABEL_NOISE:
        grade = min(CLASSES - 1, max(0, grade + (1 if generator.uniform() < 0.5 else -1)))
    return prepared, grade, lesions


def draw_public_camera(generator: np.random.Generator, index: int) -> Camera:
    """Draw a camera: the public one with this index, varied a little for every picture."""
    kind = index % len(CASTS)
    jitter = generator.uniform(*CAST_JITTER, size=3)
    cast = CASTS[kind]
    return Camera(
        gain=(cast[0] + jitter[0], cast[1] + jitter[1], cast[2] + jitter[2]),
        gamma=GAMMAS[kind] + float(generator.uniform(*GAMMA_JITTER)),
        field=FIELDS[kind] + float(generator.uniform(*FIELD_JITTER)),
        vignetting=VIGNETTING[kind] + float(generator.uniform(*VIGNETTING_JITTER)),
        noise=NOISE[kind],
        tilt=float(generator.uniform(*CAMERA_TILT)),
        glare=GLARE[kind],
    )


def draw_public_anatomy(generator: np.random.Generator) -> Anatomy:
    """Draw the pigmentation, optic disc and vessels of a public eye."""
    return Anatomy(
        pigment=float(generator.uniform(-1.0, 1.0)),
        disc_radius=float(generator.uniform(*DISC_RADIUS)),
        cup=float(generator.uniform(*CUP)),
        vessel_width=float(generator.uniform(*VESSEL_WIDTH)),
        tortuosity=float(generator.uniform(*TORTUOSITY)),
        vessel_seed=int(generator.integers(2**31)),
    )


def _draw_lesions(
    generator: np.random.Generator, grade: int, dark: Canvas, bright: Canvas, pale: Canvas
) -> tuple[int, ...]:
    """Draw a grade's lesions; return how many of each of LESIONS."""
    dots, blots, exudates, wool = (int(generator.poisson(means[grade])) for means in (DOTS, BLOTS, EXUDATES, WOOL))
    dots = max(dots, 1) if grade == 1 else dots
    for x, y in scatter_places(generator, dots, DOT_REACH).tolist():
        radius = generator.uniform(*DOT_RADIUS)
        dark.ellipse(x, y, radius, radius * generator.uniform(*DOT_SHAPE), DOT_VALUE)
    for x, y in scatter_places(generator, blots, BLOT_REACH).tolist():
        dark.ellipse(x, y, generator.uniform(*BLOT_RADIUS), generator.uniform(*BLOT_RADIUS), BLOT_VALUE)
    for x, y in scatter_places(generator, exudates, EXUDATE_REACH).tolist():
        radius = generator.uniform(*EXUDATE_RADIUS)
        bright.ellipse(x, y, radius, radius, EXUDATE_VALUE)
    for x, y in scatter_places(generator, wool, WOOL_REACH).tolist():
        scale = generator.uniform(*WOOL_SCALE)
        for radius, value in WOOL_RINGS:
            pale.ellipse(x, y, radius * scale, radius * scale * WOOL_SHAPE, value)
    new_vessels = preretinal = False
    if grade == CLASSES - 1:
        new_vessels = generator.uniform() < NEW_VESSELS_SHARE or dots + blots < FEWEST_DARK
        if new_vessels:
            _draw_new_vessels(generator, dark)
        preretinal = not new_vessels or generator.uniform() < PRERETINAL_SHARE
        if preretinal:
            x, y = generator.uniform(*PRERETINAL_X), generator.uniform(*PRERETINAL_Y) * generator.choice([-1, 1])
            radius = generator.uniform(*PRERETINAL_RADIUS)
            dark.ellipse(x, y, radius, radius * PRERETINAL_SHAPE, PRERETINAL_VALUE)
    return dots, blots, exudates, wool, int(new_vessels), int(preretinal)


def _draw_new_vessels(generator: np.random.Generator, dark: Canvas) -> None:
    steps = np.linspace(0, 1, 9)
    for angle in generator.uniform(0, 2 * np.pi, size=int(generator.integers(*ARMS))).tolist():
        curl = angle + ARM_CURL * steps * (1 if angle > np.pi else -1)
        reach = ARM_REACH[0] + ARM_REACH[1] * steps
        points = np.stack([OPTIC_DISC[0] + reach * np.cos(curl), OPTIC_DISC[1] + reach * np.sin(curl)], axis=1)
        dark.line(points, ARM_WIDTH, ARM_VALUE)


def _draw_eye(
    generator: np.random.Generator, camera: Camera, anatomy: Anatomy, grade: int, left: bool, size: int
) -> tuple[NDArray[np.uint8], tuple[int, ...]]:
    """Draw one picture, uint8[size,size,3], mirrored when `left`; return it with its lesions."""
    veins, dark, bright, pale = (Canvas(size, camera.field) for _ in range(4))
    tilt = camera.tilt + generator.normal(0, PICTURE_TILT)
    rotation = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    for points, width in draw_vessels(generator, anatomy):
        veins.line(points @ rotation, width, VESSEL_VALUES[0] if width > 0.04 else VESSEL_VALUES[1])
    lesions = _draw_lesions(generator, grade, dark, bright, pale)
    x, y = retina_grid(size)
    u, v = x / np.float32(camera.field), y / np.float32(camera.field)
    radius2 = u * u + v * v
    edge = np.float32(size * camera.field / 2)
    picture = _draw_retina(generator, camera, anatomy, rotation, (u, v), edge)
    if pale.used:
        picture = picture + pale.mask() * (rgb(*WOOL_COLOUR) - picture)
    picture = picture * (1 - veins.mask() * rgb(*VESSEL_ABSORPTION))
    if bright.used:
        picture = picture + bright.mask() * (rgb(*EXUDATE_COLOUR) - picture)
    if dark.used:
        picture = picture + dark.mask() * (rgb(*BLOOD_COLOUR) - picture)
    picture = picture * rgb(*camera.gain) * np.float32(generator.uniform(*BRIGHTNESS))
    picture = picture + np.float32(camera.glare) * radius2 * rgb(*GLARE_COLOUR)
    picture = np.power(np.clip(picture, 0, 1), np.float32(camera.gamma)) * np.float32(255)
    if generator.uniform() < BLURRED_SHARE:
        sharp = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8).transpose(1, 2, 0))
        blurred = sharp.filter(ImageFilter.GaussianBlur(generator.uniform(*BLUR_RADIUS)))
        picture = np.asarray(blurred, np.float32).transpose(2, 0, 1).copy()
    x0, y0 = generator.integers(0, NOISE_SPARE, size=2).tolist()
    picture = picture + sensor_noise(size)[:, y0 : y0 + size, x0 : x0 + size] * np.float32(camera.noise)
    picture = picture * np.clip((1 - np.sqrt(radius2)) * edge + 0.5, 0, 1)
    drawn = np.clip(np.rint(picture), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    return np.ascontiguousarray(drawn[:, ::-1] if left else drawn), lesions


def _draw_retina(
    generator: np.random.Generator,
    camera: Camera,
    anatomy: Anatomy,
    rotation: NDArray[np.float64],
    plane: tuple[Floats, Floats],
    edge: np.float32,
) -> Floats:
    """Draw what has no vessels and no lesions: float32[3,n,n] in about [0, 1]. `plane` is (u, v) of every pixel."""
    u, v = plane
    radius2 = u * u + v * v
    disc = np.array(OPTIC_DISC) @ rotation + generator.normal(0, DISC_SHIFT, size=2)
    macula = np.array(MACULA) @ rotation + generator.normal(0, MACULA_SHIFT, size=2)
    shade = 1.0 - np.float32(camera.vignetting) * radius2 * radius2
    shade = shade + np.float32(generator.uniform(*SLANT)) * u + np.float32(generator.uniform(*SLANT)) * v
    to_macula = (u - np.float32(macula[0])) ** 2 + (v - np.float32(macula[1])) ** 2
    depth = float(generator.uniform(*MACULA_DEPTH))
    shade = shade * (1 - depth * np.exp(-to_macula / MACULA_AREA) - HALO_DEPTH * np.exp(-to_macula / HALO_AREA))
    base = [colour + change * anatomy.pigment for colour, change in zip(BASE, BASE_PIGMENT, strict=True)]
    picture = shade * rgb(*base)
    to_disc = np.sqrt((u - np.float32(disc[0])) ** 2 * np.float32(DISC_STRETCH) + (v - np.float32(disc[1])) ** 2)
    rim = np.clip((np.float32(anatomy.disc_radius) - to_disc) * edge * RIM_EDGE + 0.5, 0, 1)
    cup = np.clip((np.float32(anatomy.disc_radius * anatomy.cup) - to_disc) * edge * CUP_EDGE + 0.5, 0, 1)
    picture = picture + rim * (rgb(*RIM_COLOUR) - picture)
    return np.asarray(picture + cup * (rgb(*CUP_COLOUR) - picture), dtype=np.float32)
