"""Adapt a public start to private pictures: a pool of drawn pictures, a transfer of colours, and chances of each."""

from fedgan_secure.adaptation.adapting import Adaptation, adaptation_of, feature_network
from fedgan_secure.adaptation.generator import build_adapted_generator, cumulated
from fedgan_secure.adaptation.pool import StartAlone, transfer_shape
from fedgan_secure.adaptation.transfer import build_transfer

__all__ = [
    "Adaptation",
    "StartAlone",
    "adaptation_of",
    "build_adapted_generator",
    "build_transfer",
    "cumulated",
    "feature_network",
    "transfer_shape",
]
