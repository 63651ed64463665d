"""DSSE envelopes: the specification's encoding, several signatures, canonical bytes only."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from fedgan_audits.canonical_json import EnvelopeError
from fedgan_audits.signing import envelope, public_keys

KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2)]


def signed(payload: bytes = b'{"a":1}') -> bytes:
    return envelope.assemble(payload, [envelope.sign(payload, key, "x") for key in KEYS])


def test_pae_is_the_example_of_the_specification() -> None:
    # DSSE protocol.md, "Signature Definition": PAE("http://example.com/HelloWorld", "hello world")
    expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert envelope.pae(b"hello world", "http://example.com/HelloWorld") == expected


def test_fingerprint_is_sha256_of_the_raw_key_as_openssh_writes_digests() -> None:
    raw = KEYS[0].public_key().public_bytes_raw()
    import hashlib

    tail = base64.b64encode(hashlib.sha256(raw).digest()).decode().rstrip("=")
    assert public_keys.fingerprint(KEYS[0].public_key()) == f"SHA256:{tail}"


def test_round_trip_and_both_signatures_verify() -> None:
    parsed = envelope.parse(signed())
    assert parsed.payload == b'{"a":1}'
    for key in KEYS:
        sig = parsed.signatures[public_keys.fingerprint(key.public_key())]
        assert envelope.verify(parsed.payload, sig, key.public_key())
        assert not envelope.verify(parsed.payload + b" ", sig, key.public_key())


def test_a_signature_is_bound_to_the_payload_type() -> None:
    payload = b"{}"
    other = KEYS[0].sign(envelope.pae(payload, "application/other"))
    assert not envelope.verify(payload, other, KEYS[0].public_key())


@pytest.mark.parametrize("change", ["space", "key order", "padding", "unsigned field", "duplicate", "order", "newline"])
def test_another_serialisation_of_the_same_envelope_is_refused(change: str) -> None:
    data = signed()
    value: dict[str, Any] = json.loads(data)
    compact: dict[str, Any] = {"separators": (",", ":")}
    if change == "space":
        data = json.dumps(value, sort_keys=True).encode()
    elif change == "key order":
        data = json.dumps(dict(reversed(value.items())), **compact).encode()
    elif change == "padding":
        # the last group of a 64-byte signature ends in "==": four bits of its second character mean nothing
        sig = value["signatures"][0]["sig"]
        assert sig.endswith("==")
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
        value["signatures"][0]["sig"] = sig[:-3] + alphabet[alphabet.index(sig[-3]) ^ 1] + "=="
        data = json.dumps(value, sort_keys=True, **compact).encode()
        assert base64.b64decode(value["signatures"][0]["sig"]) == base64.b64decode(sig)
    elif change == "unsigned field":
        data = json.dumps({**value, "zusatz": 1}, sort_keys=True, **compact).encode()
    elif change == "duplicate":
        data = data.replace(b'{"payload"', b'{"payload":"e30=","payload"', 1)
    elif change == "order":
        value["signatures"].reverse()
        data = json.dumps(value, sort_keys=True, **compact).encode()
    else:
        data += b"\n"
    with pytest.raises(EnvelopeError):
        envelope.parse(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"NaN",
        b'{"a":1e999}',
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b'"\\ud800"',
        b"\xff\xfe",
        b'{"payload":"","payloadType":"application/vnd.in-toto+json","signatures":[]}',
        b"9" * 10_000,
    ],
)
def test_hostile_json_is_an_envelope_error(data: bytes) -> None:
    with pytest.raises(EnvelopeError):
        envelope.parse(data)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_never_crash_the_parser(data: bytes) -> None:
    with pytest.raises(EnvelopeError):
        envelope.parse(data)


def test_a_large_file_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(EnvelopeError, match="at most 100"):
        envelope.parse(signed(), limit=100)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
def test_openssl_alone_verifies_every_signature_of_a_round(whole_run: Any, tmp_path: Path) -> None:
    public = whole_run.public
    report = whole_run.drafts[1].report
    command = report.verification.commands[1]
    trust = whole_run.trust(tmp_path / "keys")
    for name in whole_run.keys:
        words = command.replace("coordinator", name).split()
        words[words.index("-inkey") + 1] = str(trust / f"{name}.pub.pem")
        done = subprocess.run(words, cwd=public, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "Signature Verified Successfully" in done.stdout
    pae = tmp_path / "changed.pae"
    pae.write_bytes((public / "reports/round-0002.pae").read_bytes() + b" ")
    words = command.split()
    words[words.index("-inkey") + 1] = str(trust / "coordinator.pub.pem")
    words[words.index("-in") + 1] = str(pae)
    assert subprocess.run(words, cwd=public, capture_output=True, check=False).returncode != 0
