"""A hospital's part in the release round: one encoded vector, once, and self-tests before it is handed on."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from fedgan_audits.accounting import DistributedMechanism, MechanismRecord
from fedgan_protocols.primitives import FixedPoint
from fedgan_secure.errors import InputError
from fedgan_secure.federation.released.release_probes import probe_noise, probe_sum
from fedgan_secure.federation.released.release_ring import (
    EncodedRelease,
    decode_release_sum,
    encode_release,
    noise_of,
    release_deviation,
)
from fedgan_secure.moments import AnyLayout, release_sum
from fedgan_secure.privacy import TOLERANCE, Entropy, MechanismWatch, Moments, PrivacyRefused, check_release
from fedgan_secure.statistics import ImageStatistics, ReleasedSum

_COLUMNS = 64
"""Images of a patient that the watch is shown, at most."""


class ReleaseTrainer:
    """One hospital's release. The statistics of its images never leave it; the encoded vector leaves once."""

    def __init__(
        self,
        images: ImageStatistics,
        layout: AnyLayout,
        record: MechanismRecord,
        codec: FixedPoint,
        entropy: Entropy,
        watch: MechanismWatch,
    ) -> None:
        """Check that the mechanism, its noise and the layout fit together.

        Args:
            images: features, colours, labels and patients of this hospital's images.
            layout: of the released vectors, as the policy names it.
            record: one release; of the distributed kind where the noise is shared.
            codec: the ring, as `release_ring` chose it.
            entropy: source of random bytes for the noise.
            watch: of this release, told what the accountant was told.

        Raises:
            InputError: shares of noise that are for vectors of another length, or a patient without images.
            PrivacyRefused: the mechanism is not one release, or its noise is not drawn.
        """
        check_release(record)
        if isinstance(record, DistributedMechanism) and record.shares.dimension != layout.dimension:
            raise InputError(
                f"the release's shares of noise are for {record.shares.dimension} coordinates, but its layout has "
                f"{layout.dimension}",
                hint="make the policy again with this version",
            )
        if len(np.unique(images.patient)) != images.patients:
            raise InputError("a patient of the release has no image, expected one or more for each")
        self._images, self._layout = images, layout
        self._record, self._codec, self._watch = record, codec, watch
        self._draw = noise_of(record, entropy)
        self._released = False
        self._statistics: dict[str, Any] = {}

    def release(self) -> np.ndarray:
        """Return this hospital's noisy, encoded vector, once.

        Returns:
            uint32[D] or uint64[D], modulo 2^k; it goes to the client session alone.

        Raises:
            PrivacyRefused: a second call.
            MechanismContradicted: what was done is not what the accountant was told; there is no vector then.
            InputError: the statistics do not fit each other or the layout.
        """
        if self._released:
            raise PrivacyRefused(
                "two releases for one reservation: this hospital's vector was made already",
                hint="reserve a new round; what was made before must not be made again",
            )
        self._released = True
        started = time.monotonic()
        watch = self._watch
        watch.begin_round()
        self._probe(watch)
        released = self._sum(self._images)
        encoded = encode_release(released.total, self._record, self._codec, self._draw)
        self._observe(watch, released, encoded)
        self._statistics = _figures(released, encoded, round(time.monotonic() - started, 3))
        watch.end_round()
        watch.check()
        return encoded.values

    def statistics(self) -> dict[str, Any]:
        """Return what the release was here (confidential): patients, clip fraction, moments of the noise."""
        return dict(self._statistics)

    def _sum(self, images: ImageStatistics) -> ReleasedSum:
        """The one sum that made-up and real patients enter."""
        return release_sum(self._layout, images, self._record.l2_clip_norm)

    def _probe(self, watch: MechanismWatch) -> None:
        """Made-up patients and known noise, before a real patient is looked at."""
        told = watch.recorded.mechanism
        found = probe_sum(self._sum, self._layout, told.l2_clip_norm)
        watch.probed(found.outcomes, found.figures)
        if told.noise_placement == "per_hospital" and told.noise_multiplier > 0:

            def noising(total: np.ndarray, known: np.ndarray) -> np.ndarray:
                encoded = encode_release(total, self._record, self._codec, lambda size: known)
                return decode_release_sum(encoded.values, 1, self._codec)

            deviation = release_deviation(told, 1)
            scaled = probe_noise(noising, self._layout.dimension, deviation, self._codec.resolution)
            watch.probed(scaled.outcomes, scaled.figures)
        watch.check()

    def _observe(self, watch: MechanismWatch, released: ReleasedSum, encoded: EncodedRelease) -> None:
        """Hold the release against the recorded mechanism, and stop before it is handed on where it differs."""
        told, patients = watch.recorded.mechanism, self._images.patients
        watch.batch(*_rows(self._images.patient))
        steps = int(watch.state()["steps"])
        watch.probed({"sampling_rate": steps <= told.steps}, f"release {steps} of {told.steps} that are recorded")
        whole = released.patients == patients and released.largest_norm <= told.l2_clip_norm
        watch.probed(
            {"sum_bound": whole}, f"{released.patients} of {patients} summed, the longest {released.largest_norm:.6g}"
        )
        watch.summed(float(np.linalg.norm(released.total)), told.l2_clip_norm * max(patients, TOLERANCE))
        if (deviation := release_deviation(told, 1)) > 0:
            watch.noise(Moments(encoded.count, encoded.total / deviation, encoded.squares / deviation**2))
        watch.check()


def _rows(patient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(int64[p, m], float32[p, m]): a row for each patient with images, `_COLUMNS` of these at most, and their weights.

    A patient with fewer images than the row has places fills it with their first, of weight 0.
    """
    order = np.argsort(patient, kind="stable")
    _, starts, sizes = np.unique(patient[order], return_index=True, return_counts=True)
    width = min(int(sizes.max(initial=1)), _COLUMNS)
    column = np.arange(width)
    given = column < sizes[:, None]
    images = order[starts[:, None] + np.where(given, column, 0)] if len(starts) else np.zeros((0, width), np.int64)
    return images, np.where(given, 1.0 / np.maximum(sizes[:, None], 1), 0.0).astype(np.float32)


def _figures(released: ReleasedSum, encoded: EncodedRelease, seconds: float) -> dict[str, Any]:
    count = max(encoded.count, 1)
    return {
        "patients": released.patients,
        "clip_fraction": released.clipped / max(released.patients, 1),
        "patients_not_finite": released.not_finite,
        "largest_contribution": released.largest_norm,
        "clamped_coordinates": encoded.clamped,
        "noise_values": encoded.count,
        "noise_mean": encoded.total / count,
        "noise_deviation": math.sqrt(encoded.squares / count),
        "seconds": seconds,
    }
