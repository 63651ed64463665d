"""Curves, key derivation, streams and shares against published vectors, plain references and enumeration."""

from __future__ import annotations

import hashlib
import hmac
import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedgan_protocols import Code, ParameterError, ProtocolError, masking, verify
from fedgan_protocols.primitives import shamir
from fedgan_protocols.primitives.keys import Identity

# RFC 7748, section 6.1: Diffie-Hellman over curve25519
ALICE = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
ALICE_PUBLIC = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
BOB = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
BOB_PUBLIC = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
SHARED = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")


def test_x25519_rfc_7748_6_1() -> None:
    assert masking.public_of(ALICE) == ALICE_PUBLIC
    assert masking.public_of(BOB) == BOB_PUBLIC
    assert masking.exchange(ALICE, BOB_PUBLIC) == masking.exchange(BOB, ALICE_PUBLIC) == SHARED


# RFC 8032, section 7.1, tests 1 to 3: secret key, public key, message, signature
ED25519 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]


@pytest.mark.parametrize(("secret", "public", "message", "signature"), ED25519)
def test_ed25519_rfc_8032_7_1(secret: str, public: str, message: str, signature: str) -> None:
    identity = Identity(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret)))
    assert identity.public_key.hex() == public
    assert identity.sign(bytes.fromhex(message)).hex() == signature
    assert verify(bytes.fromhex(public), bytes.fromhex(message), bytes.fromhex(signature))
    broken = bytearray.fromhex(signature)
    broken[40] ^= 1
    assert not verify(bytes.fromhex(public), bytes.fromhex(message), bytes(broken))
    assert not verify(bytes.fromhex(public), bytes.fromhex(message) + b"x", bytes.fromhex(signature))


# RFC 5869, appendix A, tests 1 and 3 (SHA-256; the first 32 of 42 bytes: HKDF's output is prefix-stable)
HKDF = [
    (
        "0b" * 22,
        "000102030405060708090a0b0c",
        "f0f1f2f3f4f5f6f7f8f9",
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf",
    ),
    ("0b" * 22, "", "", "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"),
]


@pytest.mark.parametrize(("ikm", "salt", "info", "okm"), HKDF)
def test_hkdf_rfc_5869_appendix_a(ikm: str, salt: str, info: str, okm: str) -> None:
    assert masking.derive(*(bytes.fromhex(part) for part in (ikm, salt, info))).hex() == okm


@settings(max_examples=25)
@given(st.binary(min_size=1, max_size=64), st.binary(max_size=64), st.binary(max_size=64))
def test_hkdf_is_extract_then_expand(ikm: bytes, salt: bytes, info: bytes) -> None:
    extracted = hmac.new(salt or bytes(32), ikm, hashlib.sha256).digest()
    assert masking.derive(ikm, salt, info) == hmac.new(extracted, info + b"\x01", hashlib.sha256).digest()


# The points of order 1, 2, 4 and 8 on the curve and its twist, reduced (0, 1, -1 and the two of order 8)
LOW_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    (2**255 - 20).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
]


@pytest.mark.parametrize("point", LOW_ORDER, ids=["0", "1", "-1", "8a", "8b"])
def test_low_order_points_are_refused(point: bytes) -> None:
    for action in (lambda: masking.check_public_key(point), lambda: masking.exchange(ALICE, point)):
        with pytest.raises(ProtocolError) as caught:
            action()
        assert caught.value.code is Code.BAD_KEY


FIELD, CURVE_A = 2**255 - 19, 486662


