"""What a whole round publishes beside its report, and how a hospital judges it before it signs.

Lists in reports and manifests name files by digest alone. A hospital that signs such a list vouches for the files, so
it is shown their bytes, makes the same files from what it knows itself, and signs where they are the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fedgan_audits.facts import RoundRecord, is_published
from fedgan_audits.pages import RENDERER
from fedgan_secure.federation.results.models_found import Found

JUDGED = ("model/", "samples/")
"""Folders whose files say what a round led to."""


@dataclass(frozen=True, eq=False)
class Published:
    """What a coordinator shows of a round before it is signed.

    Attributes:
        files: name below ``public/`` -> bytes: models and the sample sheet.
        vector: float32[d], the model that the round led to, as the coordinator has it; a hospital believes it where it
            did not receive the sum, or no sum leads to it alone, and only if it has the digest that the report names.
    """

    files: Mapping[str, bytes]
    vector: np.ndarray


class Judge(Protocol):
    """What is needed of a `Family`."""

    def objections(self, average: np.ndarray, models: Mapping[str, bytes], sheet: bytes) -> list[str]: ...


def objections_to_list(record: RoundRecord, published: Published | None) -> list[str]:
    """Compare the files that a report lists with those that a hospital was shown."""
    number, whole = record.header.round, record.header.status == "complete"
    if whole and published is None:
        return ["the round is whole, and this hospital was not shown what it publishes"]
    shown = dict(published.files) if whole and published is not None else {}
    sheet = f"samples/round-{number:04d}.png"
    if whole and sheet not in shown:
        return [f"the round is whole, and {sheet} is not among what it publishes"]
    expected = {name: hashlib.sha256(data).hexdigest() for name, data in shown.items()}
    apart = ("policy.json", f"transcripts/round-{number:04d}.cbor")
    listed = [(item.path, item.sha256) for item in record.artefacts if item.path not in apart]
    if sorted(listed) != sorted(expected.items()):
        return ["the report lists other files than those that this hospital was shown"]
    return []


def objections_to_files(judge: Judge, published: Published, found: Found) -> list[str]:
    """Compare the files of a whole round with what a hospital knows that it leads to; none where it knows no average.

    Args:
        judge: the hospital's own family.
        published: what it was shown; `objections_to_list` had nothing against it.
        found: what it found itself.
    """
    if found.average is None:
        return []
    models = {name: data for name, data in published.files.items() if not name.startswith("samples/")}
    sheet = next(data for name, data in published.files.items() if name.startswith("samples/"))
    return judge.objections(found.average, models, sheet)


def listed_files(record: RoundRecord) -> dict[str, str]:
    """Return the models and samples that a report lists: name below ``public/`` -> SHA-256, hex."""
    return {item.path: item.sha256 for item in record.artefacts if item.path.startswith(JUDGED)}


def objections_to_manifest(
    subjects: Mapping[str, str], renderer: str, signed: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Compare the models and samples of a manifest with those of the reports that a hospital signed.

    A manifest that names another renderer than this software's is objected to: verification makes the roll-up page of
    this renderer again, and cannot do so with another's.

    Args:
        renderer: the name in the manifest.
        subjects: name below ``public/`` -> SHA-256, hex.
        signed: what the ledger says of each signed report of the run, in order; nothing is compared where one was
            signed by a version that did not keep its files.
    """
    if renderer != RENDERER:
        return [f"the manifest names the renderer {renderer[:60]!r}, expected {RENDERER}, which this software is"]
    if not all("files" in facts for facts in signed):
        return []
    expected: dict[str, str] = {}
    for facts in signed:
        expected.update(facts["files"])
    shown = {name: digest for name, digest in subjects.items() if name.startswith(JUDGED)}
    if shown != expected:
        return ["the manifest lists other models or samples than the reports that this hospital signed"]
    strange = [name for name in subjects if not is_published(name)]
    return [f"the manifest lists {strange[0][:80]!r}, which no run publishes"] if strange else []
