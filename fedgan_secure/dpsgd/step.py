"""One discriminator step under DP-SGD (Abadi et al., CCS 2016), with the fake term as post-processing.

    gradient = (sum of clipped per-patient gradients + sigma C N(0, I)) / expected batch size
               + mean of fake gradients, each bounded per image

* Noise covers every trained weight of the discriminator and is drawn whether or not the batch is empty.
* The divisor is the public expected batch size, never the realised one: that is private.
* The fake term depends on the generator and on fresh noise alone; given the weights so far it is independent of the
  patients, so it is post-processing and gets no noise. Each fake image's gradient is bounded by itself to norm C
  (per image, not per patient: there is none), not for privacy: unbounded they would outweigh the clipped real ones,
  and the discriminator would call everything fake.
* Real gradients are clipped a little below C (`clipping.MARGIN`) and noise is scaled to C, so that the rounding of
  float32 carries no patient's contribution over the sensitivity that is accounted.
* The optimiser sees the noisy sum only.

Neighbouring data sets differ by one patient added or removed; one step is a Poisson-subsampled Gaussian mechanism
with L2 sensitivity C and noise multiplier sigma.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from fedgan_secure.dpsgd.clipping import MARGIN, ImageLoss, Part, PerPatientGradients
from fedgan_secure.privacy import PrivacyRefused

LEAST_CLIP_NORM = 1e-10
"""Below about 1e-16 the squares of a clipped gradient underflow in float32, and nobody could say what its norm is."""


def check_mechanism(
    *, sampling_probability: float, noise_multiplier: float, clip_norm: float, expected_batch_size: float
) -> None:
    """Refuse numbers under which the mechanism is not the one the accountant knows.

    Raises:
        PrivacyRefused: with what was found and what was expected.
    """
    if not 0.0 < sampling_probability <= 1.0:
        raise PrivacyRefused(f"sampling probability is {sampling_probability}, expected in (0, 1]")
    if not (np.isfinite(noise_multiplier) and noise_multiplier >= 0.0):
        raise PrivacyRefused(f"noise multiplier is {noise_multiplier}, expected a finite number, 0 or more")
    if not (np.isfinite(clip_norm) and clip_norm >= LEAST_CLIP_NORM):
        raise PrivacyRefused(f"clip norm is {clip_norm}, expected a finite number of at least {LEAST_CLIP_NORM:g}")
    if not (np.isfinite(expected_batch_size) and expected_batch_size > 0.0):
        raise PrivacyRefused(f"expected batch size is {expected_batch_size}, expected a number above 0")


def private_gradient(
    engine: PerPatientGradients,
    real: tuple[Any, Any, Any],
    noise: Any,
    *,
    clip_norm: float,
    noise_multiplier: float,
    expected_batch_size: float,
    loss: ImageLoss,
) -> tuple[Any, Any]:
    """The noisy gradient of the real term.

    Args:
        engine: of the discriminator.
        real: images float32[p * m, H, W, C], labels int32[p * m, 1] or None, weights float32[p, m].
        noise: float32[d], standard normal, fresh, from a cryptographic stream.
        clip_norm: C.
        noise_multiplier: sigma; 0 means no privacy.
        expected_batch_size: public divisor.
        loss: per image.

    Returns:
        float32[d], and the `ClippedSum` it came from (confidential).
    """
    images, labels, weights = real
    clipped = engine.clipped_sum(images, labels, weights, clip_norm, loss)
    noisy = clipped.gradient + (noise_multiplier * clip_norm) * noise
    return noisy / expected_batch_size, clipped


def discriminator_gradient(
    engine: PerPatientGradients,
    real: tuple[Any, Any, Any],
    fake: tuple[Any, Any],
    noise: Any,
    *,
    clip_norm: float,
    noise_multiplier: float,
    expected_batch_size: float,
    real_loss: ImageLoss,
    fake_loss: Callable[[Any], Any],
    bound_fakes: bool = True,
) -> tuple[Any, Any, Any]:
    """The whole gradient of a discriminator step: the private real term plus the fake term.

    The two terms go through the network one after the other.

    Args: as `private_gradient`; fake: generated images float32[b, H, W, C] and labels from the public prior;
        bound_fakes: whether to bound the gradient of every generated image to the clip norm, too.

    Returns:
        float32[d], the `ClippedSum` (confidential), and the mean fake loss.
    """
    images, labels, weights = real
    fake_images, fake_labels = fake
    count = tf.cast(tf.shape(fake_images)[0], tf.float32)
    private = Part(images, labels, weights, real_loss, clip_norm * (1.0 - MARGIN), 1.0 / expected_batch_size)
    public = Part(
        tf.stop_gradient(fake_images),
        fake_labels,
        tf.ones([tf.shape(fake_images)[0], 1]),
        lambda outputs, labels: fake_loss(outputs),
        clip_norm if bound_fakes else None,
        1.0 / count,
    )
    clipped, made = engine.summed([private, public])
    gradient = clipped.gradient + (noise_multiplier * clip_norm / expected_batch_size) * noise
    return gradient, clipped, tf.reduce_mean(made.loss)
