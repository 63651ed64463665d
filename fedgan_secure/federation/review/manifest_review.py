"""Whether a hospital signs the list of a run's public files: it looks at all that the list vouches for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedgan_audits.bundle import Inventory
from fedgan_audits.facts import Manifest
from fedgan_audits.publishing import objections_to_index, read_manifest
from fedgan_secure.federation.results.published_files import objections_to_manifest
from fedgan_secure.federation.review.own_words import claim_in


def signable(
    payload: bytes,
    public: Path,
    head: str | None,
    signed: Sequence[Mapping[str, Any]],
    inventory: Inventory,
    names: Sequence[str] = (),
) -> Manifest | None:
    """Return the manifest that a hospital may sign, or None.

    Args:
        payload: of the manifest, by a coordinator who is not trusted.
        public: the published files.
        head: digest of the newest report that this hospital signed, hex, or None before the first.
        signed: what its ledger says of each report of the run that it signed, in order.
        inventory: this hospital's own, kept from one manifest to the next.
        names: of all hospitals; they may stand in free text, whatever they are.

    Its newest report must be the hospital's own newest, and every report bound to the one before; models and samples
    those of reports that the hospital signed; and the roll-up page what the reports render to. The reason for a run's
    end and its incidents are the coordinator's own words; a claim in them that no report makes is not signed.
    """
    manifest, subjects = read_manifest(payload)
    words = (manifest.run.reason, *(incident.text for incident in manifest.run.incidents))
    if (
        manifest.head != head
        or any(claim_in(text, names) for text in words)
        or objections_to_manifest(subjects, manifest.renderer, signed)
    ):
        return None
    return None if objections_to_index(public, payload, inventory) else manifest
