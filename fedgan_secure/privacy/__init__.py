"""What privacy rests on: sampling, noise, entropy, sums with shared noise, and the mechanism's own tests."""

from fedgan_secure.privacy.entropy import Entropy, entropy_for
from fedgan_secure.privacy.errors import MechanismContradicted, PrivacyRefused
from fedgan_secure.privacy.evidence import Moments
from fedgan_secure.privacy.integer_noise import DiscreteGaussian
from fedgan_secure.privacy.noise import GaussianStream
from fedgan_secure.privacy.release import COARSE, add_noise, check_release
from fedgan_secure.privacy.sampling import TRUNCATION_PROBABILITY, PatientImages, poisson_sample
from fedgan_secure.privacy.self_test import TOLERANCE, MechanismWatch, Recorded
from fedgan_secure.privacy.shared_noise import (
    FINEST_GRID,
    Schedule,
    ShareEncoder,
    box_of,
    check_shares,
    choose_grid,
    headroom,
    mean_gradient,
    step_digest,
    sums_digest,
)

__all__ = [
    "COARSE",
    "FINEST_GRID",
    "TOLERANCE",
    "TRUNCATION_PROBABILITY",
    "DiscreteGaussian",
    "Entropy",
    "GaussianStream",
    "MechanismContradicted",
    "MechanismWatch",
    "Moments",
    "PatientImages",
    "PrivacyRefused",
    "Recorded",
    "Schedule",
    "ShareEncoder",
    "add_noise",
    "box_of",
    "check_release",
    "check_shares",
    "choose_grid",
    "entropy_for",
    "headroom",
    "mean_gradient",
    "poisson_sample",
    "step_digest",
    "sums_digest",
]
