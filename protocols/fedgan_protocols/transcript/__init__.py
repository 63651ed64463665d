"""Check what was said in a session from its transcript alone."""

from fedgan_protocols.transcript import transcript
from fedgan_protocols.transcript.transcript import TranscriptExpectations, check
from fedgan_protocols.transcript.walk import TranscriptFacts

__all__ = [
    "TranscriptExpectations",
    "TranscriptFacts",
    "check",
    "transcript",
]
