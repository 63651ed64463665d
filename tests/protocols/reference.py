"""A second, slow implementation of a round, which follows docs/protocol.md line by line.

It shares no code with the package: its own CBOR, HKDF, Shamir and chain; the cryptography library gives it only the
primitives X25519, Ed25519, AES-CTR and AES-GCM. The rounds it plays have two sums over a 32-bit ring; one member is
silent from R2 of the second sum on, and all entropy is given.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

PACKAGE = "fedgan-secure/secure-aggregation/v1"
P = 2**256 + 297


def cbor(item: Any) -> bytes:
    def head(major: int, value: int) -> bytes:
        for limit, code, width in ((24, value, 0), (1 << 8, 24, 1), (1 << 16, 25, 2), (1 << 32, 26, 4)):
            if value < limit:
                return bytes([major * 32 + code]) + (value.to_bytes(width, "big") if width else b"")
        return bytes([major * 32 + 27]) + value.to_bytes(8, "big")

    if isinstance(item, int):
        return head(0, item)
    if isinstance(item, bytes):
        return head(2, len(item)) + item
    if isinstance(item, str):
        return head(3, len(item.encode())) + item.encode()
    return head(4, len(item)) + b"".join(cbor(part) for part in item)


def H(label: str, *parts: bytes) -> bytes:  # noqa: N802 - the document's name
    data = b""
    for part in (f"{PACKAGE}/{label}".encode(), *parts):
        data += len(part).to_bytes(8, "big") + part
    return hashlib.sha256(data).digest()


def hkdf(secret: bytes, salt: bytes, info: list[Any]) -> bytes:
    extracted = hmac.new(salt or bytes(32), secret, hashlib.sha256).digest()
    return hmac.new(extracted, cbor(info) + b"\x01", hashlib.sha256).digest()


def dh(private: bytes, public: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))


def public(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def stream(key: bytes, words: int) -> list[int]:
    first = (0).to_bytes(12, "big") + (2).to_bytes(4, "big")  # the round's vectors are shorter than a segment
    data = Cipher(algorithms.AES(key), modes.CTR(first)).encryptor().update(bytes(4 * words))
    return [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]


def vector_hash(words: list[int]) -> bytes:
    data = b"".join(word.to_bytes(4, "little") for word in words)
    return hashlib.sha256(f"{PACKAGE}/vector".encode() + b"\0\x04" + len(words).to_bytes(8, "big") + data).digest()


def words_bytes(words: list[int]) -> bytes:
    return b"".join(word.to_bytes(4, "little") for word in words)


def ids(members: list[int]) -> bytes:
    return b"".join(i.to_bytes(2, "big") for i in members)


class Reference:
    """The whole round by hand: every packet, by (stage, sum, "to" or "from", member)."""

    def __init__(self, federation: Any, entropy: dict[int, tuple[bytes, bytes]], gone: int) -> None:
        p = federation.parameters
        self.sign_with = {0: federation.server_identity.private_key}
        self.sign_with |= {i: federation.identities[name].private_key for i, name in enumerate(p.names, 1)}
        self.p, self.models, self.entropy, self.gone = p, federation.models, entropy, gone
        self.x = {
            (i, j): [int(word) for word in federation.inputs[name, j]]
            for i, name in enumerate(p.names, 1)
            for j in (0, 1)
        }
        self.roster = H("roster", cbor([p.server_public_key, [[m.name, m.public_key] for m in p.roster]]))
        self.everyone = list(range(1, len(p.roster) + 1))
        graph = [] if p.graph is None else [p.graph.degree, p.graph.threshold, p.graph.colluders]
        self.k, self.t = graph[:2] or (0, p.threshold)
        start = [p.session, p.round, self.roster, p.threshold, p.ring_bits, list(p.lengths), p.policy_hash, graph]
        self.start = H("parameters", cbor(start))
        self.packets: dict[tuple[int, int, str, int], bytes] = {}
        self.total: list[list[int]] = []

    def message(self, stage: int, sender: int, previous: bytes, body: list[Any]) -> bytes:
        content = cbor(
            [
                "fedgan-secure/secure-aggregation",
                1,
                self.p.session,
                self.p.round,
                stage,
                sender,
                self.roster,
                previous,
                body,
            ]
        )
        key: Ed25519PrivateKey = self.sign_with[sender]
        return cbor([content, key.sign(f"{PACKAGE}/signature".encode() + b"\0" + content)])

    @staticmethod
    def chain(label: str, previous: bytes, broadcast: bytes | None, replies: dict[int, bytes]) -> bytes:
        link = (lambda raw: raw[-64:]) if label == "T4" else (lambda raw: H("message", raw))
        listed = b"".join(i.to_bytes(4, "big") + link(replies[i]) for i in sorted(replies))
        return H(f"chain/{label}", previous, H("message", broadcast) if broadcast is not None else b"", listed)

    def note(self, stage: int, j: int, way: str, member: int, message: bytes, attachment: bytes = b"") -> None:
        self.packets[stage, j, way, member] = cbor([message, attachment])

    def play(self) -> None:
        p, everyone = self.p, self.everyone
        models = list(self.models)
        terms = [self.start, p.policy_hash, models]
        invitation = self.message(0, 0, self.start, terms)
        t0 = self.chain("T0", self.start, invitation, {})
        sealing = {i: self.entropy[i][0][:32] for i in everyone}
        masks = {i: [self.entropy[i][0][32:64], self.entropy[i][0][64:96]] for i in everyone}
        drawn = {i: self.draw(i, self.entropy[i][0][96:]) for i in everyone}
        holders = {i: drawn[i] if self.k else everyone for i in everyone}
        dealers = {i: [v for v in everyone if v != i and i in holders[v]] for i in everyone}
        peers = {i: [v for v in everyone if v != i and (v in holders[i] or i in holders[v])] for i in everyone}
        adverts = {}
        for i in everyone:
            adverts[i] = self.message(
                0, i, t0, [*terms, public(sealing[i]), b"".join(public(key) for key in masks[i]), ids(drawn[i])]
            )
            self.note(0, 0, "to", i, invitation)
            self.note(0, 0, "from", i, adverts[i])

        t1 = self.chain("T1", t0, None, adverts)
        directory = self.message(1, 0, t1, [ids(everyone)])
        digests = b"".join(H("message", adverts[i]) for i in everyone)
        deals, sealed, seeds, openings = {}, {}, {}, {}
        for u in everyone:
            deals[u], sealed[u], seeds[u], openings[u] = self.deal(u, holders[u], t1, sealing, masks[u])
            self.note(1, 0, "to", u, directory, cbor([digests, ids(peers[u]), [adverts[v] for v in peers[u]]]))
            self.note(1, 0, "from", u, deals[u], b"".join(sealed[u][v] for v in holders[u] if v != u))

        t2 = self.chain("T2", t1, directory, deals)
        current, alive, ended = t2, everyone, [b"", b""]
        attachments = {
            u: cbor(
                [
                    cbor([b"".join(H("message", deals[i]) for i in everyone), [deals[v] for v in dealers[u]]]),
                    b"".join(sealed[v][u] for v in dealers[u]),
                ]
            )
            for u in everyone
        }
        for j in (0, 1):
            request = self.message(2, 0, current, [j, models[j], ids(everyone), *ended])
            u3 = [i for i in alive if j == 0 or i != self.gone]
            inputs, masked = {}, {}
            for u in alive:
                self.note(2, j, "to", u, request, attachments[u])
            for u in u3:
                masked[u] = self.mask(u, j, peers[u], t1, masks, seeds[u][j])
                inputs[u] = self.message(2, u, current, [j, models[j], vector_hash(masked[u])])
                self.note(2, j, "from", u, inputs[u], words_bytes(masked[u]))
            t3 = self.chain("T3", current, request, inputs)
            survivors = self.message(3, 0, t3, [j, models[j], ids(u3)])
            statements = {u: self.message(3, u, t3, [j, t2, models[j], H("survivors", ids(u3))]) for u in u3}
            t4 = self.chain("T4", t3, survivors, statements)
            unmask = self.message(4, 0, t4, [j, ids(u3)])
            revelations = {}
            for u in u3:
                listed = b"".join(H("message", inputs[i]) for i in u3)
                proofs = b"".join(vector_hash(masked[v]) + inputs[v][-64:] for v in dealers[u] if v in u3)
                self.note(3, j, "to", u, survivors, cbor([listed, proofs]))
                self.note(3, j, "from", u, statements[u])
                held = [v for v in everyone if u in holders[v]]
                shown = b"".join(openings[v][u][j]["seed" if v in u3 else "key"] for v in held)
                dead = [i for i in everyone if i not in u3]
                revelations[u] = self.message(4, u, t4, [j, ids(u3), ids(dead), H("revealed-shares", shown)])
                self.note(4, j, "to", u, unmask, b"".join(statements[i][-64:] for i in u3))
                self.note(4, j, "from", u, revelations[u], shown)
            current = self.chain("T5", t4, unmask, revelations)
            self.total.append([sum(self.x[u, j][k] for u in u3) % 2**32 for k in range(p.lengths[j])])
            ended = [ids(u3), vector_hash(self.total[j])]
            alive = u3
            closing = cbor([b"".join(H("message", revelations[i]) for i in u3), words_bytes(self.total[j])])
            attachments = dict.fromkeys(u3, closing)

        sums = [vector_hash(total) for total in self.total]
        outcome = self.message(5, 0, current, [ids(alive), sums])
        t6 = self.chain("T6", current, outcome, {})
        for u in alive:
            self.note(5, 1, "to", u, outcome, attachments[u])
            self.note(5, 1, "from", u, self.message(5, u, t6, [sums]))

    def deal(self, u: int, holders: list[int], t1: bytes, sealing: dict[int, bytes], masks: list[bytes]) -> Any:
        p, coins, at = self.p, self.entropy[u][1], 64
        seeds = [coins[:32], coins[32:64]]
        opened: dict[int, list[dict[str, bytes]]] = {v: [{}, {}] for v in holders}
        commitments: dict[str, list[bytes]] = {"key": [], "seed": []}
        for j in (0, 1):
            for kind, secret in (("key", masks[j]), ("seed", seeds[j])):
                polynomial = [int.from_bytes(secret, "big")]
                for _ in range(self.t - 1):
                    drawn = int.from_bytes(coins[at : at + 40], "big")
                    assert drawn < 2**320 // P * P
                    polynomial.append(drawn % P)
                    at += 40
                for v in holders:
                    share = sum(c * pow(v, k, P) for k, c in enumerate(polynomial)) % P
                    opening = share.to_bytes(33, "big") + coins[at : at + 32]
                    at += 32
                    opened[v][j][kind] = opening
                    where = cbor([p.session, p.round, j, kind, u, v])
                    commitments[kind].append(H("share-commitment", where, opening))
        sealed = {}
        for v in holders:
            if v != u:
                shared = dh(sealing[u], public(sealing[v]))
                key = hkdf(shared, t1, [PACKAGE, "seal", p.session, p.round, u, v])
                plain = b"".join(opened[v][j][kind] for j in (0, 1) for kind in ("key", "seed"))
                sealed[v] = AESGCM(key).encrypt(bytes(12), plain, cbor([u, v]))
        own = [H("seed-commitment", cbor([p.session, p.round, j, u]), seeds[j]) for j in (0, 1)]
        rows = own, commitments["key"], commitments["seed"], [H("sealed-share", sealed[v]) for v in holders if v != u]
        return self.message(1, u, t1, [b"".join(row) for row in rows]), sealed, seeds, opened

    def draw(self, u: int, coins: bytes) -> list[int]:
        """The neighbours of u in a sparse graph: a partial shuffle of the others by 8 bytes at a time."""
        others, at = [i for i in self.everyone if i != u], 0
        for i in range(self.k):
            below = len(others) - i
            number = int.from_bytes(coins[at : at + 8], "big")
            assert number < 2**64 // below * below
            r, at = number % below, at + 8
            others[i], others[i + r] = others[i + r], others[i]
        return sorted(others[: self.k])

    def mask(
        self, u: int, j: int, peers: list[int], t1: bytes, masks: dict[int, list[bytes]], seed: bytes
    ) -> list[int]:
        p = self.p
        key = hkdf(seed, b"", [PACKAGE, "stream", p.session, p.round, j, "self"])
        y = [a + b for a, b in zip(self.x[u, j], stream(key, p.lengths[j]), strict=True)]
        for v in peers:
            shared = dh(masks[u][j], public(masks[v][j]))
            info = [PACKAGE, "mask", p.session, p.round, j, min(u, v), max(u, v), self.models[j]]
            key = hkdf(hkdf(shared, t1, info), b"", [PACKAGE, "stream", p.session, p.round, j, "pair"])
            sign = 1 if u < v else -1
            y = [a + sign * b for a, b in zip(y, stream(key, p.lengths[j]), strict=True)]
        return [word % 2**32 for word in y]
