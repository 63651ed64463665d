"""What a driver holds: the server's and a client's machine behind methods that carry bytes.

The driver decides when a deadline has passed, and how packets travel; it sees no secret and needs no cryptography::

    server = ServerSession(parameters, identity, model_hashes=[h])
    while (phase := server.next_phase()) is not None:
        replies = {name: clients[name].handle(phase.name, payload) for name, payload in phase.payloads.items()}
        server.receive(replies)
    result = server.result()
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedgan_protocols.client import machine as client_machine
from fedgan_protocols.client import states as client_states
from fedgan_protocols.errors import Code, JournalError, ParameterError, ProtocolError
from fedgan_protocols.journal import Journal
from fedgan_protocols.parameters import PolicyFloors, SessionParameters, sum_digest
from fedgan_protocols.primitives import Entropy, Identity, Packet, digest
from fedgan_protocols.server import Drop, Failure
from fedgan_protocols.server import machine as server_machine
from fedgan_protocols.server import states as server_states
from fedgan_protocols.transcript import transcript
from fedgan_protocols.transitions import ClientPhase, Stage

OnReceipt = Callable[[tuple[np.ndarray, ...], tuple[str, ...]], None]
"""(every sum, uint32[d] or uint64[d], names of the survivors of the last one): called before a receipt is released."""


@dataclass(frozen=True)
class Phase:
    """One stage to carry: payloads by member name. `name` is the stage's label; `sum` is j."""

    stage: Stage
    sum: int
    payloads: Mapping[str, bytes] = field(repr=False)

    @property
    def name(self) -> str:
        return self.stage.label


@dataclass(frozen=True)
class AggregateResult:
    """A finished round.

    sums               S arrays, uint32[d] or uint64[d], read-only: exact sums over the survivors, modulo 2^k
    survivors          names whose vector is in the last sum (U3); all sums in `survivors_per_sum`
    dropped            name -> label of the stage at which it stopped answering (a survivor may stop after R2)
    receipts           survivor -> "ok" or why there is no countersignature
    transcript         see `fedgan_protocols.transcript.transcript`; transcript_digest is its SHA-256
    """

    sums: tuple[np.ndarray, ...] = field(repr=False)
    survivors: tuple[str, ...]
    survivors_per_sum: tuple[tuple[str, ...], ...]
    dropped: Mapping[str, str]
    drops: Mapping[str, Drop]
    transcript: bytes = field(repr=False)
    transcript_digest: bytes
    sum_digests: tuple[bytes, ...]
    receipts: Mapping[str, str]

    @property
    def receipts_ok(self) -> int:
        """How many countersigned; the next round starts only with at least t."""
        return sum(reason == "ok" for reason in self.receipts.values())


def _check_models(parameters: SessionParameters, model_hashes: Sequence[bytes]) -> tuple[bytes, ...]:
    hashes = tuple(model_hashes)
    if len(hashes) != parameters.sums or any(not isinstance(h, bytes) or len(h) not in (0, 32) for h in hashes):
        raise ParameterError(Code.BAD_PARAMETERS, f"{parameters.sums} model hashes of 32 bytes were expected")
    if not hashes[0]:
        raise ParameterError(Code.BAD_PARAMETERS, "the model of the first sum is known before a round starts")
    return hashes


