"""GDCM in a process of its own: a hostile frame can end that process, and never the one that holds patients' images.

Run as a script, this file is the child: it needs the standard library and GDCM alone, answers one frame at a time over
its standard input and output, and may take no more memory than :data:`MEMORY_BYTES`. Imported, it is the parent's side.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

MEMORY_BYTES = 4 * 1024**3
SECONDS_PER_FRAME = 20.0
CRASHED = "the decoder crashed on a frame"
TOO_LONG = "the decoder took too long on a frame"


class Decoder:
    """The parent's side: starts the child when it is needed, and again after it has died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        atexit.register(self.close)

    def decode(self, source: bytes, parameters: dict[str, Any]) -> bytes:
        """The raw bytes of one frame. Raises ValueError: what GDCM does not take, or that it crashed or hung."""
        with self._lock:
            process = self._running()
            head = json.dumps(parameters).encode()
            try:
                assert process.stdin is not None  # noqa: S101 - it was opened as a pipe
                process.stdin.write(struct.pack("<IQ", len(head), len(source)) + head + source)
                process.stdin.flush()
                deadline = time.monotonic() + SECONDS_PER_FRAME
                good, length = struct.unpack("<BQ", self._read(process, 9, deadline))
                answer = self._read(process, length, deadline)
            except TimeoutError:  # before OSError, of which it is one
                self.close()
                raise ValueError(TOO_LONG) from None
            except (OSError, EOFError):
                self.close()
                raise ValueError(CRASHED) from None
        if not good:
            raise ValueError("GDCM does not decode the frame")
        return answer

    def close(self) -> None:
        """End the child, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:
            self.close()
        if self._process is None:
            # Not at the top: as a script, this file needs the standard library and GDCM alone.
            from fedgan_secure.child_processes import child_environment, python_command

            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter, this very file
                python_command(str(Path(__file__).resolve())),
                env=child_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        return self._process

    def _read(self, process: subprocess.Popen[bytes], length: int, deadline: float) -> bytes:
        assert process.stdout is not None  # noqa: S101 - it was opened as a pipe
        handle, parts, missing = process.stdout.fileno(), [], length
        while missing:
            ready, _, _ = select.select([handle], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            part = os.read(handle, min(missing, 2**20))
            if not part:
                raise EOFError
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)


def _decode(source: bytes, wanted: dict[str, Any]) -> bytes | None:
    import gdcm  # type: ignore[import-untyped]

    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(source)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((wanted["columns"], wanted["rows"], 1))
    image.SetDataElement(element)
    photometric = gdcm.PhotometricInterpretation.GetPIType(wanted["photometric"])
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(photometric))
    if wanted["samples"] > 1:
        image.SetPlanarConfiguration(wanted["planar"])
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(wanted["syntax"])))
    stored = wanted["stored"]
    image.SetPixelFormat(
        gdcm.PixelFormat(wanted["samples"], wanted["allocated"], stored, stored - 1, wanted["representation"])
    )
    decoded = image.GetBuffer()
    return None if decoded is None else bytes(decoded.encode("utf-8", "surrogateescape"))


def _exactly(file: IO[bytes], length: int) -> bytes:
    data = file.read(length)
    if len(data) != length:
        raise EOFError
    return data


def _serve() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what C libraries print must not end up among the answers
    asked = sys.stdin.buffer
    with contextlib.suppress(EOFError):
        while True:
            head, length = struct.unpack("<IQ", _exactly(asked, 12))
            wanted = json.loads(_exactly(asked, head))
            try:
                decoded = _decode(_exactly(asked, length), wanted)
            except (RuntimeError, ValueError, TypeError, AttributeError, MemoryError):
                decoded = None
            answers.write(struct.pack("<BQ", decoded is not None, len(decoded or b"")) + (decoded or b""))
            answers.flush()


if __name__ == "__main__":
    _serve()
