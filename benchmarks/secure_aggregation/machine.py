"""What the figures were measured on: interpreter, libraries, processor, and the speed of the `openssl` command."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from cryptography import __version__ as cryptography_version
from cryptography.hazmat.backends.openssl import backend


def processor_name() -> str:
    """The processor's model name as the operating system gives it."""
    table = Path("/proc/cpuinfo")
    if table.is_file():
        for line in table.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def describe() -> dict[str, Any]:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "cryptography": cryptography_version,
        "cryptography_openssl": backend.openssl_version_text(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": processor_name(),
        "cores": os.cpu_count(),
        "load_average_1_minute": load,
    }


def openssl_version() -> str | None:
    """What `openssl version` prints, or None where there is no such command."""
    binary = shutil.which("openssl")
    if binary is None:
        return None
    return (
        subprocess.run([binary, "version"], capture_output=True, text=True, check=True).stdout.partition("(")[0].strip()
    )


def openssl_speed(cipher: str, block_bytes: int, seconds: int) -> float | None:
    """Bytes per CPU second of `openssl speed -evp CIPHER` over blocks of `block_bytes`; None without the command."""
    binary = shutil.which("openssl")
    if binary is None:
        return None
    command = [binary, "speed", "-mr", "-seconds", str(seconds), "-bytes", str(block_bytes), "-evp", cipher]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for line in done.stdout.splitlines():
        if line.startswith("+F:"):
            return float(line.split(":")[-1])
    raise RuntimeError(f"`{' '.join(command)}` printed no +F line; its machine-readable output was expected")
