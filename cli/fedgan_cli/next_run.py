"""The `run` command that `data check` ends with: what was read and how, ready to be pasted."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedgan_secure.data.reading import DataFindings, LoadSettings

_DEFAULTS = (("image_size", 64), ("channels", 3), ("unit", "patient"))
_WORDS = ("patient_pattern", "image_column", "label_column", "patient_column")


def run_command(path: Path, settings: LoadSettings, findings: DataFindings, *, unknown_ok: bool = False) -> str:
    """Return the command, on one line and quoted for a POSIX shell, that reads `path` as it was read here.

    The layout is named as it was found, so that nothing is read off the data again. No count is in it: how many
    patients to declare is for people to say.
    """
    words = ["fedgan-secure", "run", "--dataset", str(path), "--layout", findings.layout]
    if settings.preprocessing != "auto":
        words += ["--preprocessing", settings.preprocessing]
    for name, default in _DEFAULTS:
        if (value := getattr(settings, name)) != default:
            words += [f"--{name.replace('_', '-')}", str(value)]
    if not findings.classes:
        words.append("--unconditional")
    for name in _WORDS:
        if (word := getattr(settings, name)) is not None:
            words += [f"--{name.replace('_', '-')}", word]
    for patient in settings.exclude:
        words += ["--exclude-patient", patient]
    if unknown_ok:
        words.append("--unknown-ok")
    return shlex.join(words)
