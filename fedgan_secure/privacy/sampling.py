"""Which patients, and which of their images, take part in a step.

Poisson sampling for real: an independent coin per patient and step. Shuffling or fixed-size batches are not covered
by the accountant (Chua et al., "How Private are DP-SGD Implementations?", ICML 2024). Batches may be empty, and are
never truncated, so nothing has to be added to delta. The coins never leave the hospital.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from fedgan_secure.privacy.entropy import Entropy
from fedgan_secure.privacy.errors import PrivacyRefused

TRUNCATION_PROBABILITY = 0.0
"""Probability that a batch is cut short: none ever is, batches have whatever size the coins give."""


def _words(count: int, entropy: Entropy) -> np.ndarray:
    raw = entropy(8 * count)
    if len(raw) != 8 * count:
        raise PrivacyRefused(f"the entropy source gave {len(raw)} bytes, expected {8 * count}")
    return np.frombuffer(raw, dtype="<u8")


def poisson_sample(patients: int, probability: float, entropy: Entropy) -> np.ndarray:
    """One step's patients, each taken independently with the given probability.

    A coin is a uniform 64-bit integer compared with ``floor(probability * 2**64)``, computed exactly: the realised
    probability is at most the given one, and less than 2**-64 below it.

    Args:
        patients: how many there are (confidential).
        probability: q in (0, 1], public policy.
        entropy: source of random bytes.

    Returns:
        int64[k], ascending indices in 0..patients-1; k is 0 at times.

    Raises:
        PrivacyRefused: the probability is not in (0, 1].
    """
    if not 0.0 < probability <= 1.0:
        raise PrivacyRefused(f"sampling probability is {probability}, expected more than 0 and at most 1")
    words = _words(patients, entropy)
    if probability == 1.0:
        return np.arange(patients, dtype=np.int64)
    threshold = int(Fraction(probability) * 2**64)
    return np.flatnonzero(words < np.uint64(threshold)).astype(np.int64)


class PatientImages:
    """Which images belong to which patient, as one index array, for fast draws."""

    def __init__(self, patient_of_image: np.ndarray, patients: int) -> None:
        """Args: patient_of_image: int[N], the patient of every image; patients: their number."""
        counts = np.bincount(patient_of_image, minlength=patients)
        self.patients = patients
        self._order = np.argsort(patient_of_image, kind="stable")
        self._ends = np.cumsum(counts)
        self._starts = self._ends - counts

    def choose(self, chosen: np.ndarray, images_per_patient: int, entropy: Entropy) -> tuple[np.ndarray, np.ndarray]:
        """A fresh uniform subset of every chosen patient's images.

        Args:
            chosen: int64[k] patients.
            images_per_patient: m >= 1, public; a patient with fewer images gives all of them.
            entropy: source of random bytes.

        Returns:
            ``indices`` int64[k, m], places without an image repeat the patient's first choice; ``weights``
            float32[k, m], 1/(number of images given) where there is one and 0 elsewhere.
        """
        k, m = len(chosen), images_per_patient
        indices = np.zeros((k, m), np.int64)
        weights = np.zeros((k, m), np.float32)
        counts = (self._ends - self._starts)[chosen]
        keys = _words(int(counts.sum()), entropy)
        at = 0
        for row, patient in enumerate(chosen):
            count = int(counts[row])
            mine = self._order[self._starts[patient] : self._ends[patient]]
            order = np.argsort(keys[at : at + count], kind="stable")[:m]
            at += count
            given = len(order)
            if given:
                indices[row, :given] = mine[order]
                indices[row, given:] = mine[order[0]]
                weights[row, :given] = 1.0 / given
        return indices, weights
