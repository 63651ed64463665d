"""A small cohort and a large delta are told of at the start, however quiet a run is."""

from __future__ import annotations

import pytest

from fedgan_cli.run import LARGE_DELTA, SMALL_COHORT, weak_promises
from fedgan_cli.terminal import progress


@pytest.mark.parametrize(
    ("declared", "delta", "said"),
    [
        (SMALL_COHORT, LARGE_DELTA, []), (SMALL_COHORT - 1, LARGE_DELTA, ["cohort of 49"]),
        (SMALL_COHORT, 2e-3, ["delta is 0.002"]), (8, 0.01, ["cohort of 8", "delta is 0.01"]),
    ],
)  # fmt: skip
def test_both_are_told_of(declared: int, delta: float, said: list[str]) -> None:
    found = weak_promises(declared, delta)
    assert len(found) == len(said) and all(part in text for part, text in zip(said, found, strict=True))


def test_a_warning_is_shown_in_a_quiet_run(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(quiet=True) as shown:
        shown.note("hospital a: 8 patients")
        shown.warn("delta is 0.01")
    told = capsys.readouterr().err
    assert "warning: delta is 0.01" in told
