"""Flower's SecAgg+ and this protocol side by side: the same parameters, neighbours, threshold and drop-outs, in turn.

Two things are compared, each side in its own process, in CPU seconds of one thread. The client is also compared by the
time that one waits for it: here with as many threads as a hospital's session gets, there as Flower runs.

client  the stage that sends the masked vector. "Like for like" is the work that both do: open the shares that were
        sealed for this member, quantise, agree on keys, mask, put the result into bytes. "Stage" adds what only this
        protocol does there: it verifies every dealer's signature and commitments, and signs the vector's digest.
server  unmasking, all of it on both sides: collect the shares (here with their commitments checked), rebuild every
        secret, take the masks off, and decode the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from fedgan_protocols import masking
from fedgan_protocols.client import states as client_states
from fedgan_protocols.primitives import shamir
from fedgan_protocols.primitives.encoding import Packet, PacketBuffer, split_packet
from fedgan_protocols.server import machine as server_machine
from fedgan_protocols.server import states as server_states
from fedgan_protocols.transitions import Stage
from fedgan_secure.processors import processors

from .costs import CODEC, MaskingClient
from .flower_environment import UnavailableError, Worker, interpreter
from .rounds import Federation, Round, spread
from .timing import alternate, cpu_seconds, wall_seconds

TOLERANCE = 1e-5
"""Both codecs have 2^22 levels over [-8, 8]; a mean of rounded values cannot be further from the true one."""


class SharedWork:
    """What both systems do in the masking stage, from this package's own functions, without signatures and digests."""

    def __init__(self, client: MaskingClient) -> None:
        state = client.state
        if not isinstance(state, client_states.Shared):
            raise TypeError(f"a client in phase Shared was expected; found {state.phase.value}")
        self._client, self._state = client, state
        parameters = state.context.parameters
        limit, size = parameters.packet_limit, parameters.sealed_bytes
        _, attachment = split_packet(client.packet, limit)
        _, sealed = split_packet(attachment, limit)
        dealers = [member for member in state.adverts if member != state.context.member]
        if len(sealed) != size * len(dealers):
            raise ValueError(f"{len(sealed)} sealed bytes for {len(dealers)} dealers; {size} from each were expected")
        self._sealed = {dealer: bytes(sealed[at * size : (at + 1) * size]) for at, dealer in enumerate(dealers)}

    def run(self, threads: int = 1) -> Packet:
        """Update -> packet with the masked vector, and no signed message."""
        state, me = self._state, self._state.context.member
        parameters, model = state.context.parameters, state.context.model_hashes[0]
        vector = self._client.encode()
        terms = [(masking.stream_key(parameters, state.seeds[0], 0, "self"), 1)]
        sealing, mask = masking.KeyAgreement(state.sealing_key), masking.KeyAgreement(state.mask_keys[0])
        for peer, sealed in self._sealed.items():
            shared = sealing.exchange(state.adverts[peer].sealing_key)
            masking.unseal(masking.seal_key(parameters, shared, state.t1, peer, me), sealed, peer, me)
            shared = mask.exchange(state.adverts[peer].mask_keys[0])
            seed = masking.pair_seed(parameters, shared, state.t1, 0, me, peer, model)
            terms.append((masking.stream_key(parameters, seed, 0, "pair"), 1 if me < peer else -1))
        packet = PacketBuffer(0, parameters.vector_bytes(0))
        masked = np.frombuffer(packet.attachment, dtype=parameters.dtype)
        masked[:] = vector
        masking.add_streams(masked, terms, threads=threads)
        return packet.close(b"")


class UnmaskingServer:
    """A server that has been through R3 and holds the replies to R4, over and over."""

    def __init__(self, n: int, words: int, drop_out: float) -> None:
        silent = spread(n, drop_out)
        updates = np.random.default_rng(7)
        encoded, truth = {}, np.zeros(words)
        for member in range(1, n + 1):
            update = updates.normal(0, 0.05, words).astype(np.float32)
            if member not in silent:
                encoded[member] = CODEC.encode(update)
                truth += update
        federation = Federation.of(n, words)
        rehearsal = Round(federation, encoded.__getitem__)
        rehearsal.exchange(Stage.ADVERTISE_KEYS)
        rehearsal.exchange(Stage.SHARE_KEYS)
        rehearsal.exchange(Stage.MASKED_INPUT, silent)
        rehearsal.exchange(Stage.CONSISTENCY_CHECK)
        self.replies = [
            server_states.Reply(member, rehearsal.ask(member, Stage.UNMASKING, packet))
            for member, packet in rehearsal.packets
        ]
        self.threshold, self.silent = federation.parameters.threshold, silent
        self._state, self._truth = rehearsal.server, truth / len(encoded)
        self.error = 0.0

    def run(self) -> float:
        """CPU seconds of R4 and the decoding of the mean; `error` is its distance from the true one."""
        shamir.lagrange_at_zero.cache_clear()
        mean: list[np.ndarray] = []

        def unmask() -> None:
            state: server_states.State = self._state
            for reply in self.replies:
                state, _ = server_machine.step(state, reply)
            state, _ = server_machine.step(state, server_states.DeadlinePassed())
            mean.append(CODEC.decode_sum(state.context.sums[0], len(self.replies)))

        seconds = cpu_seconds(unmask)
        self.error = float(np.max(np.abs(mean[0] - self._truth)))
        return seconds