def roots(square: int) -> set[int]:
    """All square roots modulo 2^255 - 19 (which is 5 mod 8)."""
    root = pow(square, (FIELD + 3) // 8, FIELD)
    for candidate in (root, root * pow(2, (FIELD - 1) // 4, FIELD) % FIELD):
        if candidate * candidate % FIELD == square % FIELD:
            return {candidate, -candidate % FIELD}
    return set()


def solutions(b: int, c: int) -> set[int]:
    """All u with u^2 + b u + c = 0."""
    half = pow(2, -1, FIELD)
    return {(root - b) * half % FIELD for root in roots(b * b - 4 * c)}


def ladder(scalar: int, u: int) -> int:
    """RFC 7748, section 5, with any scalar; the point at infinity is 0."""
    x2, z2, x3, z3 = 1, 0, u, 1
    for bit in range(scalar.bit_length() - 1, -1, -1):
        if scalar >> bit & 1:
            x2, z2, x3, z3 = x3, z3, x2, z2
        plus, minus = pow(x2 + z2, 2, FIELD), pow(x2 - z2, 2, FIELD)
        difference = plus - minus
        one, two = (x3 - z3) * (x2 + z2), (x3 + z3) * (x2 - z2)
        x3, z3 = pow(one + two, 2, FIELD), u * pow(one - two, 2, FIELD) % FIELD
        x2, z2 = plus * minus % FIELD, difference * (plus + (CURVE_A - 2) // 4 * difference) % FIELD
        if scalar >> bit & 1:
            x2, z2, x3, z3 = x3, z3, x2, z2
    return x2 * pow(z2, FIELD - 2, FIELD) % FIELD


def test_every_point_of_low_order_is_in_the_list() -> None:
    """Derived on curve and twist together: doubling takes u to (u^2 - 1)^2 / 4 u (u^2 + A u + 1).

    Order 2: the denominator is 0. Order 4: the numerator is, or it doubles into order 2. Order 8: it doubles to a u of
    order 4, that is (u^2 - 1)^2 = 4 v u (u^2 + A u + 1), which is a quadratic equation in w = u + 1/u.
    """
    second = {0} | solutions(CURVE_A, 1)
    assert second == {0}  # the other two points of order 2 lie outside the field
    fourth = {1, FIELD - 1}
    eighth = {u for v in fourth for w in solutions(-4 * v, -4 - 4 * v * CURVE_A) for u in solutions(-w, 1)}
    assert len(eighth) == 2
    derived = second | fourth | eighth
    assert derived == masking.LOW_ORDER_POINTS == {int.from_bytes(point, "little") for point in LOW_ORDER}
    again = {u for v in eighth for w in solutions(-4 * v, -4 - 4 * v * CURVE_A) for u in solutions(-w, 1)}
    assert again == set()  # neither group has a point of order 16
    for point in derived:
        assert ladder(8, point) == 0 == ladder(2**254 + 8 * 12345, point)
    assert all(ladder(8, u) != 0 for u in range(2, 200))


def test_the_slow_ladder_is_x25519() -> None:
    scalar = int.from_bytes(ALICE, "little") & (2**254 - 8) | 2**254
    assert ladder(scalar, int.from_bytes(BOB_PUBLIC, "little")).to_bytes(32, "little") == SHARED


def test_second_names_of_a_key_are_refused() -> None:
    value = int.from_bytes(BOB_PUBLIC, "little")
    masking.check_public_key(BOB_PUBLIC)
    high_bit = (value | 1 << 255).to_bytes(32, "little")
    assert masking.exchange(ALICE, high_bit) == SHARED  # X25519 itself ignores the top bit
    for key in (high_bit, (2**255 - 19 + 9).to_bytes(32, "little"), BOB_PUBLIC[:31], BOB_PUBLIC + b"\0"):
        with pytest.raises(ProtocolError):
            masking.check_public_key(key)


def ctr_stream(key: bytes, size: int) -> bytes:
    """The definition, with the library's plain counter mode: segment i starts at counter block i || 2."""
    out = b""
    for index in range(-(-size // masking.SEGMENT_BYTES)):
        start = index.to_bytes(12, "big") + (2).to_bytes(4, "big")
        encryptor = Cipher(algorithms.AES(key), modes.CTR(start)).encryptor()
        out += encryptor.update(bytes(min(masking.SEGMENT_BYTES, size - index * masking.SEGMENT_BYTES)))
    return out


@pytest.mark.parametrize("ring", [32, 64])
@pytest.mark.parametrize(
    "size", [8, 4096, masking.SEGMENT_BYTES - 8, masking.SEGMENT_BYTES, 2 * masking.SEGMENT_BYTES + 24]
)
def test_the_stream_is_aes_ctr_from_nonce_and_two(ring: int, size: int) -> None:
    key = hashlib.sha256(b"stream").digest()
    vector = np.zeros(size * 8 // ring, dtype=f"<u{ring // 8}")
    masking.add_streams(vector, [(key, 1)])
    assert vector.tobytes() == ctr_stream(key, size)


@settings(max_examples=15, deadline=None)
@example(words=3 * 65_536 + 5, threads=3, signs=[1, -1, 1])
@example(words=65_537, threads=4, signs=[-1, 1])
@given(words=st.integers(1, 150_000), threads=st.integers(1, 4), signs=st.lists(st.sampled_from([1, -1]), max_size=4))
def test_threads_and_chunks_change_nothing(words: int, threads: int, signs: list[int]) -> None:
    start = np.arange(words, dtype="<u4")
    terms = [(hashlib.sha256(bytes([index])).digest(), sign) for index, sign in enumerate(signs)]
    expected = start.copy()
    for key, sign in terms:
        stream = np.frombuffer(ctr_stream(key, 4 * words), dtype="<u4")
        expected = expected + stream if sign > 0 else expected - stream
    found = start.copy()
    masking.add_streams(found, terms, threads=threads)
    assert np.array_equal(found, expected)


def test_masks_refuse_what_they_cannot_add_to() -> None:
    key = bytes(32)
    for vector, sign in (
        (np.zeros(4, dtype=np.int32), 1),
        (np.zeros(8, dtype=np.uint32)[::2], 1),
        (np.zeros(4, dtype=np.uint16), 1),
        (np.zeros(4, dtype=np.uint32), 2),
    ):
        with pytest.raises(ValueError):
            masking.add_streams(vector, [(key, sign)])


def test_no_key_and_nonce_meets_twice_within_one_party(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a round of two sums with drop-outs, and a second round: every (key, nonce) is used once by each party."""
    uses: Counter[tuple[str, str, bytes, bytes]] = Counter()
    party = ["server"]

    class Recording:
        def __init__(self, key: bytes) -> None:
            self.key, self.real = key, REAL(key)

        def encrypt_into(self, nonce: bytes, *rest: Any) -> Any:
            uses[party[0], "mask", self.key, nonce] += 1
            return self.real.encrypt_into(nonce, *rest)

        def encrypt(self, nonce: bytes, *rest: Any) -> Any:
            uses[party[0], "seal", self.key, nonce] += 1
            return self.real.encrypt(nonce, *rest)

        def decrypt(self, nonce: bytes, *rest: Any) -> Any:
            return self.real.decrypt(nonce, *rest)

    REAL = masking.AESGCM  # noqa: N806
    monkeypatch.setattr(masking, "AESGCM", Recording)
    for round_ in (1, 2):
        federation = lab.federation(n=4, t=3, d=140_000, sums=2, seed=f"round {round_}", round_=round_)
        clients = federation.clients()

        def as_client(name: str, phase: str, packet: bytes) -> bytes:
            party[0] = name
            return packet

        def as_server(name: str, phase: str, packet: bytes) -> bytes:
            party[0] = "server"
            return packet

        result = federation.result({"h2": "masked-input/1"}, clients=clients, to_client=as_client, to_server=as_server)
        assert result.survivors == ("h1", "h3", "h4")
    kinds = Counter(kind for _, kind, _, _ in uses)
    assert kinds["mask"] > 100 and kinds["seal"] == 2 * 4 * 3
    assert max(uses.values()) == 1
    sealing = {key for _, kind, key, _ in uses if kind == "seal"}
    assert not sealing & {key for _, kind, key, _ in uses if kind == "mask"}


# --- Shamir


def test_the_prime_is_the_first_above_two_to_the_256() -> None:
    def probably_prime(number: int) -> bool:
        odd, twos = number - 1, 0
        while odd % 2 == 0:
            odd, twos = odd // 2, twos + 1
        for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37):
            power = pow(base, odd, number)
            if power in (1, number - 1):
                continue
            for _ in range(twos - 1):
                power = power * power % number
                if power == number - 1:
                    break
            else:
                return False
        return True

    assert shamir.PRIME == 2**256 + 297 and probably_prime(shamir.PRIME)
    assert not any(probably_prime(2**256 + k) for k in range(297))


@settings(max_examples=40, deadline=None)
@given(data=st.data(), secret=st.binary(min_size=32, max_size=32))
def test_any_t_shares_rebuild_and_fewer_are_refused(lab: Any, data: Any, secret: bytes) -> None:
    n = data.draw(st.integers(1, 12))
    t = data.draw(st.integers(1, n))
    pool = shamir.EntropyPool(lab.entropy(secret.hex())(shamir.coefficient_bytes(t)))
    value = int.from_bytes(secret, "big")
    shares = shamir.share(value, t, range(1, n + 1), pool)
    chosen = data.draw(st.permutations(list(shares)))
    assert shamir.reconstruct({x: shares[x] for x in chosen[:t]}, t) == value
    assert shamir.reconstruct(shares, t) == value
    with pytest.raises(ProtocolError):
        shamir.reconstruct({x: shares[x] for x in chosen[: t - 1]}, t)
    for x in shares:
        assert shamir.share_from_bytes(shamir.share_to_bytes(shares[x])) == shares[x]


@pytest.mark.parametrize("t", [2, 3])
def test_t_minus_one_shares_reveal_nothing_by_enumeration(t: int) -> None:
    """In the field of 7 elements: for every secret and every t-1 holders, every tuple of shares is equally frequent."""
    prime, holders = 7, (1, 2, 3, 4)
    for chosen in itertools.combinations(holders, t - 1):
        seen = []
        for secret in range(prime):
            views: Counter[tuple[int, ...]] = Counter()
            for coefficients in itertools.product(range(prime), repeat=t - 1):
                coins = b"".join(one.to_bytes(shamir.DRAW_BYTES, "big") for one in coefficients)
                shares = shamir.share(secret, t, holders, shamir.EntropyPool(coins), prime)
                views[tuple(shares[x] for x in chosen)] += 1
            seen.append(views)
        assert all(views == seen[0] for views in seen)
        assert len(seen[0]) == prime ** (t - 1) and set(seen[0].values()) == {1}


def test_coefficients_are_uniform_by_rejection() -> None:
    """Every residue of a small prime has the same number of accepted draws; the rest is refused."""
    bits = 8 * shamir.DRAW_BYTES
    for prime in (7, 251, shamir.PRIME):
        ceiling = (1 << bits) // prime * prime
        last = (ceiling - 1).to_bytes(shamir.DRAW_BYTES, "big")
        first_refused = ceiling.to_bytes(shamir.DRAW_BYTES, "big")
        one = (1).to_bytes(shamir.DRAW_BYTES, "big")
        assert shamir.draw_element(shamir.EntropyPool(last), prime) == prime - 1
        assert shamir.draw_element(shamir.EntropyPool(first_refused + one), prime) == 1
        with pytest.raises(ProtocolError):
            shamir.draw_element(shamir.EntropyPool(first_refused), prime)
        assert ((1 << bits) - ceiling) / (1 << bits) < 2**-63


def test_shares_refuse_impossible_requests() -> None:
    pool = shamir.EntropyPool(bytes(1000))
    for secret, t, holders in ((shamir.PRIME, 2, (1, 2)), (1, 2, (0, 1)), (1, 2, (1, 1)), (1, 0, (1,))):
        with pytest.raises(ValueError):
            shamir.share(secret, t, holders, pool)
    for data in (shamir.PRIME.to_bytes(33, "big"), bytes(32), bytes(34)):
        with pytest.raises(ProtocolError):
            shamir.share_from_bytes(data)
    assert repr(shamir.EntropyPool(b"secret")) == "EntropyPool(6 bytes left)"


def test_lagrange_weights_are_cached() -> None:
    before = shamir.lagrange_at_zero.cache_info().hits
    for _ in range(3):
        shamir.reconstruct({1: 5, 2: 6, 9: 7}, 3)
    assert shamir.lagrange_at_zero.cache_info().hits >= before + 2


def test_key_pairs_of_different_sums_models_and_members_differ(lab: Any) -> None:
    parameters = lab.federation(sums=2).parameters
    seeds = {
        masking.pair_seed(parameters, SHARED, t1, j, 1, v, model)
        for t1 in (bytes(32), bytes([1]) * 32)
        for j in (0, 1)
        for v in (2, 3)
        for model in (bytes(32), bytes([1]) * 32)
    }
    assert len(seeds) == 16
    assert masking.pair_seed(parameters, SHARED, bytes(32), 0, 1, 2, bytes(32)) == masking.pair_seed(
        parameters, SHARED, bytes(32), 0, 2, 1, bytes(32)
    )
    keys = {masking.stream_key(parameters, SHARED, j, label) for j in (0, 1) for label in ("pair", "self")}
    assert len(keys) == 4
    assert masking.seal_key(parameters, SHARED, bytes(32), 1, 2) != masking.seal_key(
        parameters, SHARED, bytes(32), 2, 1
    )


def test_parameter_errors_are_input_errors() -> None:
    assert ParameterError(Code.HEADROOM, "x").exit_code == 2 and ProtocolError(Code.TOO_FEW, "x").exit_code == 4