class ServerSession:
    """The server of one round. Raises ParameterError when its identity is not the parameters' server.

    `threads` take the masks off together.
    """

    def __init__(
        self,
        parameters: SessionParameters,
        identity: Identity,
        model_hashes: Sequence[bytes],
        *,
        threads: int = 1,
    ) -> None:
        if identity.public_key != parameters.server_public_key:
            raise ParameterError(Code.BAD_PARAMETERS, "this identity is not the server of these parameters")
        hashes = _check_models(parameters, model_hashes)
        context = server_states.Context(parameters, identity, hashes, threads)
        self.parameters = parameters
        self._abort: ProtocolError | None = None
        self._state: server_states.State = server_states.Ready(context)
        self._state, packets = server_machine.step(self._state, server_states.Start())
        self._packets = dict(packets)

    def next_phase(self) -> Phase | None:
        """The stage to carry now, or None when the round has finished; raises the abort's ProtocolError."""
        if self._abort is not None:
            raise self._abort
        if isinstance(self._state, server_states.Finished):
            return None
        if isinstance(self._state, server_states.AwaitingModel):
            j = self._state.j + 1
            raise ProtocolError(Code.NO_INPUT, f"the model of sum {j} is not bound; call bind_model({j}, hash) first")
        if isinstance(self._state, server_states.Ready):
            raise AssertionError("a session starts at once")
        name_of = self.parameters.name_of
        payloads = {name_of(member): packet for member, packet in self._packets.items()}
        return Phase(self._state.asked.broadcast.stage, getattr(self._state, "j", 0), payloads)

    def receive(self, replies: Mapping[str, Packet | Failure]) -> None:
        """Close the stage with these replies; members without one have dropped out.

        Raises ProtocolError when the round must be aborted; `transcript_so_far` then tells the story.
        """
        if self._abort is not None:
            raise self._abort
        strangers = sorted(set(replies) - set(self.parameters.names))
        if strangers:
            raise ParameterError(Code.BAD_INPUT, f"replies from {len(strangers)} names that are not in the roster")
        try:
            for member, name in enumerate(self.parameters.names, start=1):
                reply = replies.get(name, Failure(Code.NO_ANSWER.value, "no answer before the deadline"))
                event: server_states.Event = (
                    server_states.Reply(member, reply)
                    if isinstance(reply, bytes | memoryview)
                    else server_states.Lost(member, reply)
                )
                self._state, _ = server_machine.step(self._state, event)
            self._state, packets = server_machine.step(self._state, server_states.DeadlinePassed())
        except ProtocolError as error:
            self._abort = error
            self._packets = {}
            raise
        self._packets = dict(packets)

    def bind_model(self, j: int, model_hash: bytes) -> None:
        """Name the model of sum j >= 1, where it was not known at R0, once sum j - 1 is done."""
        self._state, packets = server_machine.step(self._state, server_states.ModelKnown(j, model_hash))
        self._packets = dict(packets)

    def sum_of(self, j: int) -> np.ndarray:
        """The finished sum j of a round that may still be going on, read-only."""
        return self._state.context.sums[j]

    @property
    def dropped(self) -> dict[str, Drop]:
        """Who has dropped out so far, when and why."""
        return {self.parameters.name_of(member): drop for member, drop in sorted(self._state.context.drops.items())}

    def transcript_so_far(self) -> bytes:
        """A signed transcript at any time: complete after the end, else with the abort's code or "unfinished"."""
        state = self._state
        context = state.context
        complete = isinstance(state, server_states.Finished)
        groups = context.groups
        if isinstance(state, server_states.Collecting):
            groups = (*groups, server_machine.open_group(state))
        code = self._abort.code.value if self._abort else ("" if complete else "unfinished")
        return transcript.write(
            self.parameters,
            context.identity,
            groups,
            complete=complete,
            code=code,
            culprit=self._abort.culprit if self._abort else "",
            drops=dict(context.drops),
        )

    def result(self) -> AggregateResult:
        """The finished round; raises ProtocolError before the end."""
        if self._abort is not None:
            raise self._abort
        state = self._state
        if not isinstance(state, server_states.Finished):
            raise ProtocolError(Code.OUT_OF_ORDER, "the round has not finished")
        name_of, context = self.parameters.name_of, state.context
        drops = self.dropped
        per_sum = tuple(tuple(name_of(member) for member in u3) for u3 in context.survivors)
        receipts = {}
        for name in per_sum[-1]:
            drop = drops.get(name)
            signed = self.parameters.id_of(name) in state.receipts
            receipts[name] = "ok" if signed else f"{drop.stage}: {drop.code}" if drop else Code.NO_ANSWER.value
        data = self.transcript_so_far()
        return AggregateResult(
            context.sums,
            per_sum[-1],
            per_sum,
            {name: drop.stage for name, drop in drops.items()},
            drops,
            data,
            hashlib.sha256(data).digest(),
            tuple(sum_digest(vector) for vector in context.sums),
            receipts,
        )


