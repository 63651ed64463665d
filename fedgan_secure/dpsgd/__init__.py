"""The private step: exact per-patient clipping, and the noisy, normalised sum of gradients. Loads TensorFlow."""

from fedgan_secure.dpsgd.clipping import PerPatientGradients, refuse_mixing
from fedgan_secure.dpsgd.noise_probe import feature_row, noise_scale, probe
from fedgan_secure.dpsgd.norms import variable
from fedgan_secure.dpsgd.step import check_mechanism, discriminator_gradient

__all__ = [
    "PerPatientGradients",
    "check_mechanism",
    "discriminator_gradient",
    "feature_row",
    "noise_scale",
    "probe",
    "refuse_mixing",
    "variable",
]