def _summary(samples: dict[str, list[float]]) -> dict[str, Any]:
    return {f"{name}_cpu_seconds": median(values) for name, values in samples.items()} | {"samples": samples}


def compare_clients(worker: Worker, words: int, neighbours: int, repeats: int) -> dict[str, Any]:
    """`ratio` (time waited), `cpu_ratio` like for like, `stage_ratio` of whole stages; > 1 where Flower needs more."""
    ready = worker.order(prepare="client", parameters=words, neighbours=neighbours)
    client = MaskingClient(words, neighbours)
    shared = SharedWork(client)
    same, stage = split_packet(shared.run(), 1 << 62)[1], split_packet(client.encode_and_answer(), 1 << 62)[1]
    if same != stage:
        raise RuntimeError("the work compared with Flower's gives another masked vector than the client's machine")
    del same, stage
    threads = processors()
    waited: list[float] = []

    def flower() -> float:
        answer = worker.order(run=True)
        waited.append(float(answer["wall_seconds"]))
        return float(answer["cpu_seconds"])

    works = {
        "flower": flower,
        "like_for_like": lambda: cpu_seconds(shared.run),
        "stage": lambda: cpu_seconds(client.encode_and_answer),
        "quantisation": lambda: cpu_seconds(client.encode),
    }
    waits = {**works, "like_for_like_waited": lambda: wall_seconds(partial(shared.run, threads))}
    alternate(waits, 1)
    waited.clear()
    samples = alternate(waits, repeats)
    ours_waited = samples.pop("like_for_like_waited")
    found = _summary(samples)
    flower_waits, here_waits = median(waited), median(ours_waited)
    return {
        "flwr": ready["flwr"],
        "flwr_numpy": ready["numpy"],
        "parameters": words,
        "neighbours": neighbours,
        "threads": threads,
        "flower_wall_seconds": flower_waits,
        "like_for_like_wall_seconds": here_waits,
        "ratio": flower_waits / here_waits,
        "cpu_ratio": found["flower_cpu_seconds"] / found["like_for_like_cpu_seconds"],
        "stage_ratio": found["flower_cpu_seconds"] / found["stage_cpu_seconds"],
        **found,
    }


def compare_servers(worker: Worker, n: int, words: int, drop_out: float, repeats: int) -> dict[str, Any]:
    """`ratio` of unmasking; both means are compared with the true one, and a wrong one is an error."""
    server = UnmaskingServer(n, words, drop_out)
    silent = sorted(server.silent)
    worker.order(prepare="server", parameters=words, members=n, threshold=server.threshold, silent=silent)
    errors: list[float] = []

    def theirs() -> float:
        answer = worker.order(run=True)
        errors.append(float(answer["error"]))
        return float(answer["cpu_seconds"])

    samples = alternate({"flower": theirs, "here": server.run}, repeats)
    if max(*errors, server.error) > TOLERANCE:
        raise RuntimeError(f"a mean is wrong by {max(*errors, server.error)}; at most {TOLERANCE} was expected")
    found = _summary(samples)
    return {
        "members": n,
        "parameters": words,
        "threshold": server.threshold,
        "drop_out": drop_out,
        "dropped": len(silent),
        "error": server.error,
        "flower_error": max(errors),
        "ratio": found["flower_cpu_seconds"] / found["here_cpu_seconds"],
        **found,
    }


def measure(
    words: int, neighbours: int, server_words: int, members: int, drop_outs: Sequence[float], repeats: int
) -> dict[str, Any]:
    """Everything, or {"skipped": reason} where Flower's environment cannot be made."""
    try:
        with Worker(interpreter()) as worker:
            client = compare_clients(worker, words, neighbours, repeats)
            servers = [compare_servers(worker, members, server_words, rate, max(2, repeats // 3)) for rate in drop_outs]
    except UnavailableError as error:
        return {"skipped": str(error)}
    return {"client": client, "server": servers}
