"""What other readers are given of a verified run: GDPR documents, OSCAL, a registry's card."""

from fedgan_audits.exports import documents, gdpr
from fedgan_audits.exports.oscal import assessment_results
from fedgan_audits.exports.registry_card import card
from fedgan_audits.exports.verified_run import VerifiedRun, verified

__all__ = [
    "VerifiedRun",
    "assessment_results",
    "card",
    "documents",
    "gdpr",
    "verified",
]
