"""What every handler of the client does alike: read a request, judge it, sign a reply."""

from __future__ import annotations

from collections.abc import Sequence

from fedgan_protocols import checks
from fedgan_protocols.client.states import Context, State
from fedgan_protocols.errors import Code, ProtocolError
from fedgan_protocols.messages import Message, open_message, sign_message
from fedgan_protocols.parameters import SessionParameters
from fedgan_protocols.transitions import Stage


def open_request(state: State, stage: Stage, raw: bytes, sender: int, previous: bytes | None) -> Message:
    """A verified message that the server sent or passed on; the server is to blame for one that is refused."""
    return open_message(state.context.parameters, raw, stage=stage, sender=sender, previous=previous, blame="server")


def sign_reply(context: Context, stage: Stage, previous: bytes, body: object) -> Message:
    """This member's signed message."""
    return sign_message(context.identity, context.parameters, stage, context.member, previous, body)


def require(condition: bool, code: Code, message: str) -> None:
    """Raise ProtocolError, its culprit the server, unless the condition holds."""
    if not condition:
        raise ProtocolError(code, message, culprit="server")


def members_of(parameters: SessionParameters, members: Sequence[int], what: str) -> tuple[int, ...]:
    """A set (ascending) that the server names: of the roster, and of at least t members."""
    require(not members or members[-1] <= parameters.n, Code.MALFORMED, f"{what} names a stranger")
    checks.require_enough(parameters, members, what, culprit="server")
    return tuple(members)
