"""The server's machine of secure aggregation: it sees masked vectors and their sum."""

from fedgan_protocols.server import machine, states
from fedgan_protocols.server.states import Drop, Failure, Group

__all__ = [
    "Drop",
    "Failure",
    "Group",
    "machine",
    "states",
]
