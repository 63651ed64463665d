"""Patients' images: layouts, loaders, preprocessing, cache, partitions and phantoms. Nothing here knows a model."""

from fedgan_secure.data.partitions import Partition, hospital_names, parse_partition, split
from fedgan_secure.data.patients import PSEUDONYM_HEX_DIGITS, PatientDataset, normal_identifier, pseudonym
from fedgan_secure.data.pixels.preprocess import IMAGE_SIZES, PREPROCESSING
from fedgan_secure.data.reading.findings import DataFindings
from fedgan_secure.data.reading.layouts import KNOWN_LAYOUTS, SUPPORTED_LAYOUTS
from fedgan_secure.data.reading.loading import (
    LoadResult,
    LoadSettings,
    Resolved,
    load,
    resolve,
    unknown_exclusions,
    unknown_names,
)

__all__ = [
    "IMAGE_SIZES",
    "KNOWN_LAYOUTS",
    "PREPROCESSING",
    "PSEUDONYM_HEX_DIGITS",
    "SUPPORTED_LAYOUTS",
    "DataFindings",
    "LoadResult",
    "LoadSettings",
    "Partition",
    "PatientDataset",
    "Resolved",
    "hospital_names",
    "load",
    "normal_identifier",
    "parse_partition",
    "pseudonym",
    "resolve",
    "split",
    "unknown_exclusions",
    "unknown_names",
]
