"""Hospitals, the coordinator, and the round that joins them."""

from fedgan_secure.federation.prepare import Federation, Request, resume, start
from fedgan_secure.federation.run import Display, Outcome, carry_on
from fedgan_secure.federation.sources import names_of
from fedgan_secure.federation.spent import HospitalSpent

__all__ = [
    "Display",
    "Federation",
    "HospitalSpent",
    "Outcome",
    "Request",
    "carry_on",
    "names_of",
    "resume",
    "start",
]
