"""From a file's bytes to the pixels that are trained on."""

from fedgan_secure.data.pixels.golden import golden_digest, refuse_other_preprocessing
from fedgan_secure.data.pixels.marks import looks_like_dicom
from fedgan_secure.data.pixels.preprocess import CT_ABDOMEN, CT_WINDOW, FUNDUS, PLAIN

__all__ = [
    "CT_ABDOMEN",
    "CT_WINDOW",
    "FUNDUS",
    "PLAIN",
    "golden_digest",
    "looks_like_dicom",
    "refuse_other_preprocessing",
]
