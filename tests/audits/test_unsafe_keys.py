"""An auditor takes no Ed25519 key under which anybody can sign, neither from a file nor from a policy."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedgan_audits.errors import RecordInvalid
from fedgan_audits.signing import envelope, public_keys, trust

FIELD = 2**255 - 19
ORDER_EIGHT = "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"
UNSAFE = [
    (1).to_bytes(32, "little"),
    bytes(32),
    (1 << 255).to_bytes(32, "little"),
    (FIELD - 1).to_bytes(32, "little"),
    bytes.fromhex(ORDER_EIGHT),
    (FIELD - int.from_bytes(bytes.fromhex(ORDER_EIGHT), "little")).to_bytes(32, "little"),
    (FIELD + 1).to_bytes(32, "little"),
    (FIELD + 3).to_bytes(32, "little"),
]
"""Of every order, and encodings that are not reduced; derived on the curve in the protocol's tests."""


@pytest.mark.parametrize("raw", UNSAFE, ids=lambda raw: raw.hex()[:6])
def test_such_a_key_verifies_nothing_and_is_refused_by_name(raw: bytes) -> None:
    key = Ed25519PublicKey.from_public_bytes(raw)
    assert not public_keys.is_safe_key(key)
    with pytest.raises(RecordInvalid, match=r"north\.pub\.pem: a key of small order"):
        trust.public_key(public_keys.public_pem(key), "north.pub.pem")
    with pytest.raises(RecordInvalid, match="the public key of north: a key of small order"):
        trust._raw_key(raw.hex(), "north")


def test_a_payload_that_nobody_signed_does_not_count() -> None:
    """R is the neutral point and S is 0: right under the neutral key for every payload, says OpenSSL."""
    neutral = (1).to_bytes(32, "little")
    key, sig = Ed25519PublicKey.from_public_bytes(neutral), neutral + bytes(32)
    for payload in (b"{}", hashlib.sha256(b"x").digest()):
        key.verify(sig, envelope.pae(payload))
        assert not envelope.verify(payload, sig, key)


def test_a_key_that_somebody_made_is_taken() -> None:
    private = Ed25519PrivateKey.generate()
    assert public_keys.is_safe_key(private.public_key())
    assert envelope.verify(b"{}", private.sign(envelope.pae(b"{}")), private.public_key())
