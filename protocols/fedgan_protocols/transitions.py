"""Everything that decides which phase follows which: the stages of a round and both machines' transition tables.

The diagram in docs/protocol.md is generated from these tables by `diagram` (a test keeps it up to date).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum
from types import MappingProxyType

from fedgan_protocols.errors import Code, ProtocolError


class Stage(IntEnum):
    """The rounds of the protocol, in order; the value is the one in messages."""

    ADVERTISE_KEYS = 0
    SHARE_KEYS = 1
    MASKED_INPUT = 2
    CONSISTENCY_CHECK = 3
    UNMASKING = 4
    RECEIPT = 5
    CLOSING = 6

    @property
    def label(self) -> str:
        """The stage's name in phases, errors and reports, such as ``"masked-input"``."""
        return self.name.lower().replace("_", "-")

    @classmethod
    def of(cls, label: str) -> Stage:
        """The stage of a label; raises ProtocolError (malformed)."""
        for stage in cls:
            if stage.label == label:
                return stage
        raise ProtocolError(Code.MALFORMED, "the name of a phase is not one of this protocol's")


class ClientPhase(Enum):
    """Where a client stands; named after what it has done."""

    INVITED = "Invited"
    ADVERTISED = "Advertised"
    SHARED = "Shared"
    MASKED = "Masked"
    SIGNED = "Signed"
    REVEALED = "Revealed"
    FINISHED = "Finished"
    ABORTED = "Aborted"


class ServerPhase(Enum):
    """Where the server stands; named after what it collects."""

    READY = "Ready"
    ADVERTISEMENTS = "CollectingAdvertisements"
    SHARES = "CollectingShares"
    INPUTS = "CollectingInputs"
    CONSISTENCY = "CollectingConsistency"
    REVELATIONS = "CollectingRevelations"
    AWAITING_MODEL = "AwaitingModel"
    RECEIPTS = "CollectingReceipts"
    FINISHED = "Finished"
    ABORTED = "Aborted"


CLIENT_TRANSITIONS: Mapping[tuple[ClientPhase, Stage], ClientPhase] = MappingProxyType(
    {
        (ClientPhase.INVITED, Stage.ADVERTISE_KEYS): ClientPhase.ADVERTISED,
        (ClientPhase.ADVERTISED, Stage.SHARE_KEYS): ClientPhase.SHARED,
        (ClientPhase.SHARED, Stage.MASKED_INPUT): ClientPhase.MASKED,
        (ClientPhase.MASKED, Stage.CONSISTENCY_CHECK): ClientPhase.SIGNED,
        (ClientPhase.SIGNED, Stage.UNMASKING): ClientPhase.REVEALED,
        (ClientPhase.REVEALED, Stage.MASKED_INPUT): ClientPhase.MASKED,
        (ClientPhase.REVEALED, Stage.RECEIPT): ClientPhase.FINISHED,
    }
)
"""What a client does on a valid request of a stage; any other stage, any refused message and a deadline abort it."""

SERVER_TRANSITIONS: Mapping[ServerPhase, tuple[ServerPhase, ...]] = MappingProxyType(
    {
        ServerPhase.READY: (ServerPhase.ADVERTISEMENTS,),
        ServerPhase.ADVERTISEMENTS: (ServerPhase.SHARES,),
        ServerPhase.SHARES: (ServerPhase.INPUTS,),
        ServerPhase.INPUTS: (ServerPhase.CONSISTENCY,),
        ServerPhase.CONSISTENCY: (ServerPhase.REVELATIONS,),
        ServerPhase.REVELATIONS: (ServerPhase.INPUTS, ServerPhase.AWAITING_MODEL, ServerPhase.RECEIPTS),
        ServerPhase.AWAITING_MODEL: (ServerPhase.INPUTS,),
        ServerPhase.RECEIPTS: (ServerPhase.FINISHED,),
    }
)
"""Where the server may go when a stage closes; fewer than t valid replies abort it."""

CLIENT_TERMINAL = frozenset({ClientPhase.FINISHED, ClientPhase.ABORTED})
SERVER_TERMINAL = frozenset({ServerPhase.FINISHED, ServerPhase.ABORTED})


def client_target(phase: ClientPhase, stage: Stage) -> ClientPhase:
    """The phase after a valid request of `stage`; raises ProtocolError (stage-out-of-order)."""
    target = CLIENT_TRANSITIONS.get((phase, stage))
    if target is None:
        raise ProtocolError(
            Code.OUT_OF_ORDER,
            f"a request of stage {stage.label} reached a member in phase {phase.value}",
            culprit="server",
        )
    return target


def diagram() -> str:
    """Both machines as one Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    state Client {", f"        [*] --> {ClientPhase.INVITED.value}"]
    for (phase, stage), target in CLIENT_TRANSITIONS.items():
        lines.append(f"        {phase.value} --> {target.value}: R{stage.value} {stage.label}")
    lines += [
        f"        {phase.value} --> {ClientPhase.ABORTED.value}: refused or deadline"
        for phase in ClientPhase
        if phase not in CLIENT_TERMINAL
    ]
    lines += [f"        {ClientPhase.FINISHED.value} --> [*]", f"        {ClientPhase.ABORTED.value} --> [*]", "    }"]
    lines += ["    state Server {", f"        [*] --> s{ServerPhase.READY.value}"]
    for server_phase, targets in SERVER_TRANSITIONS.items():
        lines += [f"        s{server_phase.value} --> s{target.value}" for target in targets]
    lines += [
        f"        s{server_phase.value} --> s{ServerPhase.ABORTED.value}: fewer than t"
        for server_phase in SERVER_TRANSITIONS
        if server_phase not in (ServerPhase.READY, ServerPhase.AWAITING_MODEL, ServerPhase.RECEIPTS)
    ]
    lines += [
        f"        s{ServerPhase.FINISHED.value} --> [*]",
        f"        s{ServerPhase.ABORTED.value} --> [*]",
        "    }",
    ]
    return "\n".join(lines) + "\n"
