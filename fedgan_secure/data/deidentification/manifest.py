"""What was done to which file: one line of JSON each, appended as the work goes on, in a folder of the hospital alone.

Confidential: it maps the names of the originals to those of the copies. A run that was cut off reads it and goes on; a
torn last line is dropped. The newest line of a file counts.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from fedgan_secure.errors import InputError

VERSION = 1
Outcome = Literal["written", "duplicate", "set aside", "not copied"]


@dataclass(frozen=True)
class Record:
    """One file of the source: paths relative to the folders, sizes in bytes, SHA-256 in hexadecimal ("": none).

    `patient` is the keyed pseudonym, "" where no patient is named. `labels`: those labels of the folder that hold an
    identifying value of this file; None where they were not compared.
    """

    source: str
    size: int
    changed_ns: int
    outcome: Outcome
    reason: str = ""
    source_sha256: str = ""
    target: str = ""
    target_sha256: str = ""
    patient: str = ""
    pixels: str = ""
    treated: dict[str, int] = field(default_factory=dict)
    labels: list[str] | None = None


class Manifest:
    """An open manifest. Use as a context manager."""

    def __init__(self, place: Path, header: dict[str, Any]) -> None:
        self._place = place
        self._header = {"version": VERSION, **header}
        self.records: dict[str, Record] = {}
        self.resumed = False

    def __enter__(self) -> Manifest:
        handle = os.open(self._place, os.O_RDWR | os.O_CREAT, 0o600)
        self._file: IO[bytes] = os.fdopen(handle, "r+b")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.fchmod(handle, 0o600)
            keep = self._read()
        except BlockingIOError:
            self._file.close()
            raise InputError(
                f"another process is writing to {self._place}", hint="wait for it, or give another destination"
            ) from None
        except BaseException:
            self._file.close()
            raise
        self._file.truncate(keep)
        self._file.seek(keep)
        if keep == 0:
            self._write(self._header)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            os.fsync(self._file.fileno())
        self._file.close()

    def add(self, record: Record) -> None:
        """Append a record; it is on its way to the disk when this returns."""
        self.records[record.source] = record
        self._write(asdict(record))

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line, sort_keys=True).encode() + b"\n")
        self._file.flush()

    def _read(self) -> int:
        """Read what is there; the number of bytes that are whole."""
        whole = 0
        for number, line in enumerate(self._lines()):
            if not line.endswith(b"\n"):
                break
            try:
                values = json.loads(line)
                if number == 0:
                    self._check(values)
                else:
                    record = Record(**values)
                    self.records[record.source] = record
            except (ValueError, TypeError):
                raise InputError(
                    f"line {number + 1} of the manifest {self._place} is broken",
                    hint="give a new destination, or a copy of the manifest that is whole",
                ) from None
            whole += len(line)
        self.resumed = whole > 0
        return whole

    def _lines(self) -> Iterator[bytes]:
        with self._place.open("rb") as file:
            yield from file

    def _check(self, found: dict[str, Any]) -> None:
        differing = sorted(name for name in self._header if found.get(name) != self._header[name])
        if differing:
            raise InputError(
                f"the destination was begun with another {' and '.join(differing).replace('_', ' ')}",
                hint="go on with the same source, secret and version, or give a new destination",
            )
