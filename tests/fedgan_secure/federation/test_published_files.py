"""What a hospital has against a manifest before it signs it."""

from __future__ import annotations

import pytest

from fedgan_audits.pages.renderers import BEFORE_NUMBERS, RENDERER, VERSION
from fedgan_secure.federation.results.published_files import objections_to_manifest

FILES = {"model/generator.keras": "a" * 64, "samples/round-0001.png": "b" * 64}
SIGNED = [{"files": FILES}]
LISTED = {**FILES, "policy.json": "c" * 64, "index.html": "d" * 64, "reports/round-0001.html": "e" * 64}


def test_a_manifest_of_what_it_signed_is_signed() -> None:
    assert objections_to_manifest(LISTED, RENDERER, SIGNED) == []
    assert objections_to_manifest(LISTED, RENDERER, [{}]) == [], "of an older version's ledger nothing is known"


@pytest.mark.parametrize("renderer", [BEFORE_NUMBERS[-1], f"html-{VERSION + 1}", "html-other", ""])
@pytest.mark.parametrize("signed", [SIGNED, [{}]])
def test_no_manifest_by_another_renderer_is_signed(renderer: str, signed: list[dict[str, dict[str, str]]]) -> None:
    """With its name the coordinator would choose what a verification can check of the roll-up."""
    found = objections_to_manifest(LISTED, renderer, signed)
    assert len(found) == 1 and repr(renderer) in found[0] and RENDERER in found[0]


def test_other_models_or_files_are_not_signed() -> None:
    assert objections_to_manifest({**LISTED, "model/generator.keras": "f" * 64}, RENDERER, SIGNED)
    assert "'extra.html'" in objections_to_manifest({**LISTED, "extra.html": "f" * 64}, RENDERER, SIGNED)[0]
