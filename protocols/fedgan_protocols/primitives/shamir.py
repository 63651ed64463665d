"""Shamir's t-of-n secret sharing (Shamir 1979) over the prime 2^256 + 297.

Any 32-byte secret fits; a share has 33 bytes, big-endian. Guarantee: t shares determine the secret; t-1 shares are
independent of it (information-theoretic, given uniform coefficients). Coefficients are drawn by rejection: 40 bytes at
a time, refused at or above the largest multiple of the prime, then reduced, so that they are exactly uniform.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from fedgan_protocols.errors import Code, ProtocolError

PRIME = 2**256 + 297
"""The smallest prime above 2^256."""
SECRET_BYTES = 32
SHARE_BYTES = 33
DRAW_BYTES = 40
SPARE_DRAWS = 4
"""Draws beyond the need; each is refused with probability below 2^-63."""


@dataclass
class EntropyPool:
    """Injected random bytes, each handed out once."""

    data: bytes
    used: int = 0

    def __repr__(self) -> str:
        return f"EntropyPool({len(self.data) - self.used} bytes left)"

    def take(self, size: int) -> bytes:
        """The next `size` bytes; raises ProtocolError (entropy) when there are not enough."""
        if size > len(self.data) - self.used:
            raise ProtocolError(Code.ENTROPY, "not enough random bytes were given")
        taken = self.data[self.used : self.used + size]
        self.used += size
        return taken


def coefficient_bytes(threshold: int, secrets: int = 1) -> int:
    """How many random bytes `share` may draw for `secrets` secrets."""
    return (secrets * (threshold - 1) + SPARE_DRAWS) * DRAW_BYTES


def draw_element(pool: EntropyPool, prime: int = PRIME) -> int:
    """A uniform element of Z/prime, by rejection."""
    ceiling = (1 << 8 * DRAW_BYTES) // prime * prime
    while True:
        drawn = int.from_bytes(pool.take(DRAW_BYTES), "big")
        if drawn < ceiling:
            return drawn % prime


def evaluate(coefficients: Sequence[int], x: int, prime: int = PRIME) -> int:
    """The polynomial with `coefficients` (constant first) at `x`, by Horner's rule."""
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * x + coefficient) % prime
    return value


def share(
    secret: int, threshold: int, abscissas: Sequence[int], pool: EntropyPool, prime: int = PRIME
) -> dict[int, int]:
    """Shares {x: f(x)} of `secret` in [0, prime), any `threshold` of which rebuild it.

    Abscissas are distinct and not 0 modulo the prime; raises ValueError otherwise.
    """
    if not 0 <= secret < prime or threshold < 1:
        raise ValueError("a secret lies in the field and a threshold is positive")
    if len({x % prime for x in abscissas} | {0}) != len(abscissas) + 1:
        raise ValueError("abscissas are distinct and not zero")
    coefficients = [secret] + [draw_element(pool, prime) for _ in range(threshold - 1)]
    return {x: evaluate(coefficients, x, prime) for x in abscissas}


@lru_cache(maxsize=512)
def lagrange_at_zero(abscissas: tuple[int, ...], prime: int = PRIME) -> tuple[int, ...]:
    """Weights w with f(0) = sum w_i f(x_i) mod prime; cached, because responders repeat."""
    weights = []
    for x in abscissas:
        numerator, denominator = 1, 1
        for other in abscissas:
            if other != x:
                numerator = numerator * other % prime
                denominator = denominator * (other - x) % prime
        weights.append(numerator * pow(denominator, -1, prime) % prime)
    return tuple(weights)


def reconstruct(shares: Mapping[int, int], threshold: int, prime: int = PRIME) -> int:
    """The secret behind any `threshold` of the shares (those with the smallest abscissas are used).

    Raises ProtocolError (too-few) when there are fewer.
    """
    if len(shares) < threshold:
        raise ProtocolError(Code.TOO_FEW, f"{len(shares)} shares; {threshold} are needed")
    chosen = tuple(sorted(shares)[:threshold])
    weights = lagrange_at_zero(chosen, prime)
    return sum(weight * shares[x] for weight, x in zip(weights, chosen, strict=True)) % prime


def share_to_bytes(value: int) -> bytes:
    """33 bytes, big-endian."""
    return value.to_bytes(SHARE_BYTES, "big")


def share_from_bytes(data: bytes) -> int:
    """The field element in 33 bytes; raises ProtocolError (malformed) when it is not below the prime."""
    value = int.from_bytes(data, "big")
    if len(data) != SHARE_BYTES or value >= PRIME:
        raise ProtocolError(Code.MALFORMED, "a share is 33 bytes below the prime")
    return value
