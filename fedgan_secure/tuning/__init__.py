"""Searches for good settings: what is tried, what that costs the patients it is tried on, and what came out."""

from fedgan_secure.tuning import search
from fedgan_secure.tuning.charge import refusal
from fedgan_secure.tuning.directory import SearchDirectory, default_search_folder
from fedgan_secure.tuning.experiment import Experiment
from fedgan_secure.tuning.report import write_report
from fedgan_secure.tuning.search import FREE, begin_charge

__all__ = [
    "FREE",
    "Experiment",
    "SearchDirectory",
    "begin_charge",
    "default_search_folder",
    "refusal",
    "search",
    "write_report",
]
