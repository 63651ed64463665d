"""The same targets under atheris (Apache-2.0), Google's libFuzzer for Python: an optional engine, not a dependency."""

from __future__ import annotations

import sys
from pathlib import Path


def fuzz_with_atheris(name: str, minutes: float, seed: int, out: Path) -> int:
    """Fuzz one target for so many minutes; libFuzzer ends the process and leaves a crash's input in `out`."""
    try:
        import atheris
    except ImportError:
        sys.stderr.write("atheris is not installed; `pip install atheris` brings it, or use --engine own\n")
        return 2
    with atheris.instrument_imports(include=["fedgan_protocols"]):
        from tests.protocols.fuzz.targets import TARGETS
    from tests.protocols.fuzz.engine import limit_memory

    corpus = out / "corpus" / name
    findings = out / "findings"
    corpus.mkdir(parents=True, exist_ok=True)
    findings.mkdir(parents=True, exist_ok=True)
    limit_memory()
    target = TARGETS[name]
    target(b"")  # makes the recordings before libFuzzer measures time and memory
    atheris.Setup(
        [
            sys.argv[0],
            f"-max_total_time={max(1, int(minutes * 60))}",
            f"-seed={seed}",
            "-max_len=400",
            "-len_control=0",
            "-rss_limit_mb=2048",
            f"-artifact_prefix={findings}/{name}-",
            str(corpus),
        ],
        target,
    )
    atheris.Fuzz()
    return 0
