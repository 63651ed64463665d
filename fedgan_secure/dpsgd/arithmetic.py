"""The arithmetic that the bounds on rounding assume: float32 products with 24 bits.

Two switches give float32 convolutions and products fewer bits without a word: TensorFloat-32 on graphics processors
(11 bits, on unless turned off) and oneDNN's reduced-precision mode on processors (bfloat16, 8 bits). With either, a
gradient would be off by far more than `clipping.MARGIN` allows for.
"""

from __future__ import annotations

import os

import tensorflow as tf

from fedgan_secure.privacy import PrivacyRefused

_MODES = ("TF_SET_ONEDNN_FPMATH_MODE", "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE")


def require_float32_arithmetic() -> None:
    """Turn TensorFloat-32 off for this process.

    Raises:
        PrivacyRefused: the environment asks oneDNN for fewer bits, or turns it off: the kernels that take its place
            round a patient's gradient by the size of the batch far more than its own do.
    """
    if os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1") != "1":
        raise PrivacyRefused(
            f"TF_ENABLE_ONEDNN_OPTS is {os.environ['TF_ENABLE_ONEDNN_OPTS']!r}, expected 1 or unset: other kernels "
            "round one patient's gradient by who else is in the batch",
            hint="unset TF_ENABLE_ONEDNN_OPTS",
        )
    for name in _MODES:
        mode = os.environ.get(name, "")
        if mode and mode.lower() != "strict":
            raise PrivacyRefused(
                f"{name} is {mode!r}, expected it unset: no clip bound holds for products of fewer bits",
                hint=f"unset {name}",
            )
    tf.config.experimental.enable_tensor_float_32_execution(False)
