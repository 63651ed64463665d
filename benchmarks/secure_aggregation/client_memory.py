"""The most memory that one client needs in a round, in vectors: its own encoded input counted, and everybody else not.

A whole round runs here first, and what the server sent to one member is kept in files. A process of its own then plays
that member again, from the same entropy, R0 to R5: it reads each request, answers, and lets go of both. The replies
must be the recorded ones, byte for byte. Measured there by tracemalloc (numpy reports its arrays to it), and in another
process, without it, by the growth of the resident set. One vector is uint32[d], 4 d bytes.

With `encoding`, the member starts from its float32 update and quantises it first; the update counts too.
"""

from __future__ import annotations

import gc
import hashlib
import json
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np

if __package__:
    from . import resident
    from .costs import CODEC
    from .rounds import STAGES, Federation, Round
else:  # as a script, in the process that plays the member
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from secure_aggregation import resident
    from secure_aggregation.costs import CODEC
    from secure_aggregation.rounds import STAGES, Federation, Round

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedgan_protocols import ClientSession, Identity, Member, SessionParameters
from fedgan_protocols.primitives.encoding import Packet
from fedgan_protocols.transitions import Stage


class RecordedEntropy:
    """Reproducible bytes, for a member that is played twice: SHAKE-256 over a key and a counter."""

    def __init__(self, key: bytes) -> None:
        self._key, self._calls = key, 0

    def __call__(self, size: int) -> bytes:
        self._calls += 1
        return hashlib.shake_256(self._key + self._calls.to_bytes(8, "big")).digest(size)


def update_of(member: int, words: int) -> np.ndarray:
    """float32[words], drawn in place."""
    return np.random.default_rng(member).normal(0, 0.05, words).astype(np.float32)


class RecordedRound(Round):
    """A round in which one member is a ClientSession with recorded entropy, whose requests are written to `folder`."""

    def __init__(self, federation: Federation, words: int, member: int, folder: Path, entropy: bytes) -> None:
        super().__init__(federation, lambda one: CODEC.encode(update_of(one, words)))
        self.member, self.folder = member, folder
        self.session = ClientSession(
            federation.parameters, federation.members[member - 1], federation.models, RecordedEntropy(entropy)
        )
        self.replies: dict[str, str] = {}

    def ask(self, member: int, stage: Stage, packet: bytes, vector: np.ndarray | None = None) -> Packet:
        if member != self.member:
            return super().ask(member, stage, packet, vector)
        (self.folder / stage.label).write_bytes(packet)
        if vector is not None:
            self.session.provide_input(0, vector)
        reply = self.session.handle(stage.label, packet)
        self.replies[stage.label] = hashlib.sha256(reply).hexdigest()
        return reply


def record(folder: Path, words: int, neighbours: int) -> None:
    """Run the round and write `round.json` and one file per request; the keys in it are used nowhere else."""
    federation = Federation.of(neighbours + 1, words)
    member, entropy = neighbours // 2 + 1, hashlib.sha256(b"a member that is played twice").digest()
    played = RecordedRound(federation, words, member, folder, entropy)
    for stage in STAGES:
        played.exchange(stage)
    parameters = federation.parameters
    story = {
        "session": parameters.session.hex(),
        "roster": [[one.name, one.public_key.hex()] for one in parameters.roster],
        "server": parameters.server_public_key.hex(),
        "threshold": parameters.threshold,
        "words": words,
        "policy": parameters.policy_hash.hex(),
        "model": federation.models[0].hex(),
        "member": member,
        "identity": federation.members[member - 1].private_key.private_bytes_raw().hex(),
        "entropy": entropy.hex(),
        "replies": played.replies,
    }
    (folder / "round.json").write_text(json.dumps(story), encoding="utf-8")


