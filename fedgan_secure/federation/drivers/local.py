"""The in-process driver: carries bytes between one server session and its client sessions, and nothing else.

Every payload passes through the real encoding. Drop-outs can be rehearsed: a hospital that is told to drop at a
stage answers nothing from that stage of the round on, which is what a lost machine looks like to its peers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fedgan_protocols import AggregateResult, ClientSession, ProtocolError, ServerSession, Stage
from fedgan_protocols.primitives import Packet
from fedgan_protocols.server import Failure
from fedgan_secure.errors import InputError

STAGES = ("advertise-keys", "share-keys", "masked-input", "consistency-check", "unmasking", "receipt")


@dataclass(frozen=True)
class DropOut:
    """One rehearsed drop-out: `hospital` stops answering in round `round` from `stage` on."""

    hospital: str
    round: int
    stage: str = "masked-input"


def parse_drop(text: str, hospitals: Sequence[str]) -> DropOut:
    """Read ``NAME@ROUND[:STAGE]``.

    Raises:
        InputError: another form, an unknown hospital or an unknown stage.
    """
    match = re.fullmatch(r"([a-z0-9-]+)@([1-9][0-9]{0,6})(?::([a-z-]+))?", text)
    if match is None:
        raise InputError(f"--drop {text!r}: expected NAME@ROUND or NAME@ROUND:STAGE", hint="for example --drop b@2")
    name, number, stage = match.group(1), int(match.group(2)), match.group(3) or "masked-input"
    if name not in hospitals:
        raise InputError(f"--drop {text!r}: no hospital {name!r}", hint=f"expected one of {', '.join(hospitals)}")
    if stage not in STAGES:
        raise InputError(f"--drop {text!r}: no stage {stage!r}", hint=f"expected one of {', '.join(STAGES)}")
    return DropOut(name, number, stage)


class LocalDriver:
    """Runs one round of secure aggregation in this process.

    Args:
        before_input: called once per sum with its index and the hospitals that are about to be asked for their
            masked vector; it must hand each of them its vector (`ClientSession.provide_input`).
        drops: rehearsed drop-outs of this round.
    """

    def __init__(
        self,
        server: ServerSession,
        clients: Mapping[str, ClientSession],
        before_input: Callable[[int, tuple[str, ...]], None],
        drops: Sequence[DropOut] = (),
    ) -> None:
        self._server = server
        self._clients = clients
        self._before_input = before_input
        self._drops = {drop.hospital: STAGES.index(drop.stage) for drop in drops}

    def run(self) -> AggregateResult:
        """Carry every phase to its end.

        Raises:
            ProtocolError: the round was aborted; the server session still holds the transcript so far.
        """
        while (phase := self._server.next_phase()) is not None:
            answering = tuple(name for name in phase.payloads if not self._gone(name, phase.name))
            if phase.stage is Stage.MASKED_INPUT and answering:
                self._before_input(phase.sum, answering)
            replies: dict[str, Packet | Failure] = {}
            for name in phase.payloads:
                if name not in answering:
                    replies[name] = Failure("no-answer", "rehearsed drop-out")
                    continue
                try:
                    replies[name] = self._clients[name].handle(phase.name, phase.payloads[name])
                except ProtocolError as error:
                    replies[name] = Failure.of(error)
            self._server.receive(replies)
        return self._server.result()

    def _gone(self, name: str, stage: str) -> bool:
        return name in self._drops and STAGES.index(stage) >= self._drops[name]
