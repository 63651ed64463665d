"""From a hospital's clipped sum to what it gives to one secure sum, and from that sum back to numbers. No TensorFlow.

With `per_hospital` noise a hospital adds Gaussian noise to its sum (`privacy.release`), clamps the result to a public
box and rounds it to a public grid: post-processing. With `distributed` noise it clamps and rounds first and adds its
share of integer noise (`distributed.ShareEncoder`), whose proof counts the rounding. Either way the sum over any
hospitals of the roster fits the ring: whatever is encoded lies in the box, and what integer noise adds is bounded but
for a probability of 2^-60.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from fedgan_audits.accounting import DistributedMechanism, MechanismRecord, NoiseShares, share_variance
from fedgan_protocols import ProtocolError
from fedgan_protocols.primitives import FixedPoint, prove_headroom, widest_fraction_bits
from fedgan_secure.errors import InputError
from fedgan_secure.privacy import (
    COARSE,
    FINEST_GRID,
    DiscreteGaussian,
    Entropy,
    GaussianStream,
    Schedule,
    ShareEncoder,
    add_noise,
    check_release,
    choose_grid,
    headroom,
)

LARGEST_NORMAL = 9.5
"""No value of a `GaussianStream` is larger than this."""
COARSEST_BITS = 4
"""A release is rounded to 2^-COARSEST_BITS of the clip norm, or of the noise where that is larger, or finer."""
Draw = Callable[[int], np.ndarray]
"""From a number of values to fresh noise: float32[n] standard normal, or int64[n] grid steps where noise is shared."""


@dataclass(frozen=True)
class ReleaseTerms:
    """What decides on a release's ring, beside the mechanism: public facts of the policy.

    Attributes:
        dimension: D, coordinates of the released vector.
        declared_patients: of one hospital.
        hospitals: of the roster.
        ring_bits: 32 or 64.
        threshold, colluders: t and c of the session; they count where the noise is shared.
        fraction_bits: of the grid; None for the finest that fits.
    """

    dimension: int
    declared_patients: int
    hospitals: int
    ring_bits: int
    threshold: int = 2
    colluders: int = 0
    fraction_bits: int | None = None


@dataclass(frozen=True)
class ReleaseRing:
    """The mechanism of a release with its encoding.

    Attributes:
        mechanism: what is reserved; of the distributed kind where the noise is shared.
        codec: box, ring and grid.
        headroom: the proof, for people, that the sum does not wrap.
    """

    mechanism: MechanismRecord
    codec: FixedPoint
    headroom: str


def box_of_release(declared_patients: int, noise_multiplier: float, l2_clip_norm: float) -> float:
    """Return the public bound on a coordinate of one hospital's encoded vector.

    It is C for each declared patient, and the largest noise: at the declared cohort nothing is clamped. Of a much
    larger cohort a coordinate may be; that is post-processing.

    Args:
        declared_patients: of one hospital.
        noise_multiplier: sigma of noise that is added before the encoding, else 0.
        l2_clip_norm: C.
    """
    return l2_clip_norm * (declared_patients + LARGEST_NORMAL * noise_multiplier)


def release_ring(
    record: MechanismRecord,
    terms: ReleaseTerms,
    calibrate: Callable[[NoiseShares], DistributedMechanism] | None = None,
) -> ReleaseRing:
    """Choose the box, the grid and, where the noise is shared, the shares of a release.

    Args:
        record: one release (q = 1, one step); its `noise_placement` says where noise is added.
        terms: the public facts.
        calibrate: for shared noise, from shares to the mechanism with its noise multiplier; None keeps `record`'s.

    Raises:
        InputError: no grid fits; PrivacyRefused: the record is not one release.
    """
    check_release(record)
    if record.noise_placement == "distributed":
        return _shared_ring(record, terms, calibrate)
    box = box_of_release(terms.declared_patients, record.noise_multiplier, record.l2_clip_norm)
    members = [1] * terms.hospitals
    deviation = record.noise_multiplier * record.l2_clip_norm
    coarse = FINEST_GRID if deviation == 0 else math.floor(-math.log2(COARSE * deviation))
    try:
        bits = terms.fraction_bits or min(coarse, FINEST_GRID, widest_fraction_bits(box, terms.ring_bits, members))
        codec = FixedPoint(box, terms.ring_bits, bits)
        proof = prove_headroom(codec, members)
    except ProtocolError as error:
        raise InputError(
            f"no grid fits a release of {terms.hospitals} hospitals with {terms.declared_patients} declared patients "
            f"into {terms.ring_bits} bits: {error}",
            hint="set training.ring_bits = 64",
        ) from error
    widest = max(record.l2_clip_norm, deviation) * 2.0**-COARSEST_BITS
    if not COARSE * deviation <= codec.resolution <= widest:
        raise InputError(
            f"a release would be rounded to steps of {codec.resolution:g}, expected {COARSE * deviation:g} to "
            f"{widest:g}",
            hint="set training.ring_bits = 64, or leave training.fraction_bits out",
        )
    return ReleaseRing(record, codec, proof)


def _shared_ring(
    record: MechanismRecord, terms: ReleaseTerms, calibrate: Callable[[NoiseShares], DistributedMechanism] | None
) -> ReleaseRing:
    fields = record.model_dump(exclude={"shares"})

    def same_noise(shares: NoiseShares) -> DistributedMechanism:
        return DistributedMechanism(**fields, shares=shares)

    schedule = Schedule(terms.hospitals, 1)
    box = box_of_release(terms.declared_patients, 0.0, record.l2_clip_norm)
    mechanism, bits = choose_grid(
        calibrate or same_noise,
        threshold=terms.threshold,
        colluders=terms.colluders,
        dimension=terms.dimension,
        box=box,
        ring_bits=terms.ring_bits,
        fraction_bits=terms.fraction_bits,
        schedule=schedule,
    )
    codec = FixedPoint(box, terms.ring_bits, bits)
    return ReleaseRing(mechanism, codec, headroom(codec, mechanism, schedule))


@dataclass(frozen=True)
class EncodedRelease:
    """What one hospital gives to the secure sum, and what it alone may know.

    Attributes:
        values: uint32[D] or uint64[D], modulo 2^k; for the client session alone.
        count, total, squares: of the noise as it was added, in units of the vector: how many values, their sum, the sum
            of their squares (confidential).
        clamped: coordinates that the box changed (confidential).
    """

    values: np.ndarray
    count: int
    total: float
    squares: float
    clamped: int


def noise_of(record: MechanismRecord, entropy: Entropy) -> Draw:
    """Return the source of one hospital's noise.

    Raises:
        PrivacyRefused: a variance that is not drawn, or an entropy source that does not give what it is asked for.
    """
    if isinstance(record, DistributedMechanism):
        return DiscreteGaussian(Fraction(share_variance(record)), entropy).draw
    return GaussianStream(entropy).normal


def encode_release(total: np.ndarray, record: MechanismRecord, codec: FixedPoint, draw: Draw) -> EncodedRelease:
    """Add noise to a hospital's clipped sum and encode it.

    Args:
        total: float64[D], exact (confidential).
        record: the mechanism, as `release_ring` gave it.
        codec: the ring, as `release_ring` gave it.
        draw: fresh noise, of `noise_of`; called once.

    Raises:
        InputError: shares that do not fit the grid, or a sum and noise that do not fit each other.
    """
    check_release(record)
    if isinstance(record, DistributedMechanism):
        values, found = ShareEncoder(record, codec, draw).encode(total)
        step = codec.resolution
        return EncodedRelease(
            values, int(found["count"]), found["sum"] * step, found["squares"] * step**2, int(found["clamped"])
        )
    noisy = add_noise(total, draw(len(total)), record)
    added = noisy - total
    values = codec.encode(noisy)
    return EncodedRelease(
        values, len(added), float(added.sum()), float(np.vdot(added, added)), codec.count_clamped(noisy)
    )


def decode_release_sum(total: np.ndarray, survivors: int, codec: FixedPoint) -> np.ndarray:
    """Return the noisy sum over the hospitals of a secure sum.

    Args:
        total: uint32[D] or uint64[D], modulo 2^k.
        survivors: how many hospitals are in it.
        codec: the ring.

    Returns:
        float64[D], the sum, not its mean.

    Raises:
        InputError: a sum over no hospitals.
    """
    if survivors < 1:
        raise InputError(f"a release over {survivors} hospitals, expected at least one")
    return codec.decode_sum(total)


def release_deviation(record: MechanismRecord, survivors: int) -> float:
    """Return the standard deviation of the noise in every coordinate of the sum over so many hospitals.

    `per_hospital`: sigma C sqrt(survivors). `distributed`: sigma Delta sqrt(survivors / (t - c)) with Delta = C + g
    sqrt(D); survivors may be one, for a single hospital's share. Rounding, less than a grid step, is not counted.

    Raises:
        InputError: a sum over no hospitals.
    """
    if survivors < 1:
        raise InputError(f"a release over {survivors} hospitals, expected at least one")
    if isinstance(record, DistributedMechanism):
        return record.shares.grid_step * math.sqrt(share_variance(record) * survivors)
    return record.noise_multiplier * record.l2_clip_norm * math.sqrt(survivors)
