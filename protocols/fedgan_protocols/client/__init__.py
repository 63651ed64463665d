"""A client's machine of secure aggregation: nothing leaves it in the clear."""

from fedgan_protocols.client import machine, states

__all__ = [
    "machine",
    "states",
]
