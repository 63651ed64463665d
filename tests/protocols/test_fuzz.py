"""A short, repeatable slice of the fuzzer (tests/protocols/fuzz), and what it is worth: seeded bugs that it finds.

The long runs are made by hand: see CONTRIBUTING.md.
"""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.protocols.fuzz.choices import Choices
from tests.protocols.fuzz.engine import Loop
from tests.protocols.fuzz.mutation import bend_packet
from tests.protocols.fuzz.targets import TARGETS, recording

from fedgan_protocols import ProtocolError, checks, masking
from fedgan_protocols.primitives.encoding import decode

EXECUTIONS = {"session": 350, "message": 3000, "decoder": 5000, "transcript": 1500, "journal": 1500, "key": 500}


@pytest.mark.parametrize("name", TARGETS)
def test_a_slice_of_the_fuzzer_finds_nothing(name: str, tmp_path: Path) -> None:
    loop = Loop({name: TARGETS[name]}, seed=20, out=tmp_path)
    TARGETS[name](b"")  # the recordings are made outside of what is measured
    for count in range(EXECUTIONS[name]):
        loop.execute(name, loop.draw.randbytes(loop.draw.randrange(1, 80)), measured=count % 64 == 0)
    assert loop.tally.findings == []
    assert loop.tally.executions[name] == EXECUTIONS[name]
    assert loop.tally.peaks[name] > 0


def findings(name: str, out: Path, count: int) -> list[str]:
    loop = Loop({name: TARGETS[name]}, seed=20, out=out)
    for _ in range(count):
        loop.execute(name, loop.draw.randbytes(loop.draw.randrange(1, 80)))
        if loop.tally.findings:
            break
    return loop.tally.findings


def test_the_fuzzer_finds_a_length_that_is_not_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And leaves the input behind, which repeats the finding."""
    monkeypatch.setattr(checks, "vector_of", lambda p, j, data, **_: np.frombuffer(data, dtype=p.dtype))
    (found,) = findings("session", tmp_path, 1000)
    assert "ValueError" in found
    saved = next(path for path in (tmp_path / "findings").iterdir() if not path.suffix)
    with pytest.raises(ValueError, match="multiple of element size"):
        TARGETS["session"](saved.read_bytes())


def test_the_fuzzer_finds_a_sum_that_is_not_exact(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    honest = masking.add_streams
    recording(0)

    def forgetful(vector: Any, terms: Any, **options: Any) -> None:
        honest(vector, list(terms)[:-1], **options)

    monkeypatch.setattr(masking, "add_streams", forgetful)
    (found,) = findings("session", tmp_path, 300)
    assert "a sum is not exact" in found


def test_decoding_takes_no_more_memory_than_a_multiple_of_what_came() -> None:
    """An empty array of one byte becomes 64 bytes in memory: no encoding may cost much more than that."""
    draw = random.Random(3)  # noqa: S311 - test data
    limit = 1 << 20
    worst = [
        b"\x9a" + (40_000).to_bytes(4, "big") + b"\x80" * 40_000,  # empty arrays
        b"\x9a" + (40_000).to_bytes(4, "big") + b"\x60" * 40_000,  # empty texts
        b"\x9a" + (30_000).to_bytes(4, "big") + b"\x19\xff\xff" * 30_000,  # integers
        b"\x9a\xff\xff\xff\xff" + bytes(1000),  # a promise of 2^32 items
        b"\x5b" + b"\x7f" * 8 + bytes(1000),  # a promise of 2^63 bytes
        b"\x81" * 100_000,  # depth
        b"\x84" * 6 + b"\x80" * 100,
        draw.randbytes(40_000),
    ]
    for data in worst:
        tracemalloc.start()
        try:
            decode(data, limit)
        except ProtocolError:
            pass
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak <= 80 * len(data) + 65_536, (data[:10], peak / len(data))


def test_every_kind_of_bend_is_used() -> None:
    """The mutations really change packets, in many ways, and mostly leave them readable."""
    made = recording(1)
    draw = random.Random(4)  # noqa: S311 - test data
    changed, lengths = 0, set()
    for _ in range(400):
        packet = made.packets[draw.randrange(len(made.packets))][2]
        bent = bend_packet(packet, Choices(draw.randbytes(60)), made.pool, made.federation.parameters.sealed_bytes)
        changed += bent != packet
        lengths.add(len(bent) - len(packet))
    assert changed > 350 and len(lengths) > 60
