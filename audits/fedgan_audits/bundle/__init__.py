"""The files of a published run: written whole or not at all, read with limits, listed by size and digest."""

from fedgan_audits.bundle.inventory import Inventory
from fedgan_audits.bundle.reading import Bundle, UnreadableFileError, is_stray
from fedgan_audits.bundle.writing import PART, write_atomic

__all__ = ["PART", "Bundle", "Inventory", "UnreadableFileError", "is_stray", "write_atomic"]
