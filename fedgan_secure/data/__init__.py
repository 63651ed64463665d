"""Patients' images: layouts, loaders, preprocessing, cache, partitions and phantoms. Nothing here knows a model."""

from fedgan_secure.data.findings import DataFindings
from fedgan_secure.data.layouts import KNOWN_LAYOUTS, SUPPORTED_LAYOUTS
from fedgan_secure.data.loading import (
    LoadResult,
    LoadSettings,
    Resolved,
    load,
    resolve,
    unknown_exclusions,
    unknown_names,
)
from fedgan_secure.data.partitions import Partition, hospital_names, parse_partition, split
from fedgan_secure.data.patients import PatientDataset, pseudonym
from fedgan_secure.data.preprocess import IMAGE_SIZES, PREPROCESSING

__all__ = [
    "IMAGE_SIZES",
    "KNOWN_LAYOUTS",
    "PREPROCESSING",
    "SUPPORTED_LAYOUTS",
    "DataFindings",
    "LoadResult",
    "LoadSettings",
    "Partition",
    "PatientDataset",
    "Resolved",
    "hospital_names",
    "load",
    "parse_partition",
    "pseudonym",
    "resolve",
    "split",
    "unknown_exclusions",
    "unknown_names",
]
