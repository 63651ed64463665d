"""What every child process of this package is started with: which Python command, and which part of the environment.

A child never imports from the folder it is started in: beside the images may lie a file `random.py` or a folder `dl`,
put there by whoever sent the images. It inherits only the variables named here, and of a search path only the
absolute folders: an empty or a relative entry means the current folder.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

INHERITED = frozenset(
    {
        "HOME", "LANG", "LANGUAGE", "LOGNAME", "TEMP", "TMP", "TMPDIR", "TZ", "USER", "VIRTUAL_ENV", "XDG_CACHE_HOME",
        "PYTHONDONTWRITEBYTECODE", "PYTHONNOUSERSITE", "PYTHONUTF8",
    }
)  # fmt: skip
"""Variables handed on as they are."""
INHERITED_PREFIXES = (
    "FEDGAN_", "LC_", "CUDA_", "NVIDIA_", "ROCR_", "HIP_", "TF_", "XLA_", "KERAS_", "DNNL_", "ONEDNN_", "MKL_",
    "OMP_", "GOMP_", "KMP_", "OPENBLAS_", "MALLOC_",
)  # fmt: skip
"""Beginnings of further variables: this product's own, the language, and how TensorFlow and its libraries compute."""
SEARCH_PATHS = frozenset({"PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"})
"""Lists of folders to search: their absolute entries are handed on."""


def python_command(*arguments: str) -> list[str]:
    """Return the command of a child that runs this interpreter and imports nothing from where it stands or starts."""
    return [sys.executable, "-P", *arguments]


def child_environment(**settings: str) -> dict[str, str]:
    """Return the environment of a child process: what is inherited by the rules above, and `settings` over it.

    `PYTHONSAFEPATH` is always set, so that a child of the child keeps to the same rule.
    """
    return {**inherited(os.environ), "PYTHONSAFEPATH": "1", **settings}


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the part of `environment` that a child process gets."""
    kept = {
        name: value for name, value in environment.items() if name in INHERITED or name.startswith(INHERITED_PREFIXES)
    }
    for name in SEARCH_PATHS & environment.keys():
        folders = [entry for entry in environment[name].split(os.pathsep) if Path(entry).is_absolute()]
        if folders:
            kept[name] = os.pathsep.join(folders)
    return kept
