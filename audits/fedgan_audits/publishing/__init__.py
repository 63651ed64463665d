"""What a run publishes: rounds, the manifest of all its files, and sign-offs."""

from fedgan_audits.publishing import manifest, round, signing_off
from fedgan_audits.publishing.manifest import objections_to_index, read_manifest, read_report, report_files
from fedgan_audits.publishing.signing_off import (
    FOLDER,
    SIGN_OFFS,
    Signed,
    file_of,
    listed,
    read,
    read_all,
    readable,
    sign_off,
)

__all__ = [
    "FOLDER",
    "SIGN_OFFS",
    "Signed",
    "file_of",
    "listed",
    "manifest",
    "objections_to_index",
    "read",
    "read_all",
    "read_manifest",
    "read_report",
    "readable",
    "report_files",
    "round",
    "sign_off",
    "signing_off",
]
