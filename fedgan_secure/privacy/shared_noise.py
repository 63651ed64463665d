"""Noise that is shared: what one hospital gives to one sum, and what the coordinator makes of the sum.

In every step each hospital sums the clipped gradients of its drawn patients, clamps the sum to a public box, rounds it
to a public grid of step g, and adds integer noise; secure aggregation then shows the sum over the hospitals alone.
The clamp is a projection and moves no two sums apart; rounding moves each of d coordinates by at most g/2: one patient
moves the rounded sum by at most Delta = C + g sqrt(d). Every hospital adds the discrete Gaussian of variance
(sigma Delta / g)^2 / (t - c) grid steps squared, so that t - c of them carry the declared noise; a sum of fewer than t
hospitals is never released, and at most c of them tell their noise. Sources: Kairouz, Liu and Steinke (ICML 2021) for
sums of discrete Gaussians; the proof: docs/privacy.md. No TensorFlow here.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedgan_audits.accounting import LEAST_DEVIATION, DistributedMechanism, NoiseShares, share_variance
from fedgan_protocols import ProtocolError
from fedgan_protocols.primitives import FixedPoint, prove_headroom
from fedgan_secure.errors import InputError
from fedgan_secure.privacy.integer_noise import LARGEST_DEVIATION

WRAP_PROBABILITY = 2.0**-60
"""Bound on the probability that the noise makes any coordinate of any sum of a run wrap around the ring."""
COARSEST_GRID = 0.01
"""g sqrt(d) is at most this share of the clip norm, so that rounding costs at most so much more noise."""
FINEST_GRID = 24
"""Fraction bits beyond which a finer grid gains nothing."""


@dataclass(frozen=True)
class Schedule:
    """How often a federation sums: the whole run, spare rounds included."""

    hospitals: int
    sums: int


def box_of(l2_clip_norm: float, expected_batch_size: float) -> float:
    """The public bound on a coordinate of one hospital's sum: C times the expected number of drawn patients.

    A batch of that size stays inside whatever its gradients are; of a larger one, coordinates may be clamped.
    """
    return l2_clip_norm * max(1.0, expected_batch_size)


def noise_tail(record: DistributedMechanism, schedule: Schedule) -> int:
    """A magnitude, in grid steps, that the noise of no sum of the run exceeds, but for `WRAP_PROBABILITY`.

    A discrete Gaussian is sub-Gaussian with its variance parameter (Canonne, Kamath and Steinke 2020), so the sum over
    n hospitals is with n times it; union bound over all coordinates and sums. What happens beyond is a wrong value, not
    a loss of privacy: reduction modulo 2^k is post-processing.
    """
    values = 2.0 * record.shares.dimension * schedule.sums
    spread = share_variance(record) * schedule.hospitals
    return math.ceil(math.sqrt(2.0 * spread * math.log(values / WRAP_PROBABILITY)))


def headroom(codec: FixedPoint, record: DistributedMechanism, schedule: Schedule) -> str:
    """The proof, for people, that sums do not wrap. Raises ParameterError (headroom) where they could."""
    tail = noise_tail(record, schedule)
    proof = prove_headroom(codec, [1] * schedule.hospitals, tail)
    return (
        f"{proof}; the noise of {schedule.hospitals} hospitals exceeds {tail} with probability at most 2^-60 over all "
        f"{schedule.sums} sums of the run, and a sum that wraps is wrong but no less private"
    )


def check_shares(record: DistributedMechanism, codec: FixedPoint) -> None:
    """Refuse noise and a grid for which the proof or the sampler does not hold.

    Raises:
        InputError: naming what was found and expected.
    """
    shares = record.shares
    if shares.noise != "discrete_gaussian":
        raise InputError(f"shares.noise is {shares.noise!r}, expected discrete_gaussian: no other is drawn here")
    if shares.grid_step != codec.resolution:
        raise InputError(
            f"shares.grid_step is {shares.grid_step:g}, but the ring's {codec.fraction_bits} fraction bits make it "
            f"{codec.resolution:g}"
        )
    widened = shares.grid_step * math.sqrt(shares.dimension)
    if widened > COARSEST_GRID * record.l2_clip_norm:
        raise InputError(
            f"rounding to a grid of {shares.grid_step:g} in {shares.dimension} coordinates moves a sum by up to "
            f"{widened:.3g}, expected at most {COARSEST_GRID:g} of the clip norm {record.l2_clip_norm:g}",
            hint="set training.ring_bits = 64, or leave training.fraction_bits out",
        )
    deviation = math.sqrt(share_variance(record))
    if not LEAST_DEVIATION <= deviation <= LARGEST_DEVIATION:
        raise InputError(
            f"a hospital's share of the noise has a standard deviation of {deviation:.3g} grid steps, expected "
            f"{LEAST_DEVIATION:g} to {LARGEST_DEVIATION:g}",
            hint="leave training.fraction_bits out, or change privacy.noise_multiplier",
        )


def choose_grid(
    calibrate: Callable[[NoiseShares], DistributedMechanism],
    *,
    threshold: int,
    colluders: int,
    dimension: int,
    box: float,
    ring_bits: int,
    fraction_bits: int | None,
    schedule: Schedule,
) -> tuple[DistributedMechanism, int]:
    """The finest grid whose sums fit the ring with their noise, and the mechanism calibrated for it.

    Args:
        calibrate: from shares to the mechanism of one round with its noise multiplier.
        threshold, colluders: t and c.
        dimension: d, coordinates of a sum.
        box: bound on a coordinate of one hospital's sum.
        ring_bits: 32 or 64.
        fraction_bits: the grid step is 2^-fraction_bits; None for the finest that fits.
        schedule: how many hospitals and sums.

    Raises:
        InputError: no colluder is tolerated, or no grid fits.
    """
    if colluders < 1:
        raise InputError(
            f"distributed noise with a threshold of {threshold} of {schedule.hospitals} hospitals: no hospital may "
            "collude with the coordinator, and each can take its own noise out of the sum; expected a threshold that "
            "allows for at least one",
            hint=f"raise --threshold to {max(3, (schedule.hospitals + 3) // 2)} or more",
        )
    candidates = range(FINEST_GRID, 0, -1) if fraction_bits is None else (fraction_bits,)
    record: DistributedMechanism | None = None
    problem: Exception | None = None
    for bits in candidates:
        shares = NoiseShares(threshold=threshold, colluders=colluders, grid_step=2.0**-bits, dimension=dimension)
        try:
            codec = FixedPoint(box, ring_bits, bits)
            prove_headroom(codec, [1] * schedule.hospitals)
            # what the noise multiplier is for one grid, it nearly is for the next: calibrate once, then where it fits
            first = calibrate(shares) if record is None else record.model_copy(update={"shares": shares})
            record = first
            headroom(codec, first, schedule)
            record = calibrate(shares)
            headroom(codec, record, schedule)
            check_shares(record, codec)
            return record, bits
        except (ProtocolError, InputError) as error:
            problem = error
    raise InputError(
        f"no grid fits sums of {schedule.hospitals} hospitals with {dimension} coordinates in a box of {box:g} into "
        f"{ring_bits} bits: {problem}",
        hint="set training.ring_bits = 64",
    ) from problem


class ShareEncoder:
    """Turns one hospital's sum into what it gives to secure aggregation. Stateless but for the noise stream."""

    def __init__(self, record: DistributedMechanism, codec: FixedPoint, draw: Callable[[int], np.ndarray]) -> None:
        """Args: draw: of `DiscreteGaussian(Fraction(share_variance(record)))`; raises InputError as `check_shares`."""
        check_shares(record, codec)
        self._record, self._codec, self._draw = record, codec, draw

    def rounded(self, total: np.ndarray) -> np.ndarray:
        """float[d] -> the clamped and rounded sum as integers modulo 2^k, uint32[d] or uint64[d]. No noise yet."""
        if total.shape != (self._record.shares.dimension,):
            raise ValueError(f"a sum of {total.shape}, expected ({self._record.shares.dimension},)")
        return self._codec.encode(total)

    def encode(self, total: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
        """float[d] -> (rounded sum plus fresh noise, modulo 2^k; confidential moments of the noise as it was added)."""
        noise = self._draw(self._record.shares.dimension)
        rounded = self.rounded(total)
        values = rounded + noise.astype(rounded.dtype)  # two's complement: exact modulo 2^k
        signed = np.int32 if values.dtype == np.uint32 else np.int64
        real = (values - rounded).view(signed).astype(np.float64)
        return values, {
            "clamped": float(self._codec.count_clamped(total)),
            "count": float(real.size),
            "sum": float(real.sum()),
            "squares": float(np.vdot(real, real)),
        }


def mean_gradient(total: np.ndarray, hospitals: int, codec: FixedPoint, expected_batch_size: float) -> np.ndarray:
    """The noisy mean gradient, float32[d], of a sum over `hospitals`: divided by public constants alone.

    The divisor is the expected batch size times the number of hospitals in the sum, which is public.
    """
    if hospitals < 1:
        raise ValueError(f"a sum over {hospitals} hospitals; expected at least one")
    return np.asarray(codec.decode_sum(total, hospitals) / expected_batch_size, dtype=np.float32)


def step_digest(layout_hash: str, weights: np.ndarray) -> bytes:
    """SHA-256 that names what the coordinator sends for a step after the first, float32[k]; 32 bytes."""
    digest = hashlib.sha256(b"fedgan-secure/step-model/0\x00")
    digest.update(bytes.fromhex(layout_hash))
    digest.update(np.ascontiguousarray(weights, dtype="<f4").tobytes())
    return digest.digest()


def sums_digest(digests: tuple[bytes, ...]) -> bytes:
    """One name for all sums of a round: SHA-256 over their digests, 32 bytes each, in order."""
    return hashlib.sha256(b"".join(digests)).digest()
