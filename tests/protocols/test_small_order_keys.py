"""Ed25519 keys that identify no signer: derived on the curve, forged under, and refused everywhere."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedgan_protocols import Code, ParameterError, load_public_key, public_pem, verify
from fedgan_protocols.parameters import Member, SessionParameters
from fedgan_protocols.primitives.keys import SMALL_ORDER_Y, Identity, is_safe_public_key

FIELD = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, FIELD - 2, FIELD) % FIELD
Point = tuple[int, int]


def root(square: int) -> int | None:
    """A square root modulo 2^255 - 19, which is 5 modulo 8, if there is one."""
    found = pow(square, (FIELD + 3) // 8, FIELD)
    for candidate in (found, found * pow(2, (FIELD - 1) // 4, FIELD) % FIELD):
        if candidate * candidate % FIELD == square % FIELD:
            return candidate
    return None


def add(left: Point, right: Point) -> Point:
    """RFC 8032, 5.1.4, in affine coordinates."""
    (x1, y1), (x2, y2) = left, right
    k = D * x1 * x2 * y1 * y2 % FIELD
    x = (x1 * y2 + x2 * y1) * pow(1 + k, FIELD - 2, FIELD)
    y = (y1 * y2 + x1 * x2) * pow(1 - k, FIELD - 2, FIELD)
    return x % FIELD, y % FIELD


def torsion() -> list[Point]:
    """All points of order 1, 2, 4 or 8: the multiples of one of order 8.

    Doubling gives y = 0, a point of order 4, where x^2 = -y^2; the curve then says d y^4 + 2 y^2 - 1 = 0.
    """
    half = root(1 + D)
    assert half is not None
    squares = [(sign * half - 1) * pow(D, FIELD - 2, FIELD) % FIELD for sign in (1, -1)]
    (y,) = [y for square in squares if (y := root(square)) is not None]
    x = root(-y * y)
    assert x is not None
    points = [(0, 1)]
    while (following := add(points[-1], (x, y))) != (0, 1):
        points.append(following)
    return points


def encoded(point: Point) -> bytes:
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def second_names() -> list[bytes]:
    """Encodings of small-order points that are not the canonical one: y + p where it fits, x = 0 with a sign."""
    unreduced = [(y + FIELD) | sign << 255 for y in (0, 1) for sign in (0, 1)]
    return [value.to_bytes(32, "little") for value in (*unreduced, 1 | 1 << 255, (FIELD - 1) | 1 << 255)]


UNSAFE = [*map(encoded, torsion()), *second_names()]


def test_the_list_is_every_point_of_order_at_most_eight() -> None:
    points = torsion()
    assert len(set(points)) == 8
    assert {y for _, y in points} == SMALL_ORDER_Y


def forged(key: bytes) -> tuple[bytes, bytes]:
    """A message, found by trying, and a signature of it under `key`, made by nobody's private key: R = k (-A), S = 0.

    R is the neutral point whenever k = SHA-512(R || A || M), reduced by the group's order as OpenSSL does first, is a
    multiple of the order of A.
    """
    neutral = encoded((0, 1))
    for number in range(10_000):
        message = b"forged %d" % number
        if int.from_bytes(hashlib.sha512(neutral + key + message).digest(), "little") % ORDER % 8 == 0:
            return message, neutral + bytes(32)
    raise AssertionError("no multiple of 8 among 10,000")


@pytest.mark.parametrize("key", UNSAFE, ids=lambda key: key.hex()[:6] + ".." + key.hex()[-2:])
def test_what_anybody_can_sign_under_is_refused(key: bytes, tmp_path: Path) -> None:
    message, signature = forged(key)
    assert not is_safe_public_key(key)
    assert not verify(key, message, signature)
    good = Identity.generate().public_key
    with pytest.raises(ParameterError, match="small order or is not canonical"):
        Member("a", key)
    with pytest.raises(ParameterError, match="server's Ed25519 key"):
        SessionParameters(bytes(32), 1, (Member("a", good), Member("b", bytes([7] * 32))), key, 2, 32, (1,), bytes(32))
    (tmp_path / "a.pub.pem").write_bytes(public_pem(key))
    with pytest.raises(ParameterError, match="identifies no signer") as caught:
        load_public_key(tmp_path / "a.pub.pem")
    assert caught.value.code == Code.KEY_FILE


@pytest.mark.parametrize("point", torsion(), ids=lambda point: encoded(point).hex()[:6])
def test_openssl_alone_would_have_taken_the_forgery(point: Point) -> None:
    """The attack is real: without our check the signature below counts."""
    message, signature = forged(encoded(point))
    Ed25519PublicKey.from_public_bytes(encoded(point)).verify(signature, message)


def test_keys_that_people_make_are_taken() -> None:
    for _ in range(20):
        identity = Identity.generate()
        assert is_safe_public_key(identity.public_key)
        assert verify(identity.public_key, b"x", identity.private_key.sign(b"x"))
    assert not is_safe_public_key(bytes(31)) and not is_safe_public_key(b"")
