"""`fedgan-secure doctor`: what this machine has and lacks."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import click

from fedgan_cli import terminal

PACKAGES = (
    "tensorflow",
    "keras",
    "numpy",
    "dp-accounting",
    "cryptography",
    "cbor2",
    "pydicom",
    "pillow",
    "pydantic",
)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: its state is `ok`, `warning` or `missing`."""

    what: str
    state: str
    found: str
    advice: str = ""


@click.command(
    "doctor",
    epilog="""\b
Example:
  fedgan-secure doctor""",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(as_json: bool) -> int:
    """Look at Python, libraries, public starts, decoders, processors, memory, disk and entropy; say what to do."""
    findings = examine()
    if as_json:
        terminal.emit(
            {
                "findings": [asdict(item) for item in findings],
                "ok": all(f.state != "missing" for f in findings),
            }
        )
    else:
        for item in findings:
            terminal.say(f"{item.state:<8} {item.what:<24} {item.found}")
            if item.advice:
                terminal.say(f"         {item.advice}")
    return 2 if any(item.state == "missing" for item in findings) else 0


def examine() -> list[Finding]:
    """Every check, in the order it is shown."""
    packages = (_package(name) for name in PACKAGES)
    return [_python(), *packages, _tensorflow(), *_starts(), *_decoders(), *_machine()]


def _python() -> Finding:
    good = sys.version_info >= (3, 11)
    return Finding(
        "Python",
        "ok" if good else "missing",
        platform.python_version(),
        "" if good else "needs 3.11 or newer",
    )


def _package(name: str) -> Finding:
    try:
        return Finding(name, "ok", metadata.version(name))
    except metadata.PackageNotFoundError:
        return Finding(name, "missing", "not installed", "`make install`, or install fedgan-secure again")


def _tensorflow() -> Finding:
    try:
        terminal.load_tensorflow()
        import tensorflow as tf
    except ImportError as error:
        return Finding("TensorFlow loads", "missing", str(error)[:120], "install tensorflow for this Python")
    devices = [device.device_type for device in tf.config.list_physical_devices()]
    return Finding("TensorFlow loads", "ok", f"devices: {', '.join(devices)}")


def _starts() -> list[Finding]:
    from fedgan_secure.errors import InputError
    from fedgan_secure.starts import SHIPPED, shipped_start

    findings = []
    for name in SHIPPED:
        what = f"start {name}"
        try:
            digest = shipped_start(name).digest
        except InputError as error:
            findings.append(
                Finding(what, "missing", str(error)[:120], "install fedgan-secure again, or run --start none")
            )
        else:
            findings.append(Finding(what, "ok", f"SHA-256 {digest[:16]}..."))
    return findings


def _decoders() -> list[Finding]:
    from pydicom.pixels import get_decoder
    from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLossless, JPEGLSLossless, RLELossless

    findings = []
    for name, syntax in (
        ("DICOM RLE", RLELossless),
        ("DICOM JPEG", JPEGBaseline8Bit),
        ("DICOM JPEG 2000", JPEG2000Lossless),
        ("DICOM JPEG-LS", JPEGLSLossless),
        ("DICOM JPEG lossless", JPEGLossless),
    ):
        if get_decoder(syntax).is_available:
            findings.append(Finding(name, "ok", "can be decoded"))
        else:
            findings.append(Finding(name, "warning", "cannot be decoded", "such files are set aside with a reason"))
    return findings


def _machine() -> list[Finding]:
    from fedgan_secure.processors import processors

    cores = processors()
    findings = [Finding("processors", "ok" if cores > 1 else "warning", str(cores))]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        advice = "" if memory >= 4 else "128-pixel runs want 4 GiB or more"
        findings.append(Finding("memory", "ok" if memory >= 4 else "warning", f"{memory:.1f} GiB", advice))
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    advice = "" if free >= 2 else "the default run wants 1 GiB beside what your images' cache takes"
    findings.append(Finding("free disk here", "ok" if free >= 2 else "warning", f"{free:.1f} GiB", advice))
    findings.append(Finding("entropy", "ok" if len(os.urandom(32)) == 32 else "missing", "os.urandom"))
    return findings
