"""Make a round's report from its record: figures, sections, verdict; and make it again to compare."""

from fedgan_audits.report import figures, rebuilding
from fedgan_audits.report.foresight import foresee
from fedgan_audits.report.reading import check_sample, read_any, read_payload, record_of, sample_of
from fedgan_audits.report.rebuilding import TOLERANCE, near, number_of
from fedgan_audits.report.report import RoundDraft, build_round, commit_annex, disagreements

__all__ = [
    "TOLERANCE",
    "RoundDraft",
    "build_round",
    "check_sample",
    "commit_annex",
    "disagreements",
    "figures",
    "foresee",
    "near",
    "number_of",
    "read_any",
    "read_payload",
    "rebuilding",
    "record_of",
    "sample_of",
]