def play(folder: Path, *, traced: bool, encoding: bool, threads: int) -> dict[str, Any]:
    """The member alone, masking with so many threads.

    Returns its peak in bytes, per stage where traced; raises RuntimeError for another reply.
    """
    story = json.loads((folder / "round.json").read_text(encoding="utf-8"))
    parameters = SessionParameters(
        bytes.fromhex(story["session"]),
        1,
        tuple(Member(name, bytes.fromhex(key)) for name, key in story["roster"]),
        bytes.fromhex(story["server"]),
        story["threshold"],
        32,
        (story["words"],),
        bytes.fromhex(story["policy"]),
    )
    identity = Identity(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(story["identity"])))
    entropy = RecordedEntropy(bytes.fromhex(story["entropy"]))
    words = parameters.lengths[0]
    CODEC.encode(update_of(1, 1000))
    update = update_of(story["member"], words) if encoding else None
    stored = folder / "input"
    if not encoding:  # written by another process, so that quantisation leaves no trace in this one's resident set
        vector = np.fromfile(stored, dtype="<u4")
    gc.collect()
    input_bytes = 4 * words  # the update or the encoded input, held before tracing starts
    before = resident.restart_peak()
    if traced:
        tracemalloc.start()
    if encoding and update is not None:
        vector = CODEC.encode(update)
    session = ClientSession(parameters, identity, (bytes.fromhex(story["model"]),), entropy, threads=threads)
    session.provide_input(0, vector)
    del vector
    stages: dict[str, int] = {}
    if traced and encoding:
        stages["quantisation"] = tracemalloc.get_traced_memory()[1] + input_bytes
    held = 0 if encoding else input_bytes
    for stage in STAGES:
        if traced:
            tracemalloc.reset_peak()
        request = (folder / stage.label).read_bytes()
        reply = session.handle(stage.label, request)
        if traced:
            stages[stage.label] = tracemalloc.get_traced_memory()[1] + (input_bytes if encoding else held)
        if hashlib.sha256(reply).hexdigest() != story["replies"][stage.label]:
            raise RuntimeError(f"the replayed member gave another answer to {stage.label} than it did in the round")
        if stage is Stage.MASKED_INPUT:
            held = 0  # the machine has let the input go, and nobody else holds it
        del request, reply
    grown = resident.peak_bytes() - before + input_bytes
    return {"stages": stages, "peak": max(stages.values()) if traced else grown}


def _apart(folder: Path, threads: int, *options: str) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).resolve()), str(folder), str(threads), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"the process that plays the member ended with code {done.returncode}: {last}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(words: int, neighbours: int, threads: int = 1) -> dict[str, Any]:
    """Peaks in vectors: `client_peak_vectors` by tracemalloc, `resident_peak_vectors` by the system, each also with
    quantisation from a float32 update (one vector of its own, counted)."""
    one = 4 * words
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        record(folder, words, neighbours)
        member = json.loads((folder / "round.json").read_text(encoding="utf-8"))["member"]
        CODEC.encode(update_of(member, words)).tofile(folder / "input")
        traced = _apart(folder, threads, "traced")
        encoded = _apart(folder, threads, "traced", "encoding")
        untraced, untraced_encoded = _apart(folder, threads), _apart(folder, threads, "encoding")
    return {
        "parameters": words,
        "neighbours": neighbours,
        "threads": threads,
        "vector_bytes": one,
        "client_peak_vectors": traced["peak"] / one,
        "stage_peak_vectors": {stage: peak / one for stage, peak in traced["stages"].items()},
        "resident_peak_vectors": untraced["peak"] / one,
        "with_quantisation_peak_vectors": encoded["peak"] / one,
        "with_quantisation_stage_peak_vectors": {stage: peak / one for stage, peak in encoded["stages"].items()},
        "with_quantisation_resident_peak_vectors": untraced_encoded["peak"] / one,
    }


if __name__ == "__main__":
    told = sys.argv[3:]
    result = play(Path(sys.argv[1]), traced="traced" in told, encoding="encoding" in told, threads=int(sys.argv[2]))
    print(json.dumps(result))
