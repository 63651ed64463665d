"""What noise on the integers adds to the Gaussian's Rényi divergence, for a sum that several parties' shares protect.

The sum lies on a grid of step g in d coordinates; lengths here are in grid steps. Sensitivity: a patient changes the
clamped sum by at most C in Euclidean norm (the clamp is a projection) and rounding moves each coordinate of both sums
by at most half a step, so that the rounded sums differ by at most C/g + sqrt(d). They differ by an integer vector v:
|v|_1 <= |v|_2^2, and at most |v|_2^2 coordinates of v are not 0.

* Sum of m discrete Gaussians N_Z(0, s^2). The ratio of its density to that of N_Z(0, m s^2) varies by a factor of at
  most exp(tau) in each coordinate, and the sum is sub-Gaussian with variance m s^2, so that
  D_k <= k |v|^2 / (2 m s^2) + tau (number of moved coordinates). This is the first bound of Kairouz, Liu and Steinke
  2021, Proposition 14; a proof that uses less: docs/accounting.md.
* Skellam, the difference of two Poisson variables, is closed under sums: Agarwal, Kairouz and Liu 2021, Theorem 3.5.

Reduction modulo a power of two and everything after it is post-processing. Shares beyond the m counted ones are, too.
"""

from __future__ import annotations

import math

from fedgan_audits.accounting.mechanism import DistributedMechanism
from fedgan_audits.accounting.renyi import SampledNoise
from fedgan_audits.errors import NotAccounted

_UP = 1 + 1e-12

LEAST_DEVIATION = 0.5
"""Standard deviation of one share, in grid steps, below which Kairouz et al. prove nothing for discrete Gaussians."""

LEAST_SKELLAM_VARIANCE = 1e-6
"""Variance of a sum's Skellam noise, in squared grid steps, below which there is no noise to speak of."""


def sensitivity(record: DistributedMechanism) -> float:
    """Delta = C + g sqrt(d), in units of the gradient: how far one unit can move the rounded sum, rounded up."""
    return (record.l2_clip_norm + record.shares.grid_step * math.sqrt(record.shares.dimension)) * _UP


def share_variance(record: DistributedMechanism) -> float:
    """The variance of the noise that each hospital adds to every coordinate, in squared grid steps, rounded up.

    It is (sigma Delta / g)^2 / (t - c): t - c honest shares carry the declared noise; however many hospitals finish a
    step, the division is by t - c.
    """
    total = record.noise_multiplier * sensitivity(record) / record.shares.grid_step
    return total * total / record.shares.honest_shares * _UP


def inflation(deviation: float, shares: int) -> float:
    """tau for a sum of `shares` discrete Gaussians of parameter `deviation` (grid steps) each; 0 for one.

    tau = 10 sum_{j=1}^{m-1} exp(-2 pi^2 deviation^2 j/(j+1)) (Kairouz, Liu and Steinke 2021, Theorem 1). Raises
    NotAccounted for a deviation below LEAST_DEVIATION.
    """
    if deviation < LEAST_DEVIATION:
        raise NotAccounted(
            f"each hospital's share of the noise has a standard deviation of {deviation:.4g} grid steps, but at least "
            f"{LEAST_DEVIATION} is expected",
            hint="Choose a finer grid or more noise.",
        )
    if shares == 1:
        return 0.0
    exponent = 2 * math.pi**2 * deviation**2
    explicit = min(shares - 1, 100_000)
    terms = math.fsum(math.exp(-exponent * j / (j + 1)) for j in range(1, explicit + 1))
    rest = (shares - 1 - explicit) * math.exp(-exponent * (explicit + 1) / (explicit + 2))
    return 10 * (terms + rest) * _UP


def sampled_noise(record: DistributedMechanism) -> SampledNoise:
    """One step of `record` as the Rényi accountant takes it; the noise is that of t - c shares and no more.

    Raises NotAccounted where the shares are too small for the proof.
    """
    q, sigma, shares = record.sampling_probability, record.noise_multiplier, record.shares
    length = sensitivity(record) / shares.grid_step
    moved = min(float(shares.dimension), length * length)
    if shares.noise == "skellam":
        variance = (sigma * length) ** 2
        if variance < LEAST_SKELLAM_VARIANCE:
            raise NotAccounted(
                f"the noise of the sum has a variance of {variance:.4g} squared grid steps, but at least "
                f"{LEAST_SKELLAM_VARIANCE:g} is expected",
                hint="Choose a finer grid or more noise.",
            )
        manhattan = min(math.sqrt(shares.dimension) * length, length * length)
        return SampledNoise(
            q,
            sigma,
            slope=length * length / (4 * variance * variance) * _UP,
            offset=6 * manhattan / (4 * variance * variance) * _UP,
            ceiling=3 * manhattan / (2 * variance) * _UP,
        )
    extra = inflation(math.sqrt(share_variance(record)), shares.honest_shares) * moved
    return SampledNoise(q, sigma, offset=extra * _UP, ceiling=extra * _UP)
