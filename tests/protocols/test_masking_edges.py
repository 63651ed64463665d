"""Boundaries of masks, keys and shares that only an off-by-one would show; found by mutation (docs/mutation.md)."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from cryptography.exceptions import InvalidTag

from fedgan_protocols import Code, ProtocolError, masking, session
from fedgan_protocols.primitives import shamir

WORDS = masking.SEGMENT_BYTES // 4


def test_the_fields_prime_is_a_second_name_of_zero() -> None:
    """2^255 - 19 is the first encoding that is not reduced (RFC 7748, 5); the last that is, -1, has low order."""
    for value in (2**255 - 20, 2**255 - 19, 2**255 - 18):
        with pytest.raises(ProtocolError) as caught:
            masking.check_public_key(value.to_bytes(32, "little"))
        assert caught.value.code is Code.BAD_KEY


@pytest.mark.parametrize(
    ("words", "threads", "workers"),
    [(1, 4, []), (WORDS, 4, []), (WORDS + 1, 4, [2]), (3 * WORDS, 2, [2]), (3 * WORDS, 1, []), (3 * WORDS, 0, [])],
)
def test_no_more_threads_than_segments_and_no_pool_for_one(
    monkeypatch: pytest.MonkeyPatch, words: int, threads: int, workers: list[int]
) -> None:
    started: list[int] = []
    given: list[int] = []

    class Recording(ThreadPoolExecutor):
        def __init__(self, count: int) -> None:
            started.append(count)
            super().__init__(count)

        def submit(self, work: Any, /, *rest: Any, **more: Any) -> Any:
            given.extend(rest[-1])
            return super().submit(work, *rest, **more)

    monkeypatch.setattr(masking, "ThreadPoolExecutor", Recording)
    masking.add_streams(np.zeros(words, dtype="<u4"), [(bytes(32), 1)], threads=threads)
    assert started == workers
    assert given == (list(range(-(-words // WORDS))) if workers else [])


def test_one_thread_unless_more_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(masking, "ThreadPoolExecutor")
    masking.add_streams(np.zeros(2 * WORDS, dtype="<u4"), [(bytes(32), 1)])


def test_a_session_masks_by_the_number_of_threads_given(lab: Any) -> None:
    federation = lab.federation()
    client = session.ClientSession(
        federation.parameters, federation.identities["h1"], federation.models, os.urandom, threads=2
    )
    assert client._state is not None and client._state.context.threads == 2
    server = session.ServerSession(federation.parameters, federation.server_identity, federation.models, threads=3)
    assert server._state.context.threads == 3
    assert federation.server()._state.context.threads == federation.client("h1")._state.context.threads == 1


def test_an_empty_vector_and_no_terms_are_nothing_to_do() -> None:
    empty, zeros = np.zeros(0, dtype="<u4"), np.zeros(5, dtype="<u8")
    masking.add_streams(empty, [(bytes(32), 1)], threads=3)
    masking.add_streams(zeros, [], threads=3)
    assert empty.size == 0 and not zeros.any()


def test_an_error_in_a_thread_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(masking, "segment", broken)
    with pytest.raises(MemoryError):
        masking.add_streams(np.zeros(3 * WORDS, dtype="<u4"), [(bytes(32), 1)], threads=3)


def test_the_sealed_message_is_bound_to_its_two_ends() -> None:
    key = hashlib.sha256(b"seal").digest()
    sealed = masking.seal(key, b"a share", 1, 2)
    assert masking.unseal(key, sealed, 1, 2) == b"a share"
    for sender, receiver in ((2, 1), (1, 3), (3, 2)):
        with pytest.raises(InvalidTag):
            masking.unseal(key, sealed, sender, receiver)


def test_a_key_agreement_shows_no_key() -> None:
    assert repr(masking.KeyAgreement(bytes(range(32)))) == "KeyAgreement()"


def test_the_random_bytes_of_a_sharing_are_counted_exactly() -> None:
    """t - 1 coefficients per secret and four spare draws, 40 bytes each."""
    assert shamir.coefficient_bytes(1) == 4 * 40
    assert shamir.coefficient_bytes(3) == (2 + 4) * 40
    assert shamir.coefficient_bytes(3, 5) == (5 * 2 + 4) * 40


def test_random_bytes_are_handed_out_once_and_to_the_last() -> None:
    pool = shamir.EntropyPool(bytes(range(10)))
    assert (pool.take(3), pool.take(0), pool.take(4), pool.take(3)) == (b"\0\1\2", b"", b"\3\4\5\6", b"\7\x08\x09")
    with pytest.raises(ProtocolError) as caught:
        pool.take(1)
    assert caught.value.code is Code.ENTROPY
    assert repr(pool) == "EntropyPool(0 bytes left)"


def test_a_refused_share_and_too_few_of_them_have_their_codes() -> None:
    with pytest.raises(ProtocolError) as caught:
        shamir.share_from_bytes(shamir.PRIME.to_bytes(33, "big"))
    assert caught.value.code is Code.MALFORMED
    with pytest.raises(ProtocolError) as caught:
        shamir.reconstruct({1: 1}, 2)
    assert caught.value.code is Code.TOO_FEW


def test_a_share_of_one_is_the_secret_and_abscissas_may_exceed_a_small_field() -> None:
    pool = shamir.EntropyPool(bytes(400))
    assert shamir.share(5, 1, (1, 2), pool, prime=7) == {1: 5, 2: 5}
    assert shamir.share(0, 1, (8, 9), pool, prime=7) == {8: 0, 9: 0}
    for abscissas in ((7,), (1, 8)):  # 0 and 1 again, modulo 7
        with pytest.raises(ValueError):
            shamir.share(5, 1, abscissas, pool, prime=7)


def test_shares_are_rebuilt_in_the_field_they_were_dealt_in() -> None:
    shares = shamir.share(5, 2, (1, 2, 3), shamir.EntropyPool(bytes([1]) * 400), prime=11)
    for pair in ((1, 2), (1, 3), (2, 3)):
        assert shamir.reconstruct({x: shares[x] for x in pair}, 2, prime=11) == 5
    assert sum(shamir.lagrange_at_zero((1, 2), 11)) % 11 == 1


def test_a_coefficient_is_drawn_in_the_field_of_its_sharing() -> None:
    """The last number that is accepted modulo 7 is refused modulo the large prime, whose last multiple lies lower."""
    accepted = (1 << 320) // 7 * 7 - 1
    assert accepted >= (1 << 320) // shamir.PRIME * shamir.PRIME
    coins = accepted.to_bytes(40, "big") + (3).to_bytes(40, "big")
    assert shamir.share(0, 2, (1,), shamir.EntropyPool(coins), prime=7) == {1: 6}
