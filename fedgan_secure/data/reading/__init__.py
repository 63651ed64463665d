"""Find, name, decode and cache a hospital's images, and say what was found."""

from fedgan_secure.data.reading.fields import fields_read
from fedgan_secure.data.reading.findings import DataFindings
from fedgan_secure.data.reading.layouts import DR_GRADES, KNOWN_LAYOUTS
from fedgan_secure.data.reading.loading import (
    LoadResult,
    LoadSettings,
    load,
    resolve,
    unknown_exclusions,
    unknown_names,
)

__all__ = [
    "DR_GRADES",
    "KNOWN_LAYOUTS",
    "DataFindings",
    "LoadResult",
    "LoadSettings",
    "fields_read",
    "load",
    "resolve",
    "unknown_exclusions",
    "unknown_names",
]
