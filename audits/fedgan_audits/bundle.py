"""Writing what may be shared: every file whole or not there at all.

A file is written beside its place, synced to disk and renamed; then its folder is synced. A round's envelope is
written last, so that a report that can be seen has all its companions.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedgan_audits import envelope
from fedgan_audits.errors import AuditError
from fedgan_audits.report import RoundDraft

PART = ".part"


def write_atomic(path: Path, data: bytes) -> Path:
    """Write `data` to `path` so that a reader, or a crash, never sees a part of it; makes the folder if needed.

    Raises AuditError (exit code 2) where the disk is full or the place cannot be written.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}{PART}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise AuditError(
            f"{path} cannot be written: {error.strerror or type(error).__name__}",
            hint="Free some space or choose another folder, then resume the run.",
        ) from None
    return path


def publish_round(public: Path, draft: RoundDraft, signatures: Sequence[envelope.Signature]) -> Path:
    """Write a round's HTML, signed bytes (.pae), single signatures and, last, its envelope; returns the envelope."""
    reports = public / "reports"
    write_atomic(reports / f"{draft.stem}.html", draft.html)
    write_atomic(reports / f"{draft.stem}.pae", draft.pae)
    for signature in signatures:
        write_atomic(reports / f"{draft.stem}.{signature.name}.sig", signature.sig)
    return write_atomic(reports / f"{draft.stem}.dsse.json", envelope.assemble(draft.payload, signatures))


def public_pem(key: Ed25519PublicKey) -> bytes:
    """A public key in PEM (SubjectPublicKeyInfo, RFC 8410), as OpenSSL reads it."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def publish_trust(public: Path, keys: Mapping[str, Ed25519PublicKey]) -> None:
    """Write every public key to `trust/NAME.pub.pem`, one key in a file: OpenSSL reads only the first of several."""
    for name, key in keys.items():
        write_atomic(public / "trust" / f"{name}.pub.pem", public_pem(key))
