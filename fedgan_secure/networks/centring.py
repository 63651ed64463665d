"""The discriminator's features, centred on what the generator makes.

Most of the energy of image features is what all images share (here: the bright disc on black). In a gradient that is
clipped, that common part crowds out the little in which real and generated images differ. The mean over generated
images is post-processing of the released generator, hence public, and close to the mean over real ones: subtracting
it costs no privacy and leaves the clip norm to the difference.
"""

from __future__ import annotations

from typing import Any

import keras

FEATURE_SCALE = 6.0
"""Centred features are multiplied by this, so that they are of order one."""


@keras.saving.register_keras_serializable(package="fedgan_secure")
class PublicCentre(keras.layers.Layer):
    """``(features - centre) * FEATURE_SCALE``; the centre, [h, w, c], is set from generated images, never trained."""

    def build(self, input_shape: Any) -> None:
        """Make the centre, zero at first."""
        self.centre = self.add_weight(name="centre", shape=tuple(input_shape[1:]), initializer="zeros", trainable=False)
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        """float32[n, h, w, c] -> the same, centred and scaled."""
        return (inputs - self.centre) * FEATURE_SCALE

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape stays."""
        return input_shape
