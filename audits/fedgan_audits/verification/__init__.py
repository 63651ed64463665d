"""Check a published run, offline: signatures, chain, figures, pages, transcripts, files and keys."""

from fedgan_audits.verification.transcripts import TranscriptCheck, TranscriptContext
from fedgan_audits.verification.verify import public_folder, read_roster, verify_run

__all__ = [
    "TranscriptCheck",
    "TranscriptContext",
    "public_folder",
    "read_roster",
    "verify_run",
]
