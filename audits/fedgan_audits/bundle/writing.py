"""Write files that are whole or absent: beside their place, synced to disk and renamed."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from fedgan_audits.errors import AuditError

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