class ClientSession:
    """A member of one round. It holds its secrets itself and forgets them on any refusal; threads may share it.

    Raises ParameterError when the identity is not in the roster or the policy is below this member's floors. With a
    `journal`, every reply is durable before it is returned. `threads` mask together; the vector is the same for any
    number. `on_receipt` is called with the verified sums before the receipt is released, and before it is in the
    journal: what it makes durable is on the disk whenever anybody holds this member's receipt. Where it raises, the
    session is dead and no receipt exists.
    """

    def __init__(
        self,
        parameters: SessionParameters,
        identity: Identity,
        model_hashes: Sequence[bytes],
        entropy: Entropy,
        *,
        floors: PolicyFloors | None = None,
        journal: Journal | None = None,
        threads: int = 1,
        on_receipt: OnReceipt | None = None,
    ) -> None:
        (floors or PolicyFloors()).check(parameters)
        keys = [member.public_key for member in parameters.roster]
        if identity.public_key not in keys:
            raise ParameterError(
                Code.BAD_PARAMETERS,
                f"the identity {identity.fingerprint} is not in the roster",
                hint="compare fingerprints with the roster that was exchanged out of band",
            )
        member = keys.index(identity.public_key) + 1
        hashes = _check_models(parameters, model_hashes)
        context = client_states.Context(parameters, identity, member, hashes, threads)
        self.parameters = parameters
        self.name = parameters.name_of(member)
        self._entropy = entropy
        self._journal = journal
        self._on_receipt = on_receipt
        self._state: client_states.State | None = client_states.Invited(context)
        self._sums: tuple[np.ndarray, ...] = ()
        self._inputs: dict[int, tuple[np.ndarray, bytes | None]] = {}
        self._provided: set[int] = set()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"ClientSession({self.name}, round {self.parameters.round}, {self.phase})"

    @property
    def phase(self) -> str:
        """The name of the phase, ``"Aborted"`` after a refusal."""
        return ClientPhase.ABORTED.value if self._state is None else self._state.phase.value

    @property
    def sums(self) -> tuple[np.ndarray, ...]:
        """The sums received and verified so far, uint32[d] or uint64[d], read-only."""
        return self._sums

    def provide_input(self, j: int, vector: np.ndarray, model_hash: bytes | None = None) -> None:
        """The encoded input of sum j, uint32[d] or uint64[d]; a second one is refused: a vector is masked once."""
        if not 0 <= j < self.parameters.sums:
            raise ProtocolError(Code.BAD_INPUT, f"there is no sum {j} in this round")
        if vector.shape != (self.parameters.lengths[j],) or vector.dtype != self.parameters.dtype:
            raise ProtocolError(
                Code.BAD_INPUT,
                f"a vector of {vector.dtype}{list(vector.shape)}; "
                f"{self.parameters.dtype}[{self.parameters.lengths[j]}] was expected",
            )
        with self._lock:
            if j in self._provided:
                raise ProtocolError(Code.BAD_INPUT, f"a vector for sum {j} was already given")
            self._provided.add(j)
            self._inputs[j] = (vector, model_hash)

    def handle(self, phase_name: str, payload: Packet) -> Packet:
        """Answer one request; on ProtocolError the session is dead, its secrets are gone and nothing was released.

        The reply is bytes or, where it holds a masked vector, a read-only memoryview of them.
        """
        with self._lock:
            if self._state is None:
                raise ProtocolError(Code.ABORTED, f"{self.name} has aborted this round")
            try:
                reply = self._answer(self._state, Stage.of(phase_name), payload)
                return reply[:] if isinstance(reply, memoryview) else reply  # the caller may release its own view
            except ProtocolError as error:
                kind, facts = type(error), (error.code, error.message, error.culprit, error.hint)
            except BaseException:
                self._forget()
                raise
            self._forget()
        # a fresh error: the frames behind the first one hold keys, shares and the vector
        code, message, culprit, hint = facts
        raise kind(code, message, culprit=culprit, hint=hint)

    def deadline(self) -> None:
        """The driver waits no longer: forget everything (not an error after the end)."""
        with self._lock:
            if self._state is not None and not isinstance(self._state, client_states.Finished):
                self._forget()

    def _forget(self) -> None:
        self._state = None
        self._inputs.clear()

    def _answer(self, state: client_states.State, stage: Stage, payload: Packet) -> Packet:
        repeated = self._from_journal(state, stage, payload)
        if repeated is not None:
            return repeated
        j = self._sum_index(state, stage)
        vector, model_hash = self._inputs.pop(j, (None, None)) if stage is Stage.MASKED_INPUT else (None, None)
        entropy = self._entropy(needed) if (needed := client_machine.entropy_needed(state)) else b""
        event = client_states.Received(stage, payload, entropy, vector, model_hash)
        new, (reply,) = client_machine.step(state, event)
        if new is state:
            return reply
        if isinstance(new, client_states.Finished) and self._on_receipt is not None:
            u3 = getattr(state, "u3", ())
            self._on_receipt(new.received, tuple(self.parameters.name_of(member) for member in u3))
        if self._journal is not None:
            p = self.parameters
            self._journal.record(p.session, p.round, stage, j, digest("request", payload), reply)
        self._state = new
        if isinstance(
            new, client_states.Masked | client_states.Signed | client_states.Revealed | client_states.Finished
        ):
            self._sums = new.received
        return reply

    @staticmethod
    def _sum_index(state: client_states.State, stage: Stage) -> int:
        j: int = getattr(state, "j", 0)
        return j + 1 if stage is Stage.MASKED_INPUT and isinstance(state, client_states.Revealed) else j

    def _from_journal(self, state: client_states.State, stage: Stage, payload: Packet) -> bytes | None:
        """A restarted client repeats what it released, byte for byte, or aborts."""
        if self._journal is None or not isinstance(state, client_states.Invited):
            return None
        released = self._journal.rounds(self.parameters.session, self.parameters.round)
        if not released:
            return None
        request = digest("request", payload)
        for one in released:
            if one.stage is stage and one.request == request and one.reply:
                return one.reply
        raise JournalError(
            Code.JOURNAL,
            f"{self.name} was restarted in round {self.parameters.round} and cannot go on with it",
            hint="the round is spent for this member; it takes part in the next one",
        )
