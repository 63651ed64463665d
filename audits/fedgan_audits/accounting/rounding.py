"""Rounding that never flatters: privacy figures and noise only ever go up."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, Decimal

from fedgan_audits.errors import RecordInvalid


def up_to_six_digits(value: float) -> float:
    """`value` rounded up to six significant digits; finite, above 0."""
    exact = Decimal(value)
    return float(exact.quantize(Decimal(1).scaleb(exact.adjusted() - 5), rounding=ROUND_CEILING))


def round_up(epsilon: float, digits: int = 4) -> str:
    """`epsilon` as text with `digits` decimals, rounded up and never below the value; "unbounded" for math.inf.

    Raises RecordInvalid for not-a-number.
    """
    if math.isnan(epsilon):
        raise RecordInvalid("epsilon is not a number")
    if math.isinf(epsilon):
        return "unbounded"
    return str(Decimal(epsilon).quantize(Decimal(1).scaleb(-digits), rounding=ROUND_CEILING))
