"""Differential privacy of one hospital's training: sampling, clipping, noise, and the step that joins them.

Everything random here comes from an `Entropy`: a function from a number of bytes to that many fresh random bytes,
``os.urandom`` outside tests.
"""

from __future__ import annotations

from collections.abc import Callable

Entropy = Callable[[int], bytes]
